"""Selections: what each strategy takes, what hands change, and what lies on disk."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixcpt.errors import BadConfig, BadFile, BadInput, Damaged, NotFound
from mixcpt.interchange import import_selection
from mixcpt.records import Message, Record
from mixcpt.scores import ScoredSample, ScoreTable, default_score, delete_table, list_tables, table_ids
from mixcpt.selection import (
    Rule,
    Selection,
    delete_selection,
    histogram,
    list_selections,
    open_selection,
    selection_names,
)
from mixcpt.settings import validate
from mixcpt.sources import read
from mixcpt.workspace import Workspace

INFO = {
    "id": "talk.base.1",
    "source": "talk",
    "kind": "instructions",
    "run": None,
    "model": "smollm2-135m",
    "template": None,
    "created": "2026-01-01T00:00:00Z",
}


def sample(id: str, loss: float | None = None, tokens: int = 10, reason: str = "", **scores: float) -> ScoredSample:
    record = Record("instructions", messages=(Message("user", f"q {id} €\u2028"), Message("assistant", f"a {id}")))
    values = scores if loss is None else {"loss_plain": loss, **scores}
    return ScoredSample(id, record.to_json(), 0 if reason else tokens, 2, {} if reason else values, reason)


SAMPLES = [
    sample("c", 3.0, tokens=30),
    sample("a", 1.0, tokens=10),
    sample("e", 5.0, tokens=50),
    sample("b", 2.0, tokens=20),
    sample("d", 2.0, tokens=40),
    sample("x", reason="the answer is empty"),
    sample("y", reason="the answer is empty"),
]
TABLE = ScoreTable(INFO, SAMPLES)


def rule(**values: Any) -> Rule:
    return validate(Rule, values, "the test")


@pytest.mark.parametrize(
    ("given_rule", "ids"),
    [
        ({"strategy": "easiest", "score": "loss_plain"}, "abdce"),
        ({"strategy": "hardest", "score": "loss_plain"}, "ecbda"),
        ({"strategy": "easiest", "score": "loss_plain", "count": 3}, "abd"),
        ({"strategy": "easiest", "score": "loss_plain", "count": 99}, "abdce"),
        ({"strategy": "easiest", "score": "loss_plain", "threshold": 2.0}, "abd"),
        ({"strategy": "easiest", "score": "loss_plain", "threshold": 0.5}, ""),
        ({"strategy": "hardest", "score": "loss_plain", "threshold": 3.0}, "ec"),
        ({"strategy": "easiest", "score": "loss_plain", "tokens": 70}, "abd"),
        ({"strategy": "easiest", "score": "loss_plain", "tokens": 69}, "ab"),
        ({"strategy": "hardest", "score": "loss_plain", "tokens": 49}, ""),
        ({"strategy": "all"}, "caebd"),
        ({"strategy": "all", "count": 2}, "ca"),
        ({"strategy": "by-hand"}, ""),
    ],
)
def test_what_each_rule_takes(given_rule: dict[str, Any], ids: str) -> None:
    assert rule(**given_rule).choose(SAMPLES) == list(ids)


def test_where_high_is_easy_the_easiest_are_the_highest() -> None:
    samples = [sample("a", margin=-1.0), sample("b", margin=4.0), sample("c", margin=0.5)]
    assert rule(strategy="easiest", score="margin").choose(samples) == ["b", "c", "a"]
    assert rule(strategy="hardest", score="margin").choose(samples) == ["a", "c", "b"]
    assert rule(strategy="easiest", score="margin", threshold=0.5).choose(samples) == ["b", "c"]
    assert rule(strategy="hardest", score="margin", threshold=0.5).choose(samples) == ["a", "c"]


samples_of = st.lists(st.tuples(st.floats(-50, 50), st.integers(1, 99), st.booleans()), min_size=1, max_size=30).map(
    lambda rows: [sample(f"s{n}", x, t, reason="bad" if bad else "") for n, (x, t, bad) in enumerate(rows)]
)


@given(samples_of, st.integers(1, 800), st.randoms(use_true_random=False))
def test_no_rule_depends_on_the_order_or_passes_its_budget(
    samples: list[ScoredSample], budget: int, chance: Any
) -> None:
    shuffled = list(samples)
    chance.shuffle(shuffled)
    for strategy in ("easiest", "hardest", "random"):
        one = rule(strategy=strategy, score="loss_plain", tokens=budget)
        taken = one.choose(samples)
        assert taken == one.choose(shuffled)
        by_id = {s.id: s for s in samples}
        assert sum(by_id[id].tokens for id in taken) <= budget and not any(by_id[id].reason for id in taken)
        if strategy == "easiest":
            left = [s.scores["loss_plain"] for s in samples if not s.reason and s.id not in taken]
            assert all(by_id[id].scores["loss_plain"] <= min(left, default=99) for id in taken)


def test_chance_is_the_seed_and_nothing_else() -> None:
    samples = [sample(f"s{n:03}", 1.0) for n in range(200)]
    one = rule(strategy="random", count=50, seed=1).choose(samples)
    assert one == rule(strategy="random", count=50, seed=1).choose(samples[::-1])
    assert set(one) != set(rule(strategy="random", count=50, seed=2).choose(samples))
    assert one[:20] == rule(strategy="random", count=20, seed=1).choose(samples), "a smaller one is part of a larger"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"strategy": "easiest"}, "easiest needs a score, but score is None: take one of perplexity_template"),
        ({"strategy": "hardest", "score": "beauty"}, "score is 'beauty'"),
        ({"strategy": "all", "count": 3, "tokens": 9}, "count and tokens are given, but only one"),
        ({"strategy": "random", "threshold": 1.0}, "a threshold says nothing for random: set count or tokens"),
        ({"strategy": "by-hand", "count": 1}, "count says nothing for by-hand"),
        ({"strategy": "best"}, "'strategy' is 'best'"),
        ({"strategy": "all", "count": 0}, "'count' is 0"),
        ({"strategy": "easiest", "score": "margin", "threshold": float("nan")}, "'threshold' is nan"),
        ({"number": 3}, "the key 'number' is unknown"),
    ],
)
def test_rules_that_contradict_themselves_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(BadConfig) as caught:
        rule(**values)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"strategy": "easiest", "score": "loss_plain", "count": 1500},
         "the easiest 1,500 by Loss, plain text, lowest first"),
        ({"strategy": "hardest", "score": "margin", "threshold": 2.5},
         "the hardest by Margin, lowest first, up to 2.5"),
        ({"strategy": "easiest", "score": "margin", "threshold": 2.5},
         "the easiest by Margin, highest first, down to 2.5"),
        ({"strategy": "easiest", "score": "ifd", "tokens": 1500},
         "the easiest by IFD, lowest first, up to 1,500 tokens"),
        ({"strategy": "random", "tokens": 9, "seed": 3}, "by chance (seed 3), up to 9 tokens"),
        ({"strategy": "random", "count": 9}, "9 by chance (seed 0)"),
        ({"strategy": "all", "count": 1200}, "the first 1,200"),
        ({"strategy": "all", "tokens": 9}, "all, in their order, up to 9 tokens"),
        ({"strategy": "all"}, "all, in their order"),
        ({"strategy": "by-hand"}, "what was kept by hand"),
    ],
)  # fmt: skip
def test_a_rule_says_its_direction(values: dict[str, Any], words: str) -> None:
    assert rule(**values).words() == words


def test_a_score_that_no_sample_has_is_told_with_the_remedy() -> None:
    with pytest.raises(BadInput, match=r"No sample has the score 'perplexity_template': .* chat template: score again"):
        rule(strategy="easiest", score="perplexity_template").choose(SAMPLES)
    with pytest.raises(BadInput, match=r"No sample has the score 'ifd': these have loss_plain\.$"):
        rule(strategy="easiest", score="ifd").choose(SAMPLES)


EASY = rule(strategy="easiest", score="loss_plain", count=2)


def test_hands_win_over_the_rule() -> None:
    selection = Selection.of(TABLE, EASY, keep=["e", "a"], discard=["b"])
    assert selection.ids == ["a", "e"], "a was chosen anyway, and the place of b is not filled"
    assert [row.id for row in selection.rows()] == ["a", "e"]
    assert [record.messages[1].content for record in selection.records()] == ["a a", "a e"]
    assert selection.with_rule(rule(strategy="all")).ids == ["c", "a", "e", "d"]


def test_the_last_word_of_a_hand_counts() -> None:
    one = Selection.of(TABLE, EASY).by_hand(keep=["e"], discard=["a"])
    assert (one.ids, one.keep, one.discard) == (["b", "e"], ["e"], ["a"])
    turned = one.by_hand(keep=["a"], discard=["e"])
    assert (turned.ids, turned.keep, turned.discard) == (["a", "b"], ["a"], ["e"])
    assert turned.by_hand(reset=["a", "e"]).keep == turned.by_hand(reset=["a", "e"]).discard == []
    assert one.ids == ["b", "e"], "the first stays as it was"


@pytest.mark.parametrize(
    ("hands", "says"),
    [
        ({"keep": ["zz"]}, "There is no sample 'zz'"),
        ({"discard": ["zz"]}, "There is no sample 'zz'"),
        ({"keep": ["a", "b"], "discard": ["b"]}, "'b' is kept and discarded"),
        ({"keep": ["x"]}, "'x' cannot be kept, for the answer is empty"),
    ],
)
def test_hands_that_grasp_at_nothing_are_refused(hands: dict[str, list[str]], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        Selection.of(TABLE, EASY, **hands)


def test_counts() -> None:
    counts = Selection.of(ScoreTable(INFO, [*SAMPLES, sample("z", ifd=1.0)]), EASY, keep=["e"], discard=["b"]).counts()
    assert (counts.candidates, counts.chosen, counts.tokens, counts.answer_tokens) == (6, 2, 60, 4)
    assert (counts.kept_by_hand, counts.discarded_by_hand, counts.unscored) == (1, 1, 1)
    assert counts.excluded == {"the answer is empty": 2}


def test_histogram_by_hand() -> None:
    found = histogram(SAMPLES, "loss_plain", bins=4)
    assert sum(found.counts) == 5 and found.edges[0] == 1.0 and found.edges[-1] == 5.0
    assert found.counts == [1, 2, 1, 1]
    assert histogram(SAMPLES, "margin").counts == [] == histogram([], "loss_plain").edges
    same = histogram([sample("a", 2.0), sample("b", 2.0)], "loss_plain", bins=3)
    assert same.counts == [2, 0, 0]


def test_an_outlier_does_not_squeeze_a_histogram() -> None:
    samples = [sample(f"s{n}", n / 500) for n in range(500)] + [sample("far", 1e9)]
    found = histogram(samples, "loss_plain", bins=20)
    assert sum(found.counts) == 501 and max(found.counts) < 60 and found.edges[-1] == 1e9


@given(samples_of, st.integers(1, 50))
def test_a_histogram_counts_every_value_once(samples: list[ScoredSample], bins: int) -> None:
    found = histogram(samples, "loss_plain", bins)
    assert sum(found.counts) == sum(not s.reason for s in samples)
    assert found.edges == sorted(found.edges)


# On disk


def test_a_saved_selection_comes_back_whole(workspace: Workspace) -> None:
    selection = Selection.of(TABLE, EASY, keep=["e"], discard=["b"])
    selection.save(workspace, "easy-two")
    again = open_selection(workspace, "easy-two")
    assert (again.ids, again.rows(), again.rule, again.info) == (["a", "e"], selection.rows(), EASY, INFO)
    assert (again.keep, again.discard, again.kind) == (["e"], ["b"], "instructions")
    assert again.records()[0].messages[0].content == "q a €\u2028"
    (listed,) = list_selections(workspace)
    assert (listed["name"], listed["chosen"], listed["tokens"]) == ("easy-two", 2, 60)


def test_names_are_not_overwritten_unasked(workspace: Workspace) -> None:
    Selection.of(TABLE, EASY).save(workspace, "one")
    with pytest.raises(BadInput, match="There is a selection 'one' already"):
        Selection.of(TABLE, rule(strategy="all")).save(workspace, "one")
    assert open_selection(workspace, "one").ids == ["a", "b"]
    Selection.of(TABLE, rule(strategy="all")).save(workspace, "one", replace=True)
    assert len(open_selection(workspace, "one").ids) == 5
    with pytest.raises(BadInput, match=r"selection name '\.\./up' cannot be used"):
        Selection.of(TABLE, EASY).save(workspace, "../up")


def test_a_selection_without_rows_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    nothing = Selection.of(TABLE, rule(strategy="easiest", score="loss_plain", threshold=0.1))
    says = (
        r"^The selection 'none' has no rows \(the easiest by Loss, plain text, lowest first, up to 0\.1; 5 candidates, "
        r"0 discarded by hand, 2 unusable\): loosen .*\.$"
    )
    with pytest.raises(BadInput, match=says):
        nothing.save(workspace, "none")
    with pytest.raises(BadInput, match="The selection has no rows"):
        nothing.export(tmp_path / "x.jsonl")
    assert list_selections(workspace) == [] and not (tmp_path / "x.jsonl").exists()


def test_a_selection_that_is_not_there_or_damaged(workspace: Workspace) -> None:
    with pytest.raises(NotFound, match=r"no selection 'a': score a source and save"):
        open_selection(workspace, "a")
    Selection.of(TABLE, EASY).save(workspace, "b")
    with pytest.raises(NotFound, match="no selection 'a': choose from b"):
        delete_selection(workspace, "a")
    path = workspace.root / "selections" / "b" / "scores.jsonl"
    path.write_text(path.read_text().replace('"tokens"', '"tok', 1))
    with pytest.raises(BadFile, match=r"Line 1 of .*scores\.jsonl is damaged: score the source again"):
        open_selection(workspace, "b")
    Selection.of(TABLE, EASY).save(workspace, "b", replace=True)
    delete_selection(workspace, "b")
    assert list_selections(workspace) == []


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"name": "b"}'])
def test_a_damaged_selection_hides_no_other(workspace: Workspace, content: str) -> None:
    for name in ("a", "b"):
        Selection.of(TABLE, EASY).save(workspace, name)
    path = workspace.root / "selections" / "b" / "selection.json"
    path.write_text(content)
    assert [one["name"] for one in list_selections(workspace)] == ["a"]
    assert selection_names(workspace) == ["a", "b"]
    with pytest.raises(Damaged, match=f"{path} is damaged"):
        open_selection(workspace, "b")
    delete_selection(workspace, "b")
    assert selection_names(workspace) == ["a"]


def test_a_damaged_table_hides_no_other(workspace: Workspace) -> None:
    for number, day in enumerate(("2026-01-01", "2026-01-03", "2026-01-02")):
        ScoreTable({**INFO, "id": f"t{number}", "created": f"{day}T00:00:00Z"}, SAMPLES).save(workspace)
    path = workspace.root / "scores" / "tables" / "t1" / "table.json"
    whole = path.read_text()
    path.write_text(whole.replace('"kind"', '"kin"'))
    assert [info["id"] for info in list_tables(workspace)] == ["t2", "t0"]
    assert table_ids(workspace) == ["t0", "t1", "t2"]
    with pytest.raises(Damaged, match="it lacks kind"):
        ScoreTable.open(workspace, "t1")
    path.write_text(whole + " ")
    assert [info["id"] for info in list_tables(workspace)] == ["t1", "t2", "t0"]


def test_a_selection_outlives_its_table(workspace: Workspace) -> None:
    TABLE.save(workspace)
    Selection.of(ScoreTable.open(workspace, TABLE.id), EASY).save(workspace, "mine")
    delete_table(workspace, TABLE.id)
    assert table_ids(workspace) == [] and open_selection(workspace, "mine").ids == ["a", "b"]
    with pytest.raises(NotFound, match="no scores"):
        delete_table(workspace, "../../selections/mine")


@pytest.mark.parametrize(
    ("names", "default"),
    [
        (["loss_plain", "ifd"], "loss_plain"),
        (["perplexity_template", "loss_template", "alignment_response"], "alignment_response"),
        (["margin", "logp_chosen", "implicit_margin"], "implicit_margin"),
        (["ifd"], "ifd"),
        ([], None),
    ],
)
def test_what_is_chosen_by_when_nobody_says(names: list[str], default: str | None) -> None:
    assert default_score(names) == default


# Export and import

PAIR = Record(
    "preferences",
    messages=(Message("system", "s"), Message("user", "q")),
    chosen="c\u2028",
    rejected="r",
    meta={"k": 1},
)
PAIRS = ScoreTable(
    {**INFO, "kind": "preferences"},
    [ScoredSample("p1", PAIR.to_json(), 9, 1, {"margin": 0.5}), sample("p2", margin=-0.5)],
)


def test_what_is_exported_can_be_imported(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    selection = Selection.of(TABLE, EASY, keep=["e"], discard=["b"])
    assert selection.export(path) == 2
    again = import_selection(TABLE, path)
    assert again.rows() == selection.rows() and again.ids == ["a", "e"]
    again.export(tmp_path / "again.jsonl")
    assert path.read_bytes() == (tmp_path / "again.jsonl").read_bytes()


@pytest.mark.parametrize("table", [TABLE, PAIRS], ids=["instructions", "preferences"])
def test_an_export_is_a_source_that_mixcpt_reads(tmp_path: Path, table: ScoreTable) -> None:
    first = table.samples[0]
    Selection.of(table, rule(strategy="by-hand"), keep=[first.id]).export(tmp_path / "x.jsonl")
    (found,) = read(tmp_path / "x.jsonl")
    assert isinstance(found, Record)
    assert (found.messages, found.chosen, found.rejected) == (
        first.parsed.messages,
        first.parsed.chosen,
        first.parsed.rejected,
    )


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "in.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_ids_alone_are_enough(tmp_path: Path) -> None:
    assert import_selection(TABLE, write(tmp_path, {"id": "e"}, "", {"id": "a"})).ids == ["e", "a"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"id": "nobody"}, "line 3: the id 'nobody' is unknown"),
        ({"id": "a"}, "line 3: the id 'a' stands there twice"),
        ({"id": "x"}, "line 3: the sample 'x' cannot be trained on, for the answer is empty"),
        ({"id": "b", "messages": []}, "line 3: the text of 'b' is not the one that was scored"),
        ("{", "line 3: not JSON"),
        ({"id": 3}, "line 3: no object with an id"),
        (["b"], "line 3: no object with an id"),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path: Path, line: Any, says: str) -> None:
    path = write(tmp_path, {"id": "a"}, "", line, {"id": "e"})
    with pytest.raises(BadFile) as caught:
        import_selection(TABLE, path)
    assert str(caught.value).startswith(f"in.jsonl does not fit these scores ({says})")


def test_of_many_faults_the_first_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"line 1: .*line 5: .*'n4' is unknown; and 15 more\): export it again"):
        import_selection(TABLE, write(tmp_path, *({"id": f"n{n}"} for n in range(20))))


def test_files_that_list_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="lists no samples"):
        import_selection(TABLE, write(tmp_path, ""))
    with pytest.raises(BadFile, match="There is no file"):
        import_selection(TABLE, tmp_path / "nowhere")
    (tmp_path / "latin").write_bytes('{"id": "é"}'.encode("latin-1"))
    with pytest.raises(BadFile, match="not UTF-8"):
        import_selection(TABLE, tmp_path / "latin")


def test_an_import_can_be_saved(workspace: Workspace, tmp_path: Path) -> None:
    import_selection(TABLE, write(tmp_path, {"id": "e"})).save(workspace, "mine")
    assert open_selection(workspace, "mine").ids == ["e"]


def test_a_page_can_read_all_this_without_torch() -> None:
    code = (
        "import sys, mixcpt.selection, mixcpt.scores, mixcpt.templates, mixcpt.readings; "
        "print(sorted({'torch', 'transformers', 'peft', 'streamlit'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
