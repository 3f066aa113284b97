"""Uploaded files: kept whole, under names that cannot leave their folder."""

import io
from pathlib import Path

import pytest

from mixcpt import uploads
from mixcpt.errors import BadInput, TooLittle
from mixcpt.uploads import keep, safe_name
from mixcpt.workspace import Workspace


def left(workspace: Workspace) -> list[str]:
    return sorted(path.name for path in (workspace.root / "uploads").iterdir())


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("notes.md", "notes.md"),
        ("../../x", "x"),
        ("..\\..\\x.md", "x.md"),
        ("/etc/passwd", "passwd"),
        ("<b>.md", "<b>.md"),
        ("a\u202egnp.md", "agnp.md"),
        ("a\x00\x1b[31m\n.txt", "a[31m.txt"),
        (".hidden.md", "hidden.md"),
        ("...", "file"),
        ("", "file"),
        ("..", "file"),
        ("Größe.jsonl.gz", "Größe.jsonl.gz"),
        ("a" * 300 + ".jsonl.gz", "a" * 141 + ".jsonl.gz"),  # 150 bytes
        ("ü" * 300 + ".md", "ü" * 73 + ".md"),  # 146 + 3 bytes: half a letter more does not fit
    ],
)
def test_names_are_made_safe(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_clashing_names_are_numbered_whatever_their_capitals(workspace: Workspace) -> None:
    files = [(name, io.BytesIO(name.encode())) for name in ("a.md", "x/a.md", "A.md", "b.md")]
    folder = keep(workspace, "mine", files)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "a.md": "a.md",
        "a-2.md": "x/a.md",
        "A-3.md": "A.md",
        "b.md": "b.md",
    }
    assert folder.parent == workspace.root / "uploads"


def test_large_files_are_written_in_pieces(workspace: Workspace) -> None:
    class Pieces(io.BytesIO):
        largest = 0

        def read(self, size: int | None = -1) -> bytes:
            assert size is not None and size > 0
            data = super().read(size)
            self.largest = max(self.largest, len(data))
            return data

    source = Pieces(b"x" * 3_000_000)
    folder = keep(workspace, "mine", [("a.txt", source)])
    assert (folder / "a.txt").stat().st_size == 3_000_000
    assert source.largest == 1 << 20


def test_nothing_stays_when_something_is_wrong(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="no file to keep"):
        keep(workspace, "mine", [])
    with pytest.raises(BadInput, match="corpus name"):
        keep(workspace, "../mine", [("a.md", io.BytesIO(b"a"))])

    def full(self: Workspace, needed_bytes: int, what: str) -> None:
        raise TooLittle(f"{what} needs more")

    monkeypatch.setattr(Workspace, "require_disk", full)
    with pytest.raises(TooLittle):
        keep(workspace, "mine", [("a.md", io.BytesIO(b"a"))])
    assert left(workspace) == []


def test_only_the_uploads_of_this_corpus_are_removed(workspace: Workspace, tmp_path: Path) -> None:
    mine = [keep(workspace, "mine", [("a.md", io.BytesIO(b"a"))]) for _ in range(2)]
    other = keep(workspace, "mine-too", [("a.md", io.BytesIO(b"a"))])
    uploads.remove(workspace, "mine")
    assert not any(folder.exists() for folder in mine)
    uploads.discard(workspace, [str(tmp_path), str(workspace.root), str(workspace.corpora)])
    assert left(workspace) == [other.name]
    assert workspace.corpora.is_dir()
    uploads.discard(workspace, [str(other)])
    assert left(workspace) == []
    uploads.remove(workspace, "mine")  # nothing there: nothing to do
