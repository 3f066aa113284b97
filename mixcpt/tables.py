"""A chart's data as a small table of text, for where no chart can be drawn."""

from collections.abc import Sequence
from itertools import pairwise

from mixcpt import matrices, spread
from mixcpt.chains import links, own
from mixcpt.charts import CHARTS
from mixcpt.compare import compare
from mixcpt.corpus import Corpus
from mixcpt.errors import BadInput, NotFound
from mixcpt.figures import signed
from mixcpt.journal import mixture_table, realised
from mixcpt.matrix import as_table, matrix
from mixcpt.palette import STAGE_NAMES
from mixcpt.plotting import thinned
from mixcpt.runs import Record, Run, Runs
from mixcpt.selection import open_selection
from mixcpt.stages import Sft
from mixcpt.workspace import Workspace

Table = list[tuple[str, ...]]
ROWS = 8
"""Of a long curve at most so many points are told, the first and the last among them."""

_LOSS_COLUMNS = {
    "losses": (("loss", "loss (nats per token)", "{:.3f}"), ("ce", "cross-entropy", "{:.3f}")),
    "learning_rate": (("learning_rate", "learning rate", "{:.2e}"),),
    "speed": (("tokens_per_second", "tokens per second", "{:,.0f}"),),
    "memory": (("memory_bytes", "memory (bytes)", "{:,}"),),
    "rewards": (
        ("margin", "margin (nats × beta)", "{:+.3f}"),
        ("chosen_reward", "chosen answers", "{:+.3f}"),
        ("rejected_reward", "rejected answers", "{:+.3f}"),
    ),
    "preferred": (("accuracy", "pairs in the right order", "{:.0%}"),),
}
_MEASURES = (
    ("domain_bits_per_byte", "field (bits per byte)"),
    ("general_bits_per_byte", "general text (bits per byte)"),
    ("prompt_kl", "KL (nats per token)"),
)


def table(workspace: Workspace, chart: str, subjects: Sequence[str]) -> Table:
    """The header and the rows.

    Raises:
        NotFound: there is no such chart, run, corpus or selection. BadInput: a run has no measures yet, a selection too
            few scores, or no subject is named.
    """
    if chart not in CHARTS or not subjects:
        raise NotFound(f"There is no chart {chart!r} of {len(subjects)} subjects.")
    if CHARTS[chart].of == "corpus":
        return _lengths(workspace, subjects[0])
    if CHARTS[chart].of == "selection":
        return spread.TABLES[chart](open_selection(workspace, subjects[0]))
    runs = [Runs(workspace).get(id) for id in subjects]
    if CHARTS[chart].of == "runs":
        return _OF_RUNS.get(chart, _reached)(runs)
    if chart == "matrix":
        return as_table(matrix(runs[0]))
    if chart == "shares":
        return _shares(runs[0])
    if chart == "chain":
        return _chain(runs[0])
    if chart == "forgetting_curve":
        measures = [record["measure"] | {"tokens": record["tokens"]} for record in own(runs[0].curve())]
        return _points(measures, [(key, title, "{:.3f}") for key, title in _MEASURES])
    return _points(runs[0].losses(), _LOSS_COLUMNS[chart])


def _points(records: Sequence[Record], columns: Sequence[tuple[str, str, str]]) -> Table:
    if not records:
        raise BadInput("Nothing was measured yet.")
    present = [column for column in columns if column[0] in records[-1]]
    if not present:
        raise BadInput("This run has no such figures: only DPO compares pairs of answers.")
    lines = [("tokens read", *(title for _, title, _ in present))]
    for record in thinned(records, ROWS):
        lines.append((f"{record['tokens']:,}", *(form.format(record[key]) for key, _, form in present)))
    return lines


def _chain(run: Run) -> Table:
    """A line for the base and for the latest measure of every stage."""
    present = [(key, title) for key, title in _MEASURES if any(key in p["measure"] for p in run.curve())]
    lines: Table = [("stage", "run", "tokens read since the base", *(title for _, title in present))]
    for number, link in enumerate(links(run)):
        if not link.curve:
            continue
        if number == 0:
            lines.append((STAGE_NAMES["base"], "–", "0", *_measure(link.curve[0], present)))
        stage = STAGE_NAMES.get(link.stage, link.stage)
        lines.append((stage, link.title, f"{link.after:,}", *_measure(link.curve[-1], present)))
    if len(lines) == 1:
        raise BadInput("Nothing was measured yet.")
    return lines


def _measure(point: Record, columns: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{point['measure'][key]:.3f}" if key in point["measure"] else "–" for key, _ in columns]


def _reached(runs: Sequence[Run]) -> Table:
    lines: Table = [("run", "tokens read", "gain (bits per byte)", "forgetting (bits per byte)", "KL (nats per token)")]
    for run, row in zip(runs, compare(runs), strict=True):
        change = (signed(row[key]) if key in row else "–" for key in ("domain_gain", "forgetting"))
        kl = f"{row['prompt_kl']:.3f}" if "prompt_kl" in row else "–"
        lines.append((run.title, f"{row['tokens']:,}", *change, kl))
    return lines


def _questions(runs: Sequence[Run]) -> Table:
    lines: Table = [("run", "question set", "questions", "right before", "right after", "95 % interval")]
    for run in runs:
        evaluation = run.results().get("evaluation", {})
        for task, final in evaluation.get("final", {}).items():
            low, high = final["interval"]
            before, after = evaluation["base"][task]["accuracy"], final["accuracy"]
            interval = f"{low:.0%} to {high:.0%}"
            lines.append((run.title, task, str(final["items"]), f"{before:.0%}", f"{after:.0%}", interval))
    return lines


def _matrices(runs: Sequence[Run]) -> Table:
    """The means of every arm, one below the other."""
    lines: Table = []
    for arm in matrices.arms(matrices.ends(runs)):
        head, *rows = matrices.as_table(arm)
        lines += [] if lines else [("arm", *head)]
        lines += [(arm.title, *row) for row in rows]
    return lines


_OF_RUNS = {"questions": _questions, "matrices": _matrices}
"""Of charts of several runs; of all others, what each run reached."""


def _shares(run: Run) -> Table:
    if isinstance(run.config, Sft):
        raise BadInput(f"Run {run.id} learned from samples, not from a mixture: there are no shares.")
    return list(mixture_table(run.config.mixture, realised(run)))


def _lengths(workspace: Workspace, name: str) -> Table:
    histogram = Corpus.open(workspace, name).manifest.lengths
    bins = zip(pairwise(histogram.edges), histogram.counts, strict=True)
    rows = [(f"{low:,} to {high - 1:,}", f"{count:,}") for (low, high), count in bins if count]
    return [("tokens", "documents"), *rows]
