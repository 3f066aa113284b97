"""Runs side by side, from their folders alone: what was gained in the field, what was lost in general.

Signs: a *gain* is positive when the field got better, *forgetting* is positive when general ability got worse
(adapted minus base for bits per byte, base minus adapted for accuracies).

A run of stage two is compared with the base like any other, so its figures are those of the whole chain;
`domain_gain_start` and `forgetting_start` say how it began. It reads nothing of the field itself: its `domain_tokens`
are those of its chain, and it has no point at so many of them.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from mixcpt.chains import field_of, own, start_of, tokens_before, tokens_read
from mixcpt.errors import BadInput
from mixcpt.evaluated import CHECKS, how_asked
from mixcpt.palette import STAGE_NAMES
from mixcpt.runs import Run
from mixcpt.samples import kept_facts
from mixcpt.settings import override, to_yaml
from mixcpt.stages import AnyStage, Dpo, Sft, Stage
from mixcpt.statistics import seed_interval

Row = dict[str, Any]
Arm = tuple[str, str, str]
GENERAL_TASKS = ("general",)
_FORMAT, _WELL_FORMED, _ACCURACY = "format_", "_well_formed", "_accuracy"


def compare(runs: Iterable[Run], domain_tokens: int | None = None) -> list[Row]:
    """One tidy row per run. With `domain_tokens`, each run's curve is read where it had seen that many domain tokens.

    Scores of question sets belong to the end of a run, so they are left out when a point on the curve is asked for.

    Raises:
        BadInput: a run has no measures yet, or no point at so many domain tokens. NotFound: a run that one of them
            continues was deleted.
    """
    return [_row(run, domain_tokens) for run in runs]


def with_curves(runs: Iterable[Run], domain_tokens: int | None = None) -> list[Row]:
    """Rows of `compare`, for drawing: each with its `curve` (`Run.curve()`) and its `title` among the others."""
    return titled([{**_row(run, domain_tokens), "curve": run.curve()} for run in runs])


def titled(rows: Sequence[Row]) -> list[Row]:
    """The rows, each with a `title`, one for all seeds of an arm: the name they share, or else the arm or the id. Where
    two arms would be called the same, the stage, the experiment or the end of an id tells them apart."""
    arms: dict[Arm, list[Row]] = defaultdict(list)
    for row in rows:
        arms[arm_of(row)].append(row)
    titles = {arm: _title(group) for arm, group in arms.items()}
    stages = {arm: STAGE_NAMES.get(group[0]["stage"], "") for arm, group in arms.items()}
    for rivals in _rivals(titles):
        if len({stages[arm] for arm in rivals}) > 1:
            titles |= {arm: f"{titles[arm]} · {stages[arm]}" for arm in rivals}
    for rivals in _rivals(titles):
        titles |= {arm: f"{titles[arm]} · {_apart(arm, rivals, arms[arm][0])}" for arm in rivals}
    return [{**row, "title": titles[arm_of(row)]} for row in rows]


def _rivals(titles: dict[Arm, str]) -> list[list[Arm]]:
    """Arms that are called the same."""
    called = [[arm for arm, other in titles.items() if other == title] for title in dict.fromkeys(titles.values())]
    return [arms for arms in called if len(arms) > 1]


def arm_of(row: Row) -> Arm:
    """What seeds of one arm have in common: experiment, arm, and all settings but the seeds."""
    return row["experiment"], row["arm"], row["settings"]


def _title(group: Sequence[Row]) -> str:
    names = list(dict.fromkeys(row["name"] for row in group))
    if len(names) == 1 and names[0]:
        return str(names[0])
    return str(group[0]["arm"] or " / ".join(name for name in names if name) or group[0]["run"])


def _apart(arm: Arm, rivals: Sequence[Arm], row: Row) -> str:
    in_this_experiment = [rival for rival in rivals if rival[0] == arm[0]]
    return arm[0] if len(in_this_experiment) == 1 else str(row["run"])[-6:]


def domain_share(run: Run) -> float:
    """Share of the domain's tokens in what the run read; 0 for stage two, which reads no documents."""
    if isinstance(run.config, Sft):
        return 0.0
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
    point = curve[-1] if domain_tokens is None else _nearest(run, own(curve), domain_tokens, share)
    base, start, reached = curve[0]["measure"], start_of(curve), point["measure"]
    config, info = run.config, run.info
    earlier = [one for one in run.chain()[:-1] if field_of(one) == field_of(run)]
    row: Row = {
        "run": run.id,
        "experiment": info.experiment,
        "arm": info.arm,
        "name": run.labels.name,
        "stage": info.stage,
        "parent": info.parent,
        "seed": info.seed,
        "model": config.model.name,
        **_objective(config),
        "learning_rate": config.training.learning_rate,
        "settings": settings_but_seeds(run),
        "measured_on": config.measures.on,
        "field": ", ".join(field_of(run)),
        "tokens": point["tokens"],
        "tokens_before": tokens_before(run),
        "domain_tokens": round(point["tokens"] * share + sum(tokens_read(one) * domain_share(one) for one in earlier)),
    }
    if info.parent or isinstance(config, Sft):
        row |= _beginning(run, base, start)
    if isinstance(config, Sft):
        row |= _of_stage_two(run, config)
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
        row |= scores(run.results().get("evaluation", {})) | _formats(run)
    return row


def settings_but_seeds(run: Run) -> str:
    """8 hex digits of all settings of the chain but its seeds, and but which runs it consists of."""
    stage = run.config.with_seed(0)
    if isinstance(stage, Dpo):
        stage = override(stage, {"preference.reference": "parent"})
    parent = run.parent
    before = settings_but_seeds(parent) if parent else ""
    return hashlib.sha256((to_yaml(stage) + before).encode()).hexdigest()[:8]


def _beginning(run: Run, base: Row, start: Row | None) -> Row:
    """How a run that is not the first of its chain began."""
    parent = run.parent
    row: Row = {"parent_stage": parent.info.stage if parent else ""}
    for key, change, sign in (("domain", "domain_gain", -1), ("general", "forgetting", 1)):
        name = f"{key}_bits_per_byte"
        if start and name in base and name in start:
            row[f"{change}_start"] = sign * (start[name] - base[name])
    return row


def _of_stage_two(run: Run, stage: Sft) -> Row:
    """What only runs of stage two have: what they learned from, and what DPO reached."""
    row: Row = {"template": stage.template}
    if facts := kept_facts(run):
        row |= {"samples": facts["samples"], "learned_tokens": facts["learned_tokens"], "samples_rule": facts["rule"]}
    if isinstance(stage, Dpo):
        row["beta"] = stage.preference.beta
        for record in run.losses()[-1:]:
            row |= {"preference_margin": record["margin"], "pairs_right": record["accuracy"]}
    return row


def _objective(stage: AnyStage) -> Row:
    """What is minimised; a later stage has no such choice."""
    if not isinstance(stage, Stage):
        return {}
    objective = stage.objective
    return {
        "retention": objective.retention,
        "ce_weight": objective.ce_weight,
        "retention_weight": objective.retention_weight if objective.needs_teacher else 0.0,
    }


def _nearest(run: Run, curve: Sequence[Row], domain_tokens: int, share: float) -> Row:
    if share == 0:
        raise BadInput(
            f"Run {run.id} reads no text of the field, so it has no point at {domain_tokens:,} domain tokens: compare "
            "it at its end, or leave it out."
        )
    point = min(curve[1:] or curve, key=lambda record: abs(record["tokens"] * share - domain_tokens))
    found = point["tokens"] * share
    if abs(found - domain_tokens) > 0.1 * domain_tokens:
        raise BadInput(
            f"Run {run.id} has no measure near {domain_tokens:,} domain tokens (the nearest is at {found:,.0f}): "
            "choose another number, or run it with a smaller measures.every_steps."
        )
    return point


def scores(evaluation: Row) -> Row:
    """The figures of every question set in the section `evaluation` of a run's results."""
    row: Row = {}
    asked = evaluation.get("asked", {})
    for task, base, final, gain in _each(evaluation):
        sign = -1 if task in GENERAL_TASKS else 1
        interval = sorted(sign * bound for bound in gain["interval"])
        row |= {
            f"{task}_base": base["accuracy"],
            f"{task}_base_interval": base["interval"],
            f"{task}_accuracy": final["accuracy"],
            f"{task}_interval": final["interval"],
            f"{task}_items": final["items"],
            f"{task}_chance": final["chance"],
            f"{task}_majority": final["majority"],
            f"{task}_how": how_asked(asked.get(task.removesuffix("_exact"), asked.get(task, {}))),
            f"{task}_{'forgetting' if sign < 0 else 'gain'}": sign * gain["difference"],
            f"{task}_{'forgetting' if sign < 0 else 'gain'}_interval": interval,
        } | _uncontaminated(task, evaluation.get("contamination", {}).get(task, {}))
    return row


def _formats(run: Run) -> Row:
    """Per template the shares of answers that pass each check, and the loss of the reference answers (`mixcpt.format`),
    under keys of `format_key`."""
    row: Row = {}
    for template, one in run.results().get("evaluation", {}).get("format", {}).items():
        base, final = one["base"], one["final"]
        row |= {format_key(template, "items"): final["items"], format_key(template, "how"): how_asked(one)}
        for check in CHECKS:
            key, gain = format_key(template, check), one["gain"][check]
            row |= {
                f"{key}_base": base[check]["share"],
                f"{key}_base_interval": base[check]["interval"],
                key: final[check]["share"],
                f"{key}_interval": final[check]["interval"],
                f"{key}_gain": gain["difference"],
                f"{key}_gain_interval": gain["interval"],
            }
        loss = format_key(template, "loss")
        row |= {f"{loss}_base": base["loss"], loss: final["loss"]}
    return row


def format_key(template: str, what: str) -> str:
    """The key of a figure of the format measure: a check of `evaluated.CHECKS`, `items` or `loss`."""
    return f"{_FORMAT}{template}_{what}"


def templates(arms: Iterable[Row]) -> list[str]:
    """Those in which the format of any arm's answers was measured."""
    keys = dict.fromkeys(key for arm in arms for key in arm if key.startswith(_FORMAT) and key.endswith(_WELL_FORMED))
    return [key.removeprefix(_FORMAT).removesuffix(_WELL_FORMED) for key in keys]


def tasks(arms: Iterable[Row]) -> list[str]:
    """The question sets that any arm was asked."""
    keys = dict.fromkeys(key for arm in arms for key in arm if key.endswith(_ACCURACY))
    return [key.removesuffix(_ACCURACY) for key in keys]


def task_words(task: str) -> str:
    """What a question set is called in a sentence."""
    return task.replace("_", " ")


def _uncontaminated(task: str, seen: dict[str, Any]) -> Row:
    """How many of a set's questions stand in what the run read, and its score without them, where any do. Probes that
    are meant to stand there have no such figures."""
    if "items" not in seen or seen["by_construction"]:
        return {}
    row: Row = {f"{task}{_FOUND}": len(seen["items"])}
    if seen["without"]:
        final, gain = seen["without"]["final"], seen["without"]["gain"]
        row |= {
            f"{task}_uncontaminated": final["accuracy"],
            f"{task}_uncontaminated_interval": final["interval"],
            f"{task}_uncontaminated_difference": gain["difference"],
            f"{task}_uncontaminated_difference_interval": gain["interval"],
        }
    return row


def _each(evaluation: dict[str, Any]) -> Iterator[tuple[str, Row, Row, Row]]:
    """Per question set the scores of base and run, and the gain; of an open set, as `TASK_exact`, also those where only
    an accepted answer may be written."""
    for task, final in evaluation.get("final", {}).items():
        base, gain = evaluation["base"][task], evaluation["gain"][task]
        yield task, base, final, gain
        if final.get("exact"):
            yield f"{task}_exact", {**base, **base["exact"]}, {**final, **final["exact"]}, gain["exact"]


_PER_SEED = {"run", "seed", "parent", "curve"}
DIFFERENTLY = "differently"
"""What stands for how an arm was asked whose runs were not all asked alike."""
_HOW, _FOUND, _LEFT_OUT = "_how", "_contaminated", "left_out"
_COUNTS = {"tokens", "tokens_before", "domain_tokens", "samples", "learned_tokens"}


def summarise(rows: Sequence[Row]) -> list[Row]:
    """Rows that differ only by seed as one: means, `NAME_seeds` = the values by seed where every run has one, `NAME_ci`
    = 95 % interval of the mean over seeds (Student's t), of shares never less than their rounding leaves open. Of the
    questions that were found in what a run read it has the most of any seed.

    Where only some of the runs have a figure, its mean is over those, and `NAME_runs` says how many they are.
    An arm with one seed keeps its figures and has no interval over seeds. Of several runs that share even the seed the
    last one counts: they are the same training, and must not make an interval look narrower.
    """
    groups: dict[Arm, dict[int, Row]] = defaultdict(dict)
    for row in rows:
        groups[arm_of(row)][row["seed"]] = row
    return [_summary(list(group.values())) for group in groups.values()]


def _summary(group: list[Row]) -> Row:
    summary: Row = {"runs": [row["run"] for row in group], "seeds": [row["seed"] for row in group]}
    for key in dict.fromkeys(key for row in group for key in row):
        if key in _PER_SEED:
            continue
        values = [row[key] for row in group if key in row]
        if key == _LEFT_OUT:
            summary[key] = {task: places for row in values for task, places in row.items()}
            continue
        if all(isinstance(value, float) for value in values):
            summary[key] = float(np.mean(values))
            least = _rounding(group[0], key)
            interval = seed_interval(values, least)
            if len(group) == len(values) > 1:
                summary[f"{key}_seeds"] = values
            if interval and (least or len(set(values)) > 1):
                summary[f"{key}_ci"] = interval
        elif key in _COUNTS:
            summary[key] = round(float(np.mean(values)))
        elif key.endswith(_FOUND):
            summary[key] = max(values)
        elif key.endswith(_HOW):
            known = [*dict.fromkeys(filter(None, values))]
            summary[key] = DIFFERENTLY if len(known) > 1 else next(iter(known), "")
        elif not isinstance(values[0], (list, tuple)) or len(group) == 1:
            summary[key] = values[0]
        if key in summary and len(values) < len(group):
            summary[f"{key}_runs"] = len(values)
    return summary


def _rounding(row: Row, key: str) -> float:
    """The standard deviation that a share of so many items has by rounding alone (uniform within 1 / items, Sheppard),
    so that seeds which happen to be equal do not look certain; 0 of anything else."""
    items = row.get(f"{key.removesuffix(_ACCURACY)}_items") if key.endswith(_ACCURACY) else None
    for template in templates([row]) if key.startswith(_FORMAT) else ():
        if key in [format_key(template, check) for check in CHECKS]:
            items = row[format_key(template, "items")]
    return 1 / (items * math.sqrt(12)) if items else 0.0
