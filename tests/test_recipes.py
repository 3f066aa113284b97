"""What a recipe becomes on disk. The jobs run inside this process here; test_cli.py runs a recipe with real workers."""

import json
from pathlib import Path
from typing import Any

import pytest
from chosen import instructions, pairs
from in_process import InProcess, write_prose
from tiny import do, recipe

from mixcpt import guesses, recipes
from mixcpt.corpus import corpus_names
from mixcpt.drafts import Guess
from mixcpt.errors import BadConfig, BadFile, BadInput, MixcptError, TooLittle
from mixcpt.jobs import Jobs
from mixcpt.recipe import CorpusSpec, changed
from mixcpt.runs import Run, Runs
from mixcpt.settings import override
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace, read_json


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


# Chains


@pytest.fixture
def chatty(small_corpora: Workspace, tiny_tokenizer: TextTokenizer) -> Workspace:
    """With sources of instructions and of pairs, too."""
    instructions(small_corpora, "talk", [f"Answer {number}." for number in range(12)], tiny_tokenizer)
    pairs(small_corpora, "taste", [(f"Yes, {number}.", f"No, {number}.") for number in range(12)], tiny_tokenizer)
    return small_corpora


SFT = {
    "template": "question-answer",
    "samples": {
        "source": "talk",
        "candidates": 8,
        "rule": {"strategy": "easiest", "score": "loss_template", "count": 4},
    },
}
DPO = {"samples": {"source": "taste", "candidates": 6, "rule": {"strategy": "easiest", "score": "margin", "count": 4}}}


def test_a_recipe_of_all_stages_is_one_chain(chatty: Workspace, tiny_model_folder: Path) -> None:
    said: list[str] = []
    plan = do(chatty, recipe(tiny_model_folder, sft=SFT, dpo=DPO), said=said)
    cpt, sft, dpo = plan.runs
    assert [job.kind for job in plan.jobs] == ["train", "score", "train", "score", "train"]
    assert {job.state for job in plan.jobs} == {"done"}, [job.status.message for job in plan.jobs]
    assert [run.info.stage for run in Runs(chatty).lineage(dpo)] == ["cpt", "sft", "dpo"]
    assert [f"run {run.id}  {run.info.stage}" for run in plan.runs] == [one for one in said if one.startswith("run ")]
    for run in (sft, dpo):
        assert read_json(run.folder / "samples.json")["samples"] == 4
        assert (run.adapter / "chat_template.jinja").is_file()
        assert run.curve()[0]["measure"] == pytest.approx(cpt.curve()[0]["measure"], rel=1e-6)  # of the base
        assert run.curve()[1]["measure"] == pytest.approx(run_before(chatty, run).curve()[-1]["measure"], rel=1e-5)


def run_before(workspace: Workspace, run: Run) -> Run:
    return Runs(workspace).get(str(run.info.parent))


def test_arms_over_selections_train_the_knowledge_stage_once_a_seed(chatty: Workspace, tiny_model_folder: Path) -> None:
    chance = {"sft.samples.rule": {"strategy": "random", "count": 4}}
    tiny = recipe(
        tiny_model_folder,
        sft=SFT,
        arms=[{"name": "easy"}, {"name": "chance", "set": chance}],
        seeds=[0, 1],
    )
    plan = recipes.launch(chatty, tiny, {}, Guess(domain_gain=1, forgetting=0))
    assert [(run.info.stage, run.info.arm, run.info.name, run.info.seed) for run in plan.runs] == [
        (stage, arm, name, seed)
        for seed in (0, 1)
        for stage, arm, name in (("cpt", "", "cpt of easy and chance"), ("sft", "easy", ""), ("sft", "chance", ""))
    ]
    first, easy, drawn, second, *_ = plan.runs
    assert (easy.info.parent, drawn.info.parent, plan.runs[4].info.parent) == (first.id, first.id, second.id)
    (train,) = [job for job in plan.jobs if job.run == first.id]
    assert {tuple(job.after) for job in plan.jobs if job.run in (easy.id, drawn.id) and job.kind == "score"} == {
        (train.id,)
    }
    assert [job.after for job in plan.jobs if job.run == drawn.id] == [[train.id]]  # nothing to score
    assert [guesses.read(run) is not None for run in plan.runs] == 2 * [False, True, True]


def test_files_are_found_wherever_a_stage_names_them(tiny_model_folder: Path, tmp_path: Path) -> None:
    for name in "abcdef":
        (tmp_path / f"{name}.jsonl").write_text(
            json.dumps({"question": "?", "choices": ["a", "b"], "answer": 0}) + "\n"
        )
    sets = [
        {"sft.evaluation.tasks": ["c.jsonl"]},
        {"dpo.evaluation": {"tasks": ["d.jsonl"], "items": 3}},
        {"evaluation": {"tasks": ["e.jsonl"]}},
    ]
    tiny = recipe(
        tiny_model_folder,
        sft=SFT | {"evaluation": {"tasks": ["a.jsonl", "general"]}},
        dpo=DPO | {"evaluation.tasks": ["b.jsonl", "lm-eval:arc_easy"]},
        arms=[{"name": f"arm {number}", "set": own} for number, own in enumerate(sets)],
    )
    found = recipes.find_questions(tiny, tmp_path)
    assert found.sft is not None and found.sft["evaluation"] == {"tasks": [f"{tmp_path}/a.jsonl", "general"]}
    assert found.dpo is not None and found.dpo["evaluation.tasks"] == [f"{tmp_path}/b.jsonl", "lm-eval:arc_easy"]
    assert [arm.set for arm in found.arms] == [
        {"sft.evaluation.tasks": [f"{tmp_path}/c.jsonl"]},
        {"dpo.evaluation": {"tasks": [f"{tmp_path}/d.jsonl"], "items": 3}},
        {"evaluation": {"tasks": [f"{tmp_path}/e.jsonl"]}},
    ]
    (tmp_path / "d.jsonl").unlink()
    with pytest.raises(BadFile, match=f"no question set '{tmp_path}/d.jsonl'"):
        recipes.find_questions(tiny, tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sft.samples.source": "taste"}, "The source 'taste' holds preferences, but sft learns from instructions"),
        ({"dpo.samples.source": "gone"}, "no corpus 'gone'"),
        ({"dpo.samples.selection": "gone"}, "no selection 'gone'"),
        ({"sft.template": "auto"}, "has no chat template, as base models do: set template to one of chatml"),
    ],
)
def test_a_chain_that_would_stop_half_way_does_not_begin(
    chatty: Workspace, tiny_model_folder: Path, changes: dict[str, Any], sentence: str
) -> None:
    """Also where only one arm would."""
    fine = recipe(tiny_model_folder, sft=SFT, dpo=DPO)
    for faulty in (changed(fine, changes), override(fine, {"arms": [{"name": "a"}, {"name": "b", "set": changes}]})):
        with pytest.raises(BadInput, match=sentence):
            do(chatty, faulty)
    assert Runs(chatty).all() == [] and Jobs(chatty).all() == []


def test_every_run_of_a_chain_is_estimated_once(chatty: Workspace, tiny_model_folder: Path) -> None:
    arms = [{"name": "easy"}, {"name": "all", "set": {"sft.samples.rule": {"strategy": "all"}}}]
    tiny = recipe(tiny_model_folder, sft=SFT, dpo=DPO, arms=arms, seeds=[0, 1, 2])
    needs = recipes.estimate_recipe(chatty, tiny, lambda text: None)
    assert [(need.stage, need.arm, need.runs) for need in needs] == [
        ("cpt", "easy, all", 3),
        ("sft", "easy", 3),
        ("dpo", "easy", 3),
        ("sft", "all", 3),
        ("dpo", "all", 3),
    ]
    assert all(need.estimate.seconds > 0 for need in needs)
    said: list[str] = []
    recipes.check_fits(chatty, tiny, said.append)
    assert said == [f"training is estimated at {sum(3 * n.estimate.seconds for n in needs) / 60:.0f} minutes in all"]


def test_the_limit_of_time_holds_for_every_stage(chatty: Workspace, tiny_model_folder: Path) -> None:
    long = recipe(tiny_model_folder, sft=SFT | {"training": {"epochs": 1000}}, max_minutes=0.001)
    with pytest.raises(BadConfig, match=r"^tiny would take .* lower sft\.samples\.rule\.count or raise max_minutes"):
        recipes.check_fits(chatty, override(long, {"cpt.mixture.budget_tokens": 64}), lambda text: None)


SEA = {"mixture": {"sources": [{"source": "world", "share": 1, "domain": True}]}}


def test_further_corpora_are_trained_one_after_the_other(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    tiny = override(recipe(tiny_model_folder, then=[SEA]), {"cpt.measures.general": "builtin/general"})
    first, second = do(small_corpora, tiny).runs
    assert second.info.parent == first.id and [run.title for run in (first, second)] == ["field", "world"]
    assert second.curve()[1]["measure"]["prompt_kl"] == first.curve()[-1]["measure"]["prompt_kl"]
    assert [run.state(Jobs(small_corpora)) for run in (first, second)] == ["done", "done"]

    onward = changed(tiny, {"parent": second.id, "then": [], "name": "onward"})
    (third,) = do(small_corpora, onward).runs
    assert [run.id for run in third.chain()] == [first.id, second.id, third.id]


def test_a_recipe_that_cannot_continue_its_parent_starts_nothing(
    small_corpora: Workspace, tiny_model_folder: Path
) -> None:
    tiny = recipe(tiny_model_folder)
    with pytest.raises(BadInput, match="There is no run 'nope'"):
        do(small_corpora, changed(tiny, {"parent": "nope"}))
    parent = Runs(small_corpora).create(tiny.cpt, experiment="x")
    with pytest.raises(BadInput, match=r"adapter\.rank is 2, but"):
        do(small_corpora, changed(tiny, {"parent": parent.id, "cpt.adapter.rank": 2}))
    assert [run.id for run in Runs(small_corpora).all()] == [parent.id]
