import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixcpt.cleaning import clean, fingerprint


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("\ufeffe\u0301", "é"),  # BOM removed, letter and accent composed
        ("e\x00\u0301", "é"),  # the accent meets its letter only when the NUL between them is gone
        ("tab\tstays\x07, bell goes", "tab\tstays, bell goes"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("page\x0cbreak\u2028line", "page\nbreak\nline"),
        ("blank  \t\nends\u00a0 ", "blank\nends"),
        ("a\n\n\nb", "a\n\n\nb"),  # two blank lines stay
        ("a\n\n\n\n\n\nb", "a\n\n\nb"),
        ("\n\n  code\n\n", "  code"),  # indentation of the first line stays
        ("\ud800", "\ufffd"),
        ("\n \n\t", ""),
        ("👩‍👩‍👧", "👩‍👩‍👧"),  # zero-width joiners hold emoji together
    ],
)
def test_clean(raw: str, expected: str) -> None:
    assert clean(raw) == expected


@given(st.text(st.characters(exclude_categories=())))
def test_cleaning_twice_changes_nothing_and_the_text_can_be_written(raw: str) -> None:
    once = clean(raw)
    assert clean(once) == once
    assert once.encode("utf-8").decode("utf-8") == once


def test_a_long_run_of_blanks_inside_a_line_takes_no_quadratic_time() -> None:
    assert clean("a" + " " * 1_000_000 + "b").endswith("b")


def test_fingerprint_ignores_blank_space_but_not_case() -> None:
    assert fingerprint("One  two\nthree ") == fingerprint("One two three")
    assert fingerprint("one two three") != fingerprint("One two three")
    assert fingerprint("onetwo") != fingerprint("one two")
    assert len(fingerprint("")) == 32
