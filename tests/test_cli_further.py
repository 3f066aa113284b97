"""`mixcpt continue` with a tiny model that really trains, and `mixcpt matrix --measure` over what it made."""

import json
from pathlib import Path

import pytest
from conftest import Cli
from in_process import InProcess
from made import made_run
from tiny import recipe

from mixcpt.jobs import Jobs
from mixcpt.runs import Run, Runs
from mixcpt.settings import override
from mixcpt.submission import submit_run
from mixcpt.workspace import Workspace


@pytest.fixture
def first(home: Workspace, tiny_model_folder: Path) -> Run:
    learning = {"mixture.budget_tokens": 1500, "training.learning_rate": 5e-3, "training.schedule": "constant"}
    stage = override(recipe(tiny_model_folder).cpt, {"measures.general": "builtin/general", **learning})
    run = Runs(home).create(stage, experiment="trial", name="inland")
    jobs = submit_run(home, run)
    InProcess(home).run_until([job.id for job in jobs], lambda job: None)
    return run


def test_a_run_goes_on_and_is_measured_with_its_chain(home: Workspace, first: Run, cli: Cli) -> None:
    code, out, err = cli("continue", first.id[:-1], "world", "--set", "objective.against=parent", "--json")
    assert code == 0, err
    row = json.loads(out)
    assert (row["stage"], row["parent"], row["status"], row["name"]) == ("cpt", first.id, "done", "inland + world")
    second = Runs(home).get(row["id"])
    assert second.info.experiment == "trial" and second.state(Jobs(home)) == "done"
    code, out, _ = cli("show", second.id)
    assert code == 0 and "base → knowledge: inland → knowledge: inland + world" in out and "field: world" in out

    code, out, err = cli("matrix", second.id, "--measure", "--tokens", "120", "--json")
    assert code == 0, err
    shown = json.loads(out)
    assert shown["missing"] == [] and [stage["run"] for stage in shown["stages"]] == [None, first.id, second.id]
    columns = [column["text"] for column in shown["columns"]]
    assert columns[:2] == ["field", "world"] and "builtin/general" in columns
    assert all(cell["documents"] for stage in shown["stages"] for cell in stage["cells"])
    world = [stage["cells"][1]["bits_per_byte"] for stage in shown["stages"]]
    assert world[2] < world[1]  # it learned that
    back, ahead = shown["backward_transfer"], shown["forward_transfer"]
    field = [stage["cells"][0]["bits_per_byte"] for stage in shown["stages"]]
    assert back["bits_per_byte"] == pytest.approx(field[1] - field[2], abs=1e-12)
    assert ahead["bits_per_byte"] == pytest.approx(world[0] - world[1], abs=1e-12)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["nope", "world"], "There is no run 'nope'"),
        (["RUN", "nope"], "no corpus 'nope'"),
        (["RUN", "builtin/instructions"], "a field is made of documents"),
        (["RUN", "world", "--set", "adapter.rank=3"], "adapter.rank cannot be set"),
        (["RUN", "world", "--set", "training.sed=3"], "did you mean 'seed'"),
        (["FAILED", "world"], "has no finished adapter to continue"),
    ],
)
def test_bad_input_is_one_sentence_and_starts_nothing(
    home: Workspace, cli: Cli, given: list[str], sentence: str
) -> None:
    ids = {"RUN": made_run(home).id, "FAILED": made_run(home, state="failed").id}
    code, out, err = cli("continue", *(ids.get(word, word) for word in given))
    assert (code, out) == (2, "") and err.startswith("mixcpt: ") and sentence in err
    assert {run.id for run in Runs(home).all()} == set(ids.values())
