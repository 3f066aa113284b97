"""Shared runs of words, against cases worked out by hand."""

import pytest

from mixcpt.overlap import Finder, words

ITEM = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def found(items: list[str], text: str, n: int = 13, least: int = 8) -> dict[int, str]:
    finder = Finder(items, n, least)
    finder.read(text, "book", "run")
    return {number: overlap.words for number, overlap in finder.found.items()}


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert words("The “Rust” book, 2nd ed.: ﬁne!") == ["the", "rust", "book", "2nd", "ed", "fine"]
    assert words("日本 abc語") == ["日", "本", "abc", "語"]
    assert words("snake_case") == ["snake", "case"]


def test_thirteen_words_in_a_row_are_found_and_twelve_are_not() -> None:
    thirteen = " ".join(ITEM.split()[1:])
    assert found([ITEM], f"Before, {thirteen.upper()}! After.") == {0: thirteen}
    twelve = " ".join(ITEM.split()[2:])
    assert found([ITEM], f"before {twelve} after") == {}
    assert found([ITEM], f"before {twelve} after", n=12) == {0: twelve}


def test_an_item_of_eight_to_twelve_words_is_looked_for_as_a_whole() -> None:
    ten = " ".join(ITEM.split()[:10])
    assert found([ten], f"so {ten} so") == {0: ten}
    assert found([ten], " ".join(ITEM.split()[:9])) == {}


def test_an_item_of_fewer_words_is_told_apart() -> None:
    finder = Finder(["one two three four five six seven", ITEM])
    finder.read(ITEM)
    assert finder.too_short == [0] and list(finder.found) == [1]


def test_the_first_place_is_kept_and_items_that_begin_alike_are_told_apart() -> None:
    other = " ".join([*ITEM.split()[:12], "else"])
    finder = Finder([ITEM, other])
    finder.read(other, "first", "a")
    finder.read(f"{ITEM} {other}", "second", "b")
    assert {number: (one.source, one.run) for number, one in finder.found.items()} == {
        1: ("first", "a"), 0: ("second", "b"),
    }  # fmt: skip


def test_a_run_over_two_texts_is_none() -> None:
    finder = Finder([ITEM])
    half = ITEM.split()
    finder.read(" ".join(half[:7]))
    finder.read(" ".join(half[7:]))
    assert finder.found == {}


def test_nonsense_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="runs of 5 words, but at least 8"):
        Finder([ITEM], 5, 8)
