"""Samples of stage two: what is learned of each, in which order, and what is told before anything is launched."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixcpt import samples
from mixcpt.corpus import ingest_records
from mixcpt.errors import BadInput, NotFound
from mixcpt.packing import IGNORED
from mixcpt.records import Message, Record
from mixcpt.runs import Runs
from mixcpt.scores import SCORES, ScoredSample, Sums, answer_scores
from mixcpt.selection import Rule, Selection
from mixcpt.settings import validate
from mixcpt.stages import Dpo, Sft
from mixcpt.templates import choose_template
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace


def talk(id: str, *turns: str) -> Record:
    roles = ("user", "assistant") * len(turns)
    messages = tuple(Message(role, text) for role, text in zip(roles, turns, strict=False))
    return Record("instructions", messages=messages, meta={"id": id})


@pytest.fixture
def home(workspace: Workspace, tiny_tokenizer: TextTokenizer) -> Workspace:
    records = [talk(f"q{n}", f"Question {n} of many?", "a" * n) for n in range(1, 9)]
    records += [talk("two", "First?", "One.", "Second?", "Two."), talk("held", "h" * 100, "out")]
    pairs = [
        Record(
            "preferences",
            messages=(Message("user", f"Which {n}?"),),
            chosen="c" * n,
            rejected="r",
            meta={"id": f"p{n}"},
        )
        for n in range(2, 8)
    ]
    pairs += [
        Record("preferences", messages=(Message("user", "h" * 130),), chosen="c", rejected="d", meta={"id": "held"})
    ]
    for name, given in (("talk", records), ("pairs", pairs)):
        ingest_records(workspace, name, given, files=[], heldout_ids={"held"}, tokenizer=tiny_tokenizer)
    return workspace


def stage(kind: type[Sft], folder: Path, **more: Any) -> Any:
    values: dict[str, Any] = {
        "model": {"name": str(folder), "precision": "fp32", "device": "cpu"},
        "mixture": {"sources": [{"source": "builtin/atlas", "share": 1, "domain": True}]},
        "template": "alpaca",
        "samples": {"source": "pairs" if kind is Dpo else "talk", "rule": {"strategy": "all"}},
        "training": {"samples_per_step": 2},
    }
    return validate(kind, values | more, "the test")


def test_every_answer_and_its_end_is_learned_and_nothing_else(home: Workspace, tiny_model_folder: Path) -> None:
    template = choose_template(tiny_model_folder, "alpaca")
    assert template is not None
    found, _ = samples.render(samples.choose(home, stage(Sft, tiny_model_folder), template), template, 1024)
    two = next(sample for sample in found if len(sample.record.messages) == 4)
    ids = two.answers[0].ids
    learned = ids[samples.mask_of(two)].tolist()
    end = template.tokenizer.eos_id
    assert template.tokenizer.decode(learned) == "One.<eos>Two.<eos>"
    assert learned.count(end) == 2 and two.learned_tokens == len(learned) == 10
    labels = samples.labels_of(two)
    assert labels[labels != IGNORED].tolist() == learned
    assert (labels[~samples.mask_of(two)] == IGNORED).all()


def test_of_a_pair_the_answers_count_and_the_prompt_is_the_same(home: Workspace, tiny_model_folder: Path) -> None:
    batch = samples.preview_batch(home, stage(Dpo, tiny_model_folder), None)
    assert batch.certain and batch.epoch_samples == 6 and len(batch.samples) == 2
    for pair in batch.samples:
        chosen, rejected = pair.answers
        assert chosen.prompt.tolist() == rejected.prompt.tolist()
        assert (
            pair.learned_tokens == len(pair.record.chosen) + 1 + 1 + 1
        )  # each answer with its end; rejected has one letter
        assert pair.tokens == len(chosen.ids) + len(rejected.ids)


def test_every_epoch_has_each_sample_once_in_an_order_of_its_own() -> None:
    found = samples.order(6, 3, seed=1)
    epochs = [found[:6], found[6:12], found[12:]]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs) and epochs[0] != epochs[1] != epochs[2]
    assert found == samples.order(6, 3, seed=1) != samples.order(6, 3, seed=2)


def test_tokens_are_counted_step_by_step(home: Workspace, tiny_model_folder: Path) -> None:
    config = stage(Sft, tiny_model_folder, training={"samples_per_step": 4, "samples_at_once": 2, "epochs": 3})
    template = choose_template(tiny_model_folder, "alpaca")
    assert template is not None
    found, _ = samples.render(samples.choose(home, config, template), template, 1024)
    read = samples.tokens_by_step(found, config)
    lengths = [len(found[i].answers[0].ids) for i in samples.order(9, 3, 0)]
    assert read[0] == 0 and len(read) == 1 + 7  # 27 samples: six steps of four and one of three
    assert np.diff(read).tolist() == [sum(lengths[at : at + 4]) for at in range(0, 27, 4)]


def test_what_scores_will_choose_is_only_shown_as_a_first_look(home: Workspace, tiny_model_folder: Path) -> None:
    rule = {"strategy": "easiest", "score": "perplexity_template", "count": 3}
    config = stage(Sft, tiny_model_folder, samples={"source": "talk", "rule": rule, "candidates": 5})
    batch = samples.preview_batch(home, config, None)
    assert (batch.certain, batch.epoch_samples, len(batch.samples)) == (False, None, 2)
    assert samples.needs_scores(config) and not samples.needs_scores(stage(Sft, tiny_model_folder))
    assert samples.score_payload(config, "cpt-1") == {
        "source": "talk", "run": "cpt-1", "template": "alpaca", "max_tokens": 1024, "limit": 5, "what": ["template"],
    }  # fmt: skip
    assert samples.score_payload(config, None)["model"]["name"] == str(tiny_model_folder)
    assert samples.score_payload(stage(Dpo, tiny_model_folder), "x")["beta"] == 0.1


@pytest.mark.parametrize("score", [name for name, kind in SCORES.items() if kind.kind == "instructions"])
def test_a_score_is_had_from_the_forms_that_it_takes_and_no_fewer(score: str) -> None:
    sums = Sums(first=1, answer=6, answer_tokens=3, end=1, end_tokens=1, whole=9, whole_tokens=5)
    forms = dict.fromkeys(samples.forms_of(score), sums)
    assert score in answer_scores(forms, alone_sees_first=True)
    for left_out in forms:
        fewer = {form: sums for form in forms if form != left_out}
        assert score not in answer_scores(fewer, alone_sees_first=True)


def test_a_saved_selection_with_changes_by_hand_is_what_is_learned(home: Workspace, tiny_model_folder: Path) -> None:
    rows = [
        ScoredSample(f"s{n}", talk(f"s{n}", f"Ask {n}?", "Answer. " * n).to_json(), 10, 5, {"loss_plain": float(n)})
        for n in range(1, 6)
    ]
    info = {"source": "talk", "kind": "instructions", "run": None}
    rule = Rule(strategy="easiest", score="loss_plain", count=2)
    Selection(info, rows, rule, keep=["s5"], discard=["s1"]).save(home, "mine")
    config = stage(Sft, tiny_model_folder, samples={"selection": "mine", "rule": {"strategy": "all"}, "max_tokens": 60})
    run = Runs(home).create(config, experiment="test")
    template = samples.template_for(config, tiny_model_folder, None)
    chosen = samples.choose(home, config, template)
    found, left_out = samples.render(chosen, template, 60)
    assert [sample.id for sample in found] == ["s2"] and "more than the 60 allowed" in left_out["s5"]
    samples.keep(run, chosen, found, left_out, template.name)
    facts = samples.kept_facts(run)
    assert facts is not None and (facts["selection"], facts["samples"], facts["kept_by_hand"]) == ("mine", 1, 1)
    words = "1 samples of selection mine (the easiest 2 by Loss, plain text, lowest first, 2 changed by hand)"
    assert samples.facts_in_words(facts).startswith(words)
    assert [row.id for row in samples.kept_samples(run)] == ["s2"]
    again, _ = samples.render(samples.kept_selection(run), template, 60)
    assert samples.fingerprint(again) == samples.fingerprint(found) == facts["fingerprint"]


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        (
            {"template": "auto"},
            BadInput,
            "has no chat template, as base models do: set template to one of chatml, llama3",
        ),
        ({"samples": {"source": "pairs", "rule": {"strategy": "all"}}}, BadInput, "'pairs' holds preferences, but sft"),
        ({"samples": {"source": "builtin/nothing", "rule": {"strategy": "all"}}}, NotFound, "builtin/nothing"),
        ({"samples": {"selection": "gone", "rule": {"strategy": "all"}}}, NotFound, "There is no selection 'gone'"),
    ],
)
def test_what_cannot_be_shown_is_told(
    more: dict[str, Any], error: type[Exception], says: str, home: Workspace, tiny_model_folder: Path
) -> None:
    with pytest.raises(error, match=says):
        samples.preview_batch(home, stage(Sft, tiny_model_folder, **more), None)


def test_marks_inside_a_text_open_and_end_no_turn(home: Workspace, tiny_model_folder: Path) -> None:
    template = choose_template(tiny_model_folder, "alpaca")
    assert template is not None
    row = ScoredSample("x", talk("x", "Say <eos> please", "<eos>### Response: no").to_json(), 1, 1, {})
    selection = Selection({"source": "x", "kind": "instructions", "run": None}, [row], Rule(strategy="all"))
    found, _ = samples.render(selection, template, 1024)
    assert found[0].answers[0].ids.tolist().count(template.tokenizer.eos_id) == 1  # the one that ends the answer


def test_a_run_that_has_not_started_has_no_samples(home: Workspace, tiny_model_folder: Path) -> None:
    run = Runs(home).create(stage(Sft, tiny_model_folder), experiment="test")
    assert samples.kept_facts(run) is None and samples.kept_samples(run) == []
    with pytest.raises(NotFound, match="has not chosen its samples yet"):
        samples.kept_selection(run)
