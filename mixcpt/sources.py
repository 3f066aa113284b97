"""Read files, or a data set of the Hugging Face hub, into records.

Text, Markdown, JSON, JSON lines, CSV, TSV and parquet, and gzip and zip of these. What is broken inside a file becomes
a `Refusal` with its line, and the rest is kept; a file that is no good as a whole raises `BadFile`.

What it gives up: PDF, HTML and office formats; all formats but JSON lines, parquet and text by line are held in memory
as a whole (2 GB at most); and a JSON-lines file in a legacy encoding loses the lines that are not ASCII.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mixcpt import decoding, unpack
from mixcpt.errors import BadFile, Unavailable
from mixcpt.records import KINDS, Kind, Message, Record, Refusal, Row, kind_of, to_records

__all__ = ["KINDS", "Kind", "Message", "Record", "Refusal", "find_files", "read", "read_hub"]

FORMATS = "txt, md, json, jsonl, csv, tsv or parquet, or gz and zip of these"
_MAX_DIGITS = 4000  # Python refuses to turn longer numbers into int
_HUB_TIMEOUT = 5  # seconds


def find_files(paths: Iterable[Path | str]) -> tuple[list[Path], list[Refusal]]:
    """The files among `paths` and, sorted, in the folders among them; hidden files and links out of a folder come as
    refusals.

    Raises:
        BadFile: a path is not there, or there is no file at all.
    """
    files: list[Path] = []
    refusals: list[Refusal] = []
    given = [Path(path).expanduser() for path in paths]
    for path in given:
        if path.is_dir():
            for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
                reason = _why_not(file, path)
                refusals += [Refusal(str(file), 0, reason)] if reason else []
                files += [] if reason else [file]
        elif path.is_file():
            files.append(path)
        else:
            raise BadFile(f"{path} is not there, or neither a file nor a folder: check the path.")
    if not files:
        named = ", ".join(map(str, given)) or "the empty list of paths"
        raise BadFile(f"There is no file to read in {named}: give {FORMATS}.")
    return list({file.resolve(): file for file in files}.values()), refusals


def _why_not(file: Path, folder: Path) -> str:
    if any(part.startswith(".") for part in file.relative_to(folder).parts):
        return "hidden files are left out"
    if not file.resolve().is_relative_to(folder.resolve()):
        return "it is a link that leaves the folder"
    return ""


def read(
    path: Path | str,
    *,
    kind: Kind | None = None,
    text_column: str | None = None,
    split_lines: bool = False,
    name: str | None = None,
) -> Iterator[Record | Refusal]:
    """The records of one file, in its order; what cannot be used comes as a `Refusal` with its line.

    `kind` and `text_column` are guessed from the columns when None. `split_lines` makes each line of a txt or md file
    a document of its own. `name` is how records and messages call the file, its own name by default.

    Raises:
        BadFile: the file as a whole cannot be read; what was given before stays good.
    """
    path = Path(path)
    for member in unpack.members(path, name or path.name):
        if isinstance(member, Refusal):
            yield member
        elif member.in_archive:
            yield from _or_refusal(_records(member, kind, text_column, split_lines), member.name)
        else:
            yield from _records(member, kind, text_column, split_lines)


def _records(
    member: unpack.Member, kind: Kind | None, text_column: str | None, split_lines: bool
) -> Iterator[Record | Refusal]:
    reader = _read_lines if split_lines and member.suffix in (".txt", ".md") else _READERS.get(member.suffix)
    if reader is None:
        raise BadFile(f"{member.name} is of a kind that is not read: give {FORMATS}.")
    yield from to_records(reader(member), member.name, kind, text_column)


def _or_refusal(records: Iterator[Record | Refusal], name: str) -> Iterator[Record | Refusal]:
    """One bad member of an archive must not take the good ones with it."""
    try:
        yield from records
    except BadFile as error:
        yield Refusal(name, 0, str(error))


def _read_text(member: unpack.Member) -> Iterator[Row]:
    text, note = decoding.decode(member.stream.read(), member.name)
    yield Row(member.name, 1, {"text": text}, note)


def _read_lines(member: unpack.Member) -> Iterator[Row]:
    text, note = decoding.decode(member.stream.read(), member.name)
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield Row(member.name, number, {"text": line}, note)


def _read_jsonl(member: unpack.Member) -> Iterator[Row | Refusal]:
    with decoding.lines(member.stream, member.head, member.name) as text:
        for number, line in enumerate(text, 1):
            if decoding.is_broken(line):
                yield Refusal(member.name, number, "the line holds bytes that are not UTF-8: save the file as UTF-8")
                continue
            # A line that only opens something is JSON printed over several lines: it can be read as a whole only.
            block = line + text.read() if line.strip() in ("{", "[") else line
            for found in _values(block, member.name, number):
                yield from _rows(found, member.name)


def _read_json(member: unpack.Member) -> Iterator[Row | Refusal]:
    text, note = decoding.decode(member.stream.read(), member.name)
    for found in _values(text, member.name, 1):
        inside = found if isinstance(found, Refusal) else (found[0], _list_inside(found[1]))
        for row in _rows(inside, member.name):
            yield row if isinstance(row, Refusal) else replace(row, note=note)


def _values(text: str, name: str, line: int) -> Iterator[tuple[int, Any] | Refusal]:
    """The JSON values standing one after another in `text`, each with the line it begins on."""
    position = 0
    while (start := _BLANK.match(text, position).end()) < len(text):  # type: ignore[union-attr]
        line += text.count("\n", position, start)
        try:
            value, position = _JSON.raw_decode(text, start)
        except json.JSONDecodeError as error:
            wrong = line + text.count("\n", start, error.pos)
            yield Refusal(name, wrong, f"not JSON: {error.msg}: column {error.colno}")
            return
        except RecursionError:
            yield Refusal(name, line, "the JSON is nested too deeply")
            return
        yield line, value
        line += text.count("\n", start, position)


def _rows(found: tuple[int, Any] | Refusal, name: str) -> Iterator[Row | Refusal]:
    """The rows in one JSON value: an object is one, an array holds one an item, and a bare string is a document."""
    if isinstance(found, Refusal):
        yield found
        return
    line, value = found
    for number, item in enumerate(value, 1) if isinstance(value, list) else [(line, value)]:
        if isinstance(item, str):
            yield Row(name, number, {"text": item})
        elif isinstance(item, dict):
            yield Row(name, number, item)
        else:
            yield Refusal(name, number, f"an object is needed, but {json.dumps(item)[:40]} stands here")


def _list_inside(value: Any) -> Any:
    """The one list of objects in an object that only wraps it, as in {"data": [...]}; else `value` itself."""
    if not isinstance(value, dict) or "text" in value or kind_of(value):
        return value
    lists = [part for part in value.values() if isinstance(part, list) and part and isinstance(part[0], dict)]
    return lists[0] if len(lists) == 1 else value


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) < _MAX_DIGITS else digits


_BLANK = re.compile(r"\s*")
_JSON = json.JSONDecoder(parse_int=_integer, parse_constant=lambda name: None)


def _read_csv(member: unpack.Member) -> Iterator[Row | Refusal]:
    text, note = decoding.decode(member.stream.read(), member.name)
    csv.field_size_limit(unpack.MAX_UNPACKED)
    first_line = text[: text.find("\n")] if "\n" in text else text
    delimiter = "\t" if ".tsv" in member.suffix else max(",;\t|", key=first_line.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        line = rows.line_num + 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Refusal(member.name, line, f"not CSV: {error} (a quote that is never closed?)")
            continue
        if not header:
            header = cells
        elif len(cells) == len(header):
            yield Row(member.name, line, dict(zip(header, cells, strict=True)), note)
        elif cells:
            yield Refusal(member.name, line, f"the row has {len(cells)} cells, but the header has {len(header)}")


def _read_parquet(member: unpack.Member) -> Iterator[Row]:
    try:
        table = pq.ParquetFile(pa.BufferReader(member.stream.read()))
        batches = table.iter_batches(batch_size=512)
        row = count(1)
        while (batch := next(batches, None)) is not None:
            for values in batch.to_pylist():
                yield Row(member.name, next(row), values)
    except (pa.ArrowException, ValueError, OverflowError, OSError) as error:
        raise BadFile(f"{member.name} is not readable parquet ({_first_line(error)}): write it again.") from error


_READERS: Mapping[str, Callable[[unpack.Member], Iterator[Row | Refusal]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}


def select(
    records: Iterable[Record | Refusal], where: Mapping[str, str] | None = None, limit: int | None = None
) -> Iterator[Record | Refusal]:
    """The first `limit` records whose meta fields have the values of `where`; refusals pass, for they are reported."""
    kept = 0
    for record in records:
        if isinstance(record, Refusal):
            yield record
        elif all(str(record.meta.get(key)) == value for key, value in (where or {}).items()):
            if kept == limit:
                return
            kept += 1
            yield record


def read_hub(
    dataset_id: str,
    *,
    config: str | None = None,
    directory: str | None = None,
    split: str = "train",
    kind: Kind | None = None,
    text_column: str | None = None,
) -> Iterator[Record | Refusal]:
    """The records of a data set on the Hugging Face hub, streamed; no code from it is run. `config` names one of its
    configurations, where it has several, and `directory` the folder in it that is read.

    Raises:
        Unavailable: the hub cannot be reached, or has no such data set or split for us.
        BadFile: no column can be taken as text.
    """
    return to_records(_hub_rows(dataset_id, config, directory, split), dataset_id, kind, text_column)


def _hub_rows(dataset_id: str, config: str | None, directory: str | None, split: str) -> Iterator[Row]:
    try:
        import datasets
        from huggingface_hub import HfApi

        # load_dataset tries an unreachable hub for half a minute; one question with a time limit fails at once.
        HfApi().dataset_info(dataset_id, timeout=_HUB_TIMEOUT)
        rows = iter(datasets.load_dataset(dataset_id, config, data_dir=directory, split=split, streaming=True))
        for number in count(1):
            if (values := next(rows, None)) is None:
                return
            yield Row(dataset_id, number, values)
    except Exception as error:  # three libraries raise what they like here; nothing of ours runs in this block
        raise Unavailable(
            f"The data set {dataset_id!r} (split {split!r}) cannot be had from the Hugging Face hub "
            f"({_first_line(error)}): check its name and the network, or download it and add its files."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".:")
