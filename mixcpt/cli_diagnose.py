"""The command `mixcpt diagnose`: failure signatures of runs, each with its evidence and one change."""

import argparse
from typing import Any

from mixcpt.cli_show import chosen_runs, print_json
from mixcpt.commands import command
from mixcpt.workspace import Workspace


def add(commands: Any) -> None:
    """The command diagnose."""
    one = command(commands, "diagnose", diagnose, "what a run suffers from, by what evidence, what to try", json=True)
    one.add_argument("runs", nargs="+", metavar="RUN", help="runs, or names of experiments")


def diagnose(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt.diagnosis import diagnose as rules
    from mixcpt.diagnosis import in_words

    runs = chosen_runs(workspace, options.runs)
    found = [rules(workspace, run) for run in runs]
    if options.json:
        return print_json([one.as_facts() for one in found])
    for run, one in zip(runs, found, strict=True):
        print(f"run {run.id}  {run.title}")
        for words in in_words(one):
            print(f"  {words}")
