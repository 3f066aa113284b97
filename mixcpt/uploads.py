"""Files that were sent to this server by a browser, kept until their corpus is deleted.

    uploads/<corpus>-<time and id>/      the files of one upload; the folder appears whole

They lie on disk before anything reads them, so a failed ingest loses nothing. What it gives up: a file's own name where
it cannot be trusted, for folders, control characters and leading dots go.
"""

import re
import shutil
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import BinaryIO

from mixcpt.errors import BadInput
from mixcpt.workspace import Workspace, building, check_name, new_id

_PIECE = 1 << 20  # bytes
_SPARE_DISK = 50_000_000  # bytes
_MOST_BYTES = 150  # of a file name; file systems allow 255, and a number may be added
_ID = r"-\d{8}-\d{6}-[0-9a-f]{6}"


def keep(workspace: Workspace, corpus_name: str, files: Iterable[tuple[str, BinaryIO]]) -> Path:
    """Write (file name, open file) pairs into a new folder, in pieces, under names that are safe; returns the folder.

    Raises:
        BadInput: there is no file, or the corpus cannot be called so.
        TooLittle: the disk is too full. Nothing stays behind then.
    """
    target = _folder(workspace) / new_id(check_name(corpus_name, "corpus name"))
    with building(target) as folder:
        taken: set[str] = set()
        for name, file in files:
            safe = safe_name(name, taken)
            taken.add(safe.casefold())
            _write(workspace, folder / safe, file)
        if not taken:
            raise BadInput("There is no file to keep: choose at least one.")
    return target


def remove(workspace: Workspace, corpus_name: str) -> None:
    """Delete all that was uploaded for a corpus; nothing happens where nothing was."""
    mine = re.compile(re.escape(check_name(corpus_name, "corpus name")) + _ID)
    for folder in _folder(workspace).glob(f"{corpus_name}-*"):
        if mine.fullmatch(folder.name):
            shutil.rmtree(folder)


def discard(workspace: Workspace, paths: Collection[str]) -> None:
    """Delete those of `paths` that are folders of an upload; others are left as they are."""
    for path in map(Path, paths):
        if path.parent == _folder(workspace) and path.is_dir():
            shutil.rmtree(path)


def is_upload(workspace: Workspace, path: str) -> bool:
    """Whether this path is the folder of an upload."""
    return Path(path).parent == _folder(workspace)


def safe_name(name: str, taken: Collection[str] = ()) -> str:
    """A name for a file in a folder of ours: no folders, control or direction-changing characters, leading dots or
    blanks; cut to 150 bytes, its endings kept; numbered when `taken` (case-folded names) has it."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    visible = "".join(letter for letter in last if not unicodedata.category(letter).startswith("C"))
    stem, endings = _split(visible.lstrip(". ").rstrip(". "))
    stem = stem.encode()[: _MOST_BYTES - len(endings.encode())].decode(errors="ignore") or "file"
    number = 1
    while (found := f"{stem}-{number}{endings}" if number > 1 else f"{stem}{endings}").casefold() in taken:
        number += 1
    return found


def _split(name: str) -> tuple[str, str]:
    """The name without its endings, and those, as in ("a", ".jsonl.gz")."""
    endings = re.search(r"(\.[A-Za-z0-9]{1,10}){1,2}\Z", name)
    return (name[: endings.start()], endings.group()) if endings else (name, "")


def _write(workspace: Workspace, path: Path, source: BinaryIO) -> None:
    with open(path, "xb") as file:
        while piece := source.read(_PIECE):
            workspace.require_disk(len(piece) + _SPARE_DISK, "Keeping the uploaded files")
            file.write(piece)


def _folder(workspace: Workspace) -> Path:
    return workspace.root / "uploads"
