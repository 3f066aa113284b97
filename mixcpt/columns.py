"""The columns of a comparison: by which figures arms are told, as a table of a page, as text for a terminal, as CSV.

Of one seed a share carries the 95 % interval over its questions or answers; of several the mean carries that over the
seeds; what the base, guessing and always the most frequent answer score stands in a note. What this gives up: in
tables contamination is left to the run's own page and the CSV.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mixcpt.compare import Row, format_key, task_words, tasks, templates
from mixcpt.curves import title_of
from mixcpt.evaluated import CHECKS
from mixcpt.figures import aligned, signed
from mixcpt.plotting import Table

FORMATS = "Form of the answers"
HOW_TO_READ_FORMATS = (
    "Held-out prompts are answered in a chat template. An answer is well formed when it ends by itself, keeps to the "
    "template (no marks of turns or roles in it), and has from half to twice as many tokens as the reference answer. "
    "The loss says how unlikely the reference answers are, in nats per token: less is surer. Whether answers are right "
    "is not looked at."
)
HOW_TO_READ = (
    "Every figure is a difference to the base, the model before any training. Gain is how many bits per byte fewer the "
    "model needs for held-out text of the field: more is better. Forgetting is how many more it needs for general "
    "text: less is better, and below zero it became better. KL says how far its answers to general prompts moved from "
    "the base's, in nats per token: what moved far may have forgotten things that nobody asked for. Shares are those "
    "of the run itself. ± is the 95 % interval of the mean over seeds; of one seed, what stands beside a share is the "
    "95 % interval over the questions or answers."
)


@dataclass(frozen=True)
class Column:
    """A column of the table of differences; `form` is how a value is written, by format() or as "signed". Where one
    seed has an interval over items, its key is `interval`."""

    key: str
    title: str
    unit: str
    help: str
    form: str
    interval: str = ""


_FIRST = (
    Column("domain_gain", "Gain", "bits/byte", "In the field against the base: more is better.", "signed"),
    Column("forgetting", "Forgetting", "bits/byte", "Of general text against the base: less is better.", "signed"),
    Column("prompt_kl", "KL", "nats/token", "How far answers to general prompts moved from the base's.", ".3f"),
)
_OF_CHAINS = (
    Column("average_gain", "Average gain", "bits/byte", "Over all corpora of the chain, in the end.", "signed"),
    Column("field_forgetting", "Lost of corpora", "bits/byte", "Since their best stages: less is better.", "signed"),
    Column("backward_transfer", "Backward transfer", "bits/byte", "Below 0: later corpora cost earlier.", "signed"),
    Column("forward_transfer", "Forward transfer", "bits/byte", "Above 0: earlier corpora helped later.", "signed"),
)
"""Of several corpora in turn (`mixcpt.matrix`)."""
_LAST = (
    Column("domain_bits_per_byte", "Field after", "bits/byte", "Of held-out text: lower is better.", ".3f"),
    Column("general_bits_per_byte", "General after", "bits/byte", "Of held-out general text: lower is better.", ".3f"),
    Column("tokens", "Read", "tokens", "Tokens read in training, repetitions counted.", ",d"),
    Column("tokens_before", "Before", "tokens", "Tokens read by the runs before it in its chain.", ",d"),
    Column("domain_tokens", "Of the field", "tokens", "How many of the tokens read were the field's.", ",d"),
)
_CHECK_HELP = {
    "well_formed": "end by themselves, keep to the template, and have the right length, all three",
    "ended": "end by themselves before the limit",
    "follows": "say something, and hold no marks of turns or roles that belong to the template",
    "right_length": "have from half to twice as many tokens as the reference answer",
}


def columns(arms: Sequence[Row]) -> list[Column]:
    """The columns that any of the arms has a figure for, those of question sets included."""
    questions = [_of_questions(arms, task) for task in tasks(arms)]
    every = [*_FIRST, *_OF_CHAINS, *questions, *_LAST]
    empty = () if any(arm.get("tokens_before") for arm in arms) else ("tokens_before",)
    return [column for column in every if column.key not in empty and any(column.key in arm for arm in arms)]


def format_columns(arms: Sequence[Row]) -> list[Column]:
    """Those of a table of its own: how answers are formed, in each template that any of the arms was asked in."""
    return [column for template in templates(arms) for column in _of_format(arms, template)]


def _of_questions(arms: Sequence[Row], task: str) -> Column:
    name = task_words(task)
    unit = f"right{_of_how_many(arms, f'{task}_items')}"
    return Column(f"{task}_accuracy", name, unit, f"Share of {name} questions.", ".0%", f"{task}_interval")


def _of_format(arms: Sequence[Row], template: str) -> list[Column]:
    where = template_words(template)
    shares = [
        Column(
            (key := format_key(template, check)),
            f"{CHECKS[check].capitalize()}, {template}",
            f"{_of_how_many(arms, format_key(template, 'items'))} answers".removeprefix(" "),
            f"Share of answers to held-out prompts in {where} that {_CHECK_HELP[check]}.",
            ".0%",
            f"{key}_interval",
        )
        for check in CHECKS
    ]
    words = f"Of the reference answers in {where}, end included: lower is surer of them."
    return [
        *shares,
        Column(format_key(template, "loss"), f"Loss of references, {template}", "nats/token", words, ".3f"),
    ]


def template_words(template: str) -> str:
    """A template in a sentence."""
    return "the model's own template" if template == "own" else f"the template {template}"


def _of_how_many(arms: Sequence[Row], key: str) -> str:
    """The number of items, where all arms have the same."""
    found = {arm[key] for arm in arms if arm.get(key) is not None}
    return f" of {found.pop():,}" if len(found) == 1 else ""


def differences_table(arms: Sequence[Row]) -> Table:
    """A line an arm, a column a figure: what each gained, forgot and answered; what shares are to be held against is
    in the note."""
    return replace(_table(arms, columns(arms)), note=against(arms))


def against(arms: Sequence[Row]) -> str:
    """What the base, guessing and always the most frequent answer score in each question set, in a sentence; empty
    where nothing was asked."""
    told = []
    for task in tasks(arms):
        asked = [arm for arm in arms if all(f"{task}_{key}" in arm for key in ("base", "chance", "majority"))]
        base, guess, frequent = (
            " or ".join(dict.fromkeys(f"{arm[f'{task}_{key}']:.0%}" for arm in asked))
            for key in ("base", "chance", "majority")
        )
        if asked:
            name = task_words(task)
            told.append(f"{name} {base} / {guess} / {frequent}")
    how = "Right by the base / by guessing / by always giving the most frequent answer"
    return f"{how}: {'; '.join(told)}." if told else ""


def formats_table(arms: Sequence[Row]) -> Table | None:
    """The same of the format of answers; None where nobody asked for it."""
    shown = format_columns(arms)
    return _table([arm for arm in arms if templates([arm])], shown) if shown else None


def _table(arms: Sequence[Row], shown: Sequence[Column]) -> Table:
    heads = ["Arm", "Seeds", *(f"{column.title} ({column.unit})" for column in shown)]
    lines = [
        [title_of(arm), ", ".join(map(str, arm["seeds"])), *(_in_table(arm, column) for column in shown)]
        for arm in arms
    ]
    return Table(heads, lines)


def _in_table(arm: Row, column: Column) -> str:
    if column.key not in arm:
        return "–"
    interval = arm.get(f"{column.key}_ci")
    form = ".3f" if column.form == "signed" else column.form
    text = signed(arm[column.key], 3) if column.form == "signed" else format(arm[column.key], form)
    if interval:
        return f"{text} ± {format((interval[1] - interval[0]) / 2, form)}"
    return f"{text} ({words})" if (words := over_items(arm, column)) else text


def over_items(arm: Row, column: Column) -> str:
    """The 95 % interval of one seed's share over its items, in words; empty where there is none."""
    interval = arm.get(column.interval)
    return f"{interval[0]:.0%} to {interval[1]:.0%}" if interval else ""


# As text

_FIGURES = (
    ("tokens", "tokens", "{:,}"),
    ("domain_bits_per_byte_base", "domain before", "{:.3f}"),
    ("domain_bits_per_byte", "after", "{:.3f}"),
    ("domain_gain", "gain", "{:+.3f}"),
    ("general_bits_per_byte_base", "general before", "{:.3f}"),
    ("general_bits_per_byte", "after", "{:.3f}"),
    ("forgetting", "forgetting", "{:+.3f}"),
    ("prompt_kl", "KL", "{:.3f}"),
)
Figure = tuple[str, str, str]
"""Key, title and form of a column of text."""


def as_text(rows: Sequence[Row]) -> str:
    """Tables for a terminal: bits per byte and KL (nats per token), then the share of questions answered right, then
    for each template the format of answers."""
    measures = [figure for figure in _FIGURES if any(figure[0] in row for row in rows)]
    blocks = ["bits per byte, lower is better; KL in nats per token", _block(rows, measures)]
    if asked := tasks(rows):
        title = "questions: how many, what guessing and always the most frequent answer score, the share answered right"
        blocks += ["", title, _block(rows, [figure for task in asked for figure in _asked(task)])]
    for template in templates(rows):
        title = (
            f"format of answers in {template_words(template)}: how many, shares before and after, loss of references"
        )
        blocks += ["", title, _block(rows, _formed(template))]
    return "\n".join(blocks)


def _asked(task: str) -> list[Figure]:
    shares = (("chance", "guessing"), ("majority", "majority"), ("base", "before"), ("accuracy", "after"))
    return [(f"{task}_items", task, "{}"), *((f"{task}_{key}", title, "{:.0%}") for key, title in shares)]


def _formed(template: str) -> list[Figure]:
    figures: list[Figure] = [(format_key(template, "items"), "answers", "{}")]
    for check, words in CHECKS.items():
        key = format_key(template, check)
        figures += [(f"{key}_base", words, "{:.0%}"), (key, "after", "{:.0%}")]
    loss = format_key(template, "loss")
    return [*figures, (f"{loss}_base", "loss", "{:.3f}"), (loss, "after", "{:.3f}")]


def _block(rows: Sequence[Row], figures: Sequence[Figure]) -> str:
    lines = [["arm", "seeds", *(title for _, title, _ in figures)]]
    for row in rows:
        seeds = len(row.get("seeds", [0]))
        lines.append([title_of(row), str(seeds), *(_cell(row, key, form) for key, _, form in figures)])
    return aligned(lines)


def _cell(row: Row, key: str, form: str) -> str:
    if row.get(key) is None:
        return "-"
    text = form.format(row[key])
    if interval := row.get(f"{key}_ci"):
        return f"{text} ±{form.replace('+', '').format((interval[1] - interval[0]) / 2)}"
    if interval := row.get(f"{key.removesuffix('_accuracy')}_interval"):
        return f"{text} ({form.format(interval[0])} to {form.format(interval[1])})"
    return text


# As CSV

_FORMULA = ("=", "+", "-", "@")


_NO_CELL = ("curve", "left_out")


def as_csv(rows: Sequence[Row]) -> str:
    """The tidy table as CSV, every column that any row has but the curves, and which questions were left out. Text that
    a spreadsheet would take for a formula has an apostrophe before it, as spreadsheets themselves write it, and stands
    on one line; numbers stay as they are."""
    names = [column for column in dict.fromkeys(key for row in rows for key in row) if column not in _NO_CELL]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({key: _harmless(value) for key, value in row.items()} for row in rows)
    return buffer.getvalue()


def _harmless(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = " ".join(value.split())
    return f"'{text}" if text.startswith(_FORMULA) else text
