"""How many samples, and how long: what the source and the selection tell before any sample is chosen."""

from pathlib import Path
from typing import Any

import pytest
from chosen import instructions, pairs, select
from made import made_chain, made_child
from tiny import recipe

from mixcpt.corpus import Corpus
from mixcpt.errors import NotFound
from mixcpt.estimate import SampleSizes
from mixcpt.sizes import TEMPLATE_TOKENS, pinned_sizes, sample_sizes
from mixcpt.stages import Sft, follow
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace

QUESTION = len("Question 0?\n\n")  # a byte is a token here


@pytest.fixture
def talk(workspace: Workspace, tiny_tokenizer: TextTokenizer) -> Workspace:
    """Ten samples: answers of 7 and of 27 bytes."""
    instructions(workspace, "talk", ["s" * 7, "l" * 27] * 5, tiny_tokenizer)
    pairs(workspace, "taste", [("good " * 4, "bad")] * 1 + [("fine " * 4, "no")] * 1, tiny_tokenizer)
    return workspace


def sizes(workspace: Workspace, model: Path, stage: str = "sft", **samples: Any) -> SampleSizes:
    source = {"samples.source": "talk" if stage == "sft" else "taste"}
    changes = source | {f"samples.{name.replace('__', '.')}": value for name, value in samples.items()}
    made: Sft = follow(recipe(model).cpt, "dpo" if stage == "dpo" else "sft", changes)
    return sample_sizes(workspace, made)


def test_a_rule_chooses_among_the_candidates_of_its_source(talk: Workspace, tiny_model_folder: Path) -> None:
    mean = QUESTION + (7 + 27) / 2 + TEMPLATE_TOKENS
    usual = sizes(talk, tiny_model_folder, rule__count=4)
    assert (usual.count, usual.candidates) == (4, 10)
    assert usual.scored_tokens == pytest.approx(10 * mean)
    assert usual.mean_tokens == pytest.approx(mean)
    assert sizes(talk, tiny_model_folder, rule__count=64).count == 10  # there are no more
    fewer = sizes(talk, tiny_model_folder, rule__count=4, candidates=3)
    assert (fewer.count, fewer.candidates) == (3, 3)
    assert fewer.scored_tokens == pytest.approx(3 * mean)
    budget: dict[str, Any] = {"rule__count": None, "rule__tokens": int(5.5 * mean)}
    assert sizes(talk, tiny_model_folder, **budget).count == 5
    threshold: dict[str, Any] = {"rule__count": None, "rule__threshold": 3.0}
    assert sizes(talk, tiny_model_folder, **threshold).count == 10  # any number of them may lie below


@pytest.mark.parametrize("strategy", ["random", "all"])
def test_what_is_not_chosen_by_a_score_is_not_scored(talk: Workspace, tiny_model_folder: Path, strategy: str) -> None:
    rule: dict[str, Any] = {"strategy": strategy, "count": 4 if strategy == "random" else None}
    found = sizes(talk, tiny_model_folder, rule=rule)
    assert (found.count, found.scored_tokens) == (4 if strategy == "random" else 10, 0)


@pytest.mark.parametrize(("score", "times"), [("loss_plain", 1), ("alignment_whole", 2), ("ifd", 2)])
def test_a_score_of_two_readings_costs_two(talk: Workspace, tiny_model_folder: Path, score: str, times: int) -> None:
    found = sizes(talk, tiny_model_folder, rule__score=score)
    assert found.scored_tokens == pytest.approx(times * 10 * found.mean_tokens)


def test_a_pair_has_two_answers(talk: Workspace, tiny_model_folder: Path) -> None:
    """The manifest counts the chosen one only; the other is taken to be as long."""
    found = sizes(talk, tiny_model_folder, "dpo")
    assert found.mean_tokens == pytest.approx(2 * (QUESTION + 19 + TEMPLATE_TOKENS))  # no space at the end
    assert (found.count, found.scored_tokens) == (2, 2 * 2 * found.mean_tokens)  # under the run and under its base


def test_no_sample_is_longer_than_allowed(talk: Workspace, tiny_model_folder: Path) -> None:
    longest = Corpus.open(talk, "talk").manifest.lengths.edges[-1] + TEMPLATE_TOKENS
    assert sizes(talk, tiny_model_folder).longest_tokens == longest
    assert sizes(talk, tiny_model_folder, max_tokens=50).longest_tokens == 50
    assert sizes(talk, tiny_model_folder, max_tokens=20).mean_tokens == 20


def test_a_selection_knows_its_samples(workspace: Workspace, tiny_model_folder: Path) -> None:
    select(workspace, "mine", tokens=(30, 50, 70))
    assert sizes(workspace, tiny_model_folder, selection="mine") == SampleSizes(3, 3, 50.0, 100)
    assert sizes(workspace, tiny_model_folder, selection="mine", max_tokens=80).longest_tokens == 80
    with pytest.raises(NotFound, match="no selection 'gone'"):
        sizes(workspace, tiny_model_folder, selection="gone")


def test_a_run_that_has_chosen_tells_its_own_samples(workspace: Workspace) -> None:
    """Whatever became of the selection since."""
    cpt, sft, dpo = made_chain(workspace)
    assert pinned_sizes(cpt) is None
    found = pinned_sizes(sft)
    assert found is not None and (found.count, found.mean_tokens, found.scored_tokens) == (3, 41.0, 0.0)
    assert found.longest_tokens == 42 + TEMPLATE_TOKENS
    pairs = pinned_sizes(dpo)
    assert pairs is not None and pairs.longest_tokens == 42 // 2 + TEMPLATE_TOKENS
    assert pinned_sizes(made_child(workspace, cpt, state="queued")) is None


def test_what_is_not_made_yet_is_guessed(workspace: Workspace, tiny_model_folder: Path) -> None:
    built_in = sizes(workspace, tiny_model_folder, source="builtin/instructions")
    assert built_in.count == 64 and 64 < built_in.candidates < 2000 and 40 < built_in.mean_tokens < 400
    assert [*workspace.corpora.iterdir()] == []
    coming = sizes(workspace, tiny_model_folder, source="made by the recipe")
    assert coming.count == 64 and coming.longest_tokens == 1024
