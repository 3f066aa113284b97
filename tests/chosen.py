"""Sources of instructions and pairs, and selections of them, made without a model: for what only asks what is there."""

from collections.abc import Sequence

from mixcpt.corpus import ingest_records
from mixcpt.records import Kind, Message, Record
from mixcpt.scores import ScoredSample
from mixcpt.selection import Rule, Selection
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace

_HELD_OUT = "An answer that is only ever looked at. " * 6


def instructions(workspace: Workspace, name: str, answers: Sequence[str], tokenizer: TextTokenizer) -> None:
    """A source with a question for each of the answers, and one more that is held out."""
    records = [
        Record("instructions", messages=(_question(number), Message("assistant", answer)), meta={"id": str(number)})
        for number, answer in enumerate([*answers, _HELD_OUT])
    ]
    ingest_records(workspace, name, records, files=[], heldout_ids={str(len(answers))}, tokenizer=tokenizer)


def pairs(workspace: Workspace, name: str, answers: Sequence[tuple[str, str]], tokenizer: TextTokenizer) -> None:
    """A source with a question for each chosen and rejected answer, and one more pair that is held out."""
    records = [
        Record("preferences", messages=(_question(number),), chosen=better, rejected=worse, meta={"id": str(number)})
        for number, (better, worse) in enumerate([*answers, (_HELD_OUT, "No.")])
    ]
    ingest_records(workspace, name, records, files=[], heldout_ids={str(len(answers))}, tokenizer=tokenizer)


def _question(number: int) -> Message:
    return Message("user", f"Question {number}?")


def select(
    workspace: Workspace,
    name: str,
    kind: Kind = "instructions",
    tokens: Sequence[int] = (40, 60),
    run: str | None = None,
) -> None:
    """A saved selection of samples with so many tokens, scored under `run`."""
    source = "builtin/instructions" if kind == "instructions" else "builtin/preferences"
    samples = [ScoredSample(str(number), "{}", count, count // 2, {}) for number, count in enumerate(tokens)]
    info = {"source": source, "kind": kind, "run": run, "template": None, "max_tokens": 100}
    Selection(info, samples, Rule(strategy="all")).save(workspace, name)
