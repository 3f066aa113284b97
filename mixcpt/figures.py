"""Numbers as text, the same wherever they are read."""


def signed(value: float, digits: int = 3) -> str:
    """+0.123, with a real minus sign, and no sign at what rounds to zero."""
    text = f"{value:+.{digits}f}"
    return (text[1:] if float(text) == 0 else text).replace("-", "\N{MINUS SIGN}")
