"""What can go wrong, as a short tree. Every message is one sentence for the user: the value, and the remedy.

MixcptError             base: "show this to the user"              exit code 1
├── BadInput            the user gave something unusable           exit code 2
│   ├── BadFile         a file or folder that cannot be read
│   │   └── Damaged     a file of the workspace that does not hold what was written
│   ├── BadCorpus       documents that cannot become a corpus
│   ├── BadConfig       a recipe or setting that contradicts itself or names an unknown thing
│   ├── NoTemplate      a model without a chat template, where one is needed
│   └── NotFound        a run, job, corpus or model that is not there
├── Unavailable         a model, hub or library that cannot be had now
│   └── Busy            the machine is at other work; trying again later helps
├── TooLittle           not enough memory or disk for what was asked
├── Diverged            the loss became NaN or infinite
├── Interrupted         cancelled or paused by the user; what was done is kept
└── DeadWorker          a worker process ended without saying why
"""


class MixcptError(Exception):
    """Base of all errors that are shown to the user as they are."""

    exit_code = 1


class BadInput(MixcptError):
    exit_code = 2


class BadFile(BadInput):
    pass


class Damaged(BadFile, ValueError):
    """Also a ValueError, as what json and pydantic raise."""


class BadCorpus(BadInput):
    pass


class BadConfig(BadInput):
    pass


class NoTemplate(BadInput):
    pass


class NotFound(BadInput):
    pass


class Unavailable(MixcptError):
    pass


class Busy(Unavailable):
    pass


class TooLittle(MixcptError):
    pass


class Diverged(MixcptError):
    pass


class Interrupted(MixcptError):
    """Raised inside a worker when its job was asked to stop; `state` is the job state that follows."""

    def __init__(self, message: str, state: str = "cancelled"):
        super().__init__(message)
        self.state = state


class DeadWorker(MixcptError):
    pass
