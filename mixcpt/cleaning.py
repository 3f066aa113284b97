"""Light cleaning of a text, and the fingerprint by which exact duplicates are found.

What it gives up: it repairs characters and blank space only. Boilerplate, wrong language, personal data and
near-duplicates pass; zero-width joiners and text directions stay, for emoji and right-to-left scripts need them.
"""

import hashlib
import re
import unicodedata

_SURROGATE = re.compile("[\ud800-\udfff]")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # terminal colours: without this, "[31m" would stay as text
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\ufeff]")
_BLANK_LINES = re.compile(r"\n{4,}")


def whole(text: str) -> str:
    """`text` with each lone surrogate replaced by U+FFFD, so that it can be written as UTF-8."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def clean(text: str) -> str:
    """`text` in NFC with LF line ends, no control characters but tab and newline, no blanks at line ends, and at most
    two blank lines in a row. Cleaning twice changes nothing more."""
    text = _LINE_END.sub("\n", _ANSI.sub("", whole(text)))
    # Composing comes after the removal: a mark may meet its letter only once a control character between them is gone.
    text = unicodedata.normalize("NFC", _CONTROL.sub("", text))
    # rstrip per line, not a regex: `[ \t]+$` takes quadratic time on a long run of blanks inside a line.
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n\n", text).strip("\n")


def fingerprint(text: str) -> str:
    """128 bits of SHA-256 as hex: equal for texts that differ in blank space only; letter case counts."""
    return hashlib.sha256(" ".join(text.split()).encode("utf-8")).hexdigest()[:32]
