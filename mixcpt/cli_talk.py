"""The command `talk`: one question to a run and its relatives, answered side by side."""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

from mixcpt.cli_show import print_json, say
from mixcpt.client import Client
from mixcpt.commands import command
from mixcpt.errors import BadInput, Busy, MixcptError
from mixcpt.exchanges import MODELS_AT_ONCE, Answer, Exchange, Sampling, Voice, log_probabilities
from mixcpt.prompts import speakers
from mixcpt.records import Message
from mixcpt.runs import Run, Runs
from mixcpt.settings import validate
from mixcpt.workspace import Workspace

_LOOK_SECONDS = 0.2
_ENDED = {
    "end": "ended by itself",
    "length": "cut at the limit",
    "stopped": "stopped",
    "interrupted": "interrupted",
}


def add(commands: Any) -> None:
    """The command talk."""
    one = command(commands, "talk", talk, "ask a run and its relatives, side by side", json=True)
    one.add_argument(
        "runs", nargs="+", metavar="RUN", help="one: its whole chain from the base on; several: just these"
    )
    one.add_argument("--prompt", required=True, metavar="TEXT", help="the question; - reads it from stdin")
    one.add_argument("--base", action="store_true", help="with several runs: the base as well")
    one.add_argument("--only", action="store_true", help="with one run: without its chain")
    one.add_argument("--strength", type=float, default=1.0, metavar="S", help="of the adapters, from 0 (base) to 1 (1)")
    one.add_argument("--seed", type=int, default=0, help="the same seed gives the same answers (0)")
    one.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 takes the likeliest token (0)")
    one.add_argument("--top-p", type=float, default=1.0, metavar="P", help="draws from the likeliest that reach P (1)")
    one.add_argument("--max-tokens", type=int, default=200, metavar="N", help="longest answer (200)")
    one.add_argument("--template", metavar="NAME", help="own, chatml, llama3, …; none: plain text")
    one.add_argument("--after", metavar="EXCHANGE", help="go on with the conversation of this exchange")


def talk(workspace: Workspace, options: argparse.Namespace) -> int:
    runs = _chosen(workspace, options)
    question = sys.stdin.read() if options.prompt == "-" else options.prompt
    sampling = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "max_new_tokens": options.max_tokens,
        "seed": options.seed,
    }
    client = Client(workspace)
    id = client.ask(
        [validate(Voice, {"run": run and run.id, "strength": options.strength}, "--strength") for run in runs],
        [Message("user", question)],
        after=options.after,
        template=options.template,
        sampling=validate(Sampling, sampling, "the command line"),
    )
    exchange = _followed(client, id)
    if options.json:
        print_json(in_json(exchange))
    elif exchange.answers[0].text or exchange.state == "done":
        print(in_words(exchange))
    if exchange.state == "interrupted":
        raise Busy(exchange.message)
    if exchange.state != "done":
        raise MixcptError(exchange.message)
    return 0


def _chosen(workspace: Workspace, options: argparse.Namespace) -> list[Run | None]:
    """The models to ask; None is the base."""
    runs = [Runs(workspace).get(id) for id in dict.fromkeys(options.runs)]
    for run in runs:
        run.require_adapter()
    if len(runs) == 1 and not options.only:
        return [None, *speakers(runs[0])[1 - MODELS_AT_ONCE :]]
    chosen = [*([None] if options.base else []), *runs]
    if len(chosen) > MODELS_AT_ONCE:
        raise BadInput(f"These are {len(chosen)} models, and {MODELS_AT_ONCE} can be asked at once: leave some out.")
    return chosen


def _followed(client: Client, id: str) -> Exchange:
    """Wait for the end, telling on stderr what goes on; Ctrl-C stops the answers too."""
    told = ""
    try:
        while True:
            exchange = client.exchange(id)
            if exchange.is_final:
                return exchange
            doing = exchange.message or exchange.state
            if doing != told:
                say(doing)
                told = doing
            time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:
        client.stop(id)
        raise


def in_json(exchange: Exchange) -> dict[str, Any]:
    """What `--json` prints; the keys stand in docs/cli.md."""
    return {
        "exchange": exchange.id,
        "state": exchange.state,
        "message": exchange.message,
        "base": exchange.base,
        "template": exchange.template,
        "conversations": exchange.conversations,
        "answers": [_answer_in_json(answer) for answer in exchange.answers],
        "log_probability": log_probabilities(exchange),
        **{name: exchange.question["sampling"][name] for name in ("seed", "temperature", "top_p", "max_new_tokens")},
    }


def _answer_in_json(answer: Answer) -> dict[str, Any]:
    speed = answer.tokens_per_second
    return {
        "run": answer.run,
        "title": answer.title,
        "stage": answer.stage,
        "strength": answer.strength,
        "text": answer.text,
        "tokens": answer.pieces,
        "ended": answer.ended,
        "tokens_per_second": speed and round(speed, 2),
        "first_difference": answer.differs and answer.differs["token"],
        "nats": answer.nats,
    }


def in_words(exchange: Exchange) -> str:
    """The answers one after the other, and how likely each is under each model."""
    parts = [f"{_heading(answer)}\n\n{answer.text}\n" for answer in exchange.answers]
    parts.append(
        f"Base {exchange.base}, template {exchange.template}, seed {exchange.question['sampling']['seed']}; "
        f"exchange {exchange.id}"
    )
    if exchange.state == "done":
        parts.append("Log-probability of each answer (row) under each model (column), nats; per token in brackets:")
        parts.append(_table(exchange.answers, log_probabilities(exchange)))
    return "\n".join(parts)


def _heading(answer: Answer) -> str:
    speed = answer.tokens_per_second
    facts = [f"{len(answer.ids)} tokens", _ENDED.get(answer.ended, "")]
    facts += [f"{speed:.1f} tokens/s"] if speed else []
    if answer.differs:
        facts.append(f"differs from token {answer.differs['token'] + 1} on")
    return f"=== {_name(answer)}: {', '.join(filter(None, facts))}"


def _name(answer: Answer) -> str:
    name = answer.title if answer.run is None else f"{answer.stage} {answer.title}"
    return name if answer.strength == 1 or answer.run is None else f"{name} at {answer.strength:g}"


def _table(answers: Sequence[Answer], values: Sequence[Sequence[float | None]]) -> str:
    names = [_name(answer) for answer in answers]
    rows = [["", *names]]
    for answer, name, row in zip(answers, names, values, strict=True):
        count = max(len(answer.ids), 1)
        rows.append([name, *("-" if value is None else f"{value:.2f} ({value / count:.2f})" for value in row)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    name, *values = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    return "  ".join([name.strip().ljust(widths[0]), *values])
