"""Mixtures: shares met in tokens, evenly spread, repeatable, and nothing read that must not be."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_token_table import corpus
from test_tokens import with_template

from mixcpt.builtin import SOURCES
from mixcpt.config import MixtureConfig, SourceShare
from mixcpt.errors import BadCorpus, NotFound
from mixcpt.mixture import (
    Mixture,
    _draw,
    _generator,
    needing,
    needs,
    realise,
    validation_documents,
)
from mixcpt.packing import IGNORED, cut
from mixcpt.token_table import TokenTable


def table(lengths, first=1000):
    """Documents of the given lengths; every token id in it is a different number, so tokens can be followed."""
    ids = np.arange(first, first + sum(lengths), dtype=np.int32)
    return TokenTable(ids, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


def config(shares, domain="a", **settings):
    sources = [SourceShare(source=name, share=share, domain=name == domain) for name, share in shares.items()]
    return MixtureConfig(sources=sources, **({"budget_tokens": 4000, "row_tokens": 64} | settings))


def build(settings, tables, exclude=None):
    """A Mixture over bare tables: of a corpus it asks only for the kind."""
    corpora: Any = {name: SimpleNamespace(manifest=SimpleNamespace(kind="documents")) for name in tables}
    return Mixture(settings, corpora, tables, exclude)


def random_lengths(count, low, high, seed):
    return np.random.default_rng(seed).integers(low, high, count).tolist()


@pytest.fixture
def three():
    """Three sources with ids of their own ranges."""
    return {
        "a": table(random_lengths(60, 5, 90, 1), 100_000),
        "b": table(random_lengths(30, 5, 30, 2), 200_000),
        "c": table(random_lengths(8, 100, 300, 3), 300_000),
    }


SHARES = {"a": 6, "b": 3, "c": 1}


def test_a_mixture_by_hand():
    """One document of 10 in rows of 16, budget 64: read until the next would be farther from 64 than stopping.
    Six readings are 60, a seventh 70: 60 is nearer. A row of 16 holds one document of 10, so six rows."""
    mixture = build(config({"a": 1}, budget_tokens=64, row_tokens=16), {"a": table([10])})
    assert (len(mixture), mixture.tokens) == (6, 60)
    assert all(row.ids.tolist() == list(range(1000, 1010)) for row in mixture)
    assert [mixture.segment(number).epoch for number in range(6)] == [0, 1, 2, 3, 4, 5]
    (report,) = mixture.report()
    assert (report.epochs, report.documents, report.available_documents, report.available_tokens) == (6, 1, 1, 10)
    assert mixture.fullness == 60 / 96


def test_a_long_document_is_cut_and_read_through():
    """40 tokens in rows of 16 are pieces of 16, 16 and 8. Of the second reading 16 make 56, and 16 more 72: as far from
    the budget of 64 as 56 was, so they are still taken."""
    mixture = build(config({"a": 1}, budget_tokens=64, row_tokens=16), {"a": table([40])})
    segments = [mixture.segment(number) for number in range(len(mixture.segments))]
    assert [(segment.start, segment.length, segment.epoch) for segment in segments] == [
        (0, 16, 0), (16, 16, 0), (32, 8, 0), (0, 16, 1), (16, 16, 1),
    ]  # fmt: skip
    assert mixture.tokens == 72


def test_every_segment_begins_with_the_bos():
    """40 tokens in rows of 16 with a BOS each are pieces of 15, 15 and 10: 43 tokens to read. The first real token has
    the BOS before it, so it is predicted."""
    tables = {"a": table([40])}
    corpora: Any = {"a": SimpleNamespace(manifest=SimpleNamespace(kind="documents"))}
    mixture = Mixture(config({"a": 1}, budget_tokens=64, row_tokens=16), corpora, tables, opening=np.array([7]))
    segments = [mixture.segment(number) for number in range(len(mixture.segments))]
    assert [(segment.start, segment.length, segment.epoch) for segment in segments] == [
        (0, 16, 0), (15, 16, 0), (30, 11, 0), (0, 16, 1),
    ]  # fmt: skip
    pieces = [[7, *range(1000, 1015)], [7, *range(1015, 1030)], [7, *range(1030, 1040)], [7, *range(1000, 1015)]]
    assert [row.ids.tolist() for row in mixture] == pieces
    assert [row.labels.tolist() for row in mixture] == [[IGNORED, *piece[1:]] for piece in pieces]
    assert mixture.tokens == 59 and mixture.row_lengths == [16, 16, 11, 16]
    (report,) = mixture.report()
    assert (report.available_tokens, report.epochs) == (43, 59 / 43)


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_met_within_half_a_segment_of_each_source(three, seed):
    settings = config(SHARES, seed=seed)
    mixture = build(settings, three)
    assert settings.target_tokens() == {"a": 2400, "b": 1200, "c": 400}
    for report in mixture.report():
        assert abs(report.tokens - settings.target_tokens()[report.source]) <= 64 / 2
        assert report.requested_share == pytest.approx(SHARES[report.source] / 10)
        assert report.realised_share == report.tokens / mixture.tokens
        assert report.epochs == report.tokens / three[report.source].lengths.sum()
    assert [report.domain for report in mixture.report()] == [True, False, False]


def test_the_report_counts_what_lies_in_the_rows(three):
    mixture = build(config(SHARES), three)
    ids = np.concatenate([row.ids for row in mixture])
    for report, first in zip(mixture.report(), (100_000, 200_000, 300_000), strict=True):
        assert report.tokens == ((ids >= first) & (ids < first + 100_000)).sum()
    assert len(ids) == mixture.tokens
    assert mixture.row_lengths == [len(row.ids) for row in mixture]
    assert mixture.fullness == pytest.approx(len(ids) / (64 * len(mixture)))


def test_rows_hold_the_documents_they_name(three):
    mixture = build(config(SHARES), three)
    seen = []
    for row in mixture:
        assert len(row.ids) <= 64
        for number in dict.fromkeys(row.segment.tolist()):
            segment = mixture.segment(number)
            document = three["abc"[segment.source]][segment.document]
            place = row.segment == number
            assert row.ids[place].tolist() == document[segment.start : segment.start + segment.length].tolist()
            assert row.labels[place].tolist() == [IGNORED, *row.ids[place].tolist()[1:]]
            seen.append(number)
    assert sorted(seen) == list(range(len(mixture.segments)))


def test_every_reading_is_whole_before_the_next_begins_and_in_a_new_order(three):
    mixture = build(config({"b": 1}, domain="b"), three)
    segments = [mixture.segment(number) for number in range(len(mixture.segments))]
    readings: dict[int, list[int]] = {}
    for segment in segments:
        readings.setdefault(segment.epoch, []).append(segment.document)
    assert [segment.epoch for segment in segments] == sorted(segment.epoch for segment in segments)
    *whole, last = readings.values()
    assert len(whole) >= 5
    assert all(sorted(order) == list(range(30)) for order in whole)
    assert len(set(last)) == len(last) > 0
    assert len({tuple(order) for order in whole}) == len(whole)


def test_the_same_inputs_give_the_same_rows_and_another_seed_other_ones(three):
    prints = [build(config(SHARES, seed=seed), three).fingerprint() for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_the_fingerprint_is_computed_once(three, monkeypatch):
    mixture = build(config(SHARES), three)
    first = mixture.fingerprint()
    monkeypatch.setattr(Mixture, "__getitem__", lambda *_: pytest.fail("rows were read again"))
    assert mixture.summary()["fingerprint"] == mixture.fingerprint() == first


def test_what_is_read_of_a_source_does_not_depend_on_its_neighbours(three):
    """Shares 6:3 with and without c, at the same tokens of a: the same documents of a, in the same order."""
    with_c = build(config(SHARES, budget_tokens=4000), three)
    without = build(config({"a": 6, "b": 3}, budget_tokens=3600), three)
    mine = [mixture.segments[mixture.segments[:, 0] == 0].tolist() for mixture in (with_c, without)]
    assert mine[0] == mine[1]


def test_every_stretch_of_the_stream_has_nearly_the_shares(three):
    """After any number of segments each source is within one segment of its own and one of each other's."""
    mixture = build(config(SHARES, budget_tokens=20_000), three)
    lengths = mixture.segments[:, 3]
    total = np.cumsum(lengths)
    for source, share in enumerate((0.6, 0.3, 0.1)):
        mine = np.cumsum(np.where(mixture.segments[:, 0] == source, lengths, 0))
        assert np.abs(mine - share * total).max() <= 2 * 64
    # Packing reorders within a window only: any tenth of the rows still has the shares, roughly.
    tenth = len(mixture) // 10
    for first in range(0, len(mixture) - tenth, tenth):
        ids = np.concatenate([mixture[index].ids for index in range(first, first + tenth)])
        assert [(ids // 100_000 == kind).mean() for kind in (1, 2, 3)] == pytest.approx([0.6, 0.3, 0.1], abs=0.15)


def test_excluded_documents_are_never_read(three):
    exclude = set(range(0, 60, 2))
    mixture = build(config(SHARES), three, {"a": exclude})
    read = mixture.segments[mixture.segments[:, 0] == 0][:, 1]
    assert set(read.tolist()) == set(range(60)) - exclude
    report = mixture.report()[0]
    assert report.available_documents == 30
    assert report.available_tokens == three["a"].lengths[1::2].sum()


def test_documents_of_a_single_token_are_not_read():
    """An empty text is its end token alone, from which nothing can be learned."""
    mixture = build(config({"a": 1}), {"a": table([1, 20, 1])})
    assert set(mixture.segments[:, 1].tolist()) == {1}
    assert mixture.available == [1]


def test_a_narrow_corpus_takes_so_many_documents_of_the_domain_only(three):
    settings = config(SHARES, domain_documents=7)
    mixture = build(settings, three)
    read = [set(mixture.segments[mixture.segments[:, 0] == source][:, 1].tolist()) for source in range(3)]
    assert len(read[0]) == 7 and len(read[1]) == 30
    assert mixture.available == [7, 30, 8]
    more = build(config(SHARES, domain_documents=9), three)
    assert read[0] < set(more.segments[more.segments[:, 0] == 0][:, 1].tolist())
    assert build(config(SHARES, domain_documents=1000), three).available == [60, 30, 8]


def test_a_narrow_corpus_is_chosen_of_what_is_not_excluded(three):
    mixture = build(config({"a": 1}, domain_documents=7), three, {"a": set(range(50))})
    assert set(mixture.segments[:, 1].tolist()) <= set(range(50, 60))
    assert mixture.available == [7]


@pytest.mark.parametrize(
    ("tables", "exclude"),
    [({"a": table([])}, {}), ({"a": table([1, 1])}, {}), ({"a": table([9, 9])}, {"a": {0, 1}})],
    ids=["no documents", "empty documents", "all excluded"],
)
def test_nothing_left_to_read_is_refused_with_the_source(tables, exclude):
    with pytest.raises(BadCorpus, match="The source 'a' has no documents to draw from: add documents or set its share"):
        build(config({"a": 1}), tables, exclude)


def test_a_source_with_a_tiny_share_still_gives_something():
    """A share of one millionth of 4,000 tokens rounds to none; the source was asked for, so it gives one segment."""
    mixture = build(config({"a": 1, "b": 1e-6}), {"a": table([50] * 9), "b": table([20] * 9)})
    assert [report.tokens for report in mixture.report()] == [4000, 20]


def test_a_mixture_of_fifty_thousand_rows():
    tables = {"a": table(random_lengths(20_000, 20, 700, 1)), "b": table(random_lengths(2_000, 20, 2_000, 2))}
    settings = config({"a": 3, "b": 1}, budget_tokens=50_000 * 512, row_tokens=512)
    start = time.perf_counter()
    mixture = build(settings, tables)
    print(f"{len(mixture)} rows, {len(mixture.segments)} segments in {time.perf_counter() - start:.2f} s")
    assert len(mixture) >= 50_000
    assert mixture.fullness > 0.97
    assert abs(mixture.tokens - 25_600_000) <= 512
    assert mixture.report()[0].realised_share == pytest.approx(0.75, abs=1e-4)


def draw_slowly(name, table, target, config, opening):
    """The first version of `_draw`, a segment at a time, for sources of which nothing is kept out."""
    pool = np.flatnonzero(table.lengths > 1)
    segments: list[tuple[int, int, int, int]] = []
    total = 0
    for epoch in range(100_000):
        for document in pool[_generator(config.seed, name, epoch).permutation(len(pool))].tolist():
            for start, text in cut(int(table.lengths[document]), config.row_tokens - opening):
                length = opening + text
                if segments and total + length - target > target - total:
                    return segments
                segments.append((document, start, length, epoch))
                total += length
                if total >= target:
                    return segments
    raise AssertionError("unreachable")


@pytest.mark.parametrize("opening", [0, 1])
@pytest.mark.parametrize("target", [0, 1, 60, 2_000, 2_017, 9_999])
@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_what_is_drawn_is_as_it_was_first_written(three, name, target, opening):
    settings = config(SHARES, seed=3)
    segments, _ = _draw(name, three[name], target, settings, set(), opening)
    assert [tuple(row) for row in segments.tolist()] == draw_slowly(name, three[name], target, settings, opening)


def test_the_fingerprint_of_a_mixture_never_changes(three):
    """Recorded before drawing and packing were made fast; runs on disk name their rows by such a fingerprint."""
    assert build(config(SHARES), three).fingerprint() == "b4a9db4d692ff6bf"


# With real corpora


def test_a_realised_mixture_reads_training_documents_only(workspace, tiny_tokenizer, tmp_path):
    birds = corpus(workspace, tiny_tokenizer, tmp_path)
    settings = config({"birds": 1}, domain="birds", budget_tokens=30_000)
    mixture = realise(workspace, settings, tiny_tokenizer)
    text = tiny_tokenizer.decode(np.concatenate([row.ids for row in mixture]))
    training, heldout = birds.documents("train"), birds.documents("heldout")
    assert len(heldout) > 0
    assert all(document.text.split()[0] in text for document in training)
    assert not any(document.text.split()[0] in text for document in heldout)
    assert mixture.summary()["fingerprint"] == realise(workspace, settings, tiny_tokenizer).fingerprint()


def test_a_realised_mixture_has_the_bos_of_its_tokenizer(workspace, tiny_tokenizer_folder, tmp_path):
    tokenizer = with_template(tiny_tokenizer_folder, tmp_path / "bos", "<bos> $A")
    corpus(workspace, tokenizer, tmp_path)
    mixture = realise(workspace, config({"birds": 1}, domain="birds"), tokenizer)
    for row in mixture:
        assert ((row.ids == tokenizer.bos_id) == (row.positions == 0)).all()


def test_validation_documents_are_a_tenth_and_are_kept_out(workspace, tiny_tokenizer, tmp_path):
    birds = corpus(workspace, tiny_tokenizer, tmp_path)
    settings = config({"birds": 1}, domain="birds", budget_tokens=30_000)
    count = len(birds.documents("train"))
    kept_out = validation_documents(birds, settings.seed)
    assert len(kept_out) == round(count / 10)
    assert kept_out == validation_documents(birds, settings.seed) != validation_documents(birds, settings.seed + 1)
    mixture = realise(workspace, settings, tiny_tokenizer, validation=True)
    assert set(mixture.segments[:, 1].tolist()) == set(range(count)) - kept_out


def test_builtin_sources_are_made_on_first_use(workspace, tiny_tokenizer):
    settings = MixtureConfig(
        sources=[
            SourceShare(source="builtin/instructions", share=1),
            SourceShare(source="builtin/preferences", share=1),
        ],
        budget_tokens=4000,
        row_tokens=256,
    )
    mixture = realise(workspace, settings, tiny_tokenizer)
    assert [report.kind for report in mixture.report()] == ["instructions", "preferences"]
    assert {"builtin/instructions", "builtin/preferences"} <= set(SOURCES)


def test_another_joiner_is_another_table(workspace, tiny_tokenizer):
    def tokens(joiner):
        sources = [SourceShare(source="builtin/preferences", share=1)]
        settings = MixtureConfig(sources=sources, budget_tokens=4000, joiner=joiner)
        return realise(workspace, settings, tiny_tokenizer).tables["builtin/preferences"]

    wide, narrow = tokens("\n\n"), tokens("\n")
    assert len(wide) == len(narrow)
    assert (wide.lengths - narrow.lengths).tolist() == [1] * len(wide)


def test_an_unknown_source_is_not_found(workspace, tiny_tokenizer):
    with pytest.raises(NotFound):
        realise(workspace, config({"nowhere": 1}), tiny_tokenizer)


def test_what_stands_beside_the_needs_of_a_mixture_does_not_count() -> None:
    sources = [SourceShare(source="field", share=3), SourceShare(source="world", share=1)]
    wanted = needs(MixtureConfig(sources=sources, joiner=" ", preference_text="both"))
    assert needs(needing(wanted | {"texts": ["a fingerprint"]})) == wanted
