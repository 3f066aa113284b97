"""`mixcpt changes`, on losses worked out by hand and once to its end on a tiny model."""

import json
from pathlib import Path

import pytest
from adapted import adapted_run
from losses_by_hand import changed
from made import made_run
from test_cli import check_keys
from test_cli_evaluate import Cli, cli

from mixcpt.runs import Run
from mixcpt.workspace import Workspace

__all__ = ["cli"]


@pytest.fixture
def run(workspace: Workspace) -> Run:
    return changed(made_run(workspace))


def test_as_json(cli: Cli, run: Run) -> None:
    code, out, _ = cli("changes", run.id[:-2], "--top", "2", "--json")
    shown = json.loads(out)
    assert code == 0 and shown["run"] == run.id
    check_keys("mixcpt changes", [shown])
    check_keys("mixcpt changes", [shown["one_learned"], *shown["learned"], *shown["lost"]], table=1)
    check_keys("mixcpt changes", shown["summary"], table=2)
    assert [one["change"] for one in shown["learned"]] == [-1.5, -0.5]
    assert shown["one_lost"]["sentence"] == "Rain fell on the road." and shown["one_lost"]["share"] == 2 / 3
    road = [token for token in shown["one_lost"]["context"] if token["text"] == " road"]
    assert road == [{"text": " road", "base": 2.0, "run": 3.0, "is_inside": True}]


def test_as_text_and_of_one_part(cli: Cli, run: Run) -> None:
    code, out, _ = cli("changes", run.id)
    assert code == 0 and "One thing it learned: The mill of Zwemfune stands.\n  builtin/atlas, builtin/atlas 0" in out
    assert "3 sentences became less likely" in out and "   +1.00  general  Rain fell on the road." in out
    (line,) = [line.split() for line in out.splitlines() if "the field's own terms" in line]
    assert line[:8] == ["field", "the", "field's", "own", "terms", "2.000", "1.000", "-1.000"]
    code, out, _ = cli("changes", run.id, "--part", "field")
    assert "1 sentences became less likely" in out and "general" not in out.split("sentences became")[1]


def test_a_run_that_was_not_measured_says_how(cli: Cli, workspace: Workspace) -> None:
    other = made_run(workspace)
    code, out, err = cli("changes", other.id)
    assert code == 2 and not out and f"run `mixcpt measure {other.id}` first" in err


def test_it_can_be_measured_first(cli: Cli, small_corpora: Workspace, tiny_model_folder: Path) -> None:
    run = adapted_run(small_corpora, tiny_model_folder, seed=1)
    code, out, _ = cli("changes", run.id, "--measure", "--json")
    parts = {line["part"] for line in json.loads(out)["summary"]}
    assert code == 0 and parts == {"field", "general"}
