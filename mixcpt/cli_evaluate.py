"""The command `mixcpt evaluate`: ask runs that are done, as their page does."""

import argparse
from pathlib import Path
from typing import Any

from mixcpt.cli_show import chosen_runs, print_json, say
from mixcpt.commands import at_least, command
from mixcpt.questions import is_file
from mixcpt.runs import Run
from mixcpt.workspace import Workspace


def add(commands: Any) -> None:
    """The command evaluate."""
    one = command(commands, "evaluate", evaluate, "ask runs that are done, here, now; prints their scores", json=True)
    one.add_argument("runs", nargs="+", metavar="RUN", help="runs, or names of experiments")
    one.add_argument(
        "--tasks",
        metavar="A,B",
        help="general, atlas, instructions, probes, probes:CORPUS, lm-eval:NAME, preset:quick, preset:paper or JSONL "
        "files, parted by commas; what the run asks at its end when neither this nor --format is given",
    )
    one.add_argument("--items", type=at_least(1), metavar="N", help="ask only N of each set; all when not given")
    one.add_argument("--batch-size", type=at_least(1), metavar="N", help="questions at once, in fp32")
    one.add_argument("--format", type=at_least(0), metavar="N", help="let it answer N held-out prompts in a template")
    one.add_argument("--templates", metavar="A,B", help="in these: own, or names such as alpaca; own when not given")


def evaluate(workspace: Workspace, options: argparse.Namespace) -> int:
    from mixcpt import evaluated
    from mixcpt.cli_do import Follower
    from mixcpt.settings import override
    from mixcpt.submission import finish
    from mixcpt.supervisor import Supervisor
    from mixcpt.transcript import refusals

    runs, ask = chosen_runs(workspace, options.runs), _ask(options)
    finish(evaluated.submit(workspace, runs, ask), Supervisor(workspace), Follower())
    if options.json:
        found = [{"run": run.id, **evaluated.section(run)} for run in runs]
        print_json(found[0] if len(found) == 1 else found)
    refused: list[str] = []
    for run in runs:
        if not options.json:
            print(f"run {run.id}  {run.title}")
            print_scores(workspace, run)
        config = override(run.config.evaluation, ask)
        refused += refusals(evaluated.section(run), config, run.config.mixture.domain_sources()).values()
    for why in dict.fromkeys(refused):
        say(f"mixcpt: {why}")
    return 1 if refused else 0


def _ask(options: argparse.Namespace) -> dict[str, Any]:
    """What the options say, as fields of an EvaluationConfig; what they do not say is as the run has it."""
    ask: dict[str, Any] = {}
    if options.tasks is not None:
        ask |= {"tasks": _entries(options.tasks), "items": None, "format_items": 0}
    if options.items is not None:
        ask["items"] = options.items
    if options.batch_size is not None:
        ask["batch_size"] = options.batch_size
    if options.format is not None:
        ask |= {"tasks": ask.get("tasks", []), "format_items": options.format, "format_templates": []}
    if options.templates is not None:
        ask["format_templates"] = options.templates.split(",")
    return ask


def _entries(text: str) -> list[str]:
    """The sets that are named; files by their full path, for the run may be asked again from elsewhere."""
    named = [text] if Path(text).is_file() else [part.strip() for part in text.split(",") if part.strip()]
    return [str(Path(entry).expanduser().absolute()) if is_file(entry) else entry for entry in named]


def print_scores(workspace: Workspace, run: Run) -> None:
    """What a run was asked, and the plain commands that ask the same."""
    from mixcpt import evaluated
    from mixcpt.tasks import NF4_NOTE, lm_eval_commands

    for words in evaluated.in_words(run):
        print(f"  {words}")
    if commands := lm_eval_commands(workspace, run):
        print("  the same by lm-eval itself:")
        for line in commands:
            print(f"    {line}")
    if any(how["precision"] == "nf4" for how in evaluated.section(run).get("asked", {}).values()):
        print(f"    {NF4_NOTE}")
