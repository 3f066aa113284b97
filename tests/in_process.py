"""Jobs done inside the test's own process, one after the other: a worker of its own costs seconds of imports each."""

import contextlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from conftest import PROSE

from mixcpt import worker
from mixcpt.errors import Diverged
from mixcpt.jobs import Job, Jobs
from mixcpt.workspace import Workspace, now


def write_prose(path: Path, places: range) -> Path:
    """A JSONL file with a short document for each place."""
    path.write_text("".join(json.dumps({"text": PROSE.format(f"place {place}")}) + "\n" for place in places))
    return path


def diverge(context: worker.JobContext) -> str:
    """A `train` job that fails by no fault of the user's input."""
    raise Diverged("The loss became nan at step 5: lower the learning rate.")


class InProcess:
    """Stands in for `mixcpt.supervisor.Supervisor` where what counts is which jobs there are, not their processes."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.jobs = Jobs(workspace)

    def run_until(self, job_ids: Iterable[str], on_change: Callable[[Job], None] = lambda job: None) -> None:
        for job in [self.jobs.get(id) for id in job_ids]:
            earlier = [self.jobs.get(id) for id in job.after]
            if job.state == "queued" and all(one.state == "done" for one in earlier):
                job.update(state="running", pid=os.getpid(), started=now())
                with open(job.log, "a") as log, contextlib.redirect_stdout(log):
                    worker.work(worker.JobContext(self.workspace, job))
            elif job.state == "queued":
                job.update(state="failed", message=f"It was waiting for {earlier[0].name}.", ended=now())
            on_change(job)
