"""The documents of one side of a corpus as they lie on disk: an Arrow file, written in batches and read by row.

What it gives up: the file is not compressed, for only so can it be memory-mapped and any row read at once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import pyarrow as pa

from mixcpt.records import Kind

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "kind": pa.string(),
        "text": pa.string(),
        "record": pa.string(),
        "file": pa.string(),
        "line": pa.int32(),
        "bytes": pa.int64(),
        "tokens": pa.int32(),
    }
)


@dataclass(frozen=True, slots=True)
class Document:
    """One row of a corpus: `text` to train on, and the canonical `record` (JSON) where it is not a document."""

    id: str
    kind: Kind
    text: str
    record: str
    file: str
    line: int
    bytes: int
    tokens: int


class Documents(Sequence[Document]):
    """One side of a corpus, memory-mapped: a document is read when it is asked for."""

    def __init__(self, path: Path):
        self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from self._table.to_batches()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...
    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        return Document(**self._table.slice(index % len(self), 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Document]:
        for batch in self.batches():
            yield from (Document(**row) for row in batch.to_pylist())


@contextmanager
def writer(path: Path) -> Iterator[Any]:
    """An open Arrow file at `path` that takes record batches of `SCHEMA` by `write_batch`."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as file:
        yield file
