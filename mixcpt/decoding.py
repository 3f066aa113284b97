"""Bytes to text: which encoding a file is in, and whether it is text at all.

What it gives up: a legacy encoding is a guess from letter statistics, right for running text and wrong for lists of
codes. The guess is named in the report, so that a user can see it.
"""

import io
import re
from typing import BinaryIO

from charset_normalizer import from_bytes

from mixcpt.errors import BadFile

_MAGIC = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"\x7fELF": "a program (ELF)",
    b"\x1f\x8b": "gzip data (its name should end in .gz)",
    b"PK\x03\x04": "a zip archive or an office document",
    b"%PDF-": "a PDF",
    b"PAR1": "parquet data (its name should end in .parquet)",
    b"\xd0\xcf\x11\xe0": "an old office document",
    b"7z\xbc\xaf": "a 7z archive",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ": "xz data",
    b"\x28\xb5\x2f\xfd": "zstandard data",
}
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_CONTROL = bytes({*range(9), *range(14, 27), *range(28, 32)})  # bytes that running text does not hold
_HEAD = 1 << 16
_GUESSED_FROM = 1 << 20  # bytes that an encoding is guessed from
_STRAY = re.compile("[\udc80-\udcff]")
_AS_CP1252 = {0xDC00 + byte: bytes([byte]).decode("cp1252", "replace") for byte in range(0x80, 0x100)}


def decode(data: bytes, name: str) -> tuple[str, str]:
    """The text of `data`, and a note on how it was read ("" for Unicode without flaws); `name` is for messages.

    Raises:
        BadFile: the data is not text, or in no encoding that can be guessed.
    """
    encoding = sniff(data[:_HEAD], name)
    if encoding.startswith("utf-16"):
        return data.decode(encoding, "replace"), ""
    text = data.decode(encoding, "surrogateescape")
    stray = len(_STRAY.findall(text))
    if not stray:
        return text, ""
    end = re.search("[\udc80-\udcff]{1,3}\\Z", text)
    if end and stray == len(end.group()) and data[-stray] >= 0xC0:
        return text[:-stray], "UTF-8, cut within the last character"
    well_formed = sum(character > "\x7f" for character in text) - stray
    # Few strays are too little to guess from; what English text was pasted from is nearly always Windows-1252.
    if stray < max(well_formed, len(text) // 100):
        return text.translate(_AS_CP1252), f"UTF-8 with {stray} bytes of another encoding, read as Windows-1252"
    return _guess(data, name)


def lines(stream: BinaryIO, head: bytes, name: str) -> io.TextIOWrapper:
    """`stream` as text for reading by line. Bytes that are not UTF-8 come as lone surrogates: see `is_broken`.

    Raises:
        BadFile: `head`, the first bytes of the stream, is not text.
    """
    encoding = sniff(head, name)
    errors = "replace" if encoding.startswith("utf-16") else "surrogateescape"
    return io.TextIOWrapper(stream, encoding, errors)


def is_broken(line: str) -> bool:
    """Whether a line given by `lines` holds bytes that are not UTF-8."""
    return not line.isascii() and _STRAY.search(line) is not None


def sniff(head: bytes, name: str) -> str:
    """The Unicode encoding that the first bytes speak for; UTF-8 where they say nothing.

    Raises:
        BadFile: they are the beginning of something that is not text.
    """
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise BadFile(f"{name} is {what} and not text: give it its right name or convert it to text.")
    even, odd = head[::2].count(0), head[1::2].count(0)
    if even + odd > len(head) // 4 and min(even, odd) < max(even, odd) // 10:
        return "utf-16-be" if even > odd else "utf-16-le"
    control = len(head) - len(head.translate(None, _CONTROL))
    if control > len(head) // 50:
        raise BadFile(f"{name} is not text ({control} control bytes among the first {len(head)}): convert it to text.")
    return "utf-8"


def _guess(data: bytes, name: str) -> tuple[str, str]:
    best = from_bytes(data[:_GUESSED_FROM]).best()
    if best is None:
        raise BadFile(f"{name} is in no encoding that can be recognised: save it as UTF-8.")
    return data.decode(best.encoding, "replace"), f"read as {best.encoding} (guessed)"
