"""What a recipe becomes on disk. The jobs run inside this process here; test_cli.py runs a recipe with real workers."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import PROSE
from in_process import InProcess, write_prose

from mixcpt import doctor, machine, recipes
from mixcpt.config import Stage, override, validate
from mixcpt.corpus import corpus_names, ingest_records
from mixcpt.errors import BadConfig, BadFile, BadInput, MixcptError, TooLittle
from mixcpt.jobs import Job, Jobs
from mixcpt.recipe import CorpusSpec, Recipe
from mixcpt.records import Record
from mixcpt.runs import Run, Runs
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace, read_json


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "Supervisor", InProcess)


@pytest.fixture(autouse=True)
def quick_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that need not be timed."""
    timings = SimpleNamespace(fp32=100.0, bf16=100.0)
    machine = SimpleNamespace(cuda=None, memory_available_gb=8.0, timings=timings)
    monkeypatch.setattr(doctor, "machine", lambda workspace: machine)


def recipe(model: Path, **changes: Any) -> Recipe:
    """One step of a few tokens, corpora `field` and `world`, no questions."""
    base = {
        "name": "tiny",
        "cpt": {
            "model": {"name": str(model), "precision": "fp32", "device": "cpu"},
            "mixture": {
                "budget_tokens": 256,
                "row_tokens": 128,
                "sources": [{"source": "field", "share": 3, "domain": True}, {"source": "world", "share": 1}],
            },
            "training": {"learning_rate": 1e-3},
            "measures": {"domain_tokens": 100, "general_tokens": 100, "prompt_tokens": 50, "general": "world"},
            "evaluation": {"tasks": []},
        },
    }
    return validate(Recipe, base | changes, "the test")


def do(workspace: Workspace, recipe: Recipe, folder: Path = Path(), said: list[str] | None = None) -> recipes.Plan:
    say = said.append if said is not None else lambda text: None
    return recipes.carry_out(workspace, recipe, folder, say=say, on_change=lambda job: None)


ARMS = [
    {"name": "tuned", "tuned": "ce"},
    {"name": "half", "tuned": "ce", "times": 0.5, "set": {"objective.retention": "none"}},
    {"name": "plain", "set": {"mixture.sources.1.share": 0.0}},
]
TUNE = {"values": [1e-4, 2e-2], "budget_tokens": 512, "groups": {"ce": {"objective.retention": "none"}}}


@pytest.fixture(scope="module")
def best_rate() -> float:
    """Of the two rates in TUNE, the higher one teaches the tiny model something in two steps."""
    return 2e-2


def test_a_recipe_becomes_a_run_per_arm_and_seed_with_its_tuned_value(
    small_corpora: Workspace, tiny_model_folder: Path, best_rate: float
) -> None:
    said: list[str] = []
    tiny = recipe(tiny_model_folder, arms=ARMS, seeds=[3, 5], tune=TUNE)
    plan = do(small_corpora, tiny, said=said)
    assert [(run.info.arm, run.info.seed) for run in plan.runs] == [
        (arm, seed) for seed in (3, 5) for arm in ("tuned", "half", "plain")
    ]
    assert {job.state for job in plan.jobs} == {"done"} and len(plan.jobs) == 6
    for run in plan.runs:
        config = run.config
        assert isinstance(config, Stage)
        assert (config.training.seed, config.mixture.seed) == (run.info.seed, run.info.seed)
        wanted = {"tuned": best_rate, "half": best_rate / 2, "plain": 1e-3}[run.info.arm]
        assert config.training.learning_rate == wanted
        assert config.objective.retention == ("none" if run.info.arm == "half" else "lssd")
        assert config.mixture.sources[1].share == (0 if run.info.arm == "plain" else 1)
        assert (run.info.experiment, run.info.recipe, run.info.parent) == ("tiny", "tiny", None)
        assert (run.adapter / "adapter_model.safetensors").is_file()

    tries = [run for run in Runs(small_corpora).all() if run.info.arm.startswith("tune ")]
    assert sorted(run.info.arm for run in tries) == ["tune ce 0.0001", "tune ce 0.02"]
    for run in tries:
        config = run.config
        assert isinstance(config, Stage)
        assert (config.measures.on, config.evaluation.tasks) == ("validation", [])
        assert (config.mixture.budget_tokens, config.objective.retention) == (512, "none")
    kept = read_json(small_corpora.experiments / "tiny" / "tuning.json")
    ends = {run.config.training.learning_rate: run.curve()[-1]["measure"]["domain_bits_per_byte"] for run in tries}
    assert kept["validation_bits_per_byte"]["ce"] == {"0.0001": ends[1e-4], "0.02": ends[2e-2]}
    assert ends[best_rate] == min(ends.values()) and kept["chosen"] == {"ce": best_rate}
    assert "tuned training.learning_rate for ce: 0.02" in said
    assert all(any(run.id in line for line in said) for run in [*plan.runs, *tries])

    def tune(recipe: Recipe) -> dict[str, float]:
        stand_in: Any = InProcess(small_corpora)
        return recipes.tune(small_corpora, recipe, stand_in, said.append, lambda job: None)

    # The same question is not asked again; another one is.
    assert tune(tiny) == {"ce": best_rate}
    assert len(Runs(small_corpora).all()) == 8
    other = override(tiny, {"tune.budget_tokens": 256})
    tune(other)
    assert len(Runs(small_corpora).all()) == 10


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


def test_tuning_without_a_field_to_judge_by_is_refused(tiny_model_folder: Path) -> None:
    groups = {"ce": {"mixture.sources.0.domain": False}}
    with pytest.raises(BadConfig, match="tuning group 'ce' has no field to be judged by: mark one"):
        recipe(tiny_model_folder, tune=TUNE | {"groups": groups})


def queued(workspace: Workspace, model: Path, **changes: Any) -> tuple[Run, list[Job]]:
    plan = recipes.launch(workspace, override(recipe(model), changes), {})
    return plan.runs[0], plan.jobs


def test_resume_puts_back_what_stopped_and_what_waited_for_it(workspace: Workspace, tiny_model_folder: Path) -> None:
    run, (train, ask) = queued(workspace, tiny_model_folder, **{"cpt.evaluation.tasks": ["general"]})
    for job in (ask, train):
        Jobs(workspace).request_cancel(job)
    assert [job.state for job in (train, ask)] == ["cancelled", "cancelled"]
    assert recipes.resume(workspace, run) == [train, ask]
    assert [job.state for job in (train, ask)] == ["queued", "queued"]

    train.update(state="done")
    ask.update(state="failed", message="no luck")
    assert recipes.resume(workspace, run) == [ask]
    assert (train.state, ask.state) == ("done", "queued")


def test_only_a_stopped_run_can_be_resumed(workspace: Workspace, tiny_model_folder: Path) -> None:
    run, (train,) = queued(workspace, tiny_model_folder)
    with pytest.raises(BadInput, match=r"is queued.*wait for its end"):
        recipes.resume(workspace, run)
    train.update(state="done")
    with pytest.raises(BadInput, match=r"is done.*start a new one"):
        recipes.resume(workspace, run)


def test_a_run_that_never_got_its_jobs_gets_them_by_resume(workspace: Workspace, tiny_model_folder: Path) -> None:
    run = Runs(workspace).create(recipe(tiny_model_folder).cpt, experiment="e")
    assert [job.kind for job in recipes.resume(workspace, run)] == ["train"]
    assert run.state(Jobs(workspace)) == "queued"


def test_a_rerun_is_a_new_run_of_the_same_configuration(workspace: Workspace, tiny_model_folder: Path) -> None:
    parent, _ = queued(workspace, tiny_model_folder)
    config = recipe(tiny_model_folder).cpt.with_seed(7)
    run = Runs(workspace).create(config, experiment="e", arm="a", parent=parent.id, recipe="r", name="n")
    again, jobs = recipes.rerun(workspace, run)
    assert again.id != run.id and again.config == run.config
    assert {**vars(again.info), "id": "", "created": ""} == {**vars(run.info), "id": "", "created": ""}
    assert [(job.kind, job.run, job.state) for job in jobs] == [("train", again.id, "queued")]


def test_a_failed_job_is_an_error_with_its_sentence(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    run, jobs = queued(small_corpora, tiny_model_folder, **{"cpt.mixture.sources.1.source": "nowhere"})
    seen: list[str] = []
    stand_in: Any = InProcess(small_corpora)
    with pytest.raises(MixcptError, match="no corpus 'nowhere'"):
        recipes.finish(small_corpora, jobs, stand_in, lambda job: seen.append(job.state))
    assert seen == ["failed"] and run.state(Jobs(small_corpora)) == "failed"
    assert jobs[0].status.pid == os.getpid()


def test_resume_waits_for_what_has_started_meanwhile(
    workspace: Workspace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor may be quicker than we are, and what waits for a paused job was never stopped."""
    run, (train, ask) = queued(workspace, tiny_model_folder, **{"cpt.evaluation.tasks": ["general"]})
    Jobs(workspace).request_pause(train)
    requeue = Jobs.requeue

    def at_once(jobs: Jobs, job: Job) -> Job:
        requeue(jobs, job)
        job.update(state="running")
        return job

    monkeypatch.setattr(Jobs, "requeue", at_once)
    assert recipes.resume(workspace, run) == [train, ask]


def test_tuning_is_done_anew_for_another_seed_text_or_precision(
    small_corpora: Workspace, tiny_model_folder: Path, tiny_tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = recipe(tiny_model_folder, tune=TUNE, seeds=[3])
    asked = recipes._question(small_corpora, tiny)
    assert recipes._question(small_corpora, tiny) == asked
    assert recipes._question(small_corpora, override(tiny, {"seeds": [4]})) != asked
    assert recipes._question(small_corpora, override(tiny, {"seeds": [3, 4]})) == asked
    with monkeypatch.context() as patch:
        patch.setattr(machine, "resolve", lambda config, facts: ("cpu", "bf16"))
        assert recipes._question(small_corpora, tiny) != asked
    records = [Record(kind="documents", text=PROSE.format(f"town {place}"), file="test") for place in range(40)]
    ingest_records(small_corpora, "world", records, files=[], tokenizer=tiny_tokenizer, replace=True)
    assert recipes._question(small_corpora, tiny) != asked


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


def test_only_free_memory_of_the_gpu_counts(
    workspace: Workspace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = SimpleNamespace(memory_gb=141.0, memory_free_gb=0.001)
    with_gpu = SimpleNamespace(cuda=gpu, precision="bf16")
    monkeypatch.setattr(doctor, "machine", lambda workspace: with_gpu)
    stage = override(recipe(tiny_model_folder).cpt, {"model.device": "auto", "model.precision": "auto"})
    with pytest.raises(TooLittle, match=r"0\.0 GB are free"):
        recipes.estimate_stage(workspace, stage)
    gpu.memory_free_gb = 100.0
    recipes.estimate_stage(workspace, stage)
