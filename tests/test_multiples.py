"""Small multiples: a panel an arm, a line a seed and measure, all on the same axes."""

import json

import pytest
from made import made_child, made_run

from mixcpt import charts, comparison
from mixcpt.compare import with_curves
from mixcpt.multiples_chart import MOST, multiples
from mixcpt.workspace import Workspace


def test_each_arm_has_a_panel_and_each_seed_its_lines(workspace: Workspace) -> None:
    runs = [
        made_run(workspace, arm="plain", gain=0.4, forgetting=0.2),
        made_run(workspace, arm="plain", seed=1, gain=0.3),
        made_run(workspace, arm="<b>lssd</b>", gain=0.2, forgetting=0.0),
    ]
    rows = with_curves(runs)
    figure = multiples(rows)
    assert [one.text for one in figure.layout.annotations] == ["plain", "&lt;b&gt;lssd&lt;/b&gt;"]
    assert len(figure.data) == 2 * 3 and sum(bool(line.showlegend) for line in figure.data) == 2
    gain = figure.data[0]
    last = rows[0]["curve"][-1]["measure"]["domain_bits_per_byte"]
    assert gain.name == "gain in the field" and gain.y[0] == 0 and gain.y[-1] == pytest.approx(1.6 - last)
    lost = next(line for line in figure.data if line.uid == f"{runs[0].id}-general")
    assert lost.y[-1] == pytest.approx(rows[0]["curve"][-1]["measure"]["general_bits_per_byte"] - 1.25)
    axes = list(figure.select_yaxes())
    assert {axis.matches for axis in axes} <= {None, "y"} and len(axes) == 2


def test_a_run_of_stage_two_goes_on_where_its_chain_had_come_to(workspace: Workspace) -> None:
    first = made_run(workspace, steps=10)
    rows = with_curves([made_child(workspace, first)])
    figure = multiples(rows)
    assert figure.data[0].x[0] == 10 * 1024 and "since the base" in figure.layout.xaxis.title.text


def test_of_many_arms_the_first_are_drawn(workspace: Workspace) -> None:
    (row,) = with_curves([made_run(workspace)])
    rows = [row | {"arm": f"arm {number}", "run": f"r{number}", "title": f"arm {number}"} for number in range(MOST + 3)]
    assert len(multiples(rows).layout.annotations) == MOST


def test_nothing_to_draw_is_a_sentence(workspace: Workspace) -> None:
    assert "no curve to draw" in multiples([]).layout.annotations[0].text


def test_it_is_a_chart_by_name_and_part_of_the_page(workspace: Workspace) -> None:
    runs = [made_run(workspace, arm=arm) for arm in ("one", "two")]
    drawn = charts.draw(workspace, "multiples", [run.id for run in runs])
    assert len(drawn.data) == 4
    assert "Each arm by itself" in comparison.as_html(workspace, runs)
    assert "Each arm by itself" not in comparison.as_html(workspace, runs[:1])


def test_the_comparison_as_json(workspace: Workspace) -> None:
    runs = [made_run(workspace, arm="one", seed=seed) for seed in (0, 1)]
    found = json.loads(comparison.as_json(with_curves(runs)))
    assert [row["run"] for row in found["runs"]] == [run.id for run in runs]
    assert found["runs"][0]["curve"][0]["tokens"] == 0 and found["arms"][0]["seeds"] == [0, 1]
