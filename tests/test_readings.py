"""Candidates that can be used: drawn until there are enough, those that cannot named with their reason."""

import pytest

from mixcpt.corpus import Corpus, ingest_records
from mixcpt.readings import Reader, _drawn, candidates, some_reasons
from mixcpt.records import Message, Record
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace

LONG = 60
"""Tokens: a short question with its answer fits, a long one does not."""


@pytest.fixture
def corpus(workspace: Workspace, tiny_tokenizer: TextTokenizer) -> Corpus:
    """Forty questions, every tenth of them with a short answer: bytes are tokens."""
    records = [
        Record(
            "instructions", messages=(Message("user", f"{n}?"), Message("assistant", "a" * (4 if n % 10 == 0 else 90)))
        )
        for n in range(40)
    ]
    ingest_records(workspace, "talk", records, files=[], tokenizer=tiny_tokenizer)
    return Corpus.open(workspace, "talk")


def test_too_long_ones_are_drawn_again_until_there_are_enough(corpus: Corpus, tiny_tokenizer: TextTokenizer) -> None:
    reader = Reader(tiny_tokenizer, None, max_tokens=LONG)
    found = reader.read(corpus, 3)
    usable = [reading for reading in found if not reading.reason]
    assert len(usable) == 3 and all(len(reading.texts[0].ids) <= LONG for reading in usable)
    assert all("more than the 60 allowed" in reading.reason for reading in found if reading.reason)
    again = reader.read(corpus, 3)  # the same draw every time
    assert [reading.id for reading in again] == [reading.id for reading in found]
    order = [id for id, _ in candidates(corpus)]
    assert [reading.id for reading in found] == sorted((reading.id for reading in found), key=order.index)


def test_fewer_than_wanted_are_all_that_there_are(corpus: Corpus, tiny_tokenizer: TextTokenizer) -> None:
    found = Reader(tiny_tokenizer, None, max_tokens=LONG).read(corpus, 30)
    train = len(candidates(corpus))
    assert len(found) == train and 0 < sum(not reading.reason for reading in found) <= 4


def test_where_all_can_be_used_exactly_as_many_are_drawn(corpus: Corpus, tiny_tokenizer: TextTokenizer) -> None:
    reader = Reader(tiny_tokenizer, None)
    assert [reading.id for reading in reader.read(corpus, 5)] == [id for id, _ in candidates(corpus, 5)]
    assert len(reader.read(corpus)) == len(candidates(corpus))


@pytest.mark.parametrize(("count", "limit"), [(10, 3), (10, 10), (3, 10), (200, 7), (0, 5)])
def test_a_draw_takes_each_index_once(count: int, limit: int) -> None:
    assert sorted(_drawn(count, limit)) == list(range(count))


def test_reasons_are_named_once_and_few() -> None:
    assert some_reasons(["a", "b", "a"]) == "a; b"
    assert some_reasons(["a", "b", "c", "d", "e"]) == "a; b; c; and 2 more reasons"
