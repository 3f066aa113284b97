"""What the base and a run answered, question by question, kept in the run's folder: answers/TASK.jsonl.

A line holds the question as it was asked, its choices, what is right, and each side's answer. results.json holds what
is counted from them.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mixcpt.errors import Damaged
from mixcpt.runs import Run
from mixcpt.workspace import write_atomic


@dataclass(frozen=True)
class Answered:
    """One question and both answers, as texts; of a question with choices these are choices. `right` holds all texts
    that count as right; `base_right` and `final_right` are 0 or 1, or shares where lm-eval gives such. `about` is what
    the question is about, where several may share that; `found_in` the source in whose training text it stands, and
    `found` the words of it that do, empty where it was not found."""

    question: str
    choices: list[str]
    right: list[str]
    base: str
    final: str
    base_right: float
    final_right: float
    about: str = ""
    found_in: str = ""
    found: str = ""

    @property
    def flip(self) -> str:
        """gained (wrong, then right), lost (right, then wrong), or the same."""
        if self.final_right == self.base_right:
            return "same"
        return "gained" if self.final_right > self.base_right else "lost"


def write(run: Run, task: str, answers: Iterable[Answered]) -> None:
    """Replace what is kept of one set."""
    path = _path(run, task)
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, "".join(json.dumps(asdict(answered), ensure_ascii=False) + "\n" for answered in answers))


def read(run: Run, task: str) -> list[Answered]:
    """In the order in which they were asked; none where nothing was kept (recorded runs come without).

    Raises:
        Damaged: the file does not hold what was written.
    """
    path = _path(run, task)
    if not path.is_file():
        return []
    try:
        return [Answered(**json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (ValueError, TypeError) as error:
        raise Damaged(f"{path} is damaged ({error}): ask again with `mixcpt evaluate {run.id}`.") from None


def _path(run: Run, task: str) -> Path:
    return run.folder / "answers" / f"{task}.jsonl"


def matching(answers: Sequence[Answered], text: str = "", flips: Sequence[str] = ()) -> list[int]:
    """Indices of the answers in which every word of `text` is found, whatever its case, and whose flip is one of
    `flips`; what is empty asks for nothing."""
    words = text.casefold().split()
    return [
        number
        for number, one in enumerate(answers)
        if (not flips or one.flip in flips)
        and all(
            word in "\n".join([one.question, *one.choices, *one.right, one.base, one.final]).casefold()
            for word in words
        )
    ]
