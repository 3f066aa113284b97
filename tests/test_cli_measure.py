"""`mixcpt measure` to its end, on a tiny model, its job done inside this process."""

import json
from pathlib import Path
from typing import Any

import pytest
from adapted import adapted_run
from test_cli import check_keys
from test_cli_evaluate import Cli, cli

from mixcpt.jobs import Jobs
from mixcpt.runs import Run
from mixcpt.workspace import Workspace

__all__ = ["cli"]


@pytest.fixture
def run(small_corpora: Workspace, tiny_model_folder: Path) -> Run:
    return adapted_run(small_corpora, tiny_model_folder, seed=1, name="first")


def test_a_curve_over_strengths(cli: Cli, run: Run, workspace: Workspace) -> None:
    code, out, _ = cli("measure", run.id[:-2], "--strengths", "0,0.5,1", "--on", "world", "--tokens", 300, "--json")
    (shown,) = json.loads(out)["runs"]
    assert code == 0 and shown["run"] == run.id
    measures: list[dict[str, Any]] = shown["measures"]
    assert len(measures) == 8 * 3 and [one["strength"] for one in measures[:3]] == [0, 0.5, 1]
    check_keys("mixcpt measure", measures, table=1)
    check_keys("mixcpt measure", [shown])
    assert {one["kind"] for one in measures} == {
        *("field", "prose", "web", "encyclopedic", "code", "dialogue", "other", "prompts")
    }
    assert [point["strength"] for point in shown["points"]] == [0, 0.5, 1] and shown["points"][0]["gain"] == 0
    (job,) = Jobs(workspace).all()
    assert (job.kind, job.run, job.state) == ("measure", run.id, "done")
    assert job.status.message == "1 run measured on 8 texts at 3 strengths."


def test_the_table_and_the_name_of_an_experiment(
    cli: Cli, run: Run, small_corpora: Workspace, tiny_model_folder: Path
) -> None:
    other = adapted_run(small_corpora, tiny_model_folder, seed=2, name="second")
    code, out, _ = cli("measure", "test", "--on", "world", "--only")
    first, second = out.split(f"run {other.id}  second")
    assert code == 0 and first.startswith(f"run {run.id}  first") and "builtin" not in out
    (line,) = [line.split() for line in second.splitlines() if "world" in line]
    assert line[:3] == ["world", "other", "1"] and line[-3:] == ["bits", "per", "byte"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--strengths", "0,2"], "A strength of 2 is not possible"),
        (["--strengths", "strong"], "invalid list of numbers value: 'strong'"),
        (["--on", "nowhere"], "There is no corpus 'nowhere'"),
        (["--only"], "nothing to measure"),
        (["--tokens", "1"], "invalid number value: '1'"),
    ],
)
def test_bad_input_is_one_sentence_and_queues_nothing(
    cli: Cli, run: Run, workspace: Workspace, options: list[str], said: str
) -> None:
    code, out, err = cli("measure", run.id, *options)
    assert code == 2 and not out and said in err and Jobs(workspace).all() == []


def test_a_run_without_an_adapter(cli: Cli, run: Run) -> None:
    (run.adapter / "adapter_model.safetensors").unlink()
    code, _, err = cli("measure", run.id)
    assert code == 2 and "has no finished adapter" in err
