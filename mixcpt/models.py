"""Models in memory: where they run, in which numbers, with which adapter; and proofs that the base did not move.

Getting a model onto the disk is `modelstore`, its output layer is `heads`; both are reachable from here.
"""

import contextlib
import hashlib
import math
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import torch
from bitsandbytes.nn.modules import Linear4bit
from peft import (
    LoraConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from mixcpt import doctor, machine, vocabulary
from mixcpt.attention import attend_in_tiles
from mixcpt.config import AdapterConfig, ModelConfig
from mixcpt.errors import BadConfig, BadFile, Unavailable
from mixcpt.heads import output_head, verify_head
from mixcpt.lssd import Head
from mixcpt.machine import Device, Precision
from mixcpt.modelfiles import model_fingerprint
from mixcpt.modelstore import BUILTIN_MODELS, BuiltinModel, ensure_model
from mixcpt.teacher import base_of
from mixcpt.workspace import Workspace

__all__ = [
    "BUILTIN_MODELS",
    "BuiltinModel",
    "Head",
    "attach_adapter",
    "compute_type",
    "ensure_model",
    "frozen_digest",
    "load_adapter",
    "load_base",
    "model_fingerprint",
    "output_head",
    "parameter_counts",
    "quiet",
    "resolve",
    "verify_head",
]

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from writing progress bars and advice, and hush the one deprecation that this PEFT cannot
    avoid; errors still rise."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def resolve(config: ModelConfig, workspace: Workspace) -> tuple[Device, Precision]:
    """The device and precision that `config` means on this machine, which is measured when that is not known yet.

    Raises:
        Unavailable: CUDA or NF4 was asked for, and this machine cannot do it.
    """
    return machine.settled(config) or machine.resolve(config, doctor.machine(workspace))


def load_base(folder: Path, device: str, precision: str) -> PreTrainedModel:
    """The model in `folder`, frozen, in evaluation mode and without a cache of past keys (with one, packed rows mix).

    With nf4 the linear layers of the body are quantised, and all else (embeddings, head, norms) is in the type that
    they compute in. That model is the baseline for everything. PEFT's preparation, which puts all else into fp32, is
    not used: it doubles what embeddings, head and kept activations take, and changes the base.

    Raises:
        BadFile: not a causal language model, weights that are missing or not numbers.
    """
    options: dict[str, Any] = {"dtype": compute_type(device, precision)}
    if precision == "nf4":
        options["quantization_config"] = _nf4(device)
        options["device_map"] = {"": device}
    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise BadFile(f"{folder} cannot be loaded as a causal language model ({reason}): check its files.") from error
    model, loading = loaded
    _check_weights(model, loading["missing_keys"], folder)
    if precision == "nf4":
        _keep_differentiable(model)
    else:
        model = model.to(device)
    model.config.use_cache = False
    attend_in_tiles(model)
    return cast(PreTrainedModel, model.eval().requires_grad_(False))


def compute_type(device: str, precision: str) -> torch.dtype:
    """The type that the products of a base in this precision are computed in; NF4 has none of its own, and takes the
    faster one of a processor."""
    if precision == "nf4":
        precision = "bf16" if device == "cuda" else doctor.cpu_precision()
    return _DTYPES[precision]


def _nf4(device: str) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_type(device, "nf4"),
    )


def _keep_differentiable(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on processors with AVX-512 BF16: it does so at the first look in
    evaluation mode, rounds the block scales, and from then on the layer has no gradient, not even in training mode."""
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _check_weights(model: PreTrainedModel, missing: Iterable[str], folder: Path) -> None:
    absent = sorted(missing)
    if absent:  # transformers would go on with random numbers in their place
        raise BadFile(f"{folder} lacks {len(absent)} weights, for example {absent[0]}: fetch the model again.")
    if model.get_output_embeddings() is None:  # type: ignore[no-untyped-call]
        raise BadFile(f"{type(model).__name__} in {folder} has no output embeddings: take a causal language model.")
    for name, parameter in model.named_parameters():
        if not all(_finite(values) for values in _real_values(parameter)):
            raise BadFile(f"The weights {name} in {folder} hold NaN or infinity: fetch the model again.")


def _finite(values: Tensor) -> bool:
    total = values.sum(dtype=torch.float32)  # far faster than looking at each; large finite numbers could overflow it
    return bool(torch.isfinite(total)) or bool(torch.isfinite(values).all())


def _real_values(parameter: Tensor) -> list[Tensor]:
    """The floating-point numbers of a weight; of an NF4 one its block scales, where a NaN of the source would show."""
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return [parameter]
    return [state.state2.absmax, state.offset] if state.nested else [state.absmax]


def attach_adapter(base: PreTrainedModel, config: AdapterConfig, seed: int) -> PeftModel:
    """`base` with a fresh fp32 LoRA adapter; the same seed gives the same adapter. The caller's random state is kept.
    With `config.vocabulary` it holds trainable copies of embedding and head too (`mixcpt.vocabulary`).

    Raises:
        BadConfig: the model has no layers of the kind that `config.layers` names. Unavailable: PEFT refuses its layers,
            or its embeddings cannot be trained.
    """
    lora = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=config.rank,
        lora_alpha=cast(int, config.alpha),
        lora_dropout=config.dropout,
        use_rslora=config.rslora,
        target_modules=_targets(base, config.layers),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in base.modules()),
        **(vocabulary.lora_settings(base) if config.vocabulary else {}),
    )
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        try:
            model = cast(PeftModel, get_peft_model(base, lora))
        except ValueError as error:
            reason = " ".join(str(error).split())[:200]
            raise Unavailable(
                f"{base.config.model_type} models cannot carry the adapter ({reason}): choose one with plain "
                "attention, such as Llama, Qwen or Gemma."
            ) from error
    vocabulary.make_trainable(model, base)
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad), "adapter weights must be fp32"
    return model


def _targets(base: PreTrainedModel, layers: str) -> list[str]:
    """Names of the linear layers of that kind, the head left out: the last part of the name where that is unambiguous,
    because other tools understand it, else the last two."""
    head = base.get_output_embeddings()  # type: ignore[no-untyped-call]
    wanted: set[tuple[str, ...]] = set()
    others: set[str] = set()
    for name, module in base.named_modules():
        is_plain = not type(module).__module__.startswith("transformers.models.")  # a router of Llama 4's gives a tuple
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head and is_plain:
            path = name.split(".")
            kind = "attention" if any("attn" in part or "attention" in part for part in path[:-1]) else "feed-forward"
            if layers in (kind, "all-linear"):
                wanted.add(tuple(path[-2:]))
            else:
                others.add(path[-1])
    if not wanted:
        raise BadConfig(f"adapter.layers is {layers!r}, but {type(base).__name__} has none: set it to all-linear.")
    return sorted({path[-1] if path[-1] not in others else ".".join(path) for path in wanted})


def load_adapter(
    base: PreTrainedModel | PeftModel, folder: Path, trainable: bool = True, name: str = "default"
) -> PeftModel:
    """`base` with the adapter saved in `folder`, ready to be trained on or only to be used; embeddings and head that
    were trained with it are held as they are.

    A base that carries adapters already (a PeftModel) gets one more, under a `name` that it does not have yet; which
    one is active stays as it was.

    Raises:
        BadFile: no safetensors adapter there, or one that was made for another model. `base` is of no use then, for
            PEFT has changed it.
    """
    path = folder / "adapter_model.safetensors"
    if not path.is_file() or not (folder / "adapter_config.json").is_file():
        raise BadFile(f"{folder} holds no adapter (adapter_model.safetensors and adapter_config.json): check the path.")
    try:
        with quiet():
            if isinstance(base, PeftModel):
                model = base
                model.load_adapter(str(folder), name, is_trainable=trainable)
            else:
                model = PeftModel.from_pretrained(base, str(folder), name, is_trainable=trainable)
    except (RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:160]
        raise BadFile(f"The adapter in {folder} does not fit {type(base).__name__} ({reason}).") from error
    vocabulary.hold(model, base_of(model))
    with safe_open(path, framework="pt") as file:
        saved = set(file.keys())
    if saved != set(get_peft_model_state_dict(model, adapter_name=name)):  # PEFT only warns, and leaves the rest as is
        raise BadFile(
            f"The adapter in {folder} was made for another model than {type(base).__name__}: load its own base."
        )
    return model


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """(trainable, total) numbers in `model`; an NF4 weight counts as the matrix it stands for, the adapter as part."""
    sizes = [(parameter.requires_grad, _size(parameter)) for parameter in model.parameters()]
    return sum(size for trainable, size in sizes if trainable), sum(size for _, size in sizes)


def _size(parameter: Tensor) -> int:
    state = getattr(parameter, "quant_state", None)
    return math.prod(state.shape) if state is not None else parameter.numel()


def frozen_digest(model: PreTrainedModel | PeftModel) -> str:
    """sha256 over the bytes of all weights and saved buffers that are not the adapter's, NF4 codes and scales included.

    Equal before and after training means that the base is bit-identical. Wrapping a base with an adapter does not
    change it. Buffers that are not saved (rotary frequencies) are left out: they follow from the configuration, and
    some families rewrite them as rows grow longer.
    """
    tensors = {
        name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".original_module.", "."): tensor
        for name, tensor in model.state_dict().items()
        if not _is_adapter(name)
    }
    with ThreadPoolExecutor() as pool:  # hashing frees the interpreter lock
        digests = pool.map(_tensor_digest, tensors.values())
        whole = hashlib.sha256()
        for name, digest in sorted(zip(tensors, digests, strict=True)):
            whole.update(f"{name}:{digest}\n".encode())
    return whole.hexdigest()


def _is_adapter(name: str) -> bool:
    return any(part.startswith("lora_") or part == "modules_to_save" for part in name.split("."))


def _tensor_digest(tensor: Tensor) -> str:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return f"{tensor.dtype}{tuple(tensor.shape)}{hashlib.sha256(data.data).hexdigest()}"
