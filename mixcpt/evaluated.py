"""What a run was asked, as rows to read: scores of the base, of the runs before it, and of the run; and asking more.

No torch: it reads what an evaluation wrote. A score of an ancestor stands beside a run's only where both were asked the
same questions under the same precision.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mixcpt import probe_sets
from mixcpt.builtin import require_source
from mixcpt.config import EvaluationConfig
from mixcpt.errors import BadInput, NotFound
from mixcpt.jobs import Job, Jobs
from mixcpt.probed import pairs, seen_words
from mixcpt.questions import question_sets
from mixcpt.runs import Run
from mixcpt.score_jobs import require_adapter
from mixcpt.settings import override
from mixcpt.statistics import leaves_out_zero
from mixcpt.workspace import Workspace

Interval = Sequence[float]
CHECKS = {
    "well_formed": "well formed",
    "ended": "ends by itself",
    "follows": "keeps to the template",
    "right_length": "right length",
}
"""The checks of the format measure in words; see `mixcpt.format`."""
MEASURES = {
    "acc": "the right choice is the likeliest",
    "contains": "the answer contains an accepted one",
    "exact": "the answer is an accepted one and nothing else",
    "strict": "the answer meets every demand of its prompt",
}


@dataclass(frozen=True)
class Line:
    """One question set: shares of right answers (0 to 1) with 95 % intervals, and what guessing and always the most
    frequent answer would score. `before`: per ancestor, first to last, its share, None where it was not asked the same.

    measure: what counts as right, see `MEASURES`; else a metric of lm-eval. asked: when and how; empty in runs that
    were asked by an older version or recorded. seen: which of the questions stand in what the run read
    (`mixcpt.contamination.look`); empty where nobody looked.
    """

    task: str
    measure: str
    base: float
    base_interval: Interval
    before: tuple[float | None, ...]
    final: float
    final_interval: Interval
    difference: float
    difference_interval: Interval
    items: int
    chance: float
    majority: float
    asked: dict[str, Any]
    seen: dict[str, Any]

    @property
    def is_sure(self) -> bool:
        """Whether the interval of the difference leaves out zero."""
        return leaves_out_zero(self.difference_interval)


@dataclass(frozen=True)
class FormatLine:
    """One template: per check of `CHECKS` the shares of the base and the run, their intervals and the difference; the
    ratio of lengths (median) and the loss of the reference answers (nats per token), base and run."""

    template: str
    items: int
    tokens: int
    source: str
    shares: dict[str, tuple[float, float]]
    intervals: dict[str, tuple[Interval, Interval]]
    differences: dict[str, tuple[float, Interval]]
    ratio: tuple[float, float]
    loss: tuple[float, float]


def section(run: Run) -> dict[str, Any]:
    """The `evaluation` section of a run's results; empty before it was asked anything."""
    found: dict[str, Any] = run.results().get("evaluation", {})
    return found


def ancestors(run: Run) -> list[Run]:
    """The runs before this one, first to last; none where one of them was deleted."""
    try:
        return run.chain()[:-1]
    except NotFound:
        return []


def lines(run: Run, before: Sequence[Run] = ()) -> list[Line]:
    """Every question set the run was asked; `before` are its ancestors. An open set has a second line, `TASK (exact)`,
    where nothing but an accepted answer may be written."""
    found = section(run)
    others = [section(other) for other in before]
    return [line for task in found.get("final", {}) for line in _lines(found, others, task)]


def _lines(found: dict[str, Any], others: Sequence[dict[str, Any]], task: str) -> Iterator[Line]:
    base, final, gain = (found[part][task] for part in ("base", "final", "gain"))
    asked = found.get("asked", {}).get(task, {})
    same = [same_score(found, other, task) for other in others]
    common: dict[str, Any] = {key: final[key] for key in ("items", "chance", "majority")} | {"asked": asked}
    common["seen"] = found.get("contamination", {}).get(task, {})
    yield Line(
        task=task,
        measure=final.get("measure", "acc"),
        base=base["accuracy"],
        base_interval=base["interval"],
        before=tuple(score["accuracy"] if score else None for score in same),
        final=final["accuracy"],
        final_interval=final["interval"],
        difference=gain["difference"],
        difference_interval=gain["interval"],
        **common,
    )
    if final.get("exact"):
        yield Line(
            task=f"{task} (exact)",
            measure="exact",
            base=base["exact"]["accuracy"],
            base_interval=base["exact"]["interval"],
            before=tuple(score["exact"]["accuracy"] if score else None for score in same),
            final=final["exact"]["accuracy"],
            final_interval=final["exact"]["interval"],
            difference=gain["exact"]["difference"],
            difference_interval=gain["exact"]["interval"],
            **common,
        )


def how_asked(asked: dict[str, Any]) -> str:
    """Which items in which precision, of what an evaluation says of a set or a template: equal where two were asked
    alike. Empty where that was not kept."""
    return " ".join(str(asked[key]) for key in ("fingerprint", "precision") if key in asked)


def same_score(found: dict[str, Any], other: dict[str, Any], task: str) -> dict[str, Any] | None:
    """Of two runs' sections the other one's score, if it was asked the same under the same precision; else None."""
    mine, its = found.get("asked", {}).get(task), other.get("asked", {}).get(task)
    alike = mine and its and how_asked(mine) == how_asked(its)
    score: dict[str, Any] | None = other["final"][task] if alike else None
    return score


def format_lines(run: Run) -> list[FormatLine]:
    """The format measure, a line a template."""
    return [_format_line(name, one) for name, one in section(run).get("format", {}).items()]


def _format_line(name: str, one: dict[str, Any]) -> FormatLine:
    base, final = one["base"], one["final"]
    return FormatLine(
        template=name,
        items=final["items"],
        tokens=one["tokens"],
        source=one["source"],
        shares={check: (base[check]["share"], final[check]["share"]) for check in CHECKS},
        intervals={check: (base[check]["interval"], final[check]["interval"]) for check in CHECKS},
        differences={check: (one["gain"][check]["difference"], one["gain"][check]["interval"]) for check in CHECKS},
        ratio=(base["length_ratio"], final["length_ratio"]),
        loss=(base["loss"], final["loss"]),
    )


def in_words(run: Run) -> list[str]:
    """All of it as lines for a terminal."""
    words = []
    for line in lines(run):
        low, high = (100 * bound for bound in line.difference_interval)
        words.append(
            f"{line.task}: {line.base:.1%} → {line.final:.1%}, {100 * line.difference:+.1f} points (95 % {low:+.1f} to "
            f"{high:+.1f}), {line.items} items, chance {line.chance:.0%}, majority {line.majority:.0%}"
        )
        if line.seen and line.measure != "exact":
            words.append(f"  {seen_words(line.seen, line.items)}")
    words += [f"probes of {one.corpus}: {one.words()}" for one in pairs(run)]
    for one in format_lines(run):
        shares = ", ".join(f"{CHECKS[check]} {base:.0%} → {final:.0%}" for check, (base, final) in one.shares.items())
        words.append(
            f"format in template {one.template}: {shares}; length {one.ratio[0]:.2f} → {one.ratio[1]:.2f} of the "
            f"reference, loss of the reference {one.loss[0]:.3f} → {one.loss[1]:.3f} nats per token, {one.items} items"
        )
    words += [f"not asked: {why}" for why in section(run).get("unavailable", {}).values()]
    return words


def require_askable(workspace: Workspace, run: Run, ask: dict[str, Any]) -> EvaluationConfig:
    """What a run would be asked: its own configuration with the fields of `ask` in their place.

    Raises:
        BadInput: the run has no adapter, there is nothing to ask, a set cannot be read or made, or a field is unknown
            or out of bounds.
    """
    require_adapter(run)
    config = override(run.config.evaluation, ask)
    if not config.asks:
        raise BadInput(f"There is nothing to ask run {run.id}: name a question set, for example general.")
    question_sets(config)
    probe_sets.require(workspace, config.tasks, run.config.mixture.domain_sources())
    if config.format_items:
        require_source(workspace, config.format_source)
    return config


def submit(workspace: Workspace, runs: Sequence[Run], ask: dict[str, Any]) -> list[Job]:
    """Queue the asking of runs that are done, one job each; none where one of them cannot be asked. Raises as
    `require_askable`."""
    for run in runs:
        require_askable(workspace, run, ask)
    return [Jobs(workspace).submit("evaluate", {"ask": ask}, run=run.id, label=run.title) for run in runs]


def latest(workspace: Workspace, runs: Sequence[Run]) -> list[Job]:
    """Of each of these runs the asking that was ordered last, however it stands; none of those that never were."""
    wanted = {run.id for run in runs}
    asked = [job for job, _ in Jobs(workspace).snapshot() if job.run in wanted and "ask" in job.payload]
    return list({job.run: job for job in asked}.values())
