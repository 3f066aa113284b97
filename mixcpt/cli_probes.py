"""The commands `mixcpt probes` and `mixcpt contamination`: questions made of a corpus, and questions a run has read."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mixcpt.cli_show import print_json, say
from mixcpt.commands import at_least, command
from mixcpt.corpus import Corpus
from mixcpt.errors import BadInput
from mixcpt.overlap import LEAST, N
from mixcpt.probes import ITEMS, SIDES, Probes
from mixcpt.runs import Runs
from mixcpt.workspace import Workspace, write_atomic

_SHOWN = 5


def add(commands: Any) -> None:
    """The commands probes and contamination."""
    one = command(commands, "probes", probes, "questions made of a corpus' own sentences, without a model", json=True)
    one.add_argument("corpus", metavar="CORPUS", help="a corpus, or a built-in source")
    one.add_argument("--items", type=at_least(1), default=ITEMS, metavar="N", help=f"so many of each set ({ITEMS})")
    one.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="another seed asks others (0)")
    one.add_argument("--side", choices=SIDES, default="generalised", help="which set --out writes (generalised)")
    one.add_argument("--out", type=Path, metavar="FILE.jsonl", help="write a set as questions that can be asked")

    one = command(commands, "contamination", contamination, "which questions stand in what a run read", json=True)
    one.add_argument("run", metavar="RUN", help="a run's id, or a beginning of it that is unique")
    one.add_argument("--words", type=at_least(1), default=N, metavar="N", help=f"words in a row that count ({N})")
    one.add_argument(
        "--least", type=at_least(1), default=LEAST, metavar="N", help=f"shorter questions are not judged ({LEAST})"
    )


def probes(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt.probes import make

    made = make(_corpus(workspace, options.corpus), options.items, options.seed)
    if options.out:
        lines = [{key: asked[key] for key in ("question", "choices", "answer")} for asked in made.sets()[options.side]]
        write_atomic(options.out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        say(f"{len(lines)} questions ({options.side}) are in {options.out}")
    if options.json:
        print_json({**asdict(made), "sets": made.sets()})
    else:
        _print(made)


def _corpus(workspace: Workspace, name: str) -> Corpus:
    """A built-in source that was never used is made, with the tokens of the built-in model."""
    from mixcpt.builtin import find_source, open_source
    from mixcpt.modelstore import ensure_model
    from mixcpt.tokens import TextTokenizer

    if found := find_source(workspace, name):
        return found
    folder = ensure_model(workspace, "smollm2-135m", progress=say)
    return open_source(workspace, name, TextTokenizer.from_folder(folder))


def _print(made: Probes) -> None:
    print(f"corpus {made.corpus}: {len(made.probes)} terms, each asked in a sentence of the training text (memorised)")
    print("and in one of the held-out text (generalised), with the same choices")
    if made.refused:
        print(f"  {made.refused} were left out, so that position, length and frequency tell nothing")
    print("  what blind strategies score:")
    for check in made.checks:
        low, high = check.interval
        print(
            f"    {check.strategy:<14} {check.accuracy:.1%}  (95 % {low:.1%} to {high:.1%}, chance {check.chance:.0%})"
        )
    for probe in made.probes[:_SHOWN]:
        print()
        for side in SIDES:
            asked = getattr(probe, side)
            print(f"  {side}: {asked['question']} ____{asked['rest']}")
        print("  " + "  ".join(("→ " if place == probe.answer else "") + it for place, it in enumerate(probe.choices)))


def contamination(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt import contamination as contaminated
    from mixcpt.probed import seen_words

    if options.least > options.words:
        raise BadInput(f"--least {options.least} is more than --words {options.words}: make it at most as large.")
    run = Runs(workspace).get(options.run)
    found = contaminated.again(workspace, run, options.words, options.least)
    if options.json:
        return print_json({"run": run.id, "contamination": found})
    for task, seen in found.items():
        print(f"{task}: {seen_words(seen, run.results()['evaluation']['final'][task]['items'])}")
