"""Runs side by side, from their folders alone: what was gained in the field, what was lost in general.

Signs: a *gain* is positive when the field got better, *forgetting* is positive when general ability got worse
(adapted minus base for bits per byte, base minus adapted for accuracies).
"""

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mixcpt.config import to_yaml
from mixcpt.errors import BadInput
from mixcpt.runs import Run
from mixcpt.statistics import seed_interval

Row = dict[str, Any]
GENERAL_TASKS = ("general",)


def compare(runs: Iterable[Run], domain_tokens: int | None = None) -> list[Row]:
    """One tidy row per run. With `domain_tokens`, each run's curve is read where it had seen that many domain tokens.

    Scores of question sets belong to the end of a run, so they are left out when a point on the curve is asked for.

    Raises:
        BadInput: a run has no measures yet.
    """
    return [_row(run, domain_tokens) for run in runs]


def domain_share(run: Run) -> float:
    """Share of the domain's tokens in what the run read."""
    sources = run.results().get("training", {}).get("mixture", {}).get("sources", [])
    if sources:
        return float(sum(source["realised_share"] for source in sources if source["domain"]))
    shares = run.config.mixture.sources
    return sum(s.share for s in shares if s.domain) / sum(s.share for s in shares)


def _row(run: Run, domain_tokens: int | None) -> Row:
    curve = run.curve()
    if not curve:
        raise BadInput(
            f"Run {run.id} has no measures yet, so it cannot be compared: wait until it has started training."
        )
    share = domain_share(run)
    point = curve[-1] if domain_tokens is None else _nearest(run, curve, domain_tokens, share)
    base, reached = curve[0]["measure"], point["measure"]
    config, info = run.config, run.info
    row: Row = {
        "run": run.id,
        "experiment": info.experiment,
        "arm": info.arm,
        "stage": info.stage,
        "parent": info.parent,
        "seed": info.seed,
        "model": config.model.name,
        "retention": config.objective.retention,
        "ce_weight": config.objective.ce_weight,
        "retention_weight": config.objective.retention_weight if config.objective.needs_teacher else 0.0,
        "learning_rate": config.training.learning_rate,
        "settings": hashlib.sha256(to_yaml(config.with_seed(0)).encode()).hexdigest()[:8],  # all of them but the seeds
        "tokens": point["tokens"],
        "domain_tokens": round(point["tokens"] * share),
    }
    if "domain_bits_per_byte" in base:
        row |= {
            "domain_bits_per_byte_base": base["domain_bits_per_byte"],
            "domain_bits_per_byte": reached["domain_bits_per_byte"],
            "domain_gain": base["domain_bits_per_byte"] - reached["domain_bits_per_byte"],
        }
    if "general_bits_per_byte" in base:
        row |= {
            "general_bits_per_byte_base": base["general_bits_per_byte"],
            "general_bits_per_byte": reached["general_bits_per_byte"],
            "forgetting": reached["general_bits_per_byte"] - base["general_bits_per_byte"],
        }
    if "prompt_kl" in reached:
        row["prompt_kl"] = reached["prompt_kl"]
    if domain_tokens is None:
        row |= _scores(run)
    return row


def _nearest(run: Run, curve: Sequence[Row], domain_tokens: int, share: float) -> Row:
    point = min(curve[1:] or curve, key=lambda record: abs(record["tokens"] * share - domain_tokens))
    found = point["tokens"] * share
    if abs(found - domain_tokens) > 0.1 * domain_tokens:
        raise BadInput(
            f"Run {run.id} has no measure near {domain_tokens:,} domain tokens (the nearest is at {found:,.0f}): "
            "choose another number, or run it with a smaller measures.every_steps."
        )
    return point


def _scores(run: Run) -> Row:
    evaluation = run.results().get("evaluation", {})
    row: Row = {}
    for task, final in evaluation.get("final", {}).items():
        base, gain = evaluation["base"][task], evaluation["gain"][task]
        sign = -1 if task in GENERAL_TASKS else 1
        interval = sorted(sign * bound for bound in gain["interval"])
        row |= {
            f"{task}_base": base["accuracy"],
            f"{task}_accuracy": final["accuracy"],
            f"{task}_interval": final["interval"],
            f"{task}_items": final["items"],
            f"{task}_chance": final["chance"],
            f"{task}_majority": final["majority"],
            f"{task}_{'forgetting' if sign < 0 else 'gain'}": sign * gain["difference"],
            f"{task}_{'forgetting' if sign < 0 else 'gain'}_interval": interval,
        }
    return row


_PER_SEED = {"run", "seed", "parent"}
_COUNTS = {"tokens", "domain_tokens"}


def summarise(rows: Sequence[Row]) -> list[Row]:
    """Rows that differ only by seed as one: means, and `NAME_ci` = 95 % interval of the mean over seeds (Student's t).

    Where only some of the runs have a figure, its mean is over those, and `NAME_runs` says how many they are.
    An arm with one seed keeps its figures and has no interval over seeds. Of several runs that share even the seed the
    last one counts: they are the same training, and must not make an interval look narrower.
    """
    groups: dict[tuple[Any, ...], dict[int, Row]] = defaultdict(dict)
    for row in rows:
        groups[row["experiment"], row["arm"], row["settings"]][row["seed"]] = row
    return [_summary(list(group.values())) for group in groups.values()]


def _summary(group: list[Row]) -> Row:
    summary: Row = {"runs": [row["run"] for row in group], "seeds": [row["seed"] for row in group]}
    for key in dict.fromkeys(key for row in group for key in row):
        if key in _PER_SEED:
            continue
        values = [row[key] for row in group if key in row]
        if all(isinstance(value, float) for value in values):
            summary[key] = float(np.mean(values))
            interval = seed_interval(values)
            if interval and len(set(values)) > 1:
                summary[f"{key}_ci"] = interval
        elif key in _COUNTS:
            summary[key] = round(float(np.mean(values)))
        elif not isinstance(values[0], (list, tuple)) or len(group) == 1:
            summary[key] = values[0]
        if key in summary and len(values) < len(group):
            summary[f"{key}_runs"] = len(values)
    return summary


_COLUMNS = (
    ("tokens", "tokens", "{:,}"),
    ("domain_bits_per_byte_base", "domain before", "{:.3f}"),
    ("domain_bits_per_byte", "after", "{:.3f}"),
    ("domain_gain", "gain", "{:+.3f}"),
    ("general_bits_per_byte_base", "general before", "{:.3f}"),
    ("general_bits_per_byte", "after", "{:.3f}"),
    ("forgetting", "forgetting", "{:+.3f}"),
    ("prompt_kl", "KL", "{:.3f}"),
)


def as_text(rows: Sequence[Row]) -> str:
    """Two tables for a terminal: bits per byte and KL (nats per token), then the share of questions answered right."""
    measures = [column for column in _COLUMNS if any(column[0] in row for row in rows)]
    blocks = ["bits per byte, lower is better; KL in nats per token", _block(rows, measures)]
    keys = dict.fromkeys(key for row in rows for key in row if key.endswith("_accuracy"))
    if tasks := [key.removesuffix("_accuracy") for key in keys]:
        columns = [(f"{task}_items", task, "{}") for task in tasks]
        for place, task in enumerate(tasks):
            before, after = (f"{task}_base", "before", "{:.0%}"), (f"{task}_accuracy", "after", "{:.0%}")
            columns[3 * place + 1 : 3 * place + 1] = [before, after]
        blocks += ["", "questions: how many, and the share answered right", _block(rows, columns)]
    return "\n".join(blocks)


def _block(rows: Sequence[Row], columns: Sequence[tuple[str, str, str]]) -> str:
    lines = [["arm", "seeds", *(title for _, title, _ in columns)]]
    for row in rows:
        name, seeds = row["arm"] or row.get("run") or row["runs"][0], len(row.get("seeds", [0]))
        lines.append([name, str(seeds), *(_cell(row, key, form) for key, _, form in columns)])
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _cell(row: Row, key: str, form: str) -> str:
    if row.get(key) is None:
        return "-"
    text = form.format(row[key])
    interval = row.get(f"{key}_ci")
    return f"{text} ±{form.replace('+', '').format((interval[1] - interval[0]) / 2)}" if interval else text


def as_csv(rows: Sequence[Row]) -> str:
    """The tidy table as CSV, every column that any row has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
