"""Merged weights against W + s B A in float64, and merged models against base and adapter side by side."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from exportable import FAMILIES, random_adapter, tiny_model
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from mixcpt.errors import BadFile, Interrupted
from mixcpt.merging import merge

ROUNDING = 2.0**-8
"""bf16 keeps 8 binary digits, so a number is rounded by half a step at most: 2^-8 of its size."""
IDS = torch.randint(0, 256, (8, 48), generator=torch.Generator().manual_seed(1))
ADAPTERS: dict[str, dict[str, Any]] = {
    "llama": {"rank": 4, "alpha": 8.0},
    "gemma3": {"rank": 8, "alpha": 16.0, "rslora": True},
    "gpt2": {"rank": 4, "alpha": 8.0},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path) -> Path:
    """Per family a model in bf16, an adapter, and what merging made of them."""
    folder = tmp_path_factory.mktemp("merging")
    for family in FAMILIES:
        model = tiny_model(family, folder / family, tiny_tokenizer_folder)
        adapter = random_adapter(model, folder / f"{family}-adapter", **ADAPTERS[family])
        merge(model, adapter).save_pretrained(folder / f"{family}-merged")
    return folder


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def deltas(adapter: Path, transposed: bool) -> dict[str, Tensor]:
    """s B A of every adapted matrix, in float64, from the files alone."""
    settings = json.loads((adapter / "adapter_config.json").read_text())
    rank = settings["r"]
    scale = settings["lora_alpha"] / (rank**0.5 if settings["use_rslora"] else rank)
    loaded = load_file(adapter / "adapter_model.safetensors")
    found = {}
    for name, matrix in loaded.items():
        if name.endswith("lora_A.weight"):
            product = scale * loaded[name.replace("lora_A", "lora_B")].double() @ matrix.double()
            plain = name.removeprefix("base_model.model.").replace(".lora_A", "")
            found[plain] = product.T if transposed else product
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_merged_number_is_the_exact_sum_rounded_once(home: Path, family: str) -> None:
    before, after = tensors(home / family), tensors(home / f"{family}-merged")
    added = deltas(home / f"{family}-adapter", transposed=family == "gpt2")
    assert after.keys() == before.keys() and len(added) == {"llama": 14, "gemma3": 14, "gpt2": 8}[family]
    assert set(added) <= set(after)
    is_sum(after, before, added)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_of_a_merged_adapter_so_much_is_added_as_its_strength_says(
    home: Path, family: str, strength: float, tmp_path: Path
) -> None:
    merge(home / family, home / f"{family}-adapter", strength=strength).save_pretrained(tmp_path)
    before, after = tensors(home / family), tensors(tmp_path)
    added = deltas(home / f"{family}-adapter", transposed=family == "gpt2")
    is_sum(after, before, {name: strength * delta for name, delta in added.items() if strength})


def is_sum(after: dict[str, Tensor], before: dict[str, Tensor], added: dict[str, Tensor]) -> None:
    for name, merged in after.items():
        assert merged.dtype == torch.bfloat16
        if name not in added:
            assert torch.equal(merged, before[name]), f"nothing is added to {name}"
            continue
        exact = before[name].double() + added[name]
        slack = 1e-6 * (before[name].double().abs() + added[name].abs())  # of the sum in fp32
        assert bool(((merged.double() - exact).abs() <= ROUNDING * exact.abs() + slack).all()), name
        assert not torch.equal(merged, before[name])


def load(folder: Path, dtype: torch.dtype, adapter: Path | None = None) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return (PeftModel.from_pretrained(model, str(adapter)) if adapter else model).eval()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(input_ids=IDS).logits.double()
    return found


def kl(reference: Tensor, other: Tensor) -> float:
    """Mean nats per token."""
    ours, theirs = reference.log_softmax(-1), other.log_softmax(-1)
    return float((ours.exp() * (ours - theirs)).sum(-1).mean())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_model_answers_as_base_and_adapter_do(home: Path, family: str) -> None:
    """Against base and adapter in fp32.

    Computed in fp32 too, the merged model differs by the rounding of its weights alone. A product with rounded weights
    is off by at most 2^-8 of the sum of its terms' sizes, and by far less where the errors have both signs, as here:
    a few of 2^-8 of the largest logit come together over two layers, and 8 of them are the bound.
    Computed in bf16, where the values between are rounded as well, it must be no worse than base and adapter in bf16,
    but for the little that the rounded weights add (a twentieth of it for both built-in models).
    """
    model, adapter, merged = home / family, home / f"{family}-adapter", home / f"{family}-merged"
    reference = logits(load(model, torch.float32, adapter))
    changed = (reference - logits(load(model, torch.float32))).abs().max()
    in_fp32 = logits(load(merged, torch.float32))
    off = (in_fp32 - reference).abs().max()
    assert off <= 8 * ROUNDING * reference.abs().max()
    assert off < changed / 10, "or the adapter could as well be left out"
    unmerged = kl(reference, logits(load(model, torch.bfloat16, adapter)))
    assert kl(reference, logits(load(merged, torch.bfloat16))) <= 1.1 * unmerged


FRESH = """
import sys, torch
from transformers import AutoModelForCausalLM
ids = torch.load(sys.argv[1], weights_only=True)
for folder in sys.argv[2:]:
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"], loading
    assert model.config.tie_word_embeddings and model.config.use_cache and model.dtype == torch.bfloat16
    assert model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    with torch.no_grad():
        torch.save(model.eval()(input_ids=ids).logits, folder + "/logits.pt")
"""


def test_plain_transformers_reloads_it_exactly_in_a_fresh_process(home: Path) -> None:
    torch.save(IDS, home / "ids.pt")
    merged = [home / f"{family}-merged" for family in FAMILIES]
    done = subprocess.run([sys.executable, "-c", FRESH, home / "ids.pt", *merged], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for family, folder in zip(FAMILIES, merged, strict=True):
        here: Any = merge(home / family, home / f"{family}-adapter").eval()  # type: ignore[no-untyped-call]
        here.set_attn_implementation("sdpa")  # ours ends in other last digits, and is not saved
        with torch.no_grad():
            assert torch.equal(here(input_ids=IDS).logits, torch.load(folder / "logits.pt", weights_only=True))
        config = json.loads((folder / "config.json").read_text())
        assert config["dtype"] == "bfloat16" and not any("attn_implementation" in key for key in config)


def test_weights_that_are_stored_in_fp32_are_rounded_once_too(home: Path, tiny_tokenizer_folder: Path) -> None:
    """Rounding the base first would put some of them a whole step away from the sum."""
    model = tiny_model("llama", home / "llama32", tiny_tokenizer_folder, torch.float32)
    adapter = random_adapter(model, home / "llama32-adapter", rank=4)
    merged = dict(merge(model, adapter).state_dict())
    before = tensors(model)
    for name, delta in deltas(adapter, transposed=False).items():
        exact = before[name].double() + delta
        assert bool(((merged[name].double() - exact).abs() <= ROUNDING * exact.abs() + 1e-6).all())
    embeddings = "model.embed_tokens.weight"
    assert torch.equal(merged[embeddings], before[embeddings].to(torch.bfloat16))


def test_an_adapter_with_more_than_lora_matrices_is_refused(home: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "more"
    random_adapter(home / "llama", adapter, rank=4)
    weights = load_file(adapter / "adapter_model.safetensors")
    weights["base_model.model.lm_head.weight"] = torch.zeros(257, 64)
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(BadFile, match=r"more than LoRA matrices, for example base_model.model.lm_head.weight"):
        merge(home / "llama", adapter)
    with pytest.raises(BadFile, match=r"no adapter_model.safetensors"):
        merge(home / "llama", tmp_path)


def test_numbers_that_are_none_are_refused(home: Path, tmp_path: Path) -> None:
    adapter = random_adapter(home / "llama", tmp_path / "nan", rank=4)
    weights = load_file(adapter / "adapter_model.safetensors")
    next(matrix for name, matrix in weights.items() if "lora_B" in name)[0, 0] = torch.nan
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(BadFile, match=r"NaN or infinite: it is damaged"):
        merge(home / "llama", adapter)


def test_merging_can_be_stopped(home: Path) -> None:
    def stop(fraction: float) -> None:
        if fraction > 0.4:
            raise Interrupted("Cancelled.")

    with pytest.raises(Interrupted):
        merge(home / "llama", home / "llama-adapter", stop)
