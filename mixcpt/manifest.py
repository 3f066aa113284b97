"""What is known of a corpus without reading its documents: manifest.json as models.

What it gives up: beyond the first 1,000 refused items only their number is kept.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from mixcpt.records import Kind


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FileInfo(_Model):
    """A file that went into a corpus; `bytes` as it lay on disk, `documents` kept from it, `note` on its encoding."""

    name: str
    sha256: str = ""
    bytes: int = 0
    documents: int = 0
    note: str = ""


class RefusedItem(_Model):
    file: str
    line: int
    reason: str


class Totals(_Model):
    documents: int = 0
    tokens: int = 0
    bytes: int = 0


class SplitInfo(_Model):
    """`fraction` is the share of tokens really held out."""

    seed: int
    method: Literal["documents", "sections", "given"]
    fraction: float
    train: Totals
    heldout: Totals


class TokenizerInfo(_Model):
    fingerprint: str
    vocabulary: int


class Histogram(_Model):
    """`counts[i]` documents have at least `edges[i]` and fewer than `edges[i + 1]` tokens."""

    edges: list[int]
    counts: list[int]


class Spec(_Model):
    """What a corpus was asked to be made of: a `mixcpt.recipe.CorpusSpec` without its name, files as absolute paths."""

    files: list[str] = []
    hub: str | None = None
    hub_config: str | None = None
    hub_dir: str | None = None
    split: str = "train"
    limit: int | None = None
    kind: Kind | None = None
    text_column: str | None = None
    where: dict[str, str] = {}


class Manifest(_Model):
    """What is known of a corpus. `documents`, `characters`, `tokens`, `bytes` (UTF-8) and `lengths` are of whole
    documents, before any was cut into sections; `split` counts what lies on disk. `spec` is None for built-in
    corpora and for those made before specs were kept."""

    name: str
    kind: Kind
    created: str
    files: list[FileInfo]
    documents: int
    characters: int
    tokens: int
    bytes: int
    exact_duplicates: int
    refused: list[RefusedItem]
    refused_total: int
    split: SplitInfo
    tokenizer: TokenizerInfo
    fingerprint: str
    lengths: Histogram
    spec: Spec | None = None
