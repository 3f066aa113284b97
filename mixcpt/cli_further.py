"""The command `continue`: a run goes on with another corpus, here and now."""

import argparse
from typing import Any

from mixcpt import cli_show
from mixcpt.cli_show import print_json, say
from mixcpt.commands import command
from mixcpt.runs import Run, Runs
from mixcpt.settings import parse_change
from mixcpt.workspace import Workspace


def add(commands: Any) -> None:
    """The command continue."""
    one = command(
        commands, "continue", go_on, "train a run's adapter on with another corpus; prints the new run's id", json=True
    )
    one.add_argument("parent", metavar="RUN", help="the run that is continued: knowledge, SFT or DPO")
    one.add_argument("corpus", metavar="CORPUS", help="the new field: it takes the place of the field before")
    one.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a setting; repeatable")
    one.add_argument("--experiment", default="", metavar="NAME", help="where it belongs; that of RUN when not given")
    one.add_argument("--name", default="", help="what to call the run")


def go_on(workspace: Workspace, options: argparse.Namespace) -> int:
    from mixcpt.cli_do import Follower
    from mixcpt.further import further_stage, require_documents, suggested_name
    from mixcpt.modelstore import ensure_model
    from mixcpt.questions import question_sets
    from mixcpt.requirements import require_parts
    from mixcpt.submission import finish, submit_run
    from mixcpt.supervisor import Supervisor

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
    say(f"run {run.id}  {run.title}")
    finish(submit_run(workspace, run), Supervisor(workspace), Follower())
    if options.json:
        print_json(cli_show.run_row(workspace, run.id))
    else:
        print(run.id)
    return 0


def _parent(workspace: Workspace, id: str) -> Run:
    """Raises BadInput when the run has no adapter, and none is on its way."""
    from mixcpt.launching import require_adapter_to_come

    run = Runs(workspace).get(id)
    require_adapter_to_come(workspace, run)
    return run
