"""What a run suffers from, if anything: the rules of `mixcpt.symptoms` applied to it, told in words, and tried.

A diagnosis says what was found, what could not be told and what would tell, and that a run is healthy where every rule
that is about it could be judged and none found anything. One change at a time can be made of a copy of the run. What
this gives up: runs are looked at one by one, and arms only as the seeds of which something was found.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from mixcpt import recorded
from mixcpt.compare import Row
from mixcpt.curves import title_of
from mixcpt.drafts import EXPERIMENT, AnyDraft, Drafts
from mixcpt.errors import BadInput, NotFound
from mixcpt.evidence import Case, Change, Sign
from mixcpt.figures import listed
from mixcpt.jobs import Jobs
from mixcpt.measured import folder_of
from mixcpt.runs import NAME_LENGTH, Run
from mixcpt.settings import as_change, override
from mixcpt.stages import Stage
from mixcpt.stamps import Kept
from mixcpt.symptoms import RULES
from mixcpt.workspace import Workspace


@dataclass(frozen=True)
class Diagnosis:
    """What every rule says of one run, in their order."""

    run: str
    signs: tuple[Sign, ...]

    @cached_property
    def found(self) -> list[Sign]:
        return [sign for sign in self.signs if sign.state == "found"]

    @cached_property
    def unknown(self) -> list[Sign]:
        return [sign for sign in self.signs if sign.state == "unknown"]

    @property
    def is_healthy(self) -> bool:
        """Whether every rule that is about this run could be judged and found nothing."""
        return not self.found and not self.unknown

    def sentence(self) -> str:
        """All of it in a sentence or two."""
        open = f"Cannot tell: {listed([_lower(sign.title) for sign in self.unknown])}." if self.unknown else ""
        if self.found:
            return " ".join(filter(None, [f"Found: {listed([_lower(sign.title) for sign in self.found])}.", open]))
        healthy = "Healthy: no sign of failure, and every one could be judged."
        return healthy if self.is_healthy else f"No sign of failure among those that could be judged. {open}"

    def as_facts(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "run": self.run,
            "sentence": self.sentence(),
            "signs": [asdict(sign) | {"command": command(self.run, sign.change)} for sign in self.signs],
        }


def _lower(title: str) -> str:
    return title[0].lower() + title[1:]


def diagnose(workspace: Workspace, run: Run) -> Diagnosis:
    """The diagnosis of a run as it stands: of one at work, of what it has shown so far.

    Raises:
        Damaged: a file of the run is not what it should be.
    """
    job = Jobs(workspace).for_run(run.id)
    return _diagnosed(run, job.status.message if job and job.state == "failed" else "")


_DIAGNOSES: Kept[Diagnosis] = Kept()


def _diagnosed(run: Run, failure: str) -> Diagnosis:
    """Made anew only when something of the run has changed."""
    files = [str(run.folder / name) for name in ("metrics.jsonl", "results.json", "config.yaml", "answers")]

    def make() -> Diagnosis:
        case = Case(run, failure)
        return Diagnosis(run.id, tuple(rule(case) for rule in RULES))

    return _DIAGNOSES.get((run.folder, failure), [*files, str(folder_of(run))], make)


def command(run: str, change: Change | None) -> str:
    """The command that does a run again with a change; empty without one."""
    if change is None:
        return ""
    words = [f"--set '{as_change(name, value)}'" for name, value in change.settings.items()]
    return f"mixcpt rerun {run} {' '.join(words)}"


def draft_with(workspace: Workspace, run: Run, rule: str) -> AnyDraft:
    """A new draft: the run's settings with the change that a sign of it suggests.

    Raises:
        NotFound: this run shows no such sign any more. BadInput: no change is suggested against it.
    """
    sign = next((sign for sign in diagnose(workspace, run).found if sign.rule == rule), None)
    if sign is None:
        raise NotFound(f"Run {run.id} shows no sign of {rule!r} (any more): look at its diagnosis again.")
    if sign.change is None:
        raise BadInput(f"Against {_lower(sign.title)} of run {run.id} no setting of its own helps: {sign.why}")
    stage = override(run.config, sign.change.settings)
    experiment = EXPERIMENT if run.info.experiment in recorded.EXPERIMENTS else run.info.experiment
    drafts = Drafts(workspace)
    draft: AnyDraft
    if isinstance(stage, Stage):
        draft = drafts.create(stage, experiment, run.info.parent)
    else:
        draft = drafts.create_align(stage, run.info.parent, experiment)
    named = draft.model_copy(update={"name": f"{run.title}: {sign.change.words}"[:NAME_LENGTH]})
    drafts.save(named)
    return named


def in_words(diagnosis: Diagnosis) -> Iterator[str]:
    """As lines for a terminal."""
    yield diagnosis.sentence()
    for sign in [*diagnosis.found, *diagnosis.unknown]:
        yield f"{sign.title}: {'found' if sign.state == 'found' else 'cannot tell'}"
        yield from (f"  {words}" for words in sign.seen)
        if sign.state == "unknown":
            yield f"  {sign.measure}"
            continue
        yield f"  {sign.why}"
        if sign.change:
            yield f"  try: {sign.change.words}"
            yield f"    {command(diagnosis.run, sign.change)}"
        yield f"  {sign.unless}"
        if sign.measure:
            yield f"  to be surer: {sign.measure}"


@dataclass(frozen=True)
class ArmDiagnosis:
    """An arm of a comparison: per title of a sign that was found the runs in which it was, and of how many seeds."""

    title: str
    seeds: int
    found: dict[str, tuple[str, ...]]
    unknown: dict[str, tuple[str, ...]]

    def words(self, found: bool = True) -> str:
        """What was found, or what could not be told; empty where that is nothing."""
        signs = self.found if found else self.unknown
        return listed([f"{_lower(title)}{self._share(runs)}" for title, runs in signs.items()])

    def _share(self, runs: Sequence[str]) -> str:
        return f" ({len(runs)} of {self.seeds} seeds)" if self.seeds > 1 else ""


def of_arms(workspace: Workspace, arms: Sequence[Row]) -> list[ArmDiagnosis]:
    """The diagnoses of all runs of each arm, which are rows of `compare.summarise` with a title."""
    return [_of_arm(workspace, arm) for arm in arms]


def _of_arm(workspace: Workspace, arm: Row) -> ArmDiagnosis:
    every = [diagnose(workspace, Run(workspace.runs / id)) for id in arm["runs"]]
    found: dict[str, tuple[str, ...]] = {}
    unknown: dict[str, tuple[str, ...]] = {}
    for one in every:
        for kept, signs in ((found, one.found), (unknown, one.unknown)):
            for sign in signs:
                kept[sign.title] = (*kept.get(sign.title, ()), one.run)
    return ArmDiagnosis(title_of(arm), len(every), found, unknown)
