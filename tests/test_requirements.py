"""What must be there before a stage begins is asked for before anything is queued: each lack is one sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from chosen import instructions, pairs, select
from tiny import recipe

from mixcpt.errors import BadInput, NoTemplate, NotFound
from mixcpt.requirements import require_parts, selection_facts, source_kind
from mixcpt.settings import override
from mixcpt.stages import AnyStage, Sft, follow
from mixcpt.templates import NAMED
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace


@pytest.fixture
def ready(small_corpora: Workspace, tiny_tokenizer: TextTokenizer) -> Workspace:
    instructions(small_corpora, "talk", ["One.", "Two, and a half."], tiny_tokenizer)
    pairs(small_corpora, "taste", [("Good.", "Bad, I think.")], tiny_tokenizer)
    return small_corpora


def sft(model: Path, **changes: Any) -> Sft:
    usual = {"template": "chatml", "samples": {"source": "talk"}}
    return follow(recipe(model).cpt, "sft", usual | {name.replace("__", "."): value for name, value in changes.items()})


def test_a_stage_with_all_its_parts_is_let_through(ready: Workspace, tiny_model_folder: Path) -> None:
    cpt = recipe(tiny_model_folder).cpt
    for stage in (cpt, sft(tiny_model_folder), follow(cpt, "dpo", {"template": "zephyr", "samples.source": "taste"})):
        require_parts(ready, stage)


def test_stage_two_needs_only_the_field_of_the_mixture(ready: Workspace, tiny_model_folder: Path) -> None:
    stage = sft(tiny_model_folder)
    require_parts(ready, override(stage, {"mixture.sources.1.source": "gone"}))
    with pytest.raises(NotFound, match="no corpus 'gone'"):
        require_parts(ready, override(stage, {"mixture.sources.0.source": "gone"}))
    with pytest.raises(NotFound, match="no corpus 'gone'"):
        require_parts(ready, override(recipe(tiny_model_folder).cpt, {"mixture.sources.1.source": "gone"}))


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"samples__source": "gone"}, NotFound, "no corpus 'gone'"),
        (
            {"samples__source": "taste"},
            BadInput,
            "The source 'taste' holds preferences, but sft learns from instructions",
        ),
        (
            {"samples__source": "world"},
            BadInput,
            "The source 'world' holds documents, but sft learns from instructions",
        ),
        ({"samples__source": "builtin/preferences"}, BadInput, "'builtin/preferences' holds preferences"),
        ({"samples__selection": "gone"}, NotFound, "no selection 'gone'"),
        ({"samples__selection": "better"}, BadInput, "The selection 'better' holds preferences, but sft learns from"),
        ({"measures__general": "gone"}, NotFound, "no corpus 'gone'"),
        (
            {"evaluation__format_items": 4, "evaluation__format_source": "world"},
            BadInput,
            "The source 'world' holds documents, but the format is measured on instructions",
        ),
    ],
)
def test_what_is_not_there_or_of_the_other_kind_is_refused(
    ready: Workspace, tiny_model_folder: Path, changes: dict[str, Any], error: type[BadInput], sentence: str
) -> None:
    select(ready, "better", kind="preferences")
    with pytest.raises(error, match=sentence):
        require_parts(ready, sft(tiny_model_folder, **changes))


def test_dpo_learns_from_pairs(ready: Workspace, tiny_model_folder: Path) -> None:
    select(ready, "easy")
    stage = follow(recipe(tiny_model_folder).cpt, "dpo", {"template": "chatml", "samples.selection": "easy"})
    with pytest.raises(BadInput, match="'easy' holds instructions, but dpo learns from preferences: take another"):
        require_parts(ready, stage)
    select(ready, "better", kind="preferences")
    require_parts(ready, override(stage, {"samples.selection": "better"}))


def test_a_score_must_be_one_that_the_samples_will_have(ready: Workspace, tiny_model_folder: Path) -> None:
    before = recipe(tiny_model_folder).cpt
    mine = sft(tiny_model_folder, samples__rule__score="margin")
    with pytest.raises(
        BadInput, match=r"'margin', which is no score of instructions, .* take one of perplexity_template"
    ):
        require_parts(ready, mine, before)
    require_parts(ready, override(mine, {"samples.rule.strategy": "random"}), before)  # says nothing there
    usual = {"template": "chatml", "samples.source": "taste", "samples.rule.score": "implicit_margin"}
    dpo = follow(before, "dpo", usual)
    require_parts(ready, dpo, before)
    with pytest.raises(BadInput, match=r"compares a run with its base, but this starts from .*: take one of margin,"):
        require_parts(ready, dpo)


def test_a_base_model_needs_a_template_by_name(ready: Workspace, tiny_model_folder: Path, tmp_path: Path) -> None:
    """What comes after SFT finds the template that was saved there."""
    before: AnyStage = recipe(tiny_model_folder).cpt
    for name in ("auto", "own"):
        with pytest.raises(
            NoTemplate, match=f"has no chat template, as base.*: set template to one of {next(iter(NAMED))}"
        ):
            require_parts(ready, sft(tiny_model_folder, template=name), before)
    named = sft(tiny_model_folder, template="alpaca")
    require_parts(ready, named, before)
    require_parts(ready, sft(tiny_model_folder, template="auto"), named)
    with pytest.raises(NoTemplate):
        require_parts(ready, sft(tiny_model_folder, template="own"), named)

    shutil.copytree(tiny_model_folder, tmp_path / "chatty")
    settings = json.loads((tmp_path / "chatty" / "tokenizer_config.json").read_text())
    (tmp_path / "chatty" / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "{{ 1 }}"}))
    for name in ("auto", "own"):
        require_parts(ready, sft(tmp_path / "chatty", template=name), before)
    require_parts(ready, sft(tmp_path / "not here yet", template="auto"), before)  # nobody knows


def test_kinds_are_told_without_making_a_built_in_source(workspace: Workspace) -> None:
    assert source_kind(workspace, "builtin/preferences") == "preferences"
    assert [*workspace.corpora.iterdir()] == []


def test_a_selection_says_what_it_holds(workspace: Workspace) -> None:
    select(workspace, "easy", tokens=(30, 50, 70))
    facts = selection_facts(workspace, "easy")
    assert (facts["chosen"], facts["tokens"], facts["scores"]["kind"]) == (3, 150, "instructions")
    (workspace.root / "selections" / "easy" / "selection.json").write_text("{")
    with pytest.raises(BadInput, match="damaged"):
        selection_facts(workspace, "easy")
