"""What was measured of finished runs, anew and at other strengths, with intervals over documents. No torch.

    runs/ID/measured/KEY.json   one text under one run at one strength, document by document, the base beside it
    measured/KEY.json           the same of a base: once per model, device and precision

KEY is a hash of all that the figures depend on: the text's fingerprint, how much of it, model, device, precision,
adapter, strength, and the version of the measure. `mixcpt.measuring` takes the measures; a job of kind `measure` does
so in the background. Differences have a paired bootstrap over documents, so it stands beside each how many there were.
What this gives up: records of texts and adapters that are gone stay where they are, and count as older ones.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mixcpt.builtin import GENERAL, require_source
from mixcpt.errors import BadInput, Damaged, NotFound
from mixcpt.jobs import Job, Jobs
from mixcpt.prompts import require_strength
from mixcpt.runs import Run, Runs
from mixcpt.score_jobs import require_adapter
from mixcpt.stamps import Kept
from mixcpt.statistics import leaves_out_zero, paired_ratio_interval
from mixcpt.workspace import Workspace, read_json

Interval = tuple[float, float]
VERSION = 1
"""Of the measure: whoever changes what is computed raises it, and then everything is measured anew."""
TOKENS = 5000
"""Held-out tokens that are read of each text, when nothing else is said."""
CURVE = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The strengths of a curve, when nothing else is said."""
PROMPTS = "builtin/instructions"
FEW = 10
"""Documents under which an interval by bootstrap is said to be too narrow."""
DOMAIN, GENERAL_PART, PROMPTS_PART, OTHER = "field", "general", "prompts", "other"


@dataclass(frozen=True)
class Order:
    """What is measured of each of some runs.

    on: corpora beside the usual texts. strengths: of the adapter, 0 (the base) to 1. tokens: at most so many of each
    text. usual: the run's own field, every kind of general text, and the prompts; False measures `on` alone.
    """

    on: tuple[str, ...] = ()
    strengths: tuple[float, ...] = (1.0,)
    tokens: int = TOKENS
    usual: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "strengths", tuple(map(float, self.strengths)))  # 1 and 1.0 are one key on disk

    @classmethod
    def of(cls, payload: dict[str, Any]) -> "Order":
        """From a job's payload."""
        given = {key: payload[key] for key in cls.__dataclass_fields__ if key in payload}
        given |= {key: tuple(given[key]) for key in ("on", "strengths") if key in given}
        return cls(**given)

    def check(self, workspace: Workspace, runs: Sequence[Run]) -> None:
        """See that it could be carried out.

        Raises:
            BadInput: no run, a run without an adapter or not at that strength, nothing to measure, or a number out of
                bounds. NotFound: there is no such corpus.
        """
        if not runs:
            raise BadInput("There is no run to measure: name at least one that is finished.")
        if not self.strengths:
            raise BadInput("There is no strength to measure at: name some from 0 to 1, for example 1.")
        for strength in self.strengths:
            if not 0 <= strength <= 1:
                raise BadInput(
                    f"A strength of {strength:g} is not possible: take one from 0 (the base) to 1 (the run)."
                )
        if self.tokens < 2:
            raise BadInput(f"{self.tokens} tokens of a text are too few: read some hundreds at least.")
        if not self.usual and not self.on:
            raise BadInput("There is nothing to measure: name a corpus.")
        for corpus in self.on:
            require_source(workspace, corpus)
        for run in runs:
            require_adapter(run)
            for strength in self.strengths:
                require_strength(run, strength)


def texts_of(run: Run, order: Order) -> list[str]:
    """The sources whose held-out part is measured: the field's, the general ones, then those that `order` adds."""
    usual = [*run.config.mixture.domain_sources(), run.config.measures.general, *GENERAL] if order.usual else []
    return list(dict.fromkeys([*usual, *order.on]))


def part_of(run: Run, text: str) -> str:
    """What a text is for a run: `field`, `general` or `other`."""
    if text in run.config.mixture.domain_sources():
        return DOMAIN
    return GENERAL_PART if text in GENERAL or text == run.config.measures.general else OTHER


@dataclass(frozen=True)
class Taken:
    """One text under one run at one strength, document by document.

    measure: `bits` (values are bits, sizes are UTF-8 bytes, so figures are bits per byte) or `kl` (values are nats of
    KL(base || run), sizes are predicted tokens, so figures are nats per token; the base has 0). tokens: predicted, in
    all. how: all that the figures depend on but run, adapter and strength.
    """

    run: str
    text: str
    part: str
    measure: str
    strength: float
    tokens: int
    documents: tuple[str, ...]
    sizes: tuple[float, ...]
    base_values: tuple[float, ...]
    values: tuple[float, ...]
    how: dict[str, Any]
    finished: str

    @property
    def kind(self) -> str:
        """In a word: the kind of general text, else what part it is."""
        return GENERAL.get(self.text, self.part) if self.measure == "bits" else PROMPTS_PART

    @property
    def base(self) -> float:
        return sum(self.base_values) / sum(self.sizes)

    @property
    def figure(self) -> float:
        return sum(self.values) / sum(self.sizes)

    @property
    def difference(self) -> float:
        """Run minus base: of bits per byte, below 0 is better."""
        return self.figure - self.base

    @cached_property
    def interval(self) -> Interval:
        """95 % of the difference, by paired bootstrap over the documents."""
        return _interval(self.base_values, self.values, self.sizes)

    @property
    def is_sure(self) -> bool:
        """Whether the interval of the difference leaves out zero."""
        return leaves_out_zero(self.interval)

    @property
    def verdict(self) -> str:
        """What the difference says, and no more than it carries."""
        few = f", of {len(self.documents)} documents only" if len(self.documents) < FEW else ""
        if self.measure == "kl":
            return f"moved away from the base{few}" if self.figure > 0 else "the base itself"
        if not self.is_sure:
            return f"the same within noise{few}"
        better, worse = ("learned", "got worse") if self.part == DOMAIN else ("got better", "forgot")
        return (better if self.difference < 0 else worse) + few

    def kept(self) -> dict[str, Any]:
        """What lies on disk; run and part are known from where it lies."""
        return {key: value for key, value in asdict(self).items() if key not in ("run", "part")}


@dataclass(frozen=True)
class Difference:
    """Of two runs on the same documents, the second minus the first: with its 95 % interval over the documents."""

    difference: float
    interval: Interval
    documents: int


def between(one: Taken, other: Taken) -> Difference | None:
    """How far two runs are apart on one text; None where they were not measured on the same documents alike."""
    if one.how != other.how or one.measure != other.measure or one.documents != other.documents:
        return None
    interval = _interval(one.values, other.values, one.sizes)
    return Difference(other.figure - one.figure, interval, len(one.documents))


def _interval(before: Sequence[float], after: Sequence[float], sizes: Sequence[float]) -> Interval:
    """Without documents that a limit cut down to a part of one character, which have no byte."""
    kept = [number for number, size in enumerate(sizes) if size > 0]
    before, after, sizes = ([values[number] for number in kept] for values in (before, after, sizes))
    return paired_ratio_interval(before, after, sizes)


_FILES: Kept[Taken] = Kept()


def folder_of(run: Run) -> Path:
    return run.folder / "measured"


def read(run: Run) -> list[Taken]:
    """All that was measured of a run and still counts, texts in the order of `texts_of`, strengths rising. Of measures
    of one text under several conditions (another version of the corpus, another limit) those count that were ordered
    last.

    Raises:
        Damaged: a file is not what it should be.
    """
    every = _all(run)
    groups: dict[tuple[str, str], list[Taken]] = defaultdict(list)
    for taken in every:
        groups[taken.text, taken.measure].append(taken)
    order = {text: number for number, text in enumerate(texts_of(run, Order()))}
    found = []
    for group in groups.values():
        newest = max(group, key=lambda taken: taken.finished)
        latest = {taken.strength: taken for taken in group if taken.how == newest.how}
        found += [latest[strength] for strength in sorted(latest)]
    return sorted(found, key=lambda taken: (taken.measure, order.get(taken.text, len(order))))


def _all(run: Run) -> list[Taken]:
    """Oldest first."""
    paths = sorted(folder_of(run).glob("[!.]*.json"))
    taken = [_FILES.get(str(path), [str(path)], lambda path=path: _read(run, path)) for path in paths]  # type: ignore[misc]
    return sorted(taken, key=lambda one: one.finished)


def _read(run: Run, path: Path) -> Taken:
    values = read_json(path)
    try:
        lists = {key: tuple(values[key]) for key in ("documents", "sizes", "base_values", "values")}
        part = part_of(run, values["text"]) if values["measure"] == "bits" else PROMPTS_PART
        return Taken(run=run.id, part=part, **(values | lists))
    except (KeyError, TypeError) as problem:
        raise Damaged(f"{path} is damaged ({problem}): move it away and measure again.") from None


def alike(runs: Iterable[Run]) -> bool:
    """Whether the field, general text and prompts, as far as they count at full strength, were measured alike: equally
    much of each text, and of one model the same general texts, in the same versions, precision and device. Else the
    runs' figures must not be held against each other."""
    ways: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    limits, general = set(), defaultdict(set)
    for run in runs:
        mine = [one for one in at_strength(run) if one.part != OTHER]
        for one in mine:
            ways[one.text, one.measure, str(one.how.get("model"))].append(one.how)
            limits.add(one.how.get("limit"))
        if mine:
            texts = frozenset(one.text for one in mine if one.part == GENERAL_PART)
            general[str(mine[0].how.get("model"))].add(texts)
    same = all(how == its[0] for its in ways.values() for how in its)
    return same and len(limits) <= 1 and all(len(texts) == 1 for texts in general.values())


def at_strength(run: Run, strength: float = 1.0) -> list[Taken]:
    """Of `read`, one strength."""
    return [taken for taken in read(run) if taken.strength == strength]


def pooled(taken: Sequence[Taken], text: str = "") -> Taken:
    """Several texts of one run at one strength as one: all bits over all bytes, and an interval over all documents.

    Raises:
        ValueError: there are none, or they do not belong together.
    """
    if len({(one.run, one.strength, one.measure) for one in taken}) != 1:
        raise ValueError("only texts of one run at one strength can be taken together")
    first = taken[0]
    if len(taken) == 1 and not text:
        return first
    return Taken(
        run=first.run,
        text=text or ", ".join(one.text for one in taken),
        part=first.part,
        measure=first.measure,
        strength=first.strength,
        tokens=sum(one.tokens for one in taken),
        documents=tuple(f"{one.text} {id}" for one in taken for id in one.documents),
        sizes=tuple(size for one in taken for size in one.sizes),
        base_values=tuple(value for one in taken for value in one.base_values),
        values=tuple(value for one in taken for value in one.values),
        how={"texts": [one.how for one in taken]},
        finished=max(one.finished for one in taken),
    )


@dataclass(frozen=True)
class Point:
    """A run at one strength on the forgetting plane: gain in the field and forgetting of general text, bits per byte,
    each with its 95 % interval over documents; `kl` in nats per token, where it was measured."""

    strength: float
    gain: float
    gain_interval: Interval
    gain_documents: int
    forgetting: float
    forgetting_interval: Interval
    forgetting_documents: int
    kl: float | None = None


def points(run: Run, kind: str = "") -> list[Point]:
    """The strengths at which both the field and general text were measured, rising.

    Args:
        kind: one of the kinds of general text (a value of `builtin.GENERAL`); all of them together when not given.
    """
    by_strength: dict[float, list[Taken]] = defaultdict(list)
    for taken in read(run):
        by_strength[taken.strength].append(taken)
    wanted = _most_texts(by_strength, kind)
    found = []
    for strength in sorted(by_strength):
        here = by_strength[strength]
        field = [one for one in here if one.part == DOMAIN]
        general = [one for one in here if one.part == GENERAL_PART and (not kind or one.kind == kind)]
        if field and general and {one.text for one in [*field, *general]} == wanted:
            kl = next((one.figure for one in here if one.measure == "kl"), None)
            found.append(_point(strength, pooled(field, "the field"), pooled(general, "general text"), kl))
    return found


def _most_texts(by_strength: dict[float, list[Taken]], kind: str) -> set[str]:
    """The texts that any strength has: one that lacks some of them would stand for other texts than its neighbours."""
    every = (one for here in by_strength.values() for one in here)
    return {
        one.text for one in every if one.part == DOMAIN or (one.part == GENERAL_PART and (not kind or one.kind == kind))
    }


def _point(strength: float, field: Taken, general: Taken, kl: float | None) -> Point:
    low, high = field.interval
    return Point(
        strength=strength,
        gain=-field.difference,
        gain_interval=(-high, -low),
        gain_documents=len(field.documents),
        forgetting=general.difference,
        forgetting_interval=general.interval,
        forgetting_documents=len(general.documents),
        kl=kl,
    )


def submit(workspace: Workspace, runs: Sequence[Run], order: Order) -> Job:
    """Queue the measuring of runs that are done. Raises as `Order.check`."""
    order.check(workspace, runs)
    payload = {"runs": [run.id for run in runs], **asdict(order)}
    label = runs[0].title if len(runs) == 1 else f"{len(runs)} runs"
    return Jobs(workspace).submit("measure", payload, run=runs[0].id if len(runs) == 1 else None, label=label)


def submit_curves(workspace: Workspace, runs: Sequence[Run], tokens: int = TOKENS) -> list[Job]:
    """Queue the strength curves of runs that are done; those that know no half strength are measured whole. Raises as
    `Order.check`."""
    whole = [run for run in runs if run.config.adapter.vocabulary]
    parted = [run for run in runs if not run.config.adapter.vocabulary]
    jobs = [submit(workspace, parted, Order(strengths=CURVE, tokens=tokens))] if parted or not runs else []
    return jobs + ([submit(workspace, whole, Order(tokens=tokens))] if whole else [])


def latest(workspace: Workspace, runs: Iterable[str]) -> Job | None:
    """The measuring that was ordered last for any of these runs, however it stands; None when there was none."""
    wanted = set(runs)
    mine = [
        job
        for job, _ in Jobs(workspace).snapshot()
        if job.kind == "measure" and wanted.intersection(job.payload.get("runs", []))
    ]
    return mine[-1] if mine else None


def runs_of(workspace: Workspace, ids: Iterable[str]) -> list[Run]:
    """Those of these runs that are there and have a finished adapter: those that can be measured."""
    found = []
    store = Runs(workspace)
    for id in ids:
        try:
            run = store.get(id)
            require_adapter(run)
        except (NotFound, BadInput):
            continue
        found.append(run)
    return found
