"""Open a file and look into gzip and zip, without ever writing what was packed to disk.

What it gives up: archives within archives, passwords, and other packers. Sizes are bounded, so that a small file which
unpacks to a huge one is refused instead of filling the memory.
"""

import gzip
import io
import lzma
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from mixcpt.errors import BadFile
from mixcpt.records import Refusal

MAX_UNPACKED = 2_000_000_000  # bytes
_FREE = 100_000_000  # bytes that may be unpacked from a file of any size …
_RATIO = 200  # … and beyond them, so many times the packed size
_ARCHIVES = {".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".7z", ".rar", ".zst"}
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True)
class Member:
    """A file or a member of a zip. `stream` may be read until the next member is asked for; `head` is its beginning,
    still to be read from `stream`."""

    name: str
    suffix: str
    stream: BinaryIO
    head: bytes
    in_archive: bool


def members(path: Path, name: str) -> Iterator[Member | Refusal]:
    """The file at `path`, unpacked if it is gzip, or the members of a zip in their order; `name` is for messages.

    Raises:
        BadFile: the file cannot be read, is empty, damaged, or unpacks to too much.
    """
    if path.is_dir():
        raise BadFile(f"{name} is a folder, but one file is needed here: name a file in it.")
    if not path.is_file():
        raise BadFile(f"{path} is not there: check the path.")
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            if size == 0:
                raise BadFile(f"{name} is empty (0 bytes): give a file with text in it.")
            if path.suffix.lower() == ".zip":
                yield from _zip_members(file, name, _allowed(size))
            elif path.suffix.lower() == ".gz":
                stream = cast(BinaryIO, gzip.GzipFile(fileobj=file))
                yield _member(stream, name, Path(path.stem).suffix, _allowed(size))
            else:
                yield _member(file, name, path.suffix, MAX_UNPACKED)
    except OSError as error:
        raise BadFile(f"{name} cannot be read ({error.strerror or error}): check the file.") from error


def _allowed(packed: int) -> int:
    return min(MAX_UNPACKED, max(_FREE, _RATIO * packed))


def _zip_members(file: BinaryIO, name: str, allowed: int) -> Iterator[Member | Refusal]:
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise BadFile(f"{name} is not a readable zip archive ({error}): pack it again.") from error
    with archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        if not entries:
            raise BadFile(f"{name} holds no files: pack some into it.")
        # zipfile never gives more than the size declared here, so checking the declared sizes is enough.
        declared = sum(entry.file_size for entry in entries)
        if declared > allowed:
            raise BadFile(_too_much(name, declared, allowed))
        for entry in entries:
            member = f"{name}/{entry.filename}"
            if reason := _why_not(entry):
                yield Refusal(member, 0, reason)
                continue
            try:
                with archive.open(entry) as stream:
                    yield _member(cast(BinaryIO, stream), member, PurePosixPath(entry.filename).suffix, allowed, True)
            except (NotImplementedError, zipfile.BadZipFile) as error:
                yield Refusal(member, 0, f"it cannot be unpacked ({error}): pack it again")


def _why_not(entry: zipfile.ZipInfo) -> str:
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or path.parts[0].endswith(":"):
        return "its name points out of the archive"
    if any(part.startswith((".", "__MACOSX")) for part in path.parts):
        return "hidden files are left out"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "it is a symbolic link"
    if entry.flag_bits & 0x1:
        return "it is encrypted: pack it without a password"
    if path.suffix.lower() in _ARCHIVES:
        return "it is an archive within an archive: unpack it first"
    return "it is empty (0 bytes)" if entry.file_size == 0 else ""


def _member(stream: BinaryIO, name: str, suffix: str, allowed: int, in_archive: bool = False) -> Member:
    reader = io.BufferedReader(_Guarded(stream, name, allowed), buffer_size=1 << 16)
    return Member(name, suffix.lower(), cast(BinaryIO, reader), reader.peek(), in_archive)


def _too_much(name: str, size: int, allowed: int) -> str:
    return (
        f"{name} unpacks to {size / 1e6:.0f} MB or more, but {allowed / 1e6:.0f} MB are allowed for its packed size: "
        "split it, or give the unpacked files."
    )


class _Guarded(io.RawIOBase):
    """A stream that ends in a `BadFile` when its packed data is damaged or too much comes out of it."""

    def __init__(self, stream: BinaryIO, name: str, allowed: int):
        self._stream, self._name, self._allowed, self._seen = stream, name, allowed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._stream.read(len(buffer))
        except _DAMAGE as error:
            raise BadFile(f"{self._name} is damaged, cut or no archive ({error}): pack it again.") from error
        self._seen += len(data)
        if self._seen > self._allowed:
            raise BadFile(_too_much(self._name, self._seen, self._allowed))
        buffer[: len(data)] = data
        return len(data)
