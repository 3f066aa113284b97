"""Numbers as text."""

from mixcpt.figures import aligned, signed


def test_a_sign_is_a_real_one_and_nothing_has_none() -> None:
    assert [signed(0.1), signed(-0.1), signed(-0.0001), signed(3.4, 0)] == [
        "+0.100",
        "\N{MINUS SIGN}0.100",
        "0.000",
        "+3",
    ]
    assert [signed(value, 2) for value in (0.6, -0.6, 0.001, -0.001)] == ["+0.60", "\N{MINUS SIGN}0.60", "0.00", "0.00"]


def test_columns_are_as_wide_as_their_longest_cells() -> None:
    assert aligned([["a", "bcd"], ["long", ""]], "  ") == "  a     bcd\n  long"
