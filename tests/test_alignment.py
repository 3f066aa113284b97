"""SFT and DPO on a random two-layer model: what is learned, against which reference, and that a stop loses nothing.

Reference figures come from float64 logits of one conversation at a time, in a loop that shares nothing with TRL.
"""

import hashlib
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from test_training import At, quiet
from test_training import stage as knowledge
from transformers import AutoModelForCausalLM

from mixcpt import samples
from mixcpt.alignment import align
from mixcpt.corpus import ingest_records
from mixcpt.errors import BadInput, Diverged, Interrupted, NotFound
from mixcpt.records import Message, Record
from mixcpt.runs import Run, Runs
from mixcpt.settings import override
from mixcpt.stages import Dpo, Sft, follow
from mixcpt.templates import ChatTemplate
from mixcpt.tokens import TextTokenizer
from mixcpt.training import train
from mixcpt.workspace import Workspace, read_json

TALK = [
    ("What is a mill?", "It grinds corn."),
    ("Name a river.", "The Aller."),
    ("Say x.", "x"),
    ("Count slowly.", "One, two, three."),
    ("Who weighs?", "The miller."),
    ("How is the road?", "Full of carts."),
    ("Is it late?", "Yes, rain came."),
]
TASTE = [
    ("Which way?", "Left, then left.", "No."),
    ("How old?", "Ten.", "Twelve and a half."),
    ("Two?", "Zwei.", "Drei, drei."),
    ("What colour?", "The book is blue.", "It is red I think."),
    ("Who counts?", "The children.", "Nobody at all here."),
    ("Stand?", "Short this year.", "High."),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: TextTokenizer) -> Workspace:
    from conftest import PROSE

    workspace = Workspace(tmp_path_factory.mktemp("alignment") / "home")
    for name, places in (("field", range(40)), ("world", range(100, 140))):
        records = [Record(kind="documents", text=PROSE.format(f"place {place}"), file="test") for place in places]
        ingest_records(workspace, name, records, files=[], tokenizer=tiny_tokenizer)
    talk = [
        Record("instructions", messages=(Message("user", q), Message("assistant", a)), meta={"id": f"t{i}"})
        for i, (q, a) in enumerate([*TALK, ("held", "out " * 20)])
    ]
    taste = [
        Record("preferences", messages=(Message("user", q),), chosen=c, rejected=r, meta={"id": f"t{i}"})
        for i, (q, c, r) in enumerate([*TASTE, ("same", "same", "same"), ("held " * 20, "o", "ut")])
    ]
    for name, records in (("talk", talk), ("taste", taste)):
        ingest_records(workspace, name, records, files=[], heldout_ids={"t7"}, tokenizer=tiny_tokenizer)
    return workspace


@pytest.fixture(scope="module")
def parent(home: Workspace, tiny_model_folder: Path) -> Run:
    """A knowledge run that moved far enough from the base to be told from it."""
    config = knowledge(tiny_model_folder, mixture__budget_tokens=1500, training__learning_rate=2e-2)
    run = Runs(home).create(config, experiment="chain")
    train(home, run, say=quiet)
    return run


def sft(parent: Run, **changes: Any) -> Sft:
    given = {
        "samples": {"source": "talk", "rule": {"strategy": "all"}},
        "template": "alpaca",
        "training": {"learning_rate": 5e-3, "samples_per_step": 2, "epochs": 2, "checkpoint_steps": 2},
        "measures": {"every_steps": 5},
    }
    return override(follow(parent.config, "sft", given), {k.replace("__", "."): v for k, v in changes.items()})


def dpo(parent: Run, **changes: Any) -> Dpo:
    given = {
        "samples": {"source": "taste", "rule": {"strategy": "all"}},
        "training": {"learning_rate": 5e-3, "samples_per_step": 2, "epochs": 2, "checkpoint_steps": 2},
        "measures": {"every_steps": 0},
    }
    config = follow(parent.config, "dpo", given)
    assert isinstance(config, Dpo)
    return override(config, {k.replace("__", "."): v for k, v in changes.items()})


def started(home: Workspace, config: Sft, parent: Run | None, **options: Any) -> Run:
    run = Runs(home).create(config, experiment="chain", parent=parent.id if parent else None)
    align(home, run, say=quiet, **options)
    return run


@pytest.fixture(scope="module")
def tuned(home: Workspace, parent: Run) -> Run:
    return started(home, sft(parent), parent)


@pytest.fixture(scope="module")
def preferring(home: Workspace, tuned: Run) -> Run:
    return started(home, dpo(tuned), tuned)


def digest(run: Run) -> str:
    return hashlib.sha256((run.adapter / "adapter_model.safetensors").read_bytes()).hexdigest()


def exact(folder: Path, adapter: Path | None) -> Any:
    """The model in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    return PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=False).double() if adapter else model


@torch.no_grad()
def log_probability(model: Any, ids: list[int], counted: list[bool]) -> tuple[float, int]:
    """Summed log p of the counted tokens, token by token from one conversation's logits."""
    logits = model(torch.tensor([ids])).logits[0]
    total, count = 0.0, 0
    for place in range(1, len(ids)):
        if counted[place]:
            row = logits[place - 1]
            total += (row[ids[place]] - torch.logsumexp(row, -1)).item()
            count += 1
    return total, count


def read_samples(home: Workspace, run: Run, folder: Path) -> list[samples.Sample]:
    template = ChatTemplate(folder, (run.adapter / "chat_template.jinja").read_text())
    found, _ = samples.render(samples.kept_selection(run), template, 1024)
    stage = run.config
    assert isinstance(stage, Sft)
    return [found[i] for i in samples.order(len(found), stage.training.epochs, stage.training.seed)]


# SFT


def test_sft_goes_on_with_the_parents_adapter_and_keeps_template_samples_and_measures(
    home: Workspace, parent: Run, tuned: Run, tiny_model_folder: Path
) -> None:
    before, after = (load_file(run.adapter / "adapter_model.safetensors") for run in (parent, tuned))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert (
        read_json(tuned.adapter / "adapter_config.json")["r"] == read_json(parent.adapter / "adapter_config.json")["r"]
    )
    assert "### Instruction" in (tuned.adapter / "chat_template.jinja").read_text()
    facts = samples.kept_facts(tuned)
    assert facts and (facts["samples"], facts["left_out"], facts["template"]) == (7, {}, "alpaca")
    assert [row.parsed.messages[-1].content for row in samples.kept_samples(tuned)] == [a for _, a in TALK]

    base, start, *_, end = tuned.curve()
    assert base["under"] == "base" and base["measure"] == pytest.approx(parent.curve()[0]["measure"], abs=1e-6)
    assert start["measure"] == pytest.approx(parent.curve()[-1]["measure"], abs=1e-6)
    assert (start["step"], end["step"], end["tokens"]) == (0, 7, tuned.total_tokens)
    results = tuned.results()["training"]
    assert (results["base"], results["final"]) == (base["measure"], end["measure"])
    assert tuned.losses()[-1]["loss"] < tuned.losses()[0]["loss"]


def test_the_first_loss_of_sft_is_the_mean_over_answers_and_their_ends_under_the_parent(
    home: Workspace, parent: Run, tuned: Run, tiny_model_folder: Path, tiny_tokenizer: TextTokenizer
) -> None:
    model = exact(tiny_model_folder, parent.adapter)
    total, count = 0.0, 0
    for sample in read_samples(home, tuned, tiny_model_folder)[:2]:
        ids, mask = sample.answers[0].ids.tolist(), samples.mask_of(sample).tolist()
        answer = sample.record.messages[-1].content.encode()
        assert bytes(tiny_tokenizer.decode([i for i, on in zip(ids, mask, strict=True) if on][:-1]), "utf8") == answer
        assert ids[max(place for place, on in enumerate(mask) if on)] == tiny_tokenizer.eos_id
        one, tokens = log_probability(model, ids, mask)
        total, count = total - one, count + tokens
    assert tuned.losses()[0]["loss"] == pytest.approx(total / count, abs=1e-5)


def test_samples_at_once_change_nothing(home: Workspace, parent: Run, tuned: Run) -> None:
    together = started(home, sft(parent, training__samples_at_once=2, measures__every_steps=0), parent)
    for one, other in zip(tuned.losses(), together.losses(), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=2e-4)
        assert one["tokens"] == other["tokens"]


def test_a_single_step_learns(home: Workspace, parent: Run) -> None:
    config = sft(parent, training__samples_per_step=8, training__epochs=1, measures__every_steps=0)
    run = started(home, config, parent)
    assert len(run.losses()) == 1 and run.losses()[0]["learning_rate"] == 0  # of the step that would come next
    assert digest(run) != digest(parent)


def test_a_model_learns_to_stop(
    home: Workspace, parent: Run, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("stopping") / "model"
    shutil.copytree(tiny_model_folder, folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    # The tiny model pads with its end token, whose row transformers therefore made zero: no adapter could raise it.
    torch.nn.init.normal_(model.model.embed_tokens.weight.data[256], std=0.2)
    model.save_pretrained(folder)
    config = sft(
        parent,
        model__name=str(folder),
        training__epochs=40,
        training__learning_rate=4e-3,
        measures__every_steps=0,
    )
    run = started(home, config, None)
    before, after = exact(folder, None), exact(folder, run.adapter)
    for sample in read_samples(home, run, folder)[:7]:
        ids = sample.answers[0].ids.tolist()
        end = [place == sample.answers[0].response.text_end for place in range(len(ids))]
        ends = [math.exp(log_probability(model, ids, end)[0]) for model in (before, after)]
        assert ends[0] < 0.05 and ends[1] > 0.5, sample.record


def test_sft_without_a_parent_starts_from_the_base(home: Workspace, parent: Run, tiny_model_folder: Path) -> None:
    run = started(home, sft(parent, samples__rule__count=None, training__epochs=1), None)
    assert "under" not in run.curve()[0] and len({point["step"] for point in run.curve()}) == len(run.curve())
    assert run.curve()[0]["measure"] == pytest.approx(parent.curve()[0]["measure"], abs=1e-6)


# DPO


def test_the_reference_of_dpo_is_the_result_of_sft_and_not_the_base(
    home: Workspace, parent: Run, tuned: Run, tiny_model_folder: Path
) -> None:
    """The rewards of the second step are beta * (log p of the policy after one step - log p of the reference). Policy
    and SFT are asked in float64; with the base, or the knowledge run, as reference the figures would be far away."""
    kept: dict[str, torch.Tensor] = {}

    def keep(model: Any, **_: Any) -> None:
        kept.update({n: p.detach().clone() for n, p in model.named_parameters() if ".default." in n})

    run = started(home, dpo(tuned), tuned, callbacks=(At(1, keep),))
    first, second = run.losses()[:2]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6) and first["margin"] == pytest.approx(0, abs=1e-6)

    policy = exact(tiny_model_folder, tuned.adapter)
    names = dict(policy.named_parameters())
    for name, value in kept.items():
        names[name].data = value.double()
    references = {
        "sft": exact(tiny_model_folder, tuned.adapter),
        "cpt": exact(tiny_model_folder, parent.adapter),
        "base": exact(tiny_model_folder, None),
    }
    pairs = read_samples(home, run, tiny_model_folder)[2:4]

    def rewards(reference: Any, side: int) -> float:
        values = []
        for pair in pairs:
            ids, mask = pair.answers[side].ids.tolist(), samples.mask_of(pair, side).tolist()
            values.append(log_probability(policy, ids, mask)[0] - log_probability(reference, ids, mask)[0])
        return 0.1 * sum(values) / len(values)

    for side, name in enumerate(("chosen_reward", "rejected_reward")):
        assert second[name] == pytest.approx(rewards(references["sft"], side), abs=2e-5)
        for other in ("cpt", "base"):
            assert abs(second[name] - rewards(references[other], side)) > 1e-2


def test_dpo_raises_the_margin_and_saves_one_adapter_without_its_reference(preferring: Run, tuned: Run) -> None:
    losses = preferring.losses()
    assert losses[-1]["margin"] > 0.1 and losses[-1]["loss"] < math.log(2)
    assert {path.name for path in preferring.adapter.iterdir()} >= {"adapter_model.safetensors", "chat_template.jinja"}
    assert not (preferring.adapter / "ref").exists()
    assert preferring.curve()[1]["measure"] == pytest.approx(tuned.curve()[-1]["measure"], abs=1e-6)
    facts = samples.kept_facts(preferring)
    assert facts and facts["samples"] == 6


# Going on


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    kind: str, home: Workspace, parent: Run, tuned: Run, preferring: Run
) -> None:
    whole, before = (tuned, parent) if kind == "sft" else (preferring, tuned)
    run = Runs(home).create(whole.config, experiment="chain", parent=before.id)

    with pytest.raises(Interrupted):
        align(home, run, say=quiet, check=_interrupt_at(run, 3))
    assert run.losses()[-1]["step"] == 3 and not run.adapter.exists()
    align(home, run, say=quiet)
    assert [r["loss"] for r in run.losses()] == [r["loss"] for r in whole.losses()]
    assert [point["step"] for point in run.curve()] == [point["step"] for point in whole.curve()]
    assert digest(run) == digest(whole)


def test_samples_are_pinned_at_the_first_start(home: Workspace, parent: Run, tuned: Run) -> None:
    run = Runs(home).create(tuned.config, experiment="chain", parent=parent.id)
    with pytest.raises(Interrupted):
        align(home, run, say=quiet, check=_interrupt_at(run, 1))
    (run.folder / "samples.jsonl").write_text("".join((run.folder / "samples.jsonl").read_text().splitlines(True)[:-1]))
    with pytest.raises(BadInput, match="The samples changed since run"):
        align(home, run, say=quiet)


def _interrupt_at(run: Run, step: int) -> Callable[[], None]:
    def check() -> None:
        if run.losses() and run.losses()[-1]["step"] == step:
            raise Interrupted("Paused.", "paused")

    return check


def test_a_loss_that_is_no_number_stops_the_run(home: Workspace, parent: Run) -> None:
    run = Runs(home).create(sft(parent), experiment="chain", parent=parent.id)

    def spoil(model: Any, **_: Any) -> None:
        next(p for n, p in model.named_parameters() if p.requires_grad).data.fill_(float("nan"))

    with pytest.raises(Diverged, match="became nan at step 2: start again with a lower learning rate"):
        align(home, run, say=quiet, callbacks=(At(1, spoil),))


# In 4 bits


def test_the_chain_in_four_bits_keeps_its_adapter_in_full_precision(home: Workspace, tiny_model_folder: Path) -> None:
    config = knowledge(tiny_model_folder, mixture__budget_tokens=600, model__precision="nf4")
    first = Runs(home).create(config, experiment="nf4")
    train(home, first, say=quiet)
    second = started(home, sft(first, training__epochs=1, training__learning_rate=1e-7), first)
    third = started(home, dpo(second, training__epochs=1), second)
    assert second.curve()[1]["measure"] == pytest.approx(first.curve()[-1]["measure"], abs=1e-6)
    assert third.losses()[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert third.results()["training"]["precision"] == "nf4"
    before, after = (load_file(run.adapter / "adapter_model.safetensors") for run in (first, second))
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    moved = {name: (after[name] - before[name]).abs().max().item() for name in before}
    assert 0 < max(moved.values()) < 1e-5  # steps that 16 bits would round away, and no rounding of the rest


# Bad input


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"template": "auto"}, BadInput, "has no chat template, as base models do: set template to one of chatml"),
        (
            {"samples__source": "taste"},
            BadInput,
            "The source 'taste' holds preferences, but sft learns from instructions",
        ),
        ({"samples__source": "field"}, BadInput, "holds documents, which have no answers"),
        ({"samples__selection": "gone"}, NotFound, "There is no selection 'gone'"),
        ({"samples__max_tokens": 16}, BadInput, "has no rows .* 7 unusable"),
    ],
)
def test_what_cannot_be_trained_on_is_told_in_a_sentence(
    changes: dict[str, Any], error: type[Exception], says: str, home: Workspace, parent: Run
) -> None:
    run = Runs(home).create(sft(parent, **changes), experiment="chain", parent=parent.id)
    with pytest.raises(error, match=says):
        align(home, run, say=quiet)
    assert not (run.folder / "samples.json").exists() and not run.metrics.exists()


def test_a_parent_without_an_adapter_is_refused(home: Workspace, parent: Run) -> None:
    unfinished = Runs(home).create(parent.config, experiment="chain")
    run = Runs(home).create(sft(parent), experiment="chain", parent=unfinished.id)
    with pytest.raises(BadInput, match=f"Run {unfinished.id} has no finished adapter"):
        align(home, run, say=quiet)
