"""Two runs on the same items: how far they are apart on the documents, prompts or questions that both were given, with
a paired bootstrap over these. No torch.

It is what one seed can tell: of these two runs on other items of the kind, and nothing of other seeds. Documents and
prompts are those of the measures taken after training (`mixcpt.measured`), questions those of the evaluation. What this
gives up: runs that were measured on other devices, or asked in other precisions, are not paired, though they could be
with some noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mixcpt import answers
from mixcpt.compare import format_key
from mixcpt.evaluated import how_asked, same_score, section
from mixcpt.measured import DOMAIN, FEW, GENERAL_PART, Interval, Taken, at_strength, between, folder_of, pooled
from mixcpt.runs import Run
from mixcpt.stamps import Kept
from mixcpt.statistics import leaves_out_zero, paired_interval

_PARTS = {"domain_gain": DOMAIN, "forgetting": GENERAL_PART}
_KL = "prompt_kl"
_ACCURACY, _EXACT = "_accuracy", "_exact"


@dataclass(frozen=True)
class Paired:
    """One run minus another in a figure of `compare.compare`, in its unit: with the 95 % interval over `items` of the
    kind `what` ("documents", "prompts" or "questions")."""

    difference: float
    interval: Interval
    items: int
    what: str

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves out zero."""
        return leaves_out_zero(self.interval)

    @property
    def is_flat(self) -> bool:
        """Whether no item differs, so that the interval has no width and says nothing of how sure that is."""
        return self.difference == 0 and self.interval == (0, 0)

    @property
    def counted(self) -> str:
        """On how many items it rests, in words."""
        return f"{self.items:,} {self.what}" + (", so few that it is too narrow" if self.items < FEW else "")


_FOUND: Kept[Paired | None] = Kept()


def paired(
    one: Run, other: Run, key: str, strengths: tuple[float, float] = (1.0, 1.0), left_out: Sequence[int] = ()
) -> Paired | None:
    """`one` minus `other`; None where they were not given the same items alike, or nothing of it was kept.

    Args:
        key: of a row of `compare.compare`: `domain_gain`, `forgetting`, `prompt_kl`, `TASK_accuracy`, or
            `format_TEMPLATE_well_formed`.
        strengths: of the two adapters; questions are asked at 1.
        left_out: places of questions that do not count (`mixcpt.unseen`).

    Raises:
        Damaged: a file is not what it should be.
    """
    files = [
        str(path)
        for run in (one, other)
        for path in (folder_of(run), run.folder / "answers", run.folder / "results.json")
    ]
    pair = str(one.folder), str(other.folder), key, strengths, tuple(left_out)
    return _FOUND.get(pair, files, lambda: _paired(one, other, key, strengths, left_out))


def _paired(one: Run, other: Run, key: str, strengths: tuple[float, float], left_out: Sequence[int]) -> Paired | None:
    if key == _KL or key in _PARTS:
        return _on_documents(_texts(one, key, strengths[0]), _texts(other, key, strengths[1]), key)
    if strengths != (1.0, 1.0):
        return None
    if key.endswith(_ACCURACY):
        return _on_questions(one, other, key.removesuffix(_ACCURACY), left_out)
    template = next((name for name in section(one).get("format", {}) if key == format_key(name, "well_formed")), None)
    return _on_answers(one, other, template) if template else None


def _texts(run: Run, key: str, strength: float) -> list[Taken]:
    """What a figure is made of, at one strength."""
    every = sorted(at_strength(run, strength), key=lambda taken: taken.text)
    if key == _KL:
        return [taken for taken in every if taken.measure == "kl"]
    return [taken for taken in every if taken.part == _PARTS[key]]


def _on_documents(mine: Sequence[Taken], its: Sequence[Taken], key: str) -> Paired | None:
    if not mine or not its:
        return None
    found = between(pooled(its), pooled(mine))
    if found is None or found.documents < 2:  # of one document no interval has a width
        return None
    sign = -1 if key == "domain_gain" else 1  # a gain is what was saved
    low, high = sorted(sign * bound for bound in found.interval)
    return Paired(sign * found.difference, (low, high), found.documents, "prompts" if key == _KL else "documents")


def _on_questions(one: Run, other: Run, name: str, left_out: Sequence[int]) -> Paired | None:
    mine, its = section(one), section(other)
    exact = name not in mine.get("final", {})  # of an open set, where only an accepted answer may be written
    task = name.removesuffix(_EXACT) if exact else name
    old, new = same_score(mine, its, task), mine.get("final", {}).get(task)
    if not old or not new:
        return None
    scores = (old.get("exact", {}), new.get("exact", {})) if exact else (old, new)
    first, second = (score.get("correct", []) for score in scores)
    about = [answered.about or str(number) for number, answered in enumerate(answers.read(one, task))]
    if len(set(about)) < 2 or not len(first) == len(second) == len(about):
        return None
    places = [place for place in range(len(about)) if place not in left_out]
    before, after = ([right[place] for place in places] for right in (first, second))
    return _difference(after, before, "questions", [about[place] for place in places])


def _on_answers(one: Run, other: Run, template: str) -> Paired | None:
    """Whether answers are well formed, prompt by prompt."""
    mine, its = (section(run).get("format", {}).get(template, {}) for run in (one, other))
    if not its or how_asked(mine) != how_asked(its):
        return None
    after, before = ([row.final_right for row in answers.read(run, f"format.{template}")] for run in (one, other))
    if len(after) < 2 or len(after) != len(before):
        return None
    return _difference(after, before, "prompts", list(map(str, range(len(after)))))


def _difference(after: Sequence[float], before: Sequence[float], what: str, groups: Sequence[str]) -> Paired:
    """Of two runs' scores, item by item; `groups` say which items ask for the same thing."""
    difference = (sum(after) - sum(before)) / len(after)
    return Paired(difference, paired_interval(before, after, groups), len(after), what)
