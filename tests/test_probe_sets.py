"""Probes as entries of `evaluation.tasks`: asked of base and run, in the results, and by lm-eval's own command."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from asked import new_run, plain_lm_eval
from prose import records

from mixcpt import answers, probe_sets
from mixcpt.config import EvaluationConfig
from mixcpt.corpus import ingest_records
from mixcpt.errors import BadConfig, BadFile, NotFound
from mixcpt.evaluation import evaluate
from mixcpt.probed import pairs
from mixcpt.questions import is_file, question_sets
from mixcpt.settings import override
from mixcpt.tokens import TextTokenizer
from mixcpt.transcript import refusals, scores_in_short
from mixcpt.workspace import Workspace

NAMES = ["probes_my_field_memorised", "probes_my_field_generalised"]


@pytest.fixture
def home(workspace: Workspace, tiny_tokenizer: TextTokenizer) -> Workspace:
    ingest_records(workspace, "my-field", records(120), files=[], tokenizer=tiny_tokenizer, heldout_fraction=0.2)
    ingest_records(workspace, "small", records(21), files=[], tokenizer=tiny_tokenizer)
    return workspace


def test_entries_name_corpora_and_the_field_is_the_default() -> None:
    assert probe_sets.corpora(["general", "probes", "probes:b", "probes:a", "x.jsonl"], ["a", "c"]) == ["a", "c", "b"]
    assert probe_sets.task_names(["probes:my-field"], []) == NAMES
    assert probe_sets.task_name("builtin/atlas", "memorised") == "probes_builtin_atlas_memorised"
    assert not is_file("probes") and not is_file("probes:x") and is_file("probes.jsonl")


def test_what_cannot_be_asked_is_refused_before_anything_starts(home: Workspace) -> None:
    with pytest.raises(BadConfig, match="asks for probes, but no source is marked as the field: name a corpus"):
        probe_sets.require(home, ["probes"], [])
    with pytest.raises(BadConfig, match=r"names 'probes:': name the corpus"):
        probe_sets.require(home, ["probes:"], ["a"])
    with pytest.raises(NotFound, match="There is no corpus 'nowhere': choose from my-field, small"):
        probe_sets.require(home, ["probes:nowhere"], [])


def test_no_file_may_be_called_like_probes(tmp_path: Path) -> None:
    path = tmp_path / "probes_mine.jsonl"
    path.write_text('{"question": "Who?", "choices": ["a", "b"], "answer": 0}\n')
    with pytest.raises(BadFile, match="which is taken: rename the file"):
        question_sets(EvaluationConfig(tasks=[str(path)]))


def test_probes_are_asked_flagged_and_equal_by_the_plain_lm_eval_command(
    home: Workspace, tiny_model_folder: Path, tmp_path: Path
) -> None:
    config: dict[str, Any] = {"tasks": ["probes", "probes:small"], "items": 12, "batch_size": 4}
    run = new_run(home, tiny_model_folder, 1, config)
    mixture = {"mixture.sources": [{"source": "my-field", "share": 1, "domain": True}], "mixture.budget_tokens": 8000}
    stage = override(run.config, mixture)
    (run.folder / "config.yaml").write_text(json.dumps(stage.model_dump(mode="json")))
    results = evaluate(home, run)
    assert list(results["final"]) == NAMES and {results["final"][name]["items"] for name in NAMES} == {12}
    assert "'small' gives only" in results["unavailable"]["probes small"]
    assert list(refusals(results, stage.evaluation, ["my-field"])) == ["probes small"]
    assert [line.split()[0] for line in scores_in_short(results, stage.evaluation, ["my-field"])] == NAMES
    facts = results["asked"][NAMES[0]]["probes"]
    assert (facts["corpus"], facts["side"], facts["seed"]) == ("my-field", "memorised", 0) and len(facts["checks"]) == 8
    assert results["final"][NAMES[0]]["chance"] == 0.25

    seen, unseen = (results["contamination"][name] for name in NAMES)
    assert seen["by_construction"] and 0 < len(seen["items"]) < 12, "the run read only a part of the corpus"
    assert unseen["items"] == [] and not unseen["by_construction"] and unseen["without"] is None
    rows = answers.read(run, NAMES[0])
    assert [number for number, row in enumerate(rows) if row.found_in == "my-field"] == seen["items"]
    (pair,) = pairs(run)
    assert (pair.corpus, pair.sentences, pair.memorised.items) == ("my-field", 12, len(seen["items"]))

    (command,) = results["commands"]
    theirs = plain_lm_eval(shlex.split(command)[1:], tmp_path)
    for name in NAMES:
        assert theirs[f"mixcpt_{name}"]["acc,none"] == results["final"][name]["accuracy"]
