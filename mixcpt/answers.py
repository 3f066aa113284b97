"""What the base and a run answered, question by question, kept in the run's folder: answers/TASK.jsonl.

A line holds the question as it was asked, its choices, what is right, and each side's answer. results.json holds what
is counted from them.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scipy import stats

from mixcpt.errors import Damaged
from mixcpt.runs import Run
from mixcpt.workspace import write_atomic

OUTCOMES = {
    "gained": "wrong → right",
    "lost": "right → wrong",
    "kept right": "right, as before",
    "kept wrong": "wrong, as before",
}
"""What became of a question, base to run, and in words."""


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
    def outcome(self) -> str:
        """One of `OUTCOMES`; of shares a rise is gained, and what stays at a half or more is kept right."""
        if self.final_right == self.base_right:
            return "kept right" if self.final_right >= 0.5 else "kept wrong"
        return "gained" if self.final_right > self.base_right else "lost"


def write(run: Run, task: str, answers: Iterable[Answered]) -> None:
    """Replace what is kept of one set."""
    path = path_of(run, task)
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, "".join(json.dumps(asdict(answered), ensure_ascii=False) + "\n" for answered in answers))


def read(run: Run, task: str) -> list[Answered]:
    """In the order in which they were asked; none where nothing was kept (recorded runs come without).

    Raises:
        Damaged: the file does not hold what was written.
    """
    path = path_of(run, task)
    if not path.is_file():
        return []
    try:
        return [Answered(**json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (ValueError, TypeError) as error:
        raise Damaged(f"{path} is damaged ({error}): ask again with `mixcpt evaluate {run.id}`.") from None


def path_of(run: Run, task: str) -> Path:
    """Where the answers to one set are kept, or would be."""
    return run.folder / "answers" / f"{task}.jsonl"


@dataclass(frozen=True)
class Counts:
    """How many questions of a set were gained, lost and kept. facts: how many things they are about."""

    gained: int
    lost: int
    kept_right: int
    kept_wrong: int
    facts: int

    @property
    def items(self) -> int:
        return self.gained + self.lost + self.kept_right + self.kept_wrong

    @property
    def p(self) -> float:
        """Of McNemar's exact test (McNemar 1947, with the binomial distribution): how often as uneven a split of the
        changed answers, or a more uneven one, would come of a fair coin for each; 1 where none changed."""
        changed = self.gained + self.lost
        return float(stats.binomtest(self.gained, changed, 0.5).pvalue) if changed else 1.0

    def words(self) -> str:
        """What the split says, and no more than it carries."""
        if not self.gained + self.lost:
            return "No answer changed between right and wrong."
        sure = "hardly chance" if self.p < 0.05 else "may be chance"
        often = f"{self.p:.1%}" if self.p >= 0.001 else "fewer than 0.1%"
        said = (
            f"{self.gained} gained against {self.lost} lost: if every change were the toss of a coin, a split as "
            f"uneven as this would come up in {often} of cases, so this {'is ' if self.p < 0.05 else ''}{sure}."
        )
        if self.facts < self.items:
            said += f" The {self.items} questions are about {self.facts} things only, so this is said too surely."
        return said


def counts(answers: Sequence[Answered]) -> Counts:
    """The four outcomes, counted."""
    found = Counter(one.outcome for one in answers)
    about = {one.about or number for number, one in enumerate(answers)}
    gained, lost, kept_right, kept_wrong = (found[outcome] for outcome in OUTCOMES)
    return Counts(gained, lost, kept_right, kept_wrong, len(about))


def matching(answers: Sequence[Answered], text: str = "", outcomes: Sequence[str] = ()) -> list[int]:
    """Indices of the answers in which every word of `text` is found, whatever its case, and whose outcome is one of
    `outcomes`; what is empty asks for nothing."""
    words = text.casefold().split()
    return [
        number
        for number, one in enumerate(answers)
        if (not outcomes or one.outcome in outcomes)
        and all(
            word in "\n".join([one.question, *one.choices, *one.right, one.base, one.final]).casefold()
            for word in words
        )
    ]
