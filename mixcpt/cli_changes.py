"""The command `mixcpt changes`: what a run learned and lost, sentence by sentence of held-out text."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mixcpt.cli_show import print_json
from mixcpt.commands import at_least, command
from mixcpt.figures import aligned
from mixcpt.runs import Run, Runs
from mixcpt.workspace import Workspace

if TYPE_CHECKING:
    from mixcpt.changes import Changes, Line, Span

TOP = 5


def add(commands: Any) -> None:
    """The command changes."""
    one = command(commands, "changes", show_changes, "the largest changes in held-out text, and by kind", json=True)
    one.add_argument("run", metavar="RUN", help="a run that was measured, see `mixcpt measure`")
    one.add_argument("--top", type=at_least(1), default=TOP, metavar="N", help=f"sentences each way ({TOP})")
    one.add_argument("--part", choices=("field", "general", "other"), default="", help="of this text only")
    one.add_argument("--measure", action="store_true", help="measure it first, here and now, where that is missing")


def show_changes(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt.changes import require_changes

    run = Runs(workspace).get(options.run)
    if options.measure:
        _measure(workspace, run)
    found = require_changes(run)
    if options.json:
        return print_json(as_json(found, options.top, options.part))
    print(as_text(found, options.top, options.part))


def _measure(workspace: Workspace, run: Run) -> None:
    from mixcpt.cli_do import Follower
    from mixcpt.measured import Order, submit
    from mixcpt.submission import finish
    from mixcpt.supervisor import Supervisor

    finish([submit(workspace, [run], Order())], Supervisor(workspace), Follower())


def as_json(found: "Changes", top: int, part: str) -> dict[str, Any]:
    learned, lost = found.one_learned(), found.one_lost()
    return {
        "run": found.run,
        "one_learned": learned and _sentence(found, learned),
        "one_lost": lost and _sentence(found, lost),
        "learned": [_sentence(found, span) for span in found.learned(part)[:top]],
        "lost": [_sentence(found, span) for span in found.lost(part)[:top]],
        "summary": [_line(line) for line in found.lines if part in ("", line.part)],
    }


def _sentence(found: "Changes", span: "Span") -> dict[str, Any]:
    return {
        "text": span.source,
        "part": span.part,
        "kind": span.kind,
        "document": span.document,
        "sentence": span.words,
        "tokens": span.tokens,
        "base": span.base,
        "run": span.run,
        "change": span.change,
        "share": span.share,
        "context": [asdict(token) for token in found.in_context(span)],
    }


def _line(line: "Line") -> dict[str, Any]:
    return asdict(line) | {"change": line.change, "verdict": line.verdict}


def as_text(found: "Changes", top: int, part: str) -> str:
    """For a terminal: the one and the other, the lists, the summary."""
    from mixcpt.changes import words_of

    lines = []
    for head, one in (("One thing it learned", found.one_learned()), ("One thing it lost", found.one_lost())):
        lines += [f"{head}: {one.words if one else 'nothing'}"]
        lines += [f"  {one.source}, {one.document}", f"  {words_of(one)}."] if one else []
    for head, spans in (("became likelier", found.learned(part)), ("became less likely", found.lost(part))):
        lines += ["", f"{len(spans)} sentences {head}; the largest changes, nats in all:"]
        lines += [f"  {span.change:+8.2f}  {span.part:<7}  {' '.join(span.words.split())}" for span in spans[:top]]
    lines += ["", "nats a token, below zero is better; 95 % by paired bootstrap over documents:"]
    return "\n".join([*lines, _table(found, part)])


def _table(found: "Changes", part: str) -> str:
    from mixcpt.token_kinds import KINDS

    rows = [["part", "of", "base", "run", "change", "95 % interval", "better", "worse", "tokens", "documents", "so it"]]
    for line in found.lines:
        if part in ("", line.part):
            low, high = line.interval
            rows.append(
                [
                    *(line.part, KINDS.get(line.name, line.name), f"{line.base:.3f}", f"{line.run:.3f}"),
                    *(f"{line.change:+.3f}", f"{low:+.3f} to {high:+.3f}", f"{line.better:.0%}", f"{line.worse:.0%}"),
                    *(f"{line.tokens:,}", str(line.documents), line.verdict),
                ]
            )
    return aligned(rows, "  ")
