"""The command line: the same library, in words that scripts can rely on (docs/cli.md).

With --json one JSON document goes to stdout and nothing else; everything meant for people goes to stderr then. An error
is one sentence; exit code 2 for bad input, 1 for a failed job.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mixcpt import (
    __version__,
    cli_align,
    cli_cache,
    cli_changes,
    cli_diagnose,
    cli_do,
    cli_evaluate,
    cli_export,
    cli_further,
    cli_measure,
    cli_probes,
    cli_run,
    cli_select,
    cli_show,
    cli_study,
    cli_talk,
)
from mixcpt.commands import at_least as _at_least
from mixcpt.commands import command as _command
from mixcpt.errors import MixcptError
from mixcpt.workspace import Workspace


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        code = int(options.action(Workspace(), options) or 0)
        sys.stdout.flush()
        return code
    except MixcptError as error:
        print(f"mixcpt: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader has seen enough, as in `mixcpt runs | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None:
            raise
        print(f"mixcpt: {error.filename} cannot be used ({error.strerror}): check that path.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mixcpt: stopped; a run that was started goes on, see `mixcpt jobs`", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mixcpt", description="Adapt a language model to your field, and see what it forgets."
    )
    parser.add_argument("--version", action="version", version=f"mixcpt {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _command(commands, "doctor", cli_show.doctor, "what this machine can do, and what is missing", json=True)
    _add_corpora(commands)
    _add_recipes(commands)
    _add_runs(commands)
    cli_select.add(commands)
    cli_align.add(commands)
    cli_further.add(commands)
    cli_evaluate.add(commands)
    cli_probes.add(commands)
    cli_measure.add(commands)
    cli_changes.add(commands)
    cli_diagnose.add(commands)
    cli_export.add(commands)
    cli_talk.add(commands)
    cli_cache.add(commands)
    cli_study.add(commands)
    _add_findings(commands)
    _add_app(commands)
    return parser


def _add_corpora(commands: Any) -> None:
    corpus = commands.add_parser("corpus", help="add, show, search, list or remove corpora").add_subparsers(
        required=True, metavar="ACTION"
    )
    command = _command(corpus, "add", cli_do.corpus_add, "ingest files; prints the report", json=True)
    command.add_argument("name", help="name of the new corpus")
    command.add_argument(
        "files", nargs="+", metavar="FILE", help="files or folders (txt, md, json, jsonl, csv, parquet, gz, zip)"
    )
    command.add_argument("--kind", choices=("documents", "instructions", "preferences"), help="guessed when not given")
    command.add_argument("--text-column", help="the column or key that holds the text; guessed when not given")
    command.add_argument("--where", action="append", default=[], metavar="FIELD=VALUE", help="only such records")
    command.add_argument("--limit", type=int, help="only the first so many records")
    command.add_argument("--model", default="smollm2-135m", help="whose tokenizer counts the tokens")
    command.add_argument("--replace", action="store_true", help="replace a corpus of the same name")
    command = _command(corpus, "show", cli_show.corpus_show, "the report of one corpus", json=True)
    command.add_argument("name")
    command = _command(corpus, "search", cli_show.corpus_search, "documents that hold a text", json=True)
    command.add_argument("name")
    command.add_argument("query", metavar="QUERY", help="the text as it stands there; large or small letters alike")
    command.add_argument("--limit", type=_at_least(0), default=10, help="show so many documents at most (10)")
    command.add_argument("--split", choices=("train", "heldout"), default="train", help="which part (train)")
    _command(corpus, "list", cli_show.corpus_list, "all corpora", json=True)
    command = _command(corpus, "remove", cli_do.corpus_remove, "delete a corpus")
    command.add_argument("name")

    model = commands.add_parser("model", help="fetch models").add_subparsers(required=True, metavar="ACTION")
    command = _command(model, "add", cli_do.model_add, "fetch, check and convert a model")
    command.add_argument("name", help="smollm2-135m, gemma-3-270m, a folder or a hub id")
    command.add_argument("--accept-terms", action="store_true", help="you have read the model's terms and accept them")


def _add_recipes(commands: Any) -> None:
    for name, action, help in (
        ("run", cli_do.run, "run a recipe here, now; prints each run's id"),
        ("preview", cli_show.preview, "what the model will read: counts per source, and one row as text"),
        ("estimate", cli_show.estimate, "how much memory and time a recipe would take"),
    ):
        command = _command(commands, name, action, help, json=True)
        command.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
        _add_changes(command)
        if name == "preview":
            command.add_argument("--row", type=_at_least(0), default=0, metavar="N", help="which row, from 0 (0)")
        if name == "run":
            command.add_argument(
                "--guess", metavar="gain=20,forgetting=3", help="what you expect, in percent; `show` tells the outcome"
            )


def _add_changes(command: argparse.ArgumentParser) -> None:
    command.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a setting; repeatable")


def _add_runs(commands: Any) -> None:
    _command(commands, "runs", cli_show.list_runs, "every run", json=True)
    _command(commands, "jobs", cli_show.list_jobs, "every job", json=True)
    added = {}
    for name, action, help in (
        ("show", cli_run.show, "one run: config, status, results"),
        ("cancel", cli_do.cancel, "stop a run; what was done is kept"),
        ("pause", cli_do.pause, "let a run rest; resume goes on with it"),
        ("resume", cli_do.resume, "go on with a stopped run"),
        ("rerun", cli_do.rerun, "the same run again, as a new one"),
        ("rename", cli_do.rename, "give a run a name"),
        ("tag", cli_do.tag, "give a run tags"),
        ("delete", cli_do.delete, "delete a run and all that was trained in it"),
    ):
        added[name] = _command(commands, name, action, help, json=name == "show")
        added[name].add_argument("run", metavar="RUN", help="a run's id, or a beginning of it that is unique")
    _add_changes(added["rerun"])
    added["rename"].add_argument("name", metavar="NAME", help="any text; empty takes the name away")
    added["tag"].add_argument("tags", nargs="*", metavar="TAG", help="in place of those it has; none takes them away")
    added["delete"].add_argument("--yes", action="store_true", help="do not ask")


def _add_findings(commands: Any) -> None:
    command = _command(commands, "compare", cli_show.compare, "domain and general scores side by side", json=True)
    command.add_argument("runs", nargs="+", metavar="RUN", help="runs, or names of experiments")
    command.add_argument("--domain-tokens", type=int, help="read every curve where it had seen so many domain tokens")
    command.add_argument("--unseen", action="store_true", help="leave out questions that stand in what any run read")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="every column, as CSV")
    form.add_argument("--html", type=Path, metavar="OUT.html", help="write a page with charts that stands alone")
    form.add_argument("--diff", action="store_true", help="the settings in which they differ, instead")
    form.add_argument("--claims", action="store_true", help="claim cards instead: which arm is better, and is it real?")
    command.add_argument("--against", metavar="ARM", help="the arm that claims hold the others against (the first)")

    command = _command(commands, "chart", cli_show.chart, "draw a chart into an HTML file")
    _add_subjects(command)
    command.add_argument("--out", type=Path, metavar="FILE.html", required=True)

    command = _command(commands, "notebook", cli_show.notebook, "an experiment's notebook as a file, or on stdout")
    command.add_argument("experiment", metavar="EXPERIMENT")
    command.add_argument("--to", choices=("md", "html", "ipynb"), default="md", help="Markdown (md) when not given")
    command.add_argument("--out", type=Path, metavar="OUT", help="write it here")
    command = _command(commands, "note", cli_do.note, "write into an experiment's notebook")
    command.add_argument("experiment", metavar="EXPERIMENT")
    command.add_argument("text", metavar="TEXT", help="Markdown; - reads it from stdin")
    command = _command(commands, "pin", cli_do.pin, "pin a chart into an experiment's notebook")
    command.add_argument("experiment", metavar="EXPERIMENT")
    _add_subjects(command)
    command.add_argument("--caption", default="", help="what it shows, in words")
    _command(commands, "recorded", cli_do.recorded, "put the recorded experiments into the workspace")


def _add_subjects(command: argparse.ArgumentParser) -> None:
    command.add_argument("chart", metavar="CHART", help="losses, forgetting_curve, plane and others: docs/cli.md")
    command.add_argument("subjects", nargs="+", metavar="SUBJECT", help="runs or experiments; for lengths a corpus")


def _add_app(commands: Any) -> None:
    command = _command(commands, "app", cli_do.app, "open the studio in the browser")
    command.add_argument("--port", type=int, default=8501)
    command.add_argument("--address", default="localhost", help="who may reach it; there is no login (localhost)")
    command.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="DIR",
        help="a folder that people may take files from; repeatable",
    )
    command.add_argument("--no-browser", dest="browser", action="store_false", help="open no window")


if __name__ == "__main__":
    sys.exit(main())
