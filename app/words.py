"""Numbers, times and other people's text in words that a page can show. Pure: no widget is drawn here."""

import re
from datetime import UTC, datetime

from mixcpt import figures
from mixcpt.figures import size as size

_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&^=@])")
_AFTERWARDS = re.compile(
    r"(?<=:)(?=//|material/|[a-z_+-][\w+-]*:)|(?<=www)(?=\.)|(?<=@)(?=\w)|(?<=-)(?=[->])|(?<=[<>~])(?=[-=])",
    re.IGNORECASE,
)
"""Places in icon codes, addresses, arrows and dashes. Streamlit looks for those in what is left when all escapes have
been taken away, so only an invisible character (U+2060, no width) in their midst keeps them text."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def plain(text: object) -> str:
    """`text` escaped for every place where Streamlit reads Markdown (labels, captions, help, errors), so that markup,
    formulas, colours, icon codes and addresses in it look as they were typed; control characters are made visible."""
    return _MARKUP.sub(r"\\\1", _AFTERWARDS.sub("\u2060", printable(str(text)))).replace("\n", " ")


def printable(text: str) -> str:
    """`text` with control and direction-changing characters shown as U+FFFD; tabs and line ends stay."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def count(number: float) -> str:
    """12,345"""
    return f"{number:,.0f}"


def short(number: float) -> str:
    """12,345 as 12.3k"""
    for least, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= least:
            return f"{number / (1e3 if letter == 'k' else least):.1f}{letter}"
    return count(number)


def duration(seconds: float) -> str:
    """For a clock on a page: 42 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def moment(iso: str) -> datetime:
    return datetime.fromisoformat(iso.replace("Z", "+00:00"))


def ago(iso: str, now: datetime | None = None) -> str:
    """How long ago an ISO time was: just now, 5 minutes ago, 3 days ago."""
    seconds = ((now or datetime.now(UTC)) - moment(iso)).total_seconds()
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return "just now"


def signed(value: float | None, digits: int = 3) -> str:
    """As `mixcpt.figures.signed`; a dash for None."""
    return "–" if value is None else figures.signed(value, digits)
