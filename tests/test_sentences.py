"""Sentences, against texts cut by hand."""

import pytest

from mixcpt.sentences import Sentence, sentences, stretches

LONG = "This sentence has exactly eight words in it."


def found(text: str) -> list[str]:
    return [one.text for one in sentences(text)]


def test_a_paragraph_is_cut_at_sentence_ends_and_the_context_goes_along() -> None:
    second = "Here is another one that follows the first sentence."
    assert list(sentences(f"{LONG} {second}\n\n{second}")) == [
        Sentence(LONG, ""), Sentence(second, LONG), Sentence(second, ""),
    ]  # fmt: skip


def test_lines_within_a_paragraph_are_one_text() -> None:
    assert found("This sentence has exactly\neight words   in it.") == [LONG]


@pytest.mark.parametrize(
    "sentence",
    [
        "The trial of Dr. Smith and J. R. Brown was stopped early.",
        "Smith et al. Reported that the patients recovered within a week.",
        "Infections, e.g. Hepatitis, were treated at home by the nurses.",
    ],
)
def test_an_abbreviation_ends_no_sentence(sentence: str) -> None:
    assert found(sentence) == [sentence]


@pytest.mark.parametrize(
    "text",
    [
        "Too short to ask about it.",
        "this one begins with a small letter and is left out.",
        "This one has no end because the text breaks off here and",
        "# This heading has eight words and ends properly here.",
        "| This row of a table has eight words. |",
        "- This item of a list has more than eight words.",
        "    This indented line of code has at least eight words.",
        "```\nThis sentence has exactly eight words in it.\n```",
        "See the [page of the book](there) for more on this matter.",
        "Go to https://somewhere or ask the people there what is known.",
        "The values 12.5, 13.5, 14.5 and 15.5 (17 of 20) 1 2 3 4.",
        "This bracket (which was opened here is never closed at all.",
        " ".join(["Word"] + ["word"] * 45) + ".",
    ],
)
def test_what_is_no_whole_sentence_of_prose_is_left_out(text: str) -> None:
    assert found(text) == []


def test_the_context_is_of_whole_sentences_and_of_40_words_at_most() -> None:
    first, second = ("So " + "word " * (words - 2) + "end." for words in (21, 20))
    assert [one.before for one in sentences(f"{first} {second} {LONG}")] == ["", first, second]
    assert list(sentences(f"{second} {second} {LONG}"))[2].before == f"{second} {second}"


def test_a_sentence_with_markup_is_no_context() -> None:
    assert list(sentences(f"Use the `--flag` of <that> tool as shown. {LONG}")) == [Sentence(LONG, "")]


def test_stretches_cover_any_text_line_by_line_and_sentence_by_sentence() -> None:
    text = "\n\nDr. Smith left. He came\nback.  Then\n\n  x = 1\n"
    parts = [text[start:end] for start, end in stretches(text)]
    assert parts == ["\n\n", "Dr. Smith left. ", "He came\n", "back.  ", "Then\n\n", "  x = 1\n"]
    assert list(stretches("")) == [] and list(stretches("end")) == [(0, 3)]
