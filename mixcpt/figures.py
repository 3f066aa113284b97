"""Numbers and names as text, the same wherever they are read."""

from collections.abc import Sequence


def listed(names: Sequence[str]) -> str:
    """As in "a, b and c"; nothing of no names."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def aligned(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """A table of text for a terminal, its columns as wide as their longest cells."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(indent + line for line in lines)


def signed(value: float, digits: int = 3) -> str:
    """+0.123, with a real minus sign, and no sign at what rounds to zero."""
    text = f"{value:+.{digits}f}"
    return (text[1:] if float(text) == 0 else text).replace("-", "\N{MINUS SIGN}")


def size(bytes: float) -> str:
    """1.2 GB, 3.4 MB, 5.6 kB, 7 bytes"""
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if bytes >= power:
            return f"{bytes / power:.1f} {unit}"
    return f"{bytes:.0f} bytes"
