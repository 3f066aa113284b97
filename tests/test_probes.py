"""Probes of a made-up field: balanced, matched, the same by seed; and the checks against cases worked by hand."""

from collections import Counter

import pytest
from prose import TERMS, records

from mixcpt import probes
from mixcpt.corpus import Corpus, ingest_records
from mixcpt.errors import BadCorpus, Damaged, Interrupted
from mixcpt.overlap import Finder
from mixcpt.probes import Probe, Probes, balanced, blind, credits, make
from mixcpt.statistics import share_interval
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace


@pytest.fixture
def corpus(workspace: Workspace, tiny_tokenizer: TextTokenizer) -> Corpus:
    ingest_records(workspace, "field", records(120), files=[], tokenizer=tiny_tokenizer, heldout_fraction=0.2)
    return Corpus.open(workspace, "field")


def test_credits_are_shared_where_a_strategy_cannot_decide() -> None:
    assert credits([5, 7, 7, 4], [3, 3, 9, 3], answer=1) == {
        "place 1": 0, "place 2": 1, "place 3": 0, "place 4": 0,
        "longest": 1 / 2, "shortest": 0, "most frequent": 0, "rarest": 1 / 3,
    }  # fmt: skip


def probe(answer: int, lengths: str = "aaaa", term: int = 0) -> Probe:
    asked = {"question": "?", "rest": ".", "document": "d"}
    return Probe(str(term), ["x" * int(length, 16) for length in lengths], [1, 1, 1, 1], answer, asked, asked)


def test_blind_strategies_are_scored_with_intervals() -> None:
    checks = {check.strategy: check for check in blind([probe(0, "b9aa"), probe(0), probe(0), probe(1)])}
    assert checks["place 1"].accuracy == 0.75 and checks["place 3"].accuracy == 0
    assert checks["longest"].accuracy == pytest.approx((1 + 3 / 4) / 4)  # all are equally long in three of them
    assert checks["shortest"].accuracy == pytest.approx((0 + 3 / 4) / 4)
    assert checks["most frequent"].accuracy == checks["rarest"].accuracy == 1 / 4
    assert checks["place 1"].interval == share_interval(3, 4) and checks["place 1"].chance == 1 / 4
    assert not checks["place 1"].is_at_chance and checks["longest"].is_at_chance  # Wilson of 3 in 4: 30 % to 95 %


def test_probes_are_left_out_until_every_strategy_is_at_chance() -> None:
    """40 in all places alike, of which 24 are the longest choice: too many of these go, and no other."""
    made = [
        probe(n % 4, "".join("b" if place == n % 4 and n < 24 else "a" for place in range(4)), n) for n in range(40)
    ]
    assert not {check.strategy: check.is_at_chance for check in blind(made)}["longest"]
    left = balanced(made)
    assert all(check.is_at_chance for check in blind(left))
    assert left == [one for one in made if one in left] and 20 <= len(left) < 40
    gone = [one for one in made if one not in left]
    assert gone and all(len(one.choices[one.answer]) == 11 for one in gone)
    assert len(balanced([probe(0)] * 30)) < probes.FEWEST, "always the first place: no part of them is balanced"


def test_every_probe_is_what_it_says(corpus: Corpus) -> None:
    made = make(corpus, 40)
    assert len(made.probes) == 40 and made.refused == 0 and all(check.is_at_chance for check in made.checks)
    assert len({one.term for one in made.probes}) == 40, "each term once"
    words = {side: " ".join(doc.text for doc in corpus.documents(side)) for side in ("train", "heldout")}
    texts = {doc.id: doc.text for side in ("train", "heldout") for doc in corpus.documents(side)}
    for one in made.probes:
        assert one.choices[one.answer] == one.term and len(set(one.choices)) == 4 and set(one.choices) <= set(TERMS)
        assert one.counts == [
            words["train"].split().count(choice) + words["train"].count(f"{choice},") for choice in one.choices
        ]
        for side, split in (("memorised", "train"), ("generalised", "heldout")):
            asked = getattr(one, side)
            text = texts[asked["document"]]
            assert f"{asked['question']} {one.term}{asked['rest']}" in words[split] and text in words[split]
            assert not any(choice in text for choice in one.choices if choice != one.term), "a distractor is in sight"


def test_places_are_equal_and_the_sets_ask_the_same_choices(corpus: Corpus) -> None:
    made = make(corpus, 40)
    assert Counter(one.answer for one in made.probes) == {0: 10, 1: 10, 2: 10, 3: 10}
    memorised, generalised = made.sets().values()
    for one, seen, unseen in zip(made.probes, memorised, generalised, strict=True):
        assert seen["answer"] == unseen["answer"] == one.answer and seen["question"] != unseen["question"]
        assert seen["choices"] == unseen["choices"] == one.choices
        assert seen["meta"] == {"document": one.memorised["document"]}


def test_no_sentence_of_the_generalised_set_stands_in_the_training_text(
    workspace: Workspace, tiny_tokenizer: TextTokenizer
) -> None:
    """Every second document stands a second time, with one more sentence, so exact duplicates are none of them."""
    twice = records(100) + [
        type(one)(kind="documents", text=f"{one.text} Once more, and this is all.", file="test")
        for one in records(100)[::2]
    ]
    ingest_records(workspace, "twice", twice, files=[], tokenizer=tiny_tokenizer, heldout_fraction=0.2)
    corpus = Corpus.open(workspace, "twice")
    training = [document.text for document in corpus.documents()]
    assert any(document.text[:60] in text for document in corpus.documents("heldout") for text in training)
    asked = [f"{one['question']} {one['choices'][one['answer']]}" for one in make(corpus, 20).sets()["generalised"]]
    finder = Finder(asked)
    for text in training:
        finder.read(text)
    assert finder.found == {} and finder.too_short == []


def test_the_same_seed_gives_the_same_probes_and_another_gives_others(corpus: Corpus) -> None:
    first = make(corpus, 30)
    for path in corpus.folder.glob("probes-*.json"):
        path.unlink()
    assert make(corpus, 30) == first and make(corpus, 30, seed=1).probes != first.probes
    assert isinstance(first, Probes) and first.seed == 0 and first.corpus == "field"


def test_what_was_made_is_kept_beside_the_corpus(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not probes.is_made(corpus, 30)
    first = make(corpus, 30)
    monkeypatch.setattr(probes, "_Maker", None)
    assert probes.is_made(corpus, 30) and make(corpus, 30) == first
    (path,) = corpus.folder.glob("probes-*.json")
    path.write_text('{"corpus": "field"}')
    with pytest.raises(Damaged, match="delete it, and the probes are made again"):
        make(corpus, 30)


def test_a_corpus_that_is_too_small_is_refused_in_a_sentence(
    workspace: Workspace, tiny_tokenizer: TextTokenizer
) -> None:
    ingest_records(workspace, "small", records(21), files=[], tokenizer=tiny_tokenizer)
    with pytest.raises(
        BadCorpus, match=r"'small' gives only \d+ good probes, and fewer than 20 tell nothing.*add more"
    ):
        make(Corpus.open(workspace, "small"))


def test_making_can_be_stopped(corpus: Corpus) -> None:
    def stop() -> None:
        raise Interrupted("stop")

    with pytest.raises(Interrupted):
        make(corpus, 30, should_stop=stop)
    assert not list(corpus.folder.glob("probes-*"))


def test_a_large_corpus_is_read_in_part(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = corpus.documents()
    total = sum(document.bytes for document in documents)
    assert probes._spread(documents, total) == list(range(len(documents)))
    some = probes._spread(documents, total // 4)
    assert abs(len(some) - len(documents) / 4) <= 1 and some[-1] >= len(documents) - 8
