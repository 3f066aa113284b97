"""Charts of scores: what is drawn, worked out by hand, and texts that try to be markup."""

import json
from typing import Any

import plotly.graph_objects as go
from test_charts import EVIL, SAFE, axis_titles
from test_selection import INFO, SAMPLES, TABLE, rule, sample

from mixcpt import spread
from mixcpt.palette import GENERAL, KINDS
from mixcpt.records import Message, Record
from mixcpt.scores import ScoredSample, ScoreTable
from mixcpt.selection import Selection


def named(figure: go.Figure) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data}


def test_a_histogram_parts_the_chosen_from_the_others() -> None:
    """Losses are 1, 2, 2, 3 and 5; of forty bins of 0.1 the chosen three lie in the first and the eleventh."""
    selection = Selection.of(TABLE, rule(strategy="easiest", score="loss_plain", threshold=2.0))
    figure = spread.score_histogram(selection, "loss_plain")
    bars = named(figure)
    assert {place: n for place, n in enumerate(bars["chosen"].y) if n} == {0: 1, 10: 2}
    assert sum(bars["not chosen"].y) == 2 and len(bars["chosen"].y) == 40
    assert bars["chosen"].marker.color == KINDS["instructions"]
    assert axis_titles(figure) == {"Loss, plain text (nats per token), left is easier", "samples"}
    (line,) = figure.layout.shapes
    assert (line.x0, line.line.color) == (2.0, GENERAL)
    assert figure.layout.annotations[0].text == "2"


def test_no_line_stands_where_no_threshold_ends_the_rule() -> None:
    for one in (rule(strategy="all"), rule(strategy="easiest", score="loss_plain", count=2)):
        assert not spread.score_histogram(Selection.of(TABLE, one), "loss_plain").layout.shapes
    other = rule(strategy="easiest", score="ifd", threshold=2.0)
    samples = [sample("a", 1.0, ifd=1.0), sample("b", 2.0, ifd=3.0)]
    assert not spread.score_histogram(Selection.of(ScoreTable(INFO, samples), other), "loss_plain").layout.shapes


def test_an_outlier_is_drawn_in_a_bar_like_the_others() -> None:
    samples = [sample(f"s{n}", n / 500) for n in range(500)] + [sample("far", 1e9)]
    figure = spread.score_histogram(Selection.of(ScoreTable(INFO, samples), rule(strategy="all")), "loss_plain")
    bar = named(figure)["chosen"]
    assert len(set(bar.width.round(12))) == 1 and figure.layout.xaxis.range[1] < 2
    assert bar.customdata[-1].startswith("from 0.9")


def test_what_has_no_score_says_so() -> None:
    selection = Selection.of(TABLE, rule(strategy="all"))
    assert "No sample has this score" in spread.score_histogram(selection, "margin").to_json()
    assert "score again with all forms" in spread.score_scatter(selection, "loss_plain", "ifd").to_json()
    assert "two scores" in spread.agreement(["ifd"], [[1.0]]).to_json()


def both(id: str, plain: float, template: float) -> ScoredSample:
    return sample(id, plain, loss_template=template)


def test_a_scatter_parts_the_chosen_too_and_shows_where_both_are_equal() -> None:
    samples = [both("a", 1.0, 2.0), both("b", 2.0, 1.0), both("c", 3.0, 3.0), sample("d", 1.0)]
    selection = Selection.of(ScoreTable(INFO, samples), rule(strategy="easiest", score="loss_plain", count=1))
    traces = named(spread.score_scatter(selection, "loss_plain", "loss_template", ratio=0.5))
    chosen, rest = traces["chosen"], traces["not chosen"]
    assert (list(chosen.x), list(chosen.y), list(chosen.customdata)) == ([1.0], [2.0], ["a"])
    assert list(rest.customdata) == ["b", "c"]
    assert list(traces["the same"].x) == list(traces["the same"].y)
    half = traces["ratio 0.5"]
    assert [y / x for x, y in zip(half.x, half.y, strict=True)] == [0.5, 0.5]


def test_no_line_of_equals_where_the_units_differ() -> None:
    samples = [sample("a", 1.0, ifd=0.5), sample("b", 2.0, ifd=0.5)]
    selection = Selection.of(ScoreTable(INFO, samples), rule(strategy="all"))
    assert "the same" not in named(spread.score_scatter(selection, "loss_plain", "ifd"))


def test_of_a_large_cloud_the_chosen_stay_and_the_others_are_thinned() -> None:
    samples = [both(f"s{n}", n / 1000, 1.0) for n in range(6000)]
    selection = Selection.of(ScoreTable(INFO, samples), rule(strategy="easiest", score="loss_plain", count=300))
    traces = named(spread.score_scatter(selection, "loss_plain", "loss_template"))
    assert len(traces["chosen"].x) == 300 and len(traces["not chosen"].x) == spread.POINTS - 300


def test_a_question_is_text_and_not_markup() -> None:
    record = Record("instructions", messages=(Message("user", EVIL), Message("assistant", "a")))
    evil = ScoredSample("e", record.to_json(), 3, 1, {"loss_plain": 1.0, "loss_template": 1.0})
    selection = Selection.of(ScoreTable(INFO, [evil, both("a", 2.0, 2.0)]), rule(strategy="all"))
    said = json.loads(spread.score_scatter(selection, "loss_plain", "loss_template").to_json())
    assert SAFE in said["data"][1]["hovertext"]


def test_the_table_of_agreement_is_square_and_says_its_numbers() -> None:
    names = ["ifd", "loss_plain", "alignment_whole"]
    figure = spread.agreement(names, [[1.0, 0.25, None], [0.25, 1.0, -0.5], [None, -0.5, 1.0]])
    (heat,) = figure.data
    assert heat.text[0] == ("1.00", "0.25", "–") or list(heat.text[0]) == ["1.00", "0.25", "–"]
    assert list(figure.layout.yaxis.ticktext) == [
        "IFD  1",
        "Loss, plain text  2",
        "Format alignment, over the whole te…  3",
    ]
    assert list(figure.layout.xaxis.ticktext) == ["1", "2", "3"]
    assert heat.customdata[1][2] == "Loss, plain text and Format alignment, over the whole text*"


def test_the_question_of_a_sample_is_the_last_thing_asked() -> None:
    turns = (Message("user", "first"), Message("assistant", "yes"), Message("user", "then"), Message("assistant", "no"))
    record = Record("instructions", messages=turns)
    assert ScoredSample("a", record.to_json(), 1, 1, {}).question == "then"
    assert SAMPLES[0].question.startswith("q c") and SAMPLES[0].answer == "a c"
