"""The preview of a row: what the trainer reads, token by token, and where it comes from."""

import numpy as np
import pytest

from mixcpt.config import MixtureConfig, SourceShare
from mixcpt.mixture import Mixture, realise
from mixcpt.packing import IGNORED
from mixcpt.preview import Excerpt, excerpt, origin, preview, readings, shown
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace


@pytest.fixture
def mixture(small_corpora: Workspace, tiny_tokenizer: TextTokenizer) -> Mixture:
    sources = [
        SourceShare(source="field", share=60, domain=True),
        SourceShare(source="world", share=20),
        SourceShare(source="builtin/instructions", share=10),
        SourceShare(source="builtin/preferences", share=10),
    ]
    return realise(small_corpora, MixtureConfig(sources=sources, budget_tokens=20_000, row_tokens=512), tiny_tokenizer)


def test_every_row_is_the_row_that_is_trained_on(mixture: Mixture, tiny_tokenizer: TextTokenizer) -> None:
    for number in range(len(mixture)):
        row, seen = mixture[number], preview(mixture, tiny_tokenizer, number)
        assert [token.id for token in seen.tokens] == row.ids.tolist()
        assert [token.position for token in seen.tokens] == row.positions.tolist()
        assert [token.is_masked for token in seen.tokens] == (row.labels == IGNORED).tolist()
        assert [token.is_end for token in seen.tokens] == (row.ids == tiny_tokenizer.eos_id).tolist()
        assert seen.room == 512 - len(row.ids)
        assert sum(segment.tokens for segment in seen.segments) == len(row.ids)


def test_each_token_stands_where_it_says_in_its_document(mixture: Mixture, tiny_tokenizer: TextTokenizer) -> None:
    for number in range(len(mixture)):
        seen = preview(mixture, tiny_tokenizer, number)
        for token in seen.tokens:
            segment = seen.segments[token.segment]
            assert token.place == segment.start + token.position
            assert mixture.tables[segment.source][segment.document][token.place] == token.id


def test_a_document_is_told_by_its_turns(mixture: Mixture, tiny_tokenizer: TextTokenizer) -> None:
    roles: dict[str, list[str]] = {}
    for number in range(len(mixture)):
        for segment in preview(mixture, tiny_tokenizer, number).segments:
            whole = origin(mixture, segment)
            roles[segment.kind] = [role for role, _ in whole.turns]
            ids = mixture.tables[segment.source][segment.document]
            assert whole.unified == tiny_tokenizer.decode(ids[:-1].tolist())
    assert roles["documents"] == ["document"]
    assert roles["instructions"] == ["user", "assistant"]
    assert roles["preferences"] == ["user", "chosen", "rejected"]


def test_a_piece_tells_how_much_of_its_document_lies_before_it(mixture: Mixture, tiny_tokenizer: TextTokenizer) -> None:
    seen = [preview(mixture, tiny_tokenizer, number) for number in range(len(mixture))]
    later = [segment for row in seen for segment in row.segments if segment.start]
    assert later
    for segment in later:
        place = origin(mixture, segment).place
        assert place == segment.start / len(mixture.tables[segment.source][segment.document]) and 0 < place < 1


def test_rows_with_other_tokens_have_other_fingerprints(mixture: Mixture, tiny_tokenizer: TextTokenizer) -> None:
    seen = [preview(mixture, tiny_tokenizer, number).fingerprint for number in range(len(mixture))]
    assert len(set(seen)) == len(seen)
    assert preview(mixture, tiny_tokenizer, 0).fingerprint == seen[0]


@pytest.mark.parametrize(
    ("place", "expected"),
    [(0.0, "abcd"), (0.5, "efgh"), (0.99, "ghij")],
)
def test_a_long_text_is_shown_around_the_piece(place: float, expected: str) -> None:
    assert excerpt("abcdefghij", place, limit=4) == Excerpt(expected, "abcdefghij".index(expected), 10)


def test_a_short_text_is_shown_whole() -> None:
    assert excerpt("abc", 0.9, limit=4) == Excerpt("abc", 0, 3)


@pytest.mark.parametrize("row", [-1, 10_000])
def test_a_row_that_is_not_there_is_refused(mixture: Mixture, tiny_tokenizer: TextTokenizer, row: int) -> None:
    with pytest.raises(IndexError, match=f"row {row} of {len(mixture)}"):
        preview(mixture, tiny_tokenizer, row)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ab", ["a", "b"]),
        ("é!", ["\\xc3", "\\xa9", "!"]),
        ("€é", ["\\xe2", "\\x82", "\\xac", "\\xc3", "\\xa9"]),
        ("a\N{SLIGHTLY SMILING FACE}", ["a", "\\xf0", "\\x9f", "\\x99", "\\x82"]),
        ("<b>\n", ["<", "b", ">", "\n"]),
    ],
)
def test_parts_of_a_character_are_shown_as_their_bytes(
    tiny_tokenizer: TextTokenizer, text: str, expected: list[str]
) -> None:
    assert shown(tiny_tokenizer, tiny_tokenizer.encode([text])[0].tolist()) == expected


def test_a_character_that_is_cut_off_is_shown_as_unknown(tiny_tokenizer: TextTokenizer) -> None:
    assert shown(tiny_tokenizer, tiny_tokenizer.encode(["é"])[0][:1].tolist()) == ["\N{REPLACEMENT CHARACTER}"]


class TwoBytes(TextTokenizer):
    """Reads ids as a token table of bytes in which one token begins a character with two of its three bytes."""

    TABLE = (b"\xe2\x82", b"\xac", b"x\xe2", b"\x82\xacy")

    def __init__(self) -> None:
        pass

    def decode(self, ids: object) -> str:
        return b"".join(self.TABLE[int(id)] for id in np.asarray(ids).tolist()).decode("utf-8", errors="replace")


@pytest.mark.parametrize(("ids", "expected"), [([0, 1], ["\\xe2\\x82", "\\xac"]), ([2, 3], ["x\\xe2", "\\x82\\xacy"])])
def test_tokens_of_several_bytes_share_a_character(ids: list[int], expected: list[str]) -> None:
    assert shown(TwoBytes(), ids) == expected


@pytest.mark.parametrize(
    ("epochs", "words"),
    [
        (0.12, "is read to 12 %"),
        (0.994, "is read to 99 %"),
        (1.0, "is read once"),
        (1.04, "is read once"),
        (6.23, "repeats 6.2 times"),
        (1234.5, "repeats 1,234.5 times"),
    ],
)
def test_readings_in_words(epochs: float, words: str) -> None:
    assert readings(epochs) == words
