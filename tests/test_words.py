from datetime import UTC, datetime

import pytest

from app import words


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain words 12", "plain words 12"),
        ("<script>", r"\<script\>"),
        ("**bold** $x^2$", r"\*\*bold\*\* \$x\^2\$"),
        (":red[x] :material/home:", "\\:red\\[x\\] \\:\u2060material/home\\:"),
        ("[a](http://b)", "\\[a\\]\\(http\\:\u2060//b\\)"),
        ("www.b.org a@b.org", "www\u2060\\.b\\.org a\\@\u2060b\\.org"),
        ("a -> b -- c", "a \\-\u2060\\> b \\-\u2060\\- c"),
        (":streamlit: 12:30", "\\:\u2060streamlit\\: 12\\:30"),
        ("1. one", r"1\. one"),
        ("a\\b", r"a\\b"),
        ("two\nlines", "two lines"),
        ("a\x1b[31mb\u202ec", "a\N{REPLACEMENT CHARACTER}\\[31mb\N{REPLACEMENT CHARACTER}c"),
    ],
)
def test_plain_leaves_nothing_for_markdown_to_read(text: str, escaped: str) -> None:
    assert words.plain(text) == escaped


def test_printable_keeps_lines_and_tabs() -> None:
    assert words.printable("a\tb\nc\x00d\u2066e") == "a\tb\nc\N{REPLACEMENT CHARACTER}d\N{REPLACEMENT CHARACTER}e"


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "0"), (999, "999"), (9999, "9,999"), (12_345, "12.3k"), (2_500_000, "2.5M"), (3e9, "3.0G")],
)
def test_short(number: float, expected: str) -> None:
    assert words.short(number) == expected


@pytest.mark.parametrize(
    ("bytes", "expected"), [(12, "12 bytes"), (1500, "1.5 kB"), (93_000_000, "93.0 MB"), (1.25e9, "1.2 GB")]
)
def test_size(bytes: float, expected: str) -> None:
    assert words.size(bytes) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_duration(seconds: float, expected: str) -> None:
    assert words.duration(seconds) == expected


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        ("2026-03-01T11:59:30Z", "just now"),
        ("2026-03-01T11:59:00Z", "1 minute ago"),
        ("2026-03-01T09:30:00Z", "2 hours ago"),
        ("2026-02-27T12:00:00Z", "2 days ago"),
    ],
)
def test_ago(then: str, expected: str) -> None:
    assert words.ago(then, datetime(2026, 3, 1, 12, tzinfo=UTC)) == expected


def test_signed_has_a_real_minus() -> None:
    assert [words.signed(0.12345), words.signed(-0.5, 2), words.signed(None)] == ["+0.123", "\N{MINUS SIGN}0.50", "–"]
