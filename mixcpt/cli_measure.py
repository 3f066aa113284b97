"""The command `mixcpt measure`: finished runs measured anew, and at other strengths of their adapters."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mixcpt.cli_show import chosen_runs, print_json
from mixcpt.commands import at_least, command
from mixcpt.figures import aligned
from mixcpt.measured import TOKENS, Order, Taken, points, read, submit
from mixcpt.runs import Run
from mixcpt.workspace import Workspace


def add(commands: Any) -> None:
    """The command measure."""
    one = command(
        commands, "measure", measure, "measure runs that are done anew, here, now, at any strength", json=True
    )
    one.add_argument("runs", nargs="+", metavar="RUN", help="runs, or names of experiments")
    one.add_argument(
        "--strengths",
        type=_numbers,
        default=(1.0,),
        metavar="A,B",
        help="how strongly the adapter counts, from 0 (the base) to 1; 1 when not given",
    )
    one.add_argument("--on", action="append", default=[], metavar="CORPUS", help="on this corpus too; repeatable")
    one.add_argument("--only", action="store_true", help="on nothing but the corpora of --on")
    one.add_argument("--tokens", type=at_least(2), default=TOKENS, metavar="N", help=f"of each text ({TOKENS})")


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


_numbers.__name__ = "list of numbers"  # argparse names it when it refuses


def measure(workspace: Workspace, options: argparse.Namespace) -> int:
    from mixcpt.cli_do import Follower
    from mixcpt.submission import finish
    from mixcpt.supervisor import Supervisor

    runs = chosen_runs(workspace, options.runs)
    order = Order(tuple(options.on), options.strengths, options.tokens, usual=not options.only)
    finish([submit(workspace, runs, order)], Supervisor(workspace), Follower())
    if options.json:
        print_json({"runs": [_as_json(run) for run in runs]})
    else:
        for run in runs:
            print(f"run {run.id}  {run.title}")
            print(as_text(read(run)))
    return 0


def _as_json(run: Run) -> dict[str, Any]:
    return {"run": run.id, "measures": [row(taken) for taken in read(run)], "points": list(map(asdict, points(run)))}


def row(taken: Taken) -> dict[str, Any]:
    """One measure without its documents: the figures, how sure they are, and how they were taken."""
    return {
        "text": taken.text,
        "kind": taken.kind,
        "measure": taken.measure,
        "strength": taken.strength,
        "base": taken.base,
        "run": taken.figure,
        "difference": taken.difference,
        "interval": taken.interval,
        "documents": len(taken.documents),
        "tokens": taken.tokens,
        "precision": taken.how["precision"],
        "device": taken.how["device"],
        "finished": taken.finished,
    }


def as_text(taken: Sequence[Taken]) -> str:
    """A table for a terminal."""
    lines = [["text", "kind", "strength", "base", "run", "difference", "95 % interval", "documents", "tokens", "unit"]]
    for one in taken:
        low, high = one.interval
        lines.append(
            [
                *(one.text, one.kind, f"{one.strength:g}", f"{one.base:.4f}", f"{one.figure:.4f}"),
                *(f"{one.difference:+.4f}", f"{low:+.4f} to {high:+.4f}", str(len(one.documents)), f"{one.tokens:,}"),
                "bits per byte" if one.measure == "bits" else "KL, nats per token",
            ]
        )
    return aligned(lines, "  ")
