"""The commands `continue`, a run goes on with another corpus, and `matrix`, what a chain of them did to each."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mixcpt.cli_show import print_json, say
from mixcpt.commands import at_least, command
from mixcpt.figures import aligned
from mixcpt.runs import Run, Runs
from mixcpt.settings import parse_change
from mixcpt.workspace import Workspace

if TYPE_CHECKING:
    from mixcpt.matrix import Column, Matrix


def add(commands: Any) -> None:
    """The commands continue and matrix."""
    one = command(
        commands, "continue", go_on, "train a run's adapter on with another corpus; prints the new run's id", json=True
    )
    one.add_argument("parent", metavar="RUN", help="the run that is continued: knowledge, SFT or DPO")
    one.add_argument("corpus", metavar="CORPUS", help="the new field: it takes the place of the field before")
    one.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a setting; repeatable")
    one.add_argument("--experiment", default="", metavar="NAME", help="where it belongs; that of RUN when not given")
    one.add_argument("--name", default="", help="what to call the run")
    one = command(commands, "matrix", show_matrix, "every corpus of a chain after every stage of it", json=True)
    one.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="the last run of a chain; of several, or of an experiment by its name, the mean of each arm over seeds",
    )
    one.add_argument("--measure", action="store_true", help="measure what is missing first, here and now")
    one.add_argument(
        "--tokens", type=at_least(2), default=None, metavar="N", help="of each text, where --measure measures (5000)"
    )


def go_on(workspace: Workspace, options: argparse.Namespace) -> int:
    from mixcpt.cli_do import carry_out
    from mixcpt.further import further_stage, require_documents, suggested_name
    from mixcpt.modelstore import ensure_model
    from mixcpt.questions import question_sets
    from mixcpt.requirements import require_parts

    parent = _parent(workspace, options.parent)
    require_documents(workspace, options.corpus)
    stage = further_stage(parent, options.corpus, dict(parse_change(change) for change in options.set))
    require_parts(workspace, stage, parent.config)
    question_sets(stage.evaluation)
    ensure_model(workspace, stage.model.name, progress=say)
    run = Runs(workspace).create(
        stage,
        experiment=options.experiment or parent.info.experiment,
        name=options.name or suggested_name(stage, parent),
        parent=parent.id,
    )
    return carry_out(workspace, run, options.json)


def _parent(workspace: Workspace, id: str) -> Run:
    """Raises BadInput when the run has no adapter, and none is on its way."""
    from mixcpt.launching import require_adapter_to_come

    run = Runs(workspace).get(id)
    require_adapter_to_come(workspace, run)
    return run


def show_matrix(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt.cli_show import chosen_runs
    from mixcpt.matrices import ends

    runs = ends(chosen_runs(workspace, options.runs))
    if options.measure:
        _measure(workspace, runs, options.tokens)
    missing = _show_one(runs[0], options.json) if len(runs) == 1 else _show_arms(runs, options.json)
    if missing and not options.json:
        say(f"mixcpt: {len(missing)} of the runs were not measured on all texts: add --measure")


def _show_one(run: Run, json: bool) -> list[str]:
    """The matrix of one chain; returns the runs that lack measures."""
    from mixcpt.matrix import as_table, matrix, sentences

    found = matrix(run)
    if json:
        print_json(_as_json(found))
        return found.missing
    print("bits per byte of held-out text, lower is better; behind it the difference to the base")
    print(aligned(as_table(found)))
    for sentence in sentences(found):
        print(sentence)
    return found.missing


def _show_arms(runs: Sequence[Run], json: bool) -> list[str]:
    """The means of several chains, arm by arm; returns the runs that lack measures."""
    from mixcpt import matrices

    arms = matrices.arms(runs)
    claims = matrices.claims_of(arms)
    missing = list(dict.fromkeys(run for arm in arms for run in arm.missing))
    if json:
        said = [
            {"measure": claim.measure.key, "verdict": claim.verdict, "sentence": claim.sentence()} for claim in claims
        ]
        print_json({"arms": [matrices.as_facts(arm) for arm in arms], "claims": said, "missing": missing})
        return missing
    print("bits per byte of held-out text, mean over seeds, lower is better; behind it the difference to the base")
    for arm in arms:
        print(f"\n{arm.title} (seeds {', '.join(map(str, arm.seeds))})")
        print(aligned(matrices.as_table(arm)))
        for sentence in matrices.told(arm):
            print(sentence)
    if len(arms) == 2 and matrices.comparable(*arms):
        print(f"\n{arms[1].title} minus {arms[0].title}, ± half of the 95 % interval over seeds")
        print(aligned(matrices.difference_table(arms[1], arms[0])))
    for claim in claims:
        print(f"- {claim.sentence()}.")
    return missing


def _measure(workspace: Workspace, runs: Sequence[Run], tokens: int | None) -> None:
    from mixcpt.cli_do import Follower
    from mixcpt.matrix import submit
    from mixcpt.submission import finish
    from mixcpt.supervisor import Supervisor

    finish([submit(workspace, runs, tokens)], Supervisor(workspace), Follower())


def _as_json(found: "Matrix") -> dict[str, Any]:
    from mixcpt.matrix import FIGURES

    transfers = {key: figure.of(found) for key, figure in FIGURES.items()}
    transfers["forgetting"] = transfers.pop("field_forgetting")  # beside general text it would be too short a name
    return {
        "columns": [
            {"text": c.text, "kind": c.kind, "unit": c.unit, "learned_by": _learned(found, c)} for c in found.columns
        ],
        "stages": [
            {
                "run": line.run,
                "title": line.title,
                "stage": line.stage,
                "cells": [_cell(found, row, number) for number in range(len(found.columns))],
            }
            for row, line in enumerate(found.lines)
        ],
        **{
            name: None
            if one is None
            else {
                "bits_per_byte": one.value,
                "interval": one.interval,
                "documents": one.documents,
                "corpora": dict(one.parts),
            }
            for name, one in transfers.items()
        },
        "missing": found.missing,
    }


def _learned(found: "Matrix", column: "Column") -> list[str | None]:
    return [found.lines[row].run for row in column.learned]


def _cell(found: "Matrix", row: int, column: int) -> dict[str, Any] | None:
    cell = found.lines[row].cells[column] if row else found.base(column)
    if cell is None:
        return None
    key = found.columns[column].key
    if row == 0:
        return {key: cell.base, "difference": 0.0, "interval": [0.0, 0.0], "documents": len(cell.documents)}
    return {
        key: cell.figure,
        "difference": cell.difference,
        "interval": cell.interval,
        "documents": len(cell.documents),
    }
