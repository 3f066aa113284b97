"""Runs side by side, from their folders alone: what was gained in the field, what was lost in general.

Signs: a *gain* is positive when the field got better, *forgetting* is positive when general ability got worse
(adapted minus base for bits per byte, base minus adapted for accuracies).

A run of stage two is compared with the base like any other, so its figures are those of the whole chain;
`domain_gain_start` and `forgetting_start` say how it began. It reads nothing of the field itself: its `domain_tokens`
are those of its chain, and it has no point at so many of them.
"""

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from mixcpt.chains import field_of, own, start_of, tokens_before, tokens_read
from mixcpt.config import MixtureConfig
from mixcpt.errors import BadInput
from mixcpt.palette import STAGE_NAMES
from mixcpt.presets import value_words
from mixcpt.runs import Run
from mixcpt.samples import kept_facts
from mixcpt.settings import Config, override, to_yaml
from mixcpt.stages import AnyStage, Dpo, Sft, Stage
from mixcpt.stamps import Kept
from mixcpt.statistics import seed_interval

Row = dict[str, Any]
Arm = tuple[str, str, str]
GENERAL_TASKS = ("general",)


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
        "settings": _settings_but_seeds(run),
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
        row |= _scores(run)
    return row


def _settings_but_seeds(run: Run) -> str:
    """8 hex digits of all settings of the chain but its seeds, and but which runs it consists of."""
    stage = run.config.with_seed(0)
    if isinstance(stage, Dpo):
        stage = override(stage, {"preference.reference": "parent"})
    parent = run.parent
    before = _settings_but_seeds(parent) if parent else ""
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


def _scores(run: Run) -> Row:
    row: Row = {}
    for task, base, final, gain in _each(run.results().get("evaluation", {})):
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
            f"{task}_{'forgetting' if sign < 0 else 'gain'}": sign * gain["difference"],
            f"{task}_{'forgetting' if sign < 0 else 'gain'}_interval": interval,
        } | _uncontaminated(task, run.results()["evaluation"].get("contamination", {}).get(task, {}))
    return row


def _uncontaminated(task: str, seen: dict[str, Any]) -> Row:
    """How many of a set's questions stand in what the run read, and its score without them, where any do. Probes that
    are meant to stand there have no such figures."""
    if "items" not in seen or seen["by_construction"]:
        return {}
    row: Row = {f"{task}_contaminated": len(seen["items"])}
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
_COUNTS = {"tokens", "tokens_before", "domain_tokens", "samples", "learned_tokens"}


def summarise(rows: Sequence[Row]) -> list[Row]:
    """Rows that differ only by seed as one: means, `NAME_seeds` = the values by seed where every run has one, `NAME_ci`
    = 95 % interval of the mean over seeds (Student's t).

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
        if all(isinstance(value, float) for value in values):
            summary[key] = float(np.mean(values))
            interval = seed_interval(values)
            if len(group) == len(values) > 1:
                summary[f"{key}_seeds"] = values
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
        columns = [column for task in tasks for column in _columns_of(task)]
        title = "questions: how many, what guessing and always the most frequent answer score, the share answered right"
        blocks += ["", title, _block(rows, columns)]
    return "\n".join(blocks)


def _columns_of(task: str) -> list[tuple[str, str, str]]:
    shares = (("chance", "guessing"), ("majority", "majority"), ("base", "before"), ("accuracy", "after"))
    return [(f"{task}_items", task, "{}"), *((f"{task}_{key}", title, "{:.0%}") for key, title in shares)]


def _block(rows: Sequence[Row], columns: Sequence[tuple[str, str, str]]) -> str:
    lines = [["arm", "seeds", *(title for _, title, _ in columns)]]
    for row in rows:
        name = row.get("title") or row["arm"] or row.get("run") or row["runs"][0]
        seeds = len(row.get("seeds", [0]))
        lines.append([name, str(seeds), *(_cell(row, key, form) for key, _, form in columns)])
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _cell(row: Row, key: str, form: str) -> str:
    if row.get(key) is None:
        return "-"
    text = form.format(row[key])
    interval = row.get(f"{key}_ci")
    return f"{text} ±{form.replace('+', '').format((interval[1] - interval[0]) / 2)}" if interval else text


_FORMULA = ("=", "+", "-", "@")


def as_csv(rows: Sequence[Row]) -> str:
    """The tidy table as CSV, every column that any row has but the curves. Text that a spreadsheet would take for a
    formula has an apostrophe before it, as spreadsheets themselves write it, and stands on one line; numbers stay as
    they are."""
    columns = [column for column in dict.fromkeys(key for row in rows for key in row) if column != "curve"]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({key: _harmless(value) for key, value in row.items()} for row in rows)
    return buffer.getvalue()


def _harmless(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = " ".join(value.split())
    return f"'{text}" if text.startswith(_FORMULA) else text


def config_diff(runs: Sequence[Run]) -> list[Row]:
    """The settings in which the runs differ, seeds included: `setting` (dotted), `part` and `label` as a form shows
    them, and `values`, as text by run id. Sources are matched by name, and their shares are those of the whole."""
    settings = {run.id: _settings_of(run) for run in runs}
    known = {setting: words for own in settings.values() for setting, (words, _) in own.items()}
    rows = []
    for setting, (part, label) in known.items():
        values = {id: own[setting][1] if setting in own else "–" for id, own in settings.items()}
        if len(set(values.values())) > 1:
            rows.append({"setting": setting, "part": part, "label": label, "values": values})
    return rows


_Settings = dict[str, tuple[tuple[str, str], str]]
_READ: Kept[_Settings] = Kept()


def _settings_of(run: Run) -> _Settings:
    path = run.folder / "config.yaml"
    return _READ.get(path, [str(path)], lambda: _settings(run.config))


def _settings(config: Config, path: str = "", part: str = "Run") -> _Settings:
    """Every setting below `config`: dotted name to ((part, label), value as text)."""
    found: _Settings = {}
    fields = type(config).model_fields
    for name, value in config:
        extra = fields[name].json_schema_extra
        label, unit = (str(extra["label"]), str(extra["unit"])) if isinstance(extra, dict) else (name, "")
        if isinstance(value, Config):
            found |= _settings(value, f"{path}{name}.", label)
        elif isinstance(config, MixtureConfig) and name == "sources":
            found |= _shares(config, f"{path}{name}", part)
        else:
            found[path + name] = ((part, f"{label} ({unit})" if unit else label), value_words("", value))
    return found


def _shares(mixture: MixtureConfig, path: str, part: str) -> _Settings:
    total = sum(source.share for source in mixture.sources)
    return {
        f"{path}[{source.source}]": (
            (part, f"Share of {source.source}"),
            ", ".join([f"{100 * source.share / total:.3g} %", *source.marks]),
        )
        for source in mixture.sources
    }
