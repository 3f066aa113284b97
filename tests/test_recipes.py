"""What a recipe becomes on disk. The jobs run inside this process here; test_cli.py runs a recipe with real workers."""

import json
from pathlib import Path
from typing import Any

import pytest
from in_process import InProcess, write_prose
from tiny import do, recipe

from mixcpt import recipes
from mixcpt.config import override
from mixcpt.corpus import corpus_names
from mixcpt.errors import BadConfig, BadFile, MixcptError, TooLittle
from mixcpt.jobs import Jobs
from mixcpt.recipe import CorpusSpec
from mixcpt.runs import Runs
from mixcpt.workspace import Workspace


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch, quick_machine: None) -> None:
    monkeypatch.setattr(recipes, "Supervisor", InProcess)


TUNE = {"values": [1e-4, 2e-2], "budget_tokens": 512, "groups": {"ce": {"objective.retention": "none"}}}


def test_missing_corpora_are_made_and_those_there_are_kept(
    small_corpora: Workspace, tiny_model_folder: Path, tmp_path: Path
) -> None:
    write_prose(tmp_path / "more.jsonl", range(200, 220))
    corpora = [{"name": "field", "files": ["never-read.txt"]}, {"name": "more", "files": ["more.jsonl"]}]
    tiny = override(recipe(tiny_model_folder, corpora=corpora), {"cpt.measures.general": "more"})
    do(small_corpora, tiny, folder=tmp_path)
    assert corpus_names(small_corpora) == ["builtin-instructions", "field", "more", "world"]
    assert [job.payload["files"] for job in Jobs(small_corpora).all() if job.kind == "ingest"] == [
        [str(tmp_path / "more.jsonl")]
    ]


def test_a_corpus_that_cannot_be_made_ends_the_recipe_with_its_sentence(
    workspace: Workspace, tiny_model_folder: Path, tmp_path: Path
) -> None:
    tiny = recipe(tiny_model_folder, corpora=[{"name": "field", "files": ["gone.txt"]}])
    with pytest.raises(MixcptError, match=r"gone\.txt"):
        do(workspace, tiny, folder=tmp_path)
    assert Runs(workspace).all() == []


def test_questions_are_found_beside_the_recipe_and_read_before_anything_starts(
    workspace: Workspace, tiny_model_folder: Path, tmp_path: Path
) -> None:
    tiny = recipe(
        tiny_model_folder,
        arms=[{"name": "asked", "set": {"evaluation.tasks": ["q.jsonl", "general"]}}, {"name": "not"}],
    )
    with pytest.raises(BadFile, match=f"no question set '{tmp_path}/q.jsonl'"):
        do(workspace, tiny, folder=tmp_path)
    assert Jobs(workspace).all() == []
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": "?", "choices": ["a", "b"], "answer": 0}) + "\n")
    found = recipes.find_questions(tiny, tmp_path)
    assert found.arms[0].set["evaluation.tasks"] == [str(tmp_path / "q.jsonl"), "general"]
    plan = recipes.launch(workspace, found, {})
    assert [(job.kind, job.run) for job in plan.jobs] == [
        ("train", plan.runs[0].id),
        ("evaluate", plan.runs[0].id),
        ("train", plan.runs[1].id),
    ]
    assert plan.jobs[1].after == [plan.jobs[0].id]


def test_an_unknown_model_is_refused_before_a_corpus_is_made(
    workspace: Workspace, tiny_model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("words " * 100)
    tiny = recipe(tiny_model_folder, corpora=[{"name": "field", "files": ["a.txt"]}])
    with pytest.raises(BadConfig, match="model 'no-such-model' is unknown"):
        do(workspace, override(tiny, {"cpt.model.name": "no-such-model"}), folder=tmp_path)
    assert Jobs(workspace).all() == []


def test_a_run_that_takes_too_long_or_too_much_is_refused_before_it_starts(
    small_corpora: Workspace, tiny_model_folder: Path
) -> None:
    arms = [{"name": "short"}, {"name": "long", "set": {"mixture.budget_tokens": 10**12}}]
    with pytest.raises(BadConfig, match=r"^long would take about \d+ minutes, but max_minutes is 5: lower mixture"):
        do(small_corpora, recipe(tiny_model_folder, arms=arms, max_minutes=5))
    wide = {"mixture.row_tokens": 131_072, "training.rows_per_step": 64, "training.rows_at_once": 64}
    with pytest.raises(TooLittle, match=r"8\.0 GB are free here: set training\.rows_at_once to 1"):
        do(small_corpora, recipe(tiny_model_folder, arms=[{"name": "wide", "set": wide}]))
    assert Runs(small_corpora).all() == []


def test_a_corpus_made_otherwise_than_the_recipe_says_is_refused(
    workspace: Workspace, tiny_model_folder: Path, tmp_path: Path
) -> None:
    write_prose(tmp_path / "a.jsonl", range(40))
    stand_in: Any = InProcess(workspace)

    def make(**spec: Any) -> None:
        tiny = recipe(tiny_model_folder, corpora=[{"name": "field", "files": ["a.jsonl"]} | spec])
        recipes.ingest(workspace, tiny, tmp_path, stand_in, lambda job: None)

    make()
    make(split="of no account for files")
    assert len(Jobs(workspace).all()) == 1
    with pytest.raises(BadConfig, match=r"'field' is there already.*\(other limit\).*`mixcpt corpus remove field`"):
        make(limit=30)
    with pytest.raises(BadConfig, match=r"other files, hub, hub_dir"):
        make(files=[], hub="a/b", hub_dir="python")
    assert len(Jobs(workspace).all()) == 1


def test_a_model_folder_is_found_beside_the_recipe_then_where_we_are(
    workspace: Workspace, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, here = tmp_path / "beside", tmp_path / "here"
    for folder in (beside / "both", here / "both", here / "only-here", here / "smollm2-135m"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    assert recipes.find_model("./both", beside) == str(beside / "both")
    assert recipes.find_model("only-here", beside) == str(here / "only-here")
    assert recipes.find_model("smollm2-135m", beside) == "smollm2-135m"
    assert recipes.find_model("org/name", beside) == "org/name"
    tiny = override(recipe(tiny_model_folder, tune=TUNE), {"cpt.model.name": "./both"})
    tiny = override(tiny, {"arms": [{"name": "a", "set": {"model.name": "only-here"}}]})
    tiny = override(tiny, {"tune.groups": {"ce": {"model.name": "both"}}})
    found = recipes.find_models(tiny, beside)
    assert found.cpt.model.name == found.tune.groups["ce"]["model.name"] == str(beside / "both")  # type: ignore[union-attr]
    assert found.arms[0].set["model.name"] == str(here / "only-here")
    spec = CorpusSpec(name="c", files=["x.txt"])
    assert recipes.submit_ingest(workspace, spec, beside, "both").payload["model"] == str(beside / "both")


def test_a_recipe_carried_out_keeps_the_absolute_model(
    small_corpora: Workspace, tiny_model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "m").symlink_to(tiny_model_folder)
    (run,) = do(small_corpora, override(recipe(tiny_model_folder), {"cpt.model.name": "./m"}), tmp_path).runs
    assert run.config.model.name == str(tmp_path / "m") and run.state(Jobs(small_corpora)) == "done"
