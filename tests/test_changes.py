"""What was learned and lost, of losses worked out by hand."""

import numpy as np
import pytest
from losses_by_hand import FIELD, changed, keep, losses
from made import made_run

from mixcpt import token_losses
from mixcpt.changes import AFTER, BEFORE, LONGEST, changes, percent, require_changes, words_of
from mixcpt.changes_chart import by_kind, largest
from mixcpt.errors import Damaged, NotFound
from mixcpt.measured import folder_of
from mixcpt.runs import Run
from mixcpt.statistics import paired_ratio_interval
from mixcpt.workspace import Workspace


@pytest.fixture
def run(workspace: Workspace) -> Run:
    return made_run(workspace)


def test_sentences_are_ranked_by_the_sum_of_their_changes(run: Run) -> None:
    found = require_changes(changed(run))
    assert [(span.words, span.change, span.tokens) for span in found.learned()] == [
        ("The mill of Zwemfune stands.", -1.5, 6),
        ("It grinds barley 3 times.", -0.5, 6),
        ("A dog barked.", -0.25, 4),
    ]
    assert [(span.words, span.change) for span in found.lost()] == [
        ("Rain fell on the road.", 1.0),
        ("We went home.", 0.5),
        ("No one counts.", 0.25),
    ]
    first = found.learned()[0]
    assert (first.base, first.run) == (12.0, 10.5) and first.document == "builtin/atlas 0"
    assert (first.part, first.kind, found.lost()[0].kind) == ("field", "field", "prose")


def test_shares_are_of_all_that_a_part_gained_or_lost(run: Run) -> None:
    found = require_changes(changed(run))
    assert [span.share for span in found.learned("field")] == [0.75, 0.25]
    assert [span.share for span in found.lost("general")] == pytest.approx([2 / 3, 1 / 3])
    assert [span.share for span in found.lost("field")] == [1.0]
    assert sum(span.change for span in found.spans) == pytest.approx(-2 + 0.25 + 1.5 - 0.25), "nothing is left out"


def test_a_run_is_introduced_by_its_field_and_by_general_text(run: Run) -> None:
    found = require_changes(changed(run))
    learned, lost = found.one_learned(), found.one_lost()
    assert learned and lost
    assert (learned.words, lost.words) == ("The mill of Zwemfune stands.", "Rain fell on the road.")


def test_where_nothing_was_lost_there_is_nothing_to_show(run: Run) -> None:
    keep(run, losses(run, "builtin/general", ["A dog barked."], {"dog": -0.5}))
    found = require_changes(run)
    learned = found.one_learned()
    assert learned and learned.words == "A dog barked." and found.one_lost() is None and found.lost() == []


def test_a_sentence_comes_with_what_stands_around_it(run: Run) -> None:
    found = require_changes(changed(run))
    tokens = found.in_context(found.learned()[1])
    assert "".join(token.text for token in tokens) == FIELD[0]
    inside = [token for token in tokens if token.is_inside]
    assert "".join(token.text for token in inside) == " It grinds barley 3 times."
    assert [(token.base, token.run) for token in inside if token.text == " barley"] == [(2.0, 1.5)]


def test_the_context_has_its_limits_and_stays_in_the_document(run: Run) -> None:
    long = " ".join(f"w{number}" for number in range(100)) + "\nHere it is.\n" + " ".join(["z"] * 100)
    keep(run, losses(run, "builtin/atlas", ["Another one.", long, "A third."], {"Here": -3.0}))
    found = require_changes(run)
    tokens = found.in_context(found.learned()[0])
    assert len(tokens) == BEFORE + 4 + 1 + AFTER - 1, "the sentence, its line end included, and its surroundings"
    text = "".join(token.text for token in tokens)
    assert text.startswith(" w68") and "\nHere it is.\n" in text and "Another" not in text


def test_a_character_of_several_tokens_is_one_and_what_is_not_predicted_is_shown(run: Run) -> None:
    one = losses(run, "builtin/atlas", ["So é ends."], {"ends": -1.0})
    parts = {
        "spans": np.array([[2, 4], [3, 4], [4, 9], [9, 10]]),
        "piece": np.zeros(4),
        "kinds": np.zeros(4),
        "base": np.full(4, 2.0),
        "run": np.array([1.5, 2.0, 1.0, 2.0]),
    }
    keep(run, token_losses.TokenLosses(**{**vars(one), **parts}))
    found = require_changes(run)
    assert [(token.text, token.base, token.run) for token in found.in_context(found.learned()[0])] == [
        ("So", None, None),
        (" é", 4.0, 3.5),
        (" ends", 2.0, 1.0),
        (".", 2.0, 2.0),
    ]


def test_a_long_sentence_is_parted_evenly(run: Run) -> None:
    keep(run, losses(run, "builtin/atlas", [" ".join(["word"] * (2 * LONGEST + 1))], {"word": -1.0}))
    assert [span.tokens for span in require_changes(run).spans] == [27, 27, 27]


def test_a_long_sentence_is_parted_before_a_word(run: Run) -> None:
    keep(run, losses(run, "builtin/atlas", [" ".join(["a"] * 26 + ["b.c", *["d"] * 40])], {}))
    # 26 + 3 + 40 tokens; the middle is place 34, where a word begins
    assert [span.tokens for span in require_changes(run).spans] == [34, 35]
    keep(run, losses(run, "builtin/general", [" ".join(["a"] * 33 + ["b.c", *["d"] * 33])], {}))
    # the middle of 69 tokens is the mark at place 34, and its word begins one before
    assert [span.words[:3] for span in require_changes(run).spans if span.part == "general"] == ["a a", "b.c"]


def test_how_much_is_told_in_words(run: Run) -> None:
    learned = require_changes(changed(run)).one_learned()
    assert learned and words_of(learned) == (
        "2.00 → 1.75 nats a token over 6 tokens: on average a token had a chance of 14 % under the base, and has 17 % "
        "now. That is 75.0% of all that was gained in the field"
    )
    assert [percent(nats) for nats in (0.0, 0.7, 6.0)] == ["100 %", "50 %", "0.25 %"]


def test_the_summary_counts_every_token(run: Run) -> None:
    lines = {(line.part, line.name): line for line in require_changes(changed(run)).lines}
    assert [*lines][:2] == [("field", "builtin/atlas"), ("general", "builtin/general")]
    general = lines["general", "builtin/general"]
    # 6 + 4 tokens of one document, 4 of the other; +1.5 and -0.25 nats
    assert (general.tokens, general.documents) == (14, 2)
    assert (general.base, general.change) == pytest.approx((2.0, 1.25 / 14))
    assert (general.better, general.worse) == pytest.approx((1 / 14, 2 / 14))
    assert general.interval == pytest.approx(paired_ratio_interval([20, 8], [21.5, 7.75], [10, 4], 2000))
    assert general.interval == pytest.approx((-0.0625, 0.15)) and "within noise" in general.verdict
    terms = lines["field", "term"]
    assert (terms.tokens, terms.base, terms.run, terms.better) == (2, 2.0, 1.0, 1.0)
    assert terms.interval == pytest.approx((-1.0, -1.0)) and "one document only" in terms.verdict
    assert lines["field", "number"].tokens == 1 and lines["field", "mark"].tokens == 3
    assert sum(line.tokens for (part, name), line in lines.items() if part == "field" and "/" not in name) == 16


def test_documents_are_drawn_whole_even_where_they_have_several_pieces(run: Run) -> None:
    keep(run, losses(run, "builtin/atlas", ["One.", "Two.", "Three."], {"One": -1.0}, documents=["a", "a", "b"]))
    line = require_changes(run).lines[0]
    assert line.documents == 2 and line.interval == pytest.approx((-1 / 4, 0.0))


def test_of_each_text_what_was_measured_last_counts(run: Run) -> None:
    changed(run)
    keep(run, losses(run, "builtin/atlas", ["New."], {"New": -9.0}, finished="2026-02-01T00:00:00Z"))
    found = require_changes(run)
    assert [text.source for text in found.texts] == ["builtin/atlas", "builtin/general"]
    assert found.learned()[0].words == "New."


def test_nothing_was_kept_yet(run: Run) -> None:
    assert changes(run) is None
    with pytest.raises(NotFound, match=f"run `mixcpt measure {run.id}` first"):
        require_changes(run)


def test_what_was_read_is_what_was_written(run: Run) -> None:
    made = losses(run, "builtin/atlas", ["Grüße, 你好 \ud800."], {"Grüße": -1.0})
    (read,) = token_losses.read(keep(run, made))
    for name in ("piece", "spans", "kinds", "base", "run"):
        assert np.array_equal(getattr(read, name), getattr(made, name)), name
    assert (read.texts, read.documents, read.how) == (made.texts, made.documents, made.how)


def test_damaged_files_are_named(run: Run) -> None:
    changed(run)
    path = token_losses.paths(run)[0]
    whole = path.read_bytes()
    for content in (b"", b"nonsense", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(Damaged, match=r"atlas.*npz is damaged .*measure again"):
            changes(run)
    facts, arrays = {"source": "builtin/atlas"}, {"piece": np.zeros(2)}
    token_losses.save(folder_of(run) / path.name, facts, arrays)
    with pytest.raises(Damaged, match="measure again"):
        changes(run)
    one = losses(run, "builtin/atlas", ["One."], {})
    token_losses.write(path, token_losses.TokenLosses(**{**vars(one), "base": np.zeros(7)}))
    with pytest.raises(Damaged, match="do not belong together"):
        changes(run)


def test_a_pickle_is_refused(run: Run) -> None:
    changed(run)
    np.savez(token_losses.paths(run)[0], facts=np.array([{"a": 1}], dtype=object))
    with pytest.raises(Damaged, match="measure again"):
        changes(run)


def test_the_charts_show_the_largest_changes_and_how_sure_each_line_is(run: Run) -> None:
    found = changes(changed(run))
    (bars,) = largest(found).data
    assert list(bars.x) == [-1.5, -0.5, -0.25, 0.25, 0.5, 1.0] and "Zwemfune" in largest(found).layout.yaxis.ticktext[0]
    (points,) = by_kind(found).data
    assert found and points.x[1] == pytest.approx(1.25 / 14)
    assert points.x[1] + points.error_x.array[1] == pytest.approx(0.15)
    assert by_kind(found).layout.yaxis.ticktext[2] == "field: the field's own terms"
    for chart in (largest, by_kind):
        assert "measure the run" in chart(None).layout.annotations[0].text


def test_names_in_charts_are_text(run: Run) -> None:
    keep(run, losses(run, "builtin/atlas", ["<b>x</b> $y$."], {"y": -1.0}))
    (name,) = largest(changes(run)).layout.yaxis.ticktext
    assert "<b>" not in name and "$" not in name
