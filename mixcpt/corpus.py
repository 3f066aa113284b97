"""A corpus: a named set of documents on disk, cleaned, without exact duplicates, split into training and held-out.

Everything streams in batches, so a corpus may be larger than memory; only token counts and fingerprints are held in it
and, where few documents must be cut into sections, their texts. What it gives up: a corpus never changes, so adding to
it means making it again.
"""

import hashlib
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from os.path import commonpath
from pathlib import Path, PurePosixPath
from typing import Literal, Self

import numpy as np
from pydantic import ValidationError

from mixcpt import uploads
from mixcpt.documents import Document, Documents, writer
from mixcpt.errors import BadConfig, BadCorpus, BadFile, Damaged, NotFound
from mixcpt.holdout import HoldOut
from mixcpt.intake import Intake
from mixcpt.manifest import FileInfo, Histogram, Manifest, RefusedItem, Spec, SplitInfo, TokenizerInfo
from mixcpt.records import Kind, Record, Refusal
from mixcpt.sources import find_files, read, select
from mixcpt.split import MAX_FRACTION
from mixcpt.stamps import Kept
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace, building, check_name, now, read_json, write_json

__all__ = [
    "Corpus",
    "Document",
    "Documents",
    "FileInfo",
    "Manifest",
    "corpus_names",
    "ingest",
    "ingest_records",
    "list_corpora",
    "remove",
]

Progress = Callable[[str, float | None], None]
Side = Literal["train", "heldout"]

MIN_TOKENS = 200  # below this there is nothing to hold out
_DISK_FACTOR = 4  # the documents stand on disk twice while the split is made, and packed files unpack to more
_SPARE_DISK = 50_000_000  # bytes
_KEPT = Kept[Manifest | None]()


@dataclass(frozen=True)
class Corpus:
    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, workspace: Workspace, name: str) -> Self:
        """Raises NotFound, with the names there are, when there is no such corpus; Damaged when its manifest is."""
        if name not in corpus_names(workspace):
            raise NotFound(f"There is no corpus {name!r}: {_known(workspace)}.")
        folder = workspace.corpora / name
        return cls(folder, _read_manifest(folder / "manifest.json"))

    def documents(self, split: Side = "train") -> Documents:
        return Documents(self.folder / f"{split}.arrow")


def corpus_names(workspace: Workspace) -> list[str]:
    return sorted(path.parent.name for path in workspace.corpora.glob("[!.]*/manifest.json"))


def list_corpora(workspace: Workspace) -> list[Manifest]:
    """The manifests of all corpora, by name, without damaged ones. They are shared and kept until their files change:
    do not alter them."""
    paths = sorted(workspace.corpora.glob("[!.]*/manifest.json"))
    found = (_KEPT.get(str(path), [str(path)], lambda path=path: _manifest_at(path)) for path in paths)  # type: ignore[misc]
    return [manifest for manifest in found if manifest]


def remove(workspace: Workspace, name: str) -> None:
    """Delete a corpus and what was uploaded for it. Raises NotFound when there is no such corpus."""
    shutil.rmtree(Corpus.open(workspace, name).folder)
    uploads.remove(workspace, name)


def _manifest_at(path: Path) -> Manifest | None:
    """None when the corpus was deleted just now, or its manifest is damaged."""
    try:
        return _read_manifest(path)
    except (FileNotFoundError, Damaged):
        return None


def _read_manifest(path: Path) -> Manifest:
    try:
        return Manifest.model_validate(read_json(path))
    except ValidationError:
        raise Damaged(f"{path} is no manifest of a corpus: move its folder away, and add the corpus again.") from None


def _known(workspace: Workspace) -> str:
    names = corpus_names(workspace)
    return f"choose from {', '.join(names)}" if names else "add one with `mixcpt corpus add NAME FILE...`"


def ingest(
    workspace: Workspace,
    name: str,
    paths: Iterable[Path | str],
    *,
    kind: Kind | None = None,
    text_column: str | None = None,
    split_lines: bool = False,
    where: Mapping[str, str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    tokenizer: TextTokenizer,
    heldout_fraction: float = 0.05,
    replace: bool = False,
    progress: Progress = lambda message, fraction: None,
    should_stop: Callable[[], None] = lambda: None,
) -> Manifest:
    """Make the corpus `name` of files and folders; the same inputs and seed give the same fingerprint. `where` and
    `limit` choose among the records as `mixcpt.sources.select` does.

    Among several files a bad one is refused and the rest kept; a bad single file is an error. `progress` is told what
    is done and its share of the whole (0 to 1, None where unknown); `should_stop` may raise to end the work, and
    nothing stays behind then.

    Raises:
        BadFile: a path is not there, or the only file is no good.
        BadCorpus: the name is taken, nothing is left after cleaning, or too little to hold some out.
        TooLittle: the disk is too full.
    """
    _require_free(workspace, name, replace)
    paths = list(paths)
    found, refusals = find_files(paths)
    files = _by_name(found)
    sizes = {file: path.stat().st_size for file, path in files.items()}
    workspace.require_disk(_DISK_FACTOR * sum(sizes.values()) + _SPARE_DISK, f"The corpus {name!r}")
    infos = []
    for file, path in files.items():
        progress(f"Checking {file}", None)
        infos.append(FileInfo(name=file, sha256=_sha256(path, file, should_stop), bytes=sizes[file]))
    share: float | None = None if len(files) == 1 else 0.0

    def records() -> Iterator[Record | Refusal]:
        nonlocal share
        for file, path in files.items():
            progress(f"Reading {file}", share)
            one = read(path, kind=kind, text_column=text_column, split_lines=split_lines, name=file)
            if share is None:
                yield from one
            else:
                yield from _or_refusal(one, file)
                share += 0.9 * sizes[file] / max(sum(sizes.values()), 1)

    return ingest_records(
        workspace,
        name,
        select(chain(refusals, records()), where, limit),
        files=infos,
        spec=Spec(
            files=[str(Path(path).expanduser().absolute()) for path in paths],
            limit=limit,
            kind=kind,
            text_column=text_column,
            where=dict(where or {}),
        ),
        kind=kind,
        seed=seed,
        tokenizer=tokenizer,
        heldout_fraction=heldout_fraction,
        replace=replace,
        progress=lambda message, fraction: progress(message, share if fraction is None else fraction),
        should_stop=should_stop,
    )


def ingest_records(
    workspace: Workspace,
    name: str,
    records: Iterable[Record | Refusal],
    *,
    files: Sequence[FileInfo],
    spec: Spec | None = None,
    heldout_ids: Collection[str] | None = None,
    kind: Kind | None = None,
    seed: int = 0,
    tokenizer: TextTokenizer,
    heldout_fraction: float = 0.05,
    replace: bool = False,
    progress: Progress = lambda message, fraction: None,
    should_stop: Callable[[], None] = lambda: None,
) -> Manifest:
    """`ingest` for records that do not come from files of the user. `heldout_ids` names what to hold out, by the
    records' `meta` entries "id" or "doc_id", instead of a random split. `spec` is kept to be compared
    with later ones."""
    _require_free(workspace, name, replace)
    if not 0 < heldout_fraction <= MAX_FRACTION:
        raise BadConfig(f"heldout_fraction is {heldout_fraction}, but must be above 0 and at most {MAX_FRACTION}.")
    intake = Intake(kind, tokenizer, should_stop, heldout_ids)
    with building(workspace.corpora / name) as folder:
        spool = folder / "all.arrow"
        with writer(spool) as file:
            for batch in intake.batches(records):
                file.write_batch(batch)
                workspace.require_disk(2 * intake.bytes + _SPARE_DISK, f"The corpus {name!r}")
                progress(f"Read {len(intake.tokens):,} documents", None)
        _require_enough(name, intake)
        progress("Holding some documents out", 0.9)
        hold_out = HoldOut(name, intake, tokenizer, seed, heldout_fraction, should_stop)
        split, fingerprint = hold_out.write(Documents(spool), folder)
        spool.unlink()
        manifest = _manifest(name, files, spec, intake, tokenizer, split, fingerprint)
        write_json(folder / "manifest.json", manifest.model_dump())
        should_stop()
        _require_free(workspace, name, replace)
    progress(f"{manifest.documents:,} documents, {manifest.tokens:,} tokens", 1.0)
    return manifest


def _require_free(workspace: Workspace, name: str, replace: bool) -> None:
    if check_name(name, "corpus name") in corpus_names(workspace) and not replace:
        raise BadCorpus(f"There is a corpus {name!r} already: choose another name, or replace it (replace=True).")


def _by_name(paths: Sequence[Path]) -> dict[str, Path]:
    """The files, sorted by name: their path below the folder that holds them all, so that it tells nothing of where
    that folder lies and the same files give the same corpus anywhere."""
    absolute = [path.absolute() for path in paths]
    top = commonpath([path.parent for path in absolute])
    return dict(sorted((path.relative_to(top).as_posix(), path) for path in absolute))


def _sha256(path: Path, name: str, should_stop: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                should_stop()
                digest.update(block)
    except OSError as error:
        raise BadFile(f"{name} cannot be read ({error.strerror}): check its permissions.") from error
    return digest.hexdigest()


def _or_refusal(records: Iterator[Record | Refusal], name: str) -> Iterator[Record | Refusal]:
    """One bad file among several must not take the good ones with it."""
    try:
        yield from records
    except BadFile as error:
        yield Refusal(name, 0, str(error))


def _require_enough(name: str, intake: Intake) -> None:
    if not intake.tokens:
        first = "; ".join(f"{_place(item)}: {item.reason}" for item in intake.refused[:3])
        raise BadCorpus(f"Nothing is left for the corpus {name!r}: {first or 'there were no documents in it'}.")
    if sum(intake.tokens) < MIN_TOKENS:
        raise BadCorpus(
            f"The corpus {name!r} has only {sum(intake.tokens)} of the {MIN_TOKENS} tokens needed to hold some out "
            f"(documents: {len(intake.tokens):,}, exact duplicates left out: {intake.duplicates:,}, "
            f"refused: {intake.refused_total:,}): add more text."
        )


def _place(item: RefusedItem) -> str:
    return f"{item.file}, line {item.line}" if item.line else item.file


def _manifest(
    name: str,
    files: Sequence[FileInfo],
    spec: Spec | None,
    intake: Intake,
    tokenizer: TextTokenizer,
    split: SplitInfo,
    fingerprint: str,
) -> Manifest:
    assert intake.kind is not None  # a corpus that is not empty has a kind
    return Manifest(
        name=name,
        kind=intake.kind,
        created=now(),
        files=_counted(files, intake),
        documents=len(intake.tokens),
        characters=intake.characters,
        tokens=sum(intake.tokens),
        bytes=intake.bytes,
        exact_duplicates=intake.duplicates,
        refused=intake.refused,
        refused_total=intake.refused_total,
        split=split,
        tokenizer=TokenizerInfo(fingerprint=tokenizer.fingerprint, vocabulary=tokenizer.vocabulary),
        fingerprint=fingerprint,
        lengths=_histogram(intake.tokens),
        spec=spec,
    )


def _counted(files: Sequence[FileInfo], intake: Intake) -> list[FileInfo]:
    """The files with the documents kept from each; a member of a zip counts for its zip."""
    counted = {info.name: info.model_copy() for info in files}
    for file, documents in intake.by_file.items():
        owners = (file, *map(str, PurePosixPath(file).parents))
        if owner := next((name for name in owners if name in counted), None):
            counted[owner].documents += documents
            counted[owner].note = counted[owner].note or intake.notes.get(file, "")
    return list(counted.values())


def _histogram(tokens: Sequence[int]) -> Histogram:
    """Lengths in bins that double: 0 to 15 tokens, 16 to 31, 32 to 63, …"""
    edges = [0, 16]
    while edges[-1] <= max(tokens):
        edges.append(2 * edges[-1])
    return Histogram(edges=edges, counts=np.histogram(tokens, edges)[0].tolist())
