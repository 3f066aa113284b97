"""What lies in the folder of a model or an adapter, without torch: is it whole, is its tokenizer of use at once, which
model is it, what was trained."""

import hashlib
from pathlib import Path
from typing import Any

from safetensors import safe_open

from mixcpt.errors import BadFile, Damaged
from mixcpt.workspace import read_json


def is_whole(folder: Path) -> bool:
    """Whether configuration and every weight file lie there; of weights in several files an index names them.

    Raises:
        BadFile: the index cannot be read.
    """
    index = folder / "model.safetensors.index.json"
    weights = set(_json_object(index).get("weight_map", {}).values()) if index.is_file() else set()
    whole = all((folder / file).is_file() for file in weights) if weights else any(folder.glob("*.safetensors"))
    return whole and (folder / "config.json").is_file()


def has_fast_tokenizer(folder: Path) -> bool:
    """Whether the tokenizer can be read without torch and knows its end-of-sequence token.

    Raises:
        BadFile: its configuration cannot be read.
    """
    config = folder / "tokenizer_config.json"
    if not (folder / "tokenizer.json").is_file() or not config.is_file():
        return False
    return bool(_json_object(config).get("eos_token"))


def _json_object(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except Damaged:
        found = None
    if not isinstance(found, dict):
        raise BadFile(f"{path} holds no JSON object: fetch the model again.")
    return found


def beyond_lora(adapter: Path) -> list[str]:
    """Names of the weights in an adapter's folder that are no LoRA matrices: whole layers, embeddings, biases.

    Raises:
        BadFile: there is no adapter.
    """
    path = adapter / "adapter_model.safetensors"
    if not path.is_file():
        raise BadFile(f"{adapter} holds no adapter_model.safetensors: check the path.")
    with safe_open(path, framework="np") as file:
        return [name for name in file.keys() if not name.endswith((".lora_A.weight", ".lora_B.weight"))]  # noqa: SIM118


def replaced(adapter: Path) -> list[str]:
    """Names of the weights in an adapter's folder that take the place of embeddings and head: what its configuration
    names as whole layers, and the head that is tied to one.

    Raises:
        BadFile: there is no adapter.
    """
    settings = _json_object(adapter / "adapter_config.json")
    whole = [*(settings.get("modules_to_save") or []), *(["lm_head"] if settings.get("ensure_weight_tying") else [])]
    ends = tuple(f".{name}.{part}" for name in whole for part in ("weight", "bias"))
    return [name for name in beyond_lora(adapter) if name.endswith(ends)]


def model_fingerprint(folder: Path) -> str:
    """Identity of the model in `folder`, 16 hex digits: its config, and of each weight file the header, the size and a
    sample of bytes. Cheap, also for large models."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with open(path, "rb") as file:
            prefix = file.read(8)
            header = int.from_bytes(prefix, "little")
            digest.update(prefix + file.read(min(header, size)))
            for start in _sample_starts(8 + header, size):
                file.seek(start)
                digest.update(file.read(4096))
    return digest.hexdigest()[:16]


def _sample_starts(first: int, size: int, samples: int = 64) -> list[int]:
    step = max((size - first) // samples, 1)
    return list(range(first, size, step))


def model_config(folder: Path) -> dict[str, Any]:
    """What config.json says. Raises BadFile when it cannot be read."""
    return _json_object(folder / "config.json")


def stored_in_bf16(folder: Path) -> bool:
    """Whether the weights were saved in bf16, as config.json tells; those of another kind need fp32 to be kept whole.

    Raises:
        BadFile: it cannot be read.
    """
    config = model_config(folder)
    parts = (config, config.get("text_config") or {})
    return any(part.get(name) == "bfloat16" for part in parts for name in ("dtype", "torch_dtype"))
