"""Kinds of tokens, told by hand."""

import numpy as np
import pytest
from losses_by_hand import tokens_of

from mixcpt.corpus import Corpus, ingest_records
from mixcpt.records import Record
from mixcpt.token_kinds import KINDS, kinds_of, terms_of
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace


def kinds(text: str, spans: list[tuple[int, int]] | None = None) -> list[str]:
    names = list(KINDS)
    found = kinds_of(text, np.array(spans or tokens_of(text)), {"zwemfune", "b12"})
    return [names[place] for place in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the Zwemfune ZWEMFUNE", ["common", "term", "term"]),
        ("in 1874 B12 x9", ["common", "number", "term", "number"]),
        ("sesquipedalian, (\n", ["word", "mark", "mark", "mark"]),
    ],
)
def test_words_of_each_kind(text: str, expected: list[str]) -> None:
    assert kinds(text) == expected


def test_parts_of_a_word_are_of_its_kind_and_a_space_before_does_not_count() -> None:
    assert kinds("a Zwemfune.", [(0, 1), (1, 4), (4, 10), (10, 11)]) == ["common", "term", "term", "mark"]


def test_white_space_at_the_end_is_no_word() -> None:
    assert kinds("the ", [(0, 3), (3, 4)]) == ["common", "mark"]


def test_terms_come_from_the_training_text_of_each_corpus(workspace: Workspace, tiny_tokenizer: TextTokenizer) -> None:
    texts = [f"Document {n}: the Zwemfune river flows past the old town, number {n}." for n in range(40)]
    records = [Record(kind="documents", text=text) for text in texts]
    ingest_records(workspace, "rivers", records, files=[], tokenizer=tiny_tokenizer)
    corpus = Corpus.open(workspace, "rivers")
    assert {"zwemfune"} <= terms_of([corpus]) and "the" not in terms_of([corpus]) and terms_of([]) == set()
