"""The command `mixcpt align`: SFT or DPO after a run, as the page Align does it."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mixcpt.cli_show import print_json, say
from mixcpt.commands import command
from mixcpt.errors import BadFile, BadInput
from mixcpt.lineage import BASE, has_template
from mixcpt.runs import Run, Runs
from mixcpt.settings import parse_change
from mixcpt.stages import Sft
from mixcpt.workspace import Workspace


def add(commands: Any) -> None:
    """The command align."""
    one = command(commands, "align", align, "SFT or DPO after a run, here, now; prints the new run's id", json=True)
    one.add_argument("parent", metavar="PARENT", help=f"the run that it continues, or {BASE}")
    one.add_argument("--stage", choices=("sft", "dpo"), help="sft after a knowledge run, dpo after sft when not given")
    one.add_argument("--selection", metavar="NAME", help="a saved selection; else samples are chosen by a rule")
    one.add_argument(
        "--settings", type=Path, metavar="FILE.yaml", help="settings of such a run, or a recipe that has it"
    )
    one.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a setting; repeatable")
    one.add_argument("--experiment", default="", metavar="NAME", help="where it belongs; that of PARENT when not given")
    one.add_argument("--name", default="", help="what to call the run")
    one.add_argument("--preview", action="store_true", help="only show what the trainer would read first, and learn")


def align(workspace: Workspace, options: argparse.Namespace) -> int:
    from mixcpt.align_drafts import suggested_name
    from mixcpt.cli_do import carry_out
    from mixcpt.drafts import EXPERIMENT
    from mixcpt.modelstore import ensure_model
    from mixcpt.questions import question_sets
    from mixcpt.requirements import require_parts

    parent = None if options.parent == BASE else _parent(workspace, options.parent)
    stage = _stage(workspace, parent, options)
    ensure_model(workspace, stage.model.name, progress=say)
    if options.preview:
        return _preview(workspace, stage, parent, options.json)
    require_parts(workspace, stage, parent.config if parent else None, has_template(parent))
    question_sets(stage.evaluation)
    run = Runs(workspace).create(
        stage,
        experiment=options.experiment or (parent.info.experiment if parent else EXPERIMENT),
        name=options.name or suggested_name(stage, parent),
        parent=parent.id if parent else None,
    )
    return carry_out(workspace, run, options.json)


def _parent(workspace: Workspace, id: str) -> Run:
    """Raises BadInput when the run can never be continued as it stands."""
    from mixcpt.align_drafts import can_be_continued
    from mixcpt.overview import summary

    run = Runs(workspace).get(id)
    found = summary(workspace, run.id)
    if found and not can_be_continued(workspace, found):
        remedy = "name the run before it" if found.stage == "dpo" else f"`mixcpt resume {run.id}` first"
        raise BadInput(f"Run {run.id} is a run of {found.stage}, {found.state}, and cannot be continued: {remedy}.")
    return run


def _stage(workspace: Workspace, parent: Run | None, options: argparse.Namespace) -> Sft:
    """What the command line says, on top of what a file says."""
    from mixcpt.align_drafts import settings_of, stage_after

    changes = dict(parse_change(change) for change in options.set)
    if tasks := changes.get("evaluation.tasks"):  # the run may go on from elsewhere
        changes["evaluation.tasks"] = [str(Path(task).absolute()) if Path(task).is_file() else task for task in tasks]
    if options.settings is None:
        return stage_after(workspace, parent, options.stage, options.selection, changes)
    kind, given = settings_of(_read(options.settings), parent, options.stage)
    return stage_after(workspace, parent, kind, options.selection, {**given, **changes})


def _read(path: Path) -> Any:
    from mixcpt.recipe import uploaded

    if not path.is_file():
        raise BadFile(f"There is no file {str(path)!r}: check the path.")
    return uploaded(path.read_bytes(), str(path))


def _preview(workspace: Workspace, stage: Sft, parent: Run | None, as_json: bool) -> int:
    from mixcpt import label_mask
    from mixcpt.samples import preview_batch

    batch = preview_batch(workspace, stage, parent)
    answers = [
        [label_mask.masked(sample, number, batch.template.tokenizer) for number in range(len(sample.answers))]
        for sample in batch.samples
    ]
    if as_json:
        rows = [
            {"id": sample.id, "answers": [[asdict(token) for token in answer] for answer in mine]}
            for sample, mine in zip(batch.samples, answers, strict=True)
        ]
        print_json({"template": batch.template.name, "certain": batch.certain, "samples": rows})
        return 0
    for sample, mine in zip(batch.samples, answers, strict=True):
        for name, answer in zip(("",) if len(mine) == 1 else ("chosen", "rejected"), mine, strict=True):
            print(f"--- {' '.join(filter(None, [sample.id, name]))}\n{label_mask.as_text(answer)}")
    print(f"\n{label_mask.words(batch)} What is only read stands in ⟦…⟧.")
    if not batch.certain:
        say("A score chooses the samples when the run starts: these are the first of the source, in their place.")
    return 0
