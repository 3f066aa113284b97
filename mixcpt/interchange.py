"""Selections that come back as JSON lines: what `Selection.export` wrote, or a list of ids made elsewhere.

What it gives up: samples that were never scored. A file names samples of a table, it does not bring new ones; for
those, add the file as a corpus and score it.
"""

import json
from collections.abc import Container
from pathlib import Path

from mixcpt.errors import BadFile, BadInput
from mixcpt.scores import ScoredSample, ScoreTable
from mixcpt.selection import Rule, Selection, texts_of

_LISTED = 5
"""Faulty lines of a file that are named."""


def import_selection(table: ScoreTable, path: Path) -> Selection:
    """The samples that a file of `Selection.export` lists, in its order, as a selection by hand.

    Raises:
        BadFile: not UTF-8, a line that is not an object with a known id, the same id twice, or a text that is another
            than the one that was scored; the first lines are named.
    """
    known = {sample.id: sample for sample in table.samples}
    ids: dict[str, None] = {}
    faults: list[str] = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            ids[_imported(line, known, ids)] = None
        except BadInput as fault:
            faults.append(f"line {number}: {fault}")
    if faults:
        more = f"; and {len(faults) - _LISTED:,} more" if len(faults) > _LISTED else ""
        raise BadFile(
            f"{path.name} does not fit these scores ({'; '.join(faults[:_LISTED])}{more}): "
            "export it again from scores of the same source, or take these lines out."
        )
    if not ids:
        raise BadFile(f"{path.name} lists no samples: give a file with at least one line.")
    return Selection.of(table, Rule(strategy="by-hand"), keep=list(ids))


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise BadFile(f"There is no file {str(path)!r}: check the path.")
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise BadFile(f"{path.name} is not UTF-8 text: save it as JSON Lines in UTF-8.") from None


def _imported(line: str, known: dict[str, ScoredSample], seen: Container[str]) -> str:
    """The id of one line, when the line speaks of a known sample. Raises BadInput with what is wrong."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise BadInput("not JSON") from None
    id = value.get("id") if isinstance(value, dict) else None
    if not isinstance(id, str):
        raise BadInput("no object with an id")
    if id not in known:
        raise BadInput(f"the id {id[:40]!r} is unknown")
    if id in seen:
        raise BadInput(f"the id {id!r} stands there twice")
    if known[id].reason:
        raise BadInput(f"the sample {id!r} cannot be trained on, for {known[id].reason}")
    scored = texts_of(known[id].parsed)
    if any(key in value and value[key] != text for key, text in scored.items()):
        raise BadInput(f"the text of {id!r} is not the one that was scored")
    return id
