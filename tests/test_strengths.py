"""A comparison by the measures taken anew: figures replaced as a whole, and runs that have none set apart."""

import pytest
from made import made_run
from test_measured import write

from mixcpt import charts
from mixcpt.comparison import rows_of
from mixcpt.runs import Run
from mixcpt.strengths import anew
from mixcpt.workspace import Workspace


def measured_at(run: Run, *strengths: float) -> Run:
    """Gains 1/3 and loses 1/6 bits per byte at the whole strength, and in proportion below it."""
    for strength in strengths:
        write(run, strength=strength, values=(10.0, 40.0 - 10 * strength))
        write(run, "builtin/general", strength, (10.0, 40.0 + 5 * strength))
        write(run, "builtin/general-web", strength, (10.0, 40.0 + 5 * strength))
    return run


def test_figures_are_those_taken_anew(workspace: Workspace) -> None:
    runs = [measured_at(made_run(workspace), 0.0, 0.5, 1.0), made_run(workspace, arm="not measured")]
    rows, _ = rows_of(workspace, [run.id for run in runs])
    (row,), (left,) = anew(rows, runs)
    assert (row["domain_gain"], row["forgetting"]) == pytest.approx((1 / 3, 1 / 6))
    assert [point["strength"] for point in row["strengths"]] == [0.5, 1] and row["strengths"][0]["gain"] == (
        pytest.approx(1 / 6)
    )
    assert not {"curve", "prompt_kl", "domain_bits_per_byte", "general_bits_per_byte_base"} & row.keys()
    assert left == rows[1] and row["title"] == rows[0]["title"] and row["tokens"] == rows[0]["tokens"]
    assert anew(rows, runs, "code") == ([], rows)


def test_the_whole_chart_by_name(workspace: Workspace) -> None:
    run = measured_at(made_run(workspace), 0.0, 0.5, 1.0)
    drawn = charts.draw(workspace, "strength_plane", [run.id])
    assert {f"{run.id}-strengths", "front"} <= {trace.uid for trace in drawn.data}
    assert [list(trace.x) for trace in charts.draw(workspace, "strengths", [run.id]).data] == [[0, 0.5, 1]] * 2
    bare = made_run(workspace)
    assert not charts.draw(workspace, "strength_plane", [bare.id]).data
    assert not charts.draw(workspace, "strengths", [bare.id]).data
