"""Tuning: the setting that teaches most on the validation split, asked once for each question."""

from pathlib import Path
from typing import Any

import pytest
from conftest import PROSE
from in_process import InProcess
from tiny import do, recipe

from mixcpt import machine, recipes, tuning
from mixcpt.corpus import ingest_records
from mixcpt.errors import BadConfig
from mixcpt.recipe import Recipe
from mixcpt.records import Record
from mixcpt.runs import Runs
from mixcpt.settings import override
from mixcpt.stages import Stage
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace, read_json


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch, quick_machine: None) -> None:
    monkeypatch.setattr(recipes, "Supervisor", InProcess)


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
        return tuning.tune(small_corpora, recipe, stand_in, said.append, lambda job: None)

    # The same question is not asked again; another one is.
    assert tune(tiny) == {"ce": best_rate}
    assert len(Runs(small_corpora).all()) == 8
    other = override(tiny, {"tune.budget_tokens": 256})
    tune(other)
    assert len(Runs(small_corpora).all()) == 10


def test_tuning_without_a_field_to_judge_by_is_refused(tiny_model_folder: Path) -> None:
    groups = {"ce": {"mixture.sources.0.domain": False}}
    with pytest.raises(BadConfig, match="tuning group 'ce' has no field to be judged by: mark one"):
        recipe(tiny_model_folder, tune=TUNE | {"groups": groups})


def test_tuning_is_done_anew_for_another_seed_text_or_precision(
    small_corpora: Workspace, tiny_model_folder: Path, tiny_tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = recipe(tiny_model_folder, tune=TUNE, seeds=[3])
    asked = tuning._question(small_corpora, tiny)
    assert tuning._question(small_corpora, tiny) == asked
    assert tuning._question(small_corpora, override(tiny, {"seeds": [4]})) != asked
    assert tuning._question(small_corpora, override(tiny, {"seeds": [3, 4]})) == asked
    with monkeypatch.context() as patch:
        patch.setattr(machine, "resolve", lambda config, facts: ("cpu", "bf16"))
        assert tuning._question(small_corpora, tiny) != asked
    records = [Record(kind="documents", text=PROSE.format(f"town {place}"), file="test") for place in range(40)]
    ingest_records(small_corpora, "world", records, files=[], tokenizer=tiny_tokenizer, replace=True)
    assert tuning._question(small_corpora, tiny) != asked
