"""Charts: values worked out by hand from records, names that try to be markup, and drawing by name."""

import json
import re
from typing import Any

import plotly.graph_objects as go
import pytest
from losses_by_hand import changed
from made import made_chain, made_run
from test_selection import INFO, sample
from test_strengths import measured_at

from mixcpt import charts, palette
from mixcpt.compare import summarise, with_curves
from mixcpt.comparison import as_html, rows_of
from mixcpt.errors import BadInput, NotFound
from mixcpt.manifest import Histogram
from mixcpt.measured import Point
from mixcpt.plotting import POINTS, Code, Heading, Table, label, running_mean, thinned
from mixcpt.scores import ScoreTable
from mixcpt.selection import Rule, Selection
from mixcpt.settings_diff import settings_table
from mixcpt.tables import table
from mixcpt.workspace import Workspace

EVIL = "<b>x</b> & $y^2$ %{x} </script>"
SAFE = "&lt;b&gt;x&lt;/b&gt; &amp; &#36;y^2&#36; &#37;{x} &lt;/script&gt;"


def record(step: int, **figures: float) -> dict[str, Any]:
    return {"step": step, "tokens": 100 * step, **figures}


def point(tokens: int, domain: float | None, general: float | None, kl: float | None = None) -> dict[str, Any]:
    figures = {"domain_bits_per_byte": domain, "general_bits_per_byte": general, "prompt_kl": kl}
    return {"tokens": tokens, "measure": {name: value for name, value in figures.items() if value is not None}}


def row(number: int, **more: Any) -> dict[str, Any]:
    return {
        "run": f"run-{number}",
        "experiment": "e",
        "arm": f"arm {number}",
        "settings": str(number),
        "seed": 0,
        "tokens": 1000,
        "forgetting": 0.25,
        "domain_gain": 0.5,
        "curve": [point(0, 1.5, 1.0, 0.0), point(500, 1.25, 1.125, 0.2), point(1000, 1.0, 1.25, 0.4)],
        **more,
    }


def traces(figure: go.Figure, mode: str = "") -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data if trace.name and mode in (trace.mode or "")}


def words(figure: go.Figure) -> list[str]:
    return [annotation.text for annotation in figure.layout.annotations]


def axis_titles(figure: go.Figure) -> set[str]:
    layout = figure.to_dict()["layout"]
    return {axis["title"]["text"] for name, axis in layout.items() if "axis" in name and axis.get("title")}


def test_a_name_is_made_safe_and_short() -> None:
    assert label(EVIL, None) == SAFE
    assert label("a" * 41) == "a" * 39 + "…" and label("a" * 40) == "a" * 40
    assert label("two\nlines\x07 \u202e") == "two lines\ufffd \ufffd"


def test_losses_are_drawn_over_tokens_with_their_unit() -> None:
    figure = charts.losses([record(n, loss=3.0 + n, ce=2.0 + n, retention=1.0) for n in (1, 2)])
    total, ce, retention = figure.data
    assert (list(total.x), list(total.y), list(ce.y), list(retention.y)) == ([100, 200], [4, 5], [3, 4], [1, 1])
    assert axis_titles(figure) == {"tokens read", "loss (nats per token)"}


def test_plain_training_has_one_loss() -> None:
    figure = charts.losses([record(n, loss=2.0, ce=2.0) for n in (1, 2)])
    assert [trace.name for trace in figure.data] == ["cross-entropy: learning the text"]


def test_a_long_noisy_curve_is_smoothed_and_thinned() -> None:
    figure = charts.speed([record(n, tokens_per_second=100.0 + n % 2) for n in range(1, 2001)])
    raw, mean = figure.data
    assert len(raw.x) == len(mean.x) == POINTS and (mean.x[0], mean.x[-1]) == (100, 200_000)
    assert mean.y[-1] == 100.5 and mean.line.width > raw.line.width  # the last 80 steps: half of them odd
    assert "mean of the last 80 steps" in mean.hovertemplate


def test_a_running_mean_is_of_the_last_values() -> None:
    assert running_mean([1, 3, 5, 7], 2) == [1, 2, 4, 6]


def test_thinning_keeps_the_first_and_the_last_point() -> None:
    assert thinned(list(range(11)), 6) == [0, 2, 4, 6, 8, 10] and thinned([1, 2], 6) == [1, 2]


def test_memory_is_in_gigabytes_and_a_rate_as_it_was() -> None:
    records = [record(1, memory_bytes=1_500_000_000, learning_rate=1e-3)]
    assert list(charts.memory(records).data[0].y) == [1.5]
    assert list(charts.learning_rate(records).data[0].y) == [1e-3]
    assert axis_titles(charts.memory(records)) == {"tokens read", "peak memory (GB)"}


@pytest.mark.parametrize("name", ["losses", "learning_rate", "speed", "memory", "forgetting_curve", "shares", "plane"])
def test_where_there_is_nothing_a_sentence_says_so(name: str) -> None:
    figure = getattr(charts, name)([])
    assert not figure.data and len(words(figure)) == 1 and words(figure)[0].endswith(".")


def test_the_curve_of_a_run_shows_both_sides_the_base_and_kl() -> None:
    figure = charts.forgetting_curve([point(0, 1.5, 1.0, 0.0), point(500, 1.25, 1.125, 0.25)])
    field, general, distance = figure.data
    assert (list(field.y), list(field.customdata)) == ([1.5, 1.25], [0.0, -0.25])
    assert (field.name, general.name) == ("field: 1.500 → 1.250", "general text: 1.000 → 1.125")
    assert list(distance.y) == [0.0, 0.25]
    assert sorted(shape.y0 for shape in figure.layout.shapes) == [1.0, 1.5]
    assert (field.line.color, general.line.color, distance.line.color) == (
        palette.DOMAIN,
        palette.GENERAL,
        palette.DISTANCE,
    )
    assert {"tokens read", "bits per byte (lower is better)"} < axis_titles(figure)


def test_what_was_not_measured_is_not_drawn() -> None:
    assert [trace.uid for trace in charts.forgetting_curve([point(0, 1.5, None)]).data] == ["domain_bits_per_byte"]
    assert [trace.uid for trace in charts.forgetting_curve([point(0, None, None, 0.0)]).data] == ["prompt_kl"]


@pytest.mark.parametrize(
    ("measure", "ys"), [("general", [0, 0.125, 0.25]), ("domain", [0, 0.25, 0.5]), ("kl", [0, 0.2, 0.4])]
)
def test_curves_are_differences_to_the_base(measure: str, ys: list[float]) -> None:
    (trace,) = charts.forgetting_curves([row(1)], measure).data
    assert list(trace.y) == pytest.approx(ys) and list(trace.x) == [0, 500, 1000]


def test_seeds_share_a_colour_and_a_line_of_the_legend() -> None:
    rows = [row(1), row(2), row(1, run="again", seed=1)]
    band, first, again, mean, second = charts.forgetting_curves(rows).data
    assert first.line.color == again.line.color == mean.line.color != second.line.color
    assert [trace.showlegend for trace in (band, first, again, mean, second)] == [False, False, False, None, True]
    assert "mean of 2 seeds" in mean.hovertemplate and mean.line.width > first.line.width


def test_the_ninth_arm_has_another_dash() -> None:
    lines = [trace.line for trace in charts.forgetting_curves([row(number) for number in range(9)]).data]
    assert lines[0].color == lines[8].color and lines[0].dash != lines[8].dash


def test_thirty_runs_of_two_thousand_points_stay_light() -> None:
    curve = [point(n, 1.0, 1.0) for n in range(2000)]
    figure = charts.forgetting_curves([row(number, curve=curve) for number in range(30)])
    assert max(len(trace.x) for trace in figure.data) == POINTS and len(figure.to_json()) < 1_000_000


def test_the_plane_has_the_base_at_its_origin_and_run_ids_for_clicks() -> None:
    figure = charts.plane([row(1), row(2, forgetting=-0.1, domain_gain=0.2)])
    base = next(trace for trace in figure.data if trace.uid == "base")
    assert (base.x, base.y) == ((0,), (0,))
    ends = {trace.customdata[0]: (trace.x[0], trace.y[0]) for trace in figure.data if trace.customdata}
    assert ends == {"run-1": (0.25, 0.5), "run-2": (-0.1, 0.2)}
    low, high = figure.layout.xaxis.range
    assert low < -0.1 and high > 0.25
    trails = [trace for trace in figure.data if trace.mode == "lines"]
    assert (list(trails[0].x), list(trails[0].y)) == ([0, 0.125, 0.25], [0, 0.25, 0.5])


def test_labels_of_the_plane_never_lie_on_each_other() -> None:
    apart = charts.plane([row(1), row(2, domain_gain=0.1)])
    assert {"arm 1", "arm 2"} <= set(words(apart)) and not apart.layout.showlegend
    crowd = charts.plane([row(number) for number in range(12)])
    assert crowd.layout.showlegend and sum("arm" in text for text in words(crowd)) < 12


def strong(number: int, **more: Any) -> dict[str, Any]:
    """A row as `strengths.anew` gives it: half the strength gains 0.4 for 0.05, the whole 0.5 for 0.25."""
    points = [
        {"strength": strength, "gain": gain, "gain_interval": (gain - 0.1, gain + 0.2), "gain_documents": 12,
         "forgetting": lost, "forgetting_interval": (lost - 0.02, lost + 0.03), "forgetting_documents": 70, "kl": None}
        for strength, gain, lost in ((0.5, 0.4, 0.05), (1.0, 0.5, 0.25))
    ]  # fmt: skip
    ends = {"domain_gain_interval": (0.4, 0.7), "forgetting_interval": (0.23, 0.28)}
    made = row(number, strengths=points, **ends, **more)
    del made["curve"]
    return made


def of(figure: go.Figure, uid: str) -> Any:
    return next(trace for trace in figure.data if trace.uid == uid)


def test_strengths_are_a_dotted_line_from_the_base_with_a_point_each() -> None:
    figure = charts.plane([strong(1), row(2)])
    line, points, end = (of(figure, f"run-1{what}") for what in ("-strengths", "-points", ""))
    assert (list(line.x), list(line.y), line.line.dash) == ([0, 0.05, 0.25], [0, 0.4, 0.5], "dot")
    assert (list(points.x), list(points.y), points.customdata[0]) == ([0.05], [0.4], ["run-1", "0.5"])
    assert "at strength %{customdata[1]}" in points.hovertemplate
    assert (end.error_x.array[0], end.error_x.arrayminus[0]) == pytest.approx((0.03, 0.02))
    assert (end.error_y.array[0], end.error_y.arrayminus[0]) == pytest.approx((0.2, 0.1))
    assert "12 documents of the field" in end.hovertemplate and "70 general documents" in end.hovertemplate
    assert not any(str(trace.uid).startswith("run-2-") for trace in figure.data)


def test_the_front_is_drawn_when_asked_for_over_runs_and_strengths() -> None:
    rows = [strong(1), row(2, domain_gain=0.45, forgetting=0.3), row(3, domain_gain=0.6, forgetting=0.4)]
    assert "front" not in [trace.uid for trace in charts.plane(rows).data]
    figure = charts.plane(rows, pareto=True)
    front = of(figure, "front")
    assert (list(front.x[1:-1]), list(front.y[1:-1])) == ([0, 0.05, 0.25, 0.4], [0, 0.4, 0.5, 0.6])
    assert list(front.customdata[1:-1]) == ["base", "arm 1 at strength 0.5", "arm 1", "arm 3"]
    assert front.line.shape == "hv"
    assert (front.x[0], front.y[0]) == (0, figure.layout.yaxis.range[0]), "up from below at what forgets least"
    assert (front.x[-1], front.y[-1]) == (figure.layout.xaxis.range[1], 0.6), "and on to the right"


def test_labels_keep_off_error_bars() -> None:
    """The bar to the right of the point is as long as the label, so that stands elsewhere."""
    plain, wide = row(1), strong(1) | {"forgetting_interval": (0.0, 0.6)}
    shifts = [
        next(one.yshift for one in charts.plane([shown]).layout.annotations if one.text == "arm 1")
        for shown in (plain, wide)
    ]
    assert abs(shifts[0]) < 8 < abs(shifts[1])


def test_what_forgets_more_than_is_accepted_is_dimmed() -> None:
    figure = charts.plane([strong(1), row(2, forgetting=0.08)], tolerance=0.1)
    assert of(figure, "run-1").opacity < 0.5 and of(figure, "run-2").opacity == 1
    assert list(of(figure, "run-1-points").marker.opacity) == [1]
    assert [shape.x0 for shape in figure.layout.shapes if shape.line.dash == "dash"] == [0.1]
    wide = charts.plane([row(2, forgetting=0.08)], tolerance=3.0)
    assert wide.layout.xaxis.range[1] > 3


def test_an_arm_of_several_seeds_has_its_mean_with_both_intervals() -> None:
    """Gains 0.4, 0.5, 0.6: mean 0.5, deviation 0.1, t(2) = 4.30265 over sqrt(3): half of it 0.24842."""
    seeds = [row(1, run=f"run-{n}", seed=n, domain_gain=0.4 + n / 10, forgetting=0.1 * n) for n in range(3)]
    mean = of(charts.plane([*seeds, row(2)]), "mean-0")
    assert (mean.x[0], mean.y[0]) == pytest.approx((0.1, 0.5))
    assert mean.error_y.array[0] == mean.error_y.arrayminus[0] == pytest.approx(0.24842, abs=1e-4)
    assert mean.error_x.array[0] == pytest.approx(0.24842, abs=1e-4) and "mean of 3 seeds" in mean.hovertemplate
    assert not [trace for trace in charts.plane([row(1), row(2)]).data if str(trace.uid).startswith("mean")]


def test_gain_and_forgetting_over_strength() -> None:
    points = [Point(s, 0.5 * s, (0.4 * s, 0.7 * s), 12, 0.2 * s, (0.1 * s, 0.2 * s), 70) for s in (0.0, 0.5, 1.0)]
    figure = charts.strengths(points)
    gain, lost = of(figure, "gain in the field"), of(figure, "forgetting")
    assert (list(gain.x), list(gain.y), list(lost.y)) == ([0, 0.5, 1], [0, 0.25, 0.5], [0, 0.1, 0.2])
    assert list(gain.error_y.array) == pytest.approx([0, 0.1, 0.2])
    assert gain.name == "gain in the field (12 documents)" and lost.name == "forgetting (70 documents)"
    assert not charts.strengths(points[:1]).data


def test_runs_without_both_measures_are_left_out_of_the_plane() -> None:
    bare = row(2)
    del bare["forgetting"]
    assert [trace.customdata[0] for trace in charts.plane([row(1), bare]).data if trace.customdata] == ["run-1"]


def test_shares_show_what_was_asked_for_and_what_came() -> None:
    source = {
        "source": EVIL, "kind": "documents", "domain": True, "requested_share": 0.6, "realised_share": 0.58,
        "tokens": 580, "available_tokens": 290, "documents": 5, "available_documents": 5, "epochs": 2.0,
    }  # fmt: skip
    other = source | {"domain": False, "requested_share": 0.4, "realised_share": 0.42, "epochs": 0.5}
    figure = charts.shares([source, other])
    bars, marks, words = figure.data
    assert [*bars.x, *marks.x] == pytest.approx([58, 42, 60, 40])
    assert list(bars.marker.color) == [palette.DOMAIN, palette.KINDS["documents"]]
    assert list(words.text) == ["58.0 % · read 2.0 times", "42.0 % · 50 % of it read"]
    assert min(words.x) > 60 and list(figure.layout.xaxis.tickvals) == [0, 20, 40, 60]
    assert SAFE in bars.hovertext[0] and "<b>x" not in figure.to_json()


def test_lengths_are_readable_bins_without_empty_ends() -> None:
    (bars,) = charts.lengths(Histogram(edges=[0, 16, 32, 64, 128], counts=[0, 3, 1, 0])).data
    assert (list(bars.x), list(bars.y), list(bars.customdata)) == (["16–31", "32–63"], [3, 1], [75, 25])
    assert not charts.lengths(Histogram(edges=[0, 16], counts=[0])).data


def answered(number: int) -> dict[str, Any]:
    return row(
        number, general_base=0.9, general_base_interval=[0.8, 0.95], general_accuracy=0.75,
        general_interval=[0.6, 0.85], general_items=48, general_chance=0.25, general_majority=0.3,
    )  # fmt: skip


def test_questions_show_the_base_every_run_its_interval_chance_and_majority() -> None:
    figure = charts.questions([row(1), answered(2)])
    guess, frequent, base, run = figure.data
    assert (guess.x[0], frequent.x[0], base.x[0], run.x[0]) == (25, 30, 90, 75)
    assert (base.error_x.array[0], base.error_x.arrayminus[0]) == pytest.approx((5, 10))
    assert (run.error_x.array[0], run.error_x.arrayminus[0]) == pytest.approx((10, 15))
    assert run.marker.color == palette.run_colour(1), "the colour it has in the other charts"
    assert list(figure.layout.yaxis.ticktext) == ["base", "arm 2"]
    assert "No questions were asked yet" in words(charts.questions([row(1)]))[0]


def test_each_model_has_its_own_base_among_the_questions() -> None:
    rows = [answered(1) | {"model": "a/one"}, answered(2) | {"model": "two", "general_base": 0.5}]
    figure = charts.questions(rows)
    bases = [trace for trace in figure.data if trace.marker.symbol == "diamond"]
    assert [(trace.x[0], trace.y[0]) for trace in bases] == [(90, 0), (50, 1)]
    assert list(figure.layout.yaxis.ticktext) == ["base, one", "base, two", "arm 1", "arm 2"]


@pytest.mark.parametrize("figure", [charts.plane, charts.forgetting_curves, charts.questions])
def test_names_are_escaped_wherever_they_stand(figure: Any) -> None:
    drawn = figure([answered(1) | {"title": EVIL}])
    assert SAFE[:10] in str(drawn.to_dict())
    assert not re.search(r"<b>x</b>|\$y|%\{x\} <", str(drawn.to_dict()))


def test_a_live_update_keeps_the_zoom() -> None:
    assert charts.losses([record(1, ce=1.0)]).layout.uirevision == charts.losses([record(2, ce=2.0)]).layout.uirevision


@pytest.mark.parametrize("name", [name for name, chart in charts.CHARTS.items() if chart.of in ("run", "runs")])
def test_every_chart_is_drawn_by_name_from_the_disk(workspace: Workspace, name: str) -> None:
    runs = [made_run(workspace, arm=arm) for arm in ("a", "b")]
    if name in ("rewards", "preferred"):
        runs = [*made_chain(workspace)[2:]]
    if name in ("strengths", "strength_plane", "matrix", "matrices"):
        measured_at(runs[0], 0.5, 1.0)
    if name in ("changes", "change_kinds"):
        changed(runs[0])
    figure = charts.draw(workspace, name, [run.id for run in runs])
    assert figure.data
    assert json.loads(figure.to_json()) == json.loads(charts.draw(workspace, name, [run.id for run in runs]).to_json())


def test_lengths_are_drawn_of_a_corpus(small_corpora: Workspace) -> None:
    assert sum(charts.draw(small_corpora, "lengths", ["field"]).data[0].y) == 40


@pytest.mark.parametrize("name", [name for name, chart in charts.CHARTS.items() if chart.of == "selection"])
def test_charts_of_a_selection_are_drawn_by_name(workspace: Workspace, name: str) -> None:
    pairs = [sample(f"s{n}", float(n), ifd=1.0 / (n + 1)) for n in range(5)]
    Selection.of(ScoreTable(INFO, pairs), Rule(strategy="all"), discard=["s0"]).save(workspace, "mine")
    assert charts.draw(workspace, name, ["mine"]).data
    head, *rows = table(workspace, name, ["mine"])
    assert rows and all(len(row) == len(head) for row in rows)
    with pytest.raises(NotFound, match="no selection 'gone'"):
        charts.draw(workspace, name, ["gone"])


def test_unknown_charts_runs_and_no_subjects_are_refused(workspace: Workspace) -> None:
    with pytest.raises(NotFound, match="no chart 'pie': choose from losses, "):
        charts.draw(workspace, "pie", ["x"])
    with pytest.raises(NotFound, match="no run"):
        charts.draw(workspace, "losses", ["cpt-gone"])
    with pytest.raises(BadInput, match="needs a run: name at least one"):
        charts.draw(workspace, "losses", [])


def test_a_page_stands_alone_and_escapes_everything() -> None:
    figure = charts.plane([row(1) | {"title": EVIL}])
    page = charts.as_html([figure, EVIL, Heading(EVIL), Code(EVIL), Table([EVIL], [[EVIL]], note=EVIL), figure], EVIL)
    assert page.count("plotly.js v") == 1 and "default-src 'none'" in page
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="?http', page)
    rest = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert "<b>x" not in rest and rest.count("&lt;b&gt;x&lt;/b&gt; &amp; $y^2$") == 8
    assert "<script" not in charts.as_html(["only words"], "t")


def test_the_page_of_a_comparison_says_all_and_how_to_get_it_again(workspace: Workspace) -> None:
    runs = [made_run(workspace, arm="a & b", seed=seed, gain=0.4 + seed / 10) for seed in range(2)]
    page = as_html(workspace, runs)
    assert "a &amp; b" in page
    assert f"mixcpt compare {runs[0].id} {runs[1].id}</pre>" in page
    assert page.count("<td>0123456789abcdef</td>") == 2, "the fingerprint of what each run read"
    assert "Mixture seed" in page and "0, 1" in page and page.count("plotly-graph-div") == 5
    assert f"{runs[1].id} --domain-tokens 2458</pre>" in as_html(workspace, runs, 2458)


def test_rows_for_a_page_refuse_single_runs_and_read_only_what_changed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, waiting = made_run(workspace), made_run(workspace, state="queued")
    only_base = made_run(workspace, state="running", steps=1)
    rows, refused = rows_of(workspace, [good.id, waiting.id, only_base.id, "cpt-gone", good.id])
    assert [row["run"] for row in rows] == [good.id]
    assert [one.run for one in refused] == [waiting.id, only_base.id, "cpt-gone"]
    assert "only before its training" in refused[1].reason
    monkeypatch.setattr("mixcpt.summaries.with_curves", lambda *given: pytest.fail("read again"))
    assert rows_of(workspace, [good.id]) == (rows, [])
    monkeypatch.undo()
    good.relabel(name="now called so")
    assert rows_of(workspace, [good.id])[0][0]["title"] == "now called so"


def test_settings_of_seeds_stand_in_one_column(workspace: Workspace) -> None:
    runs = [made_run(workspace, arm="a", seed=seed) for seed in range(2)]
    table = settings_table(runs, with_curves(runs))
    assert table.columns == ["Part", "Setting", "a"]
    assert table.rows == [["Mixture", "Mixture seed", "0, 1"], ["Training", "Training seed", "0, 1"]]
    assert len(summarise(with_curves(runs))) == 1
