"""What came of a study, and what it could have found: rows and pairs for claims, and the smallest difference that it
detects, by the spread that is known.

What this gives up: the spread is that of gain and forgetting as they were measured while training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mixcpt import matrices, matrix
from mixcpt.claims import LEVEL
from mixcpt.compare import Row, format_key, tasks, templates
from mixcpt.comparison import rows_of
from mixcpt.figures import signed
from mixcpt.matrices import ArmMatrix
from mixcpt.measured import OTHER, Point, alike, points
from mixcpt.measured import at_strength as measured_at
from mixcpt.overview import RunSummary, overview
from mixcpt.plotting import Table
from mixcpt.runs import Runs
from mixcpt.statistics import detectable, paired_deviation
from mixcpt.studies import Study, last_runs
from mixcpt.study_kinds import at_strength, short
from mixcpt.workspace import Workspace

_NEAR = 4
"""Of known runs those count that read at most so many times as many tokens as a study's, and at least the same part."""
PRIOR = 0.05
"""Bits per byte: the standard deviation of a difference between two arms by seed, where no run of the model is known.
That of the study of docs/experiments.md on the fictional atlas, in gain and in forgetting; on abstracts it was a
seventh of that."""


def results(workspace: Workspace, study: Study) -> list[Row]:
    """A row a finished run, as `comparison.rows_of` gives it, and one for each strength of an arm that the study asks
    for. Where all of them were measured at the end, and alike, gain, forgetting and KL are those, of more text than is
    read while training; `measured_by` says which: "study" or "training"."""
    rows, _ = rows_of(workspace, last_runs(workspace, study))
    runs = [Runs(workspace).get(row["run"]) for row in rows]
    known = {run.id: {point.strength: point for point in points(run)} for run in runs}
    if not rows or not all(1.0 in found for found in known.values()) or not alike(runs):
        return [{**row, "title": row["arm"], "measured_by": "training"} for row in rows]
    full, transfers = [], _transfers(workspace, study, [*known])
    for row in rows:
        own = known[row["run"]]
        whole = _measured(row, own[1.0]) | transfers.get(row["run"], {})
        full.append(whole | {"title": row["arm"], "measured_by": "study"})
    for arm, strengths in study.strengths.items():
        for strength in strengths:
            for row in rows:
                if row["arm"] == arm and strength in known[row["run"]]:
                    full.append(_weaker(row, known[row["run"]][strength], at_strength(arm, strength)))
    return full


def _transfers(workspace: Workspace, study: Study, ids: Sequence[str]) -> dict[str, dict[str, float]]:
    """Of several corpora in turn what the chain comes to (`matrix.FIGURES`), by the run that it ends with."""
    runs = [Runs(workspace).get(id) for id in ids] if study.recipe.then else []
    return {run.id: matrix.figures(one) for run, one in zip(runs, matrix.matrices(runs), strict=True)}


def _measured(row: Row, point: Point) -> Row:
    figures = {"domain_gain": point.gain, "forgetting": point.forgetting}
    gone = ("domain_bits_per_byte", "general_bits_per_byte", "prompt_kl")
    kept = {key: value for key, value in row.items() if key not in gone}
    return kept | figures | ({"prompt_kl": point.kl} if point.kl is not None else {})


def _weaker(row: Row, point: Point, name: str) -> Row:
    """A finished run at a strength below 1: an arm of its own that nobody trained. Questions were asked at 1."""
    asked = (*(f"{task}_" for task in tasks([row])), *(format_key(template, "") for template in templates([row])))
    kept = {key: value for key, value in row.items() if not key.startswith(asked)}
    return _measured(kept, point) | {
        "arm": name, "title": name, "settings": f"{row['settings']} {name}", "measured_by": "study", "curve": [],
        "strength": point.strength,
    }  # fmt: skip


def beside(workspace: Workspace, study: Study) -> Table | None:
    """What finished runs were measured on besides (`mixcpt measure STUDY --on CORPUS`), as the difference to the base:
    a line an arm, with the 95 % interval of the mean over seeds. None where nothing was; of several corpora in turn
    their matrix says it."""
    if study.recipe.then:
        return None
    found: dict[str, dict[str, dict[int, float]]] = {}
    for run in (Runs(workspace).get(id) for id in last_runs(workspace, study)):
        for one in measured_at(run):
            if one.part == OTHER:
                found.setdefault(run.info.arm, {}).setdefault(one.text, {})[run.info.seed] = one.difference
    texts = list(dict.fromkeys(text for own in found.values() for text in own))
    lines = [[arm, *(_mean(found.get(arm, {}).get(text, {})) for text in texts)] for arm in study.arms]
    heads = ["Arm", *(f"{text} (bits/byte)" for text in texts)]
    return Table(heads, lines, "Run minus base: less is better, below 0 it became better.") if texts else None


def _mean(by_seed: dict[int, float]) -> str:
    """With the interval over seeds, and how many they are."""
    if not by_seed:
        return "–"
    mean = matrices.Mean(tuple(by_seed), tuple(by_seed.values()))
    spread = f" ± {(mean.interval[1] - mean.interval[0]) / 2:.3f}" if mean.interval else ""
    return f"{signed(mean.value, 3)}{spread} ({len(by_seed)} seed{'s' if len(by_seed) > 1 else ''})"


def matrices_of(workspace: Workspace, study: Study) -> list[ArmMatrix]:
    """Of several corpora in turn the forgetting matrices of the arms, over their seeds; none of one corpus."""
    if not study.recipe.then:
        return []
    return matrices.arms([Runs(workspace).get(id) for id in last_runs(workspace, study)])


def pairs_of(study: Study, arms: Sequence[Row]) -> list[tuple[Row, Row]]:
    """The pairs that the study is about, of those arms that have results."""
    by_name = {arm["arm"]: arm for arm in arms}
    return [(by_name[one], by_name[other]) for one, other in study.pairs if one in by_name and other in by_name]


@dataclass(frozen=True)
class Power:
    """The smallest differences (bits per byte) that a study finds in four of five tries, None with one seed, each the
    only one among as many comparisons as it makes; and where the spread comes from, in words."""

    gain: float | None
    forgetting: float | None
    origin: str
    pairs: int = 1

    def words(self) -> str:
        """In a sentence or two."""
        if self.gain is None or self.forgetting is None:
            return "With one seed nothing can be told from chance: take at least two, better three or more."
        return (
            f"It finds a difference of {self.gain:.3f} bits per byte in gain, and of {self.forgetting:.3f} in "
            f"forgetting, in four of five tries{self.corrected}. {self.origin}"
        )

    @property
    def corrected(self) -> str:
        return f", corrected for {self.pairs} comparisons" if self.pairs > 1 else ""


def power(workspace: Workspace, study: Study) -> Power:
    """By the spread of known experiments on the same model, of a budget not too far off, that have two arms and two
    seeds, else by `PRIOR`; at the level that Holm's correction, which claims go through, leaves a single difference."""
    seeds, pairs = len(study.choice.seeds), len(study.pairs)

    def smallest(deviation: float) -> float | None:
        return detectable(deviation, seeds, level=LEVEL / pairs)

    tables = _tables(workspace, study)
    found = {key: paired_deviation([table[key] for table in tables]) for key in ("domain_gain", "forgetting")}
    if found["domain_gain"] is None or found["forgetting"] is None:
        origin = (
            f"No runs of {short(study.choice.models[0])} of such a length under several seeds are known here, so the "
            f"spread of our own study on the atlas is taken: {PRIOR:g} bits per byte."
        )
        return Power(smallest(PRIOR), smallest(PRIOR), origin, pairs)
    many = f"{len(tables)} experiments" if len(tables) > 1 else "one experiment"
    origin = f"From the spread over seeds of {many} with {short(study.choice.models[0])} in this workspace."
    return Power(smallest(found["domain_gain"]), smallest(found["forgetting"]), origin, pairs)


def _tables(workspace: Workspace, study: Study) -> list[dict[str, list[list[float]]]]:
    """Per experiment on the first model the gain and the forgetting of its arms (rows) under the seeds (columns) that
    all of them have."""
    near = range(study.choice.tokens // _NEAR, study.choice.tokens * _NEAR + 1)
    runs = [
        run
        for run in overview(workspace)
        if run.state == "done"
        and run.model == study.choice.models[0]
        and run.tokens in near
        and run.arm
        and not run.arm.startswith("tune ")
        and run.domain_gain is not None
        and run.forgetting is not None
        and not run.recorded
    ]
    experiments: dict[str, dict[str, dict[int, RunSummary]]] = {}
    for run in reversed(runs):  # the newest last, so that it counts
        experiments.setdefault(run.experiment, {}).setdefault(f"{run.arm} {run.stage}", {})[run.seed] = run
    found = []
    for arms in experiments.values():
        several = [by_seed for by_seed in arms.values() if len(by_seed) > 1]
        shared = sorted(set.intersection(*(set(by_seed) for by_seed in several))) if several else []
        if len(several) > 1 and len(shared) > 1:
            found.append(
                {
                    key: [[getattr(by_seed[seed], key) for seed in shared] for by_seed in several]
                    for key in ("domain_gain", "forgetting")
                }
            )
    return found
