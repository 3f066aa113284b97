"""The written report of a study: question, answer in claims, table, charts, diagnosis, how it was done, the commands.

    experiments/<name>/report.html    stands alone, charts alive
    experiments/<name>/report.md      the same without charts

What this gives up: a report is of its moment; it is written anew each time the study is carried on to its end.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixcpt import charts, matrices
from mixcpt.claim_cards import Card, as_parts, cards
from mixcpt.claim_cards import as_markdown as card_markdown
from mixcpt.claim_table import in_words
from mixcpt.columns import FORMATS, HOW_TO_READ_FORMATS, columns, differences_table, formats_table
from mixcpt.compare import Row, arm_of, summarise, tasks
from mixcpt.diagnosis_table import in_short
from mixcpt.errors import BadInput
from mixcpt.figures import signed
from mixcpt.matrices import ArmMatrix
from mixcpt.measured import TOKENS
from mixcpt.notes import escape_for_files, fenced, table_for_files
from mixcpt.plotting import Code, Heading, Part, Table, as_html
from mixcpt.studies import Study
from mixcpt.study_results import beside, matrices_of, pairs_of, power, results
from mixcpt.workspace import Workspace, now, write_atomic

BESIDE = "Measured besides"
_MATRICES = "Every corpus after every stage, mean over seeds (bits per byte, and the difference to the base)"


@dataclass(frozen=True)
class Findings:
    """What a study has found so far: its runs, its arms, the matrices of several corpora, what was measured besides,
    claim cards, the diagnosis in a sentence with its signs, and how it was done."""

    study: Study
    rows: list[Row]
    arms: list[Row]
    chains: list[ArmMatrix]
    beside: Table | None
    cards: list[Card]
    diagnosis: str
    signs: Table
    how: Table


def findings(workspace: Workspace, study: Study) -> Findings:
    """Raises BadInput when no run is done yet."""
    rows = results(workspace, study)
    if not rows:
        raise BadInput(
            f"No run of the study {study.name!r} is done yet: carry it on with `mixcpt study run {study.name}`."
        )
    arms = summarise(rows)
    return Findings(
        study,
        rows,
        arms,
        matrices_of(workspace, study),
        beside(workspace, study),
        cards_of(workspace, study, arms),
        *in_short(workspace, rows),
        _how(workspace, study),
    )


def to_html(found: Findings) -> str:
    return as_html([f"Written {now()} by Mix-CPT Studio.", *_parts(found)], found.study.title)


def _parts(found: Findings) -> list[Part]:
    """The report as parts of a page."""
    rows, arms, chains = found.rows, found.arms, found.chains
    told: list[Part] = [
        found.study.question,
        *_answer(found.cards),
        Heading("The arms"),
        differences_table(arms),
        measured_on(rows),
    ]
    if chains:
        told += [Heading(_MATRICES), charts.matrices_chart(chains), *_transfers(chains)]
    if found.beside:
        told += [Heading(BESIDE), found.beside]
    told += [Heading("Gain against forgetting"), charts.plane(on_plane(rows))]
    told += [Heading("Differences seed by seed"), charts.seeds(rows, found.study.pairs)]
    if formats := formats_table(arms):
        told += [Heading(FORMATS), formats, HOW_TO_READ_FORMATS]
    if tasks(arms):
        told += [Heading("Questions"), charts.questions([arm for arm in arms if "general_accuracy" in arm])]
    told += [
        Heading("Seed by seed"),
        _points(rows),
        Heading("Diagnosis"),
        found.diagnosis,
        *([found.signs] if found.signs.rows else []),
        Heading("How it was done"),
        found.how,
        Code(_again(found.study)),
    ]
    for card in found.cards:
        told += as_parts(card)
    return told


def to_markdown(found: Findings) -> str:
    study, answer, arms = found.study, _answer(found.cards), differences_table(found.arms)
    blocks = [
        f"# {escape_for_files(study.title)}",
        escape_for_files(study.question),
        f"*Written {now()} by Mix-CPT Studio.*",
        "\n".join(f"- {escape_for_files(part)}" for part in answer if isinstance(part, str)),
        *(f"{_markdown(part)}\n\n{escape_for_files(part.note)}" for part in answer if isinstance(part, Table)),
        "## The arms",
        _markdown(arms),
        escape_for_files(f"{measured_on(found.rows)} {arms.note}".rstrip()),
    ]
    if found.chains:
        blocks += [f"## {_MATRICES}", matrices_markdown(found.chains)]
    if found.beside:
        blocks += [f"## {BESIDE}", _markdown(found.beside), found.beside.note]
    if formats := formats_table(found.arms):
        blocks += [f"## {FORMATS}", _markdown(formats), escape_for_files(HOW_TO_READ_FORMATS)]
    blocks += ["## Seed by seed", _markdown(_points(found.rows))]
    signs = [_markdown(found.signs)] if found.signs.rows else []
    blocks += ["## Diagnosis", escape_for_files(found.diagnosis), *signs]
    blocks += ["## How it was done", _markdown(found.how), fenced(_again(study), "bash"), "## Claim cards"]
    return "\n\n".join([*blocks, *(card_markdown(card).rstrip() for card in found.cards)]) + "\n"


def matrices_markdown(chains: Sequence[ArmMatrix]) -> str:
    """The forgetting matrix of each arm, and what came of it in sentences."""
    tables = [f"{escape_for_files(chain.title)}\n\n{table_for_files(matrices.as_table(chain))}" for chain in chains]
    told = "\n".join(f"- {escape_for_files(sentence)}" for sentence in _transfers(chains))
    return "\n\n".join([*tables, told])


def write(workspace: Workspace, study: Study) -> list[Path]:
    """Both reports into the experiment's folder; returns where they lie. Raises as `findings`."""
    folder, found = workspace.experiments / study.name, findings(workspace, study)
    paths = [folder / "report.html", folder / "report.md"]
    for path, text in zip(paths, (to_html(found), to_markdown(found)), strict=True):
        write_atomic(path, text)
    return paths


def cards_of(workspace: Workspace, study: Study, arms: Sequence[Row]) -> list[Card]:
    """The claim cards of those pairs of the study that have results (`summarise(results(...))`)."""
    return cards(workspace, pairs_of(study, arms), command=command_of(study))


def command_of(study: Study) -> str:
    """What gives the claim cards of a study again."""
    return f"mixcpt study report {study.name}"


def _answer(found: Sequence[Card]) -> list[str | Table]:
    return in_words([card.claims for card in found]) or ["No two arms that the question is about are done yet."]


def _transfers(chains: Sequence[ArmMatrix]) -> list[str]:
    """What came of each chain, in sentences."""
    return [f"{chain.title}: {sentence}" for chain in chains for sentence in matrices.told(chain)]


def on_plane(rows: Sequence[Row]) -> list[Row]:
    """The rows for the plane: without trails where the ends are of other measures than the ways there, and what was
    measured at another strength as a point of its own."""
    if not rows or rows[0]["measured_by"] == "training":
        return list(rows)
    return [
        {**row, "curve": [], "run": row["run"] if row["curve"] else f"{row['run']}-{number}"}
        for number, row in enumerate(rows)
    ]


def measured_on(rows: Sequence[Row]) -> str:
    """Of what text the figures are, in a sentence."""
    if rows[0]["measured_by"] == "study":
        field = " The field is the last corpus." if "average_gain" in rows[0] else ""
        return (
            "Gain, forgetting and KL were measured when all was done, on several kinds of general text; ± is the 95 % "
            f"interval of the mean over seeds.{field}"
        )
    return "Gain, forgetting and KL are those of the last measure of training; ± is the 95 % interval over seeds."


def _points(rows: Sequence[Row]) -> Table:
    """Every run by itself, so that nobody has to believe a mean."""
    shown = [column for column in columns(rows) if column.key in ("domain_gain", "forgetting", "prompt_kl")]
    lines = [
        [
            row["arm"],
            str(row["seed"]),
            row["run"],
            *(signed(row[column.key], 4) if column.key in row else "–" for column in shown),
        ]
        for row in sorted(rows, key=lambda row: (arm_of(row), row["seed"]))
    ]
    return Table(["Arm", "Seed", "Run", *(f"{column.title} ({column.unit})" for column in shown)], lines)


def _how(workspace: Workspace, study: Study) -> Table:
    choice, able = study.choice, power(workspace, study)
    tuned = study.recipe.tune
    lines = [
        ["Study", study.kind],
        ["Corpora, in turn" if choice.then else "Corpus", ", ".join(choice.corpora)],
        ["Model", ", ".join(choice.models)],
        ["Budget", f"{choice.tokens:,} tokens"],
        ["Seeds", ", ".join(map(str, choice.seeds))],
        ["Learning rates", f"tuned: {', '.join(tuned.groups)}" if tuned else "not tuned"],
        ["Measured at the end", f"at most {study.measured:,} tokens of each text" if study.measured else "–"],
    ]
    if able.gain is not None and able.forgetting is not None:
        words = f"gain {able.gain:.3f}, forgetting {able.forgetting:.3f} bits per byte{able.corrected}. {able.origin}"
        lines.append(["Found in four of five tries", words])
    return Table(["", ""], lines)


def _again(study: Study) -> str:
    choice = study.choice
    options = ["--corpus", choice.corpus, *(part for model in choice.models for part in ("--model", model))]
    if choice.then:
        options += ["--then", ",".join(choice.then)]
    options += ["--tokens", str(choice.tokens), "--seeds", ",".join(map(str, choice.seeds))]
    if study.measured != min(TOKENS, choice.tokens):
        options += ["--measured", str(study.measured)]
    return shlex.join(["mixcpt", "study", "run", study.kind, *options, *([] if choice.tune else ["--no-tune"])])


def _markdown(table: Table) -> str:
    return table_for_files([table.columns, *table.rows])
