"""What a fresh machine has: general instructions, preferences, questions and prose, written for this project.

Sources named `builtin/...` are made into corpora of the workspace the first time they are used:
    builtin/atlas           documents of a fictional country (`mixcpt.atlas`), the domain no model can know
    builtin/replay          general prose to mix in against forgetting
    builtin/instructions    general instructions; 50 are held out of every mixture and selection
    builtin/preferences     general preference pairs
    builtin/general         held-out general prose: only ever measured, never trained on
    builtin/general-KIND    general text of one kind (web, encyclopedic, code, dialogue): only ever measured as well
"""

import hashlib
import json
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

from mixcpt import atlas
from mixcpt.corpus import Corpus, corpus_names, ingest_records
from mixcpt.errors import NotFound
from mixcpt.records import Kind, Message, Record
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace, locked, read_json, write_json

HELDOUT_INSTRUCTIONS = 50


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of one shipped JSONL file."""
    text = (files("mixcpt.builtin") / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def questions() -> list[dict[str, Any]]:
    """The general four-choice questions: question, choices, answer (index), topic."""
    return rows("questions")


def instructed() -> list[dict[str, Any]]:
    """Prompts whose fulfilment a rule can check (`mixcpt.instructed`): id, prompt, and its demands (`checks`)."""
    return rows("instructed")


def instructions() -> list[dict[str, Any]]:
    """The general instructions: id, kind, instruction, input, output, and whether each is `heldout`.

    Fifty are held out, spread evenly but not at a fixed step: the kinds rotate, and a step of 8 would meet few of them.
    """
    every = rows("instructions_a") + rows("instructions_b")
    chosen = {number * len(every) // HELDOUT_INSTRUCTIONS for number in range(HELDOUT_INSTRUCTIONS)}
    return [row | {"heldout": index in chosen} for index, row in enumerate(every)]


def world() -> atlas.World:
    """The country of `builtin/atlas` and of its questions: four towns, sixteen facts.

    As many as the built-in model learns by heart in the *standard* recipe; of twelve towns it learned the sentences but
    not the facts (docs/first-results.md).
    """
    return atlas.make_world(towns=4)


def _documents(rows: list[dict[str, Any]]) -> list[Record]:
    return [
        Record(kind="documents", text=f"{row['title']}\n\n{row['text']}", meta={"id": row["id"]}, file="builtin")
        for row in rows
    ]


def _atlas() -> list[Record]:
    return _documents(atlas.documents(world()))


def _replay() -> list[Record]:
    return _documents(rows("replay_a") + rows("replay_b"))


def _general() -> list[Record]:
    return _documents(rows("general_heldout"))


def _instructions() -> list[Record]:
    return [
        Record(
            kind="instructions",
            messages=(
                Message("user", row["instruction"] + (f"\n\n{row['input']}" if row["input"] else "")),
                Message("assistant", row["output"]),
            ),
            meta={"id": row["id"], "kind": row["kind"]},
            file="builtin",
        )
        for row in instructions()
    ]


def _preferences() -> list[Record]:
    return [
        Record(
            kind="preferences",
            messages=(Message("user", row["prompt"]),),
            chosen=row["chosen"],
            rejected=row["rejected"],
            meta={"id": row["id"], "kind": row["kind"], "flaw": row["flaw"]},
            file="builtin",
        )
        for row in rows("preferences")
    ]


SOURCES: dict[str, Callable[[], list[Record]]] = {
    "builtin/atlas": _atlas,
    "builtin/replay": _replay,
    "builtin/instructions": _instructions,
    "builtin/preferences": _preferences,
    "builtin/general": _general,
}

KINDS: dict[str, Kind] = {
    "builtin/atlas": "documents",
    "builtin/replay": "documents",
    "builtin/instructions": "instructions",
    "builtin/preferences": "preferences",
    "builtin/general": "documents",
}
WORDS = {
    "builtin/atlas": "The atlas of a country that does not exist: facts that no model can know.",
    "builtin/replay": "General prose to mix in against forgetting.",
    "builtin/instructions": "General instructions with answers.",
    "builtin/preferences": "General questions with a better and a worse answer.",
    "builtin/general": "General prose that is only ever measured, so that forgetting is seen. Do not train on it.",
    "builtin/general-web": "Texts as on web pages: guides, notices, questions. Only ever measured.",
    "builtin/general-encyclopedic": "Entries as in an encyclopedia. Only ever measured.",
    "builtin/general-code": "Programs, in several languages. Only ever measured.",
    "builtin/general-dialogue": "Conversations. Only ever measured.",
}
"""What each of them is, in a sentence or two."""


_MEASURED = {
    "builtin/general": "general_heldout",
    "builtin/general-web": "general_web",
    "builtin/general-encyclopedic": "general_encyclopedic",
    "builtin/general-code": "general_code",
    "builtin/general-dialogue": "general_dialogue",
}
"""What is only ever measured, and the file it lies in; all of it is held out."""
GENERAL = {
    "builtin/general": "prose",
    "builtin/general-web": "web",
    "builtin/general-encyclopedic": "encyclopedic",
    "builtin/general-code": "code",
    "builtin/general-dialogue": "dialogue",
}
"""The kinds of general text, by source: what a finished run is measured on (`mixcpt.measuring`)."""


def _records(source: str) -> list[Record]:
    return SOURCES[source]() if source in SOURCES else _documents(rows(_MEASURED[source]))


def _heldout(source: str) -> set[str] | None:
    """Ids that are always held out; None leaves it to the usual split."""
    if source in _MEASURED:
        return {row["id"] for row in rows(_MEASURED[source])}
    if source == "builtin/instructions":
        return {row["id"] for row in instructions() if row["heldout"]}
    return None


def _origin(records: list[Record], heldout: set[str] | None) -> str:
    """A hash of what a built-in corpus is made of: its records, and what is held out."""
    lines = [record.to_json() for record in records] + [f"heldout {name}" for name in sorted(heldout or ())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def fingerprint(workspace: Workspace, name: str) -> str:
    """What changes when the text of a mixture's source does; of a built-in one, without making its corpus.

    Raises:
        NotFound: no such source, with what there is.
    """
    require_source(workspace, name)
    return _shipped(name) if name.startswith("builtin/") else Corpus.open(workspace, name).manifest.fingerprint


def _shipped(name: str) -> str:
    return _hashed_once(name, SOURCES.get(name), _heldout)


@cache
def _hashed_once(name: str, made: Callable[[], list[Record]] | None, heldout: Callable[[str], set[str] | None]) -> str:
    """What ships does not change while a process lives, so it is read and hashed once."""
    return _origin(made() if made else _records(name), heldout(name))


def require_source(workspace: Workspace, name: str) -> None:
    """Raises NotFound, with what there is, when `name` is neither a built-in source nor a corpus of the workspace."""
    if not name.startswith("builtin/"):
        Corpus.open(workspace, name)
    elif name not in SOURCES and name not in GENERAL:
        raise NotFound(f"There is no built-in source {name!r}: choose from {', '.join({**SOURCES, **GENERAL})}.")


def find_source(workspace: Workspace, name: str) -> Corpus | None:
    """The corpus of a mixture's source; None while a built-in one is not there as it ships now.

    Raises:
        NotFound: no such corpus, with what there is.
    """
    require_source(workspace, name)
    if not name.startswith("builtin/"):
        return Corpus.open(workspace, name)
    corpus_name = name.replace("/", "-")
    kept, shipped = workspace.corpora / corpus_name / "origin.json", {"records": _shipped(name)}
    there = corpus_name in corpus_names(workspace) and kept.exists() and read_json(kept) == shipped
    return Corpus.open(workspace, corpus_name) if there else None


def open_source(workspace: Workspace, name: str, tokenizer: TextTokenizer) -> Corpus:
    """The corpus of a mixture's source; a built-in one is made when the workspace does not have it as it ships now.

    Raises:
        NotFound: no such corpus, with what there is.
    """
    if found := find_source(workspace, name):
        return found
    corpus_name = name.replace("/", "-")
    with locked(workspace.corpora / f".{corpus_name}.lock"):
        if not find_source(workspace, name):  # another process may have made it while this one waited
            options: dict[str, Any] = {"files": [], "heldout_ids": _heldout(name), "tokenizer": tokenizer}
            ingest_records(workspace, corpus_name, _records(name), replace=True, **options)
            write_json(workspace.corpora / corpus_name / "origin.json", {"records": _shipped(name)})
    return Corpus.open(workspace, corpus_name)
