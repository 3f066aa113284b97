"""Embeddings and head trained as whole matrices, tied or not: gradients, teacher, resuming, and all that follows."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from test_alignment import TALK, TASTE, dpo, sft
from test_training import At, adapter_digest, interrupted_run, losses, new_run, quiet, stage
from tiny import llama
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
)

from mixcpt import exports, models, vocabulary
from mixcpt.alignment import align
from mixcpt.config import AdapterConfig
from mixcpt.corpus import ingest_records
from mixcpt.errors import BadConfig, BadFile, BadInput, Interrupted, Unavailable
from mixcpt.exchanges import Question
from mixcpt.exporting import make
from mixcpt.facts import adapter_words
from mixcpt.heads import output_head, verify_head
from mixcpt.lssd import Objective, chunked_loss, plain_loss
from mixcpt.measures import Measures
from mixcpt.merging import merge
from mixcpt.prompts import base_of, prepare
from mixcpt.records import Message, Record
from mixcpt.resident import Resident
from mixcpt.runs import Run, Runs
from mixcpt.stages import Sft, Stage
from mixcpt.teacher import final_hidden, teacher_mode
from mixcpt.tokens import TextTokenizer
from mixcpt.training import train
from mixcpt.workspace import Workspace

IDS = torch.randint(0, 256, (2, 24), generator=torch.Generator().manual_seed(1))
POSITIONS = torch.arange(24).expand(2, 24)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def tied(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def folder(tied: bool, tiny_tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in fp32."""
    path = tmp_path_factory.mktemp("vocabulary")
    shutil.copytree(tiny_tokenizer_folder, path, dirs_exist_ok=True)
    llama(tied).save_pretrained(path)
    return path


def attached(folder: Path, precision: str = "fp32") -> Any:
    base = models.load_base(folder, "cpu", precision)
    return models.attach_adapter(base, AdapterConfig(rank=4, vocabulary=True), 0).eval()


def moved(model: Any) -> Any:
    """The adapter, copies and all, as training might leave it."""
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(input_ids=IDS, position_ids=POSITIONS, use_cache=False).logits.float()
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4"])
def test_a_fresh_copy_changes_nothing_and_is_fp32(folder: Path, tied: bool, precision: str) -> None:
    base = models.load_base(folder, "cpu", precision)
    before, digest, kind = logits(base), models.frozen_digest(base), base.get_input_embeddings().weight.dtype
    model = models.attach_adapter(base, AdapterConfig(rank=4, vocabulary=True), 0)
    assert torch.equal(logits(model), before)
    copies = vocabulary.copies(model)
    assert len(copies) == (1 if tied else 2) and all(c.dtype == torch.float32 and c.requires_grad for c in copies)
    assert output_head(model).weight is copies[-1]
    assert models.frozen_digest(model) == models.frozen_digest(base) == digest
    with torch.no_grad():
        assert final_hidden(model, IDS, POSITIONS).dtype == kind

    moved(model)
    assert not torch.equal(logits(model), before)
    assert models.frozen_digest(base) == digest
    with teacher_mode(model):  # the original in embedding and head too
        assert torch.equal(logits(model), before)
        assert output_head(model).weight.dtype == kind and not output_head(model).is_trained
    assert all(c.requires_grad for c in copies) and output_head(model).is_trained


def test_the_gradients_are_those_of_the_plain_loss(folder: Path, tied: bool) -> None:
    """In float64 by a model of its own with weights of its own: W + s B A in the layers, the copies as they are."""
    model = moved(attached(folder))
    with teacher_mode(model):
        teacher_head, states = output_head(model), final_hidden(model, IDS, POSITIONS).flatten(0, 1)
    labels = torch.cat([IDS[:, 1:], torch.full((2, 1), -100)], 1).flatten()
    hidden = final_hidden(model, IDS, POSITIONS).flatten(0, 1)
    sums = chunked_loss(hidden, states, labels, output_head(model), Objective(), 7, teacher_head)
    (sums.total / sums.tokens).backward()  # type: ignore[no-untyped-call]

    exact: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    teacher = exact(IDS).logits.detach().flatten(0, 1)
    wrapped = dict(model.get_base_model().named_modules())
    with torch.no_grad():
        for name, parameter in exact.named_parameters():
            layer = wrapped[name.removesuffix(".weight")]
            if hasattr(layer, "modules_to_save"):
                parameter.copy_(layer.modules_to_save["default"].weight)
            elif hasattr(layer, "lora_A"):
                parameter += layer.scaling["default"] * (
                    layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
                )
    expected = plain_loss(exact(IDS).logits.flatten(0, 1), teacher, labels, Objective())
    (expected.total / expected.tokens).backward()  # type: ignore[no-untyped-call]
    assert sums.total.item() == pytest.approx(expected.total.item(), rel=1e-5)
    theirs = [exact.model.embed_tokens.weight.grad] + ([] if tied else [exact.lm_head.weight.grad])
    for copy, gradient in zip(vocabulary.copies(model), theirs, strict=True):
        assert copy.grad is not None and gradient.abs().max() > 1e-3
        torch.testing.assert_close(copy.grad.double(), gradient, atol=1e-6, rtol=1e-3)


def test_a_scaled_embedding_is_scaled_as_in_its_base() -> None:
    """Gemma rounds the scale to the type of the weights first: 25.298 is 25.25 in bf16."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=257, hidden_size=40, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, sliding_window=8, pad_token_id=0,
    )  # fmt: skip
    base = Gemma3ForCausalLM(config).to(torch.bfloat16).eval().requires_grad_(False)  # type: ignore[arg-type]
    verify_head(base, output_head(base))
    before = logits(base)
    model = models.attach_adapter(base, AdapterConfig(rank=2, vocabulary=True), 0)
    assert torch.equal(logits(model), before) and len(vocabulary.copies(model)) == 1


def test_what_peft_would_untie_is_refused() -> None:
    base = GPT2LMHeadModel(GPT2Config(vocab_size=257, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(Unavailable, match=r"gpt2 models .* cannot be trained here: set adapter\.vocabulary to false"):
        models.attach_adapter(base, AdapterConfig(vocabulary=True), 0)


def settings(folder: Path, **changes: Any) -> Any:
    return stage(folder, adapter__vocabulary=True, adapter__rank=4, training__vocabulary_learning_rate=2e-3, **changes)


@pytest.fixture
def trained(small_corpora: Workspace, folder: Path) -> Run:
    run = new_run(small_corpora, settings(folder))
    train(small_corpora, run, say=quiet)
    return run


def test_a_run_trains_them_at_a_rate_of_their_own_and_resumes_exactly(
    small_corpora: Workspace, folder: Path, tied: bool, trained: Run
) -> None:
    caught: dict[str, Any] = {}

    def look(model: Any, optimizer: Any, **_: Any) -> None:
        caught["copies"] = vocabulary.copies(model)
        caught["groups"] = [dict(group) for group in optimizer.param_groups if group["params"]]

    stopped = interrupted_run(small_corpora, settings(folder), 7)
    train(small_corpora, stopped, say=quiet, callbacks=(At(8, look),))
    assert losses(stopped) == losses(trained) and len(losses(trained)) == 12
    assert [point["measure"] for point in stopped.curve()] == [point["measure"] for point in trained.curve()]
    assert adapter_digest(stopped) == adapter_digest(trained)

    lora, own = caught["groups"]
    assert set(map(id, own["params"])) == set(map(id, caught["copies"]))
    assert all(copy.dtype == torch.float32 for copy in own["params"])
    assert (lora["initial_lr"], own["initial_lr"], own["weight_decay"]) == (5e-3, 2e-3, 0)
    assert 0 < lora["lr"] < 5e-3 and own["lr"] / lora["lr"] == pytest.approx(2e-3 / 5e-3)
    assert lora["lr"] == trained.losses()[7]["learning_rate"]

    saved, original = load_file(trained.adapter / "adapter_model.safetensors"), load_file(folder / "model.safetensors")
    ends = {name.removeprefix("base_model.model."): value for name, value in saved.items() if "lora" not in name}
    assert set(ends) == {"model.embed_tokens.weight", "lm_head.weight"}
    assert torch.equal(ends["model.embed_tokens.weight"], ends["lm_head.weight"]) == tied
    for name, value in ends.items():
        assert not torch.equal(value, original.get(name, original["model.embed_tokens.weight"]))
    numbers = (1 if tied else 2) * 257 * 64 + 2 * 4 * (2 * 128 + 2 * 96 + 3 * 192)
    assert trained.results()["training"]["trainable_parameters"] == numbers


def test_the_first_step_is_that_of_a_run_without(small_corpora: Workspace, folder: Path, trained: Run) -> None:
    """The teacher is the same, cached or live; the distance from it is 0 at the start, and not at the end."""
    without = new_run(small_corpora, stage(folder, adapter__rank=4, training__teacher_cache=False))
    live = new_run(small_corpora, settings(folder, training__teacher_cache=False))
    for run in (without, live):
        train(small_corpora, run, say=quiet)
    first, second = losses(without), losses(live)
    assert first[0] == second[0] and first[3] != second[3]
    for (_, ours, _), (_, theirs, _) in zip(losses(trained), second, strict=True):  # the cache rounds to bf16
        assert ours == pytest.approx(theirs, abs=2e-2)
    kl = [point["measure"]["prompt_kl"] for point in live.curve()]
    assert kl[0] == pytest.approx(0, abs=1e-6) and kl[-1] > 1e-3


def test_plain_peft_loads_what_was_saved(small_corpora: Workspace, folder: Path, trained: Run) -> None:
    """And both say what the trainer measured last: bits per byte of the field, and the distance from the base."""
    model = models.load_adapter(models.load_base(folder, "cpu", "fp32"), trained.adapter).eval()
    assert all(not copy.requires_grad for copy in vocabulary.copies(model))
    with models.quiet():
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(trained.adapter)).eval()
    assert torch.equal(logits(plain), logits(model))
    tokenizer, config = TextTokenizer.from_folder(folder), trained.config
    assert isinstance(config, Stage)
    measures = Measures(small_corpora, tokenizer, config.measures, config.mixture)
    assert measures.take(model) == pytest.approx(trained.curve()[-1]["measure"], rel=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_a_base_in_few_bits_begins_at_no_distance(small_corpora: Workspace, folder: Path, precision: str) -> None:
    run = new_run(small_corpora, settings(folder, model__precision=precision, mixture__budget_tokens=600))
    train(small_corpora, run, say=quiet)
    first, *_, last = [point["measure"] for point in run.curve()]
    assert abs(first["prompt_kl"]) < 1e-9 and last["prompt_kl"] > 1e-4
    assert last["domain_bits_per_byte"] < first["domain_bits_per_byte"]
    saved = load_file(run.adapter / "adapter_model.safetensors")["base_model.model.lm_head.weight"]
    assert saved.dtype == torch.float32 and not torch.equal(saved, saved.bfloat16().float())
    assert run.results()["training"]["final"] == last


def ingest_samples(workspace: Workspace, tokenizer: TextTokenizer) -> None:
    talk = [
        Record("instructions", messages=(Message("user", q), Message("assistant", a)), meta={"id": f"t{n}"})
        for n, (q, a) in enumerate([*TALK, ("held", "out " * 20)])
    ]
    taste = [
        Record("preferences", messages=(Message("user", q),), chosen=c, rejected=r, meta={"id": f"t{n}"})
        for n, (q, c, r) in enumerate([*TASTE, ("same", "same", "same"), ("held " * 20, "o", "ut")])
    ]
    for name, records in (("talk", talk), ("taste", taste)):
        ingest_records(workspace, name, records, files=[], heldout_ids={"t7"}, tokenizer=tokenizer)


def test_later_stages_hold_them_and_measure_against_them(
    small_corpora: Workspace, tiny_tokenizer: TextTokenizer, folder: Path, trained: Run
) -> None:
    """SFT and DPO train the LoRA matrices alone. DPO's reference has the parent's embeddings and head: at its first
    step nothing is preferred, so its loss is log 2."""
    ingest_samples(small_corpora, tiny_tokenizer)

    def stopped_once(config: Sft, parent: Run) -> Run:
        run = Runs(small_corpora).create(config, experiment="chain", parent=parent.id)

        def check() -> None:
            if len(run.losses()) == 3:
                raise Interrupted("stop")

        with pytest.raises(Interrupted):
            align(small_corpora, run, say=quiet, check=check)
        align(small_corpora, run, say=quiet)
        return run

    tuned = stopped_once(sft(trained), trained)
    preferring = stopped_once(dpo(tuned), tuned)
    assert preferring.losses()[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    before = load_file(trained.adapter / "adapter_model.safetensors")
    for run in (tuned, preferring):
        after = load_file(run.adapter / "adapter_model.safetensors")
        assert after.keys() == before.keys()
        for name, value in after.items():
            assert torch.equal(value, before[name]) is ("lora" not in name), name
        numbers = 2 * 4 * (2 * 128 + 2 * 96 + 3 * 192)
        assert run.results()["training"]["trainable_parameters"] == numbers
    assert tuned.curve()[0]["under"] == "base"
    assert tuned.curve()[0]["measure"] == pytest.approx(trained.curve()[0]["measure"], abs=1e-6)
    assert tuned.curve()[1]["measure"] == pytest.approx(trained.curve()[-1]["measure"], rel=1e-5)


def test_a_later_stage_that_continues_nothing_cannot_train_them(
    small_corpora: Workspace, tiny_tokenizer: TextTokenizer, folder: Path
) -> None:
    ingest_samples(small_corpora, tiny_tokenizer)
    run = new_run(small_corpora, settings(folder))
    alone = Runs(small_corpora).create(sft(run), experiment="chain")
    with pytest.raises(BadConfig, match=r"^adapter\.vocabulary is on, but .* set it to false, or start from a run"):
        align(small_corpora, alone, say=quiet)


def test_merged_it_answers_as_adapted(folder: Path, tied: bool, tmp_path: Path) -> None:
    moved(attached(folder)).save_pretrained(str(tmp_path / "adapter"))
    adapted = logits(models.load_adapter(models.load_base(folder, "cpu", "fp32"), tmp_path / "adapter").eval())
    merge(folder, tmp_path / "adapter").save_pretrained(tmp_path / "merged")
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    assert ("lm_head.weight" in weights) is not tied
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    exact = saved["base_model.model.model.embed_tokens.weight"]
    assert torch.equal(weights["model.embed_tokens.weight"], exact.to(torch.bfloat16)), "rounded once"
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert loaded.config.tie_word_embeddings is tied
    merged, change = logits(loaded), (adapted - logits(models.load_base(folder, "cpu", "fp32"))).abs().max()
    off = (merged - adapted).abs().max()
    assert off <= 8 * 2.0**-8 * adapted.abs().max() and off < change / 10
    with pytest.raises(BadFile, match=r"replaces .*, so it has no strength of 0: take 1"):
        merge(folder, tmp_path / "adapter", strength=0.0)


def test_it_is_exported_whole_only(small_corpora: Workspace, folder: Path, trained: Run) -> None:
    with pytest.raises(BadInput, match=r"holds more than LoRA matrices.* export it at strength 1"):
        exports.check(small_corpora, trained, "merged", 0.5)
    made = make(small_corpora, trained, "merged")
    loaded: Any = AutoModelForCausalLM.from_pretrained(made.folder, dtype=torch.float32)
    adapted = models.load_adapter(models.load_base(folder, "cpu", "fp32"), trained.adapter).eval()
    assert (logits(loaded) - logits(adapted)).abs().max() <= 8 * 2.0**-8 * logits(adapted).abs().max()
    assert adapter_words(trained.config.adapter).endswith("; embeddings and head as whole matrices")


def test_it_is_talked_to_whole_beside_runs_without(small_corpora: Workspace, folder: Path, trained: Run) -> None:
    without, another = (
        new_run(small_corpora, stage(folder, adapter__rank=4)),
        new_run(small_corpora, settings(folder, training__seed=1)),
    )
    for run in (without, another):
        train(small_corpora, run, say=quiet)
    held = Resident(base_of(small_corpora, trained, ""))
    expected = {
        run.id: logits(models.load_adapter(models.load_base(folder, "cpu", "fp32"), run.adapter).eval())
        for run in (trained, without, another)
    }
    base = logits(held.model)
    for one in (trained, without, another, trained, None, without, None, another, trained):
        held.use(one)
        wanted = base if one is None else expected[one.id]
        assert torch.equal(logits(held.model), wanted)
        with torch.no_grad():
            states = final_hidden(held.model, IDS, POSITIONS)
        torch.testing.assert_close(held.head.logits(states), wanted)
    refusal = rf"Embeddings and head of run {trained.id} were trained .* no strength of 0.5: take 1, or 0 for the base"
    with pytest.raises(BadInput, match=refusal):
        held.use(trained, 0.5)
    asked = {"voices": [{"run": trained.id, "strength": 0.5}], "messages": [{"role": "user", "content": "Where?"}]}
    with pytest.raises(BadInput, match=refusal):
        prepare(small_corpora, Question.model_validate(asked))
    held.use(trained, 0.0)
    assert torch.equal(logits(held.model), base)
