"""Commands of `mixcpt` that take a run elsewhere: `export` and `card`."""

import argparse
from pathlib import Path
from typing import Any

from mixcpt.commands import command
from mixcpt.errors import Unavailable
from mixcpt.runs import Runs
from mixcpt.workspace import Workspace


def add(commands: Any) -> None:
    one = command(commands, "export", export, "write out what a run made, for other programs")
    one.add_argument("run", metavar="RUN", help="a run's id, or a beginning of it that is unique")
    one.add_argument(
        "--to",
        choices=("adapter", "merged", "tasks"),
        default="adapter",
        help="adapter: for PEFT (the default); merged: an ordinary model in bf16; tasks: its questions for lm_eval",
    )
    _strength(one)
    one.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist yet")
    one = command(commands, "card", card, "print a run's model card")
    one.add_argument("run", metavar="RUN", help="a run's id, or a beginning of it that is unique")
    one.add_argument("--of", choices=("adapter", "merged"), default="adapter", help="of which export (adapter)")
    _strength(one)


def _strength(parser: argparse.ArgumentParser) -> None:
    words = "share of what was learned that goes along, from 0 (the base) to 1 (the run, the default)"
    parser.add_argument("--strength", type=float, default=1.0, metavar="S", help=words)


def export(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt import exports
    from mixcpt.cli_do import Follower
    from mixcpt.submission import finish
    from mixcpt.supervisor import Supervisor

    run, to, strength = Runs(workspace).get(options.run), options.to, options.strength
    exports.check_out(options.out, exports.estimate_bytes(workspace, run, to, strength))
    there = exports.find(run, to)
    if there is None or there.strength != strength or not exports.is_current(workspace, there):
        finish([exports.submit(workspace, run, to, strength=strength)], Supervisor(workspace), Follower())
        there = exports.find(run, to)
    if there is None or there.strength != strength:
        raise Unavailable(f"The export of run {run.id} was removed or made anew meanwhile: export it again.")
    exports.take(there, options.out)
    print(options.out)


def card(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt.card import model_card
    from mixcpt.exports import check_strength

    check_strength(options.strength)
    print(model_card(workspace, Runs(workspace).get(options.run), options.of, options.strength), end="")
