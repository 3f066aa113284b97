"""How much memory and time a run will need, before it starts; logits included. No torch: it reads the model's files.

Formulas are ours; the constants named below were measured (`bench/estimate.py` gives them again). It gives up precision
for families far from Llama's shape: there the activations are a guess from width and depth.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixcpt.config import Stage
from mixcpt.errors import BadFile, TooLittle
from mixcpt.workspace import read_json

PROCESS_BYTES = 630_000_000
"""Python, torch and transformers before any model."""
LOGIT_COPIES = 5
"""fp32 tensors of [chunk, vocabulary] that are alive at once in the chunked loss with a teacher."""
SLACK = 1.05
"""What allocators keep beyond what is asked of them."""

_BYTES = {"fp32": 4.0, "bf16": 2.0, "nf4": 0.57}
_OTHER_BYTES = {"fp32": 4, "bf16": 2, "nf4": 4}
"""Of what is in no linear layer: preparing an NF4 model puts embeddings, head and norms into fp32."""
_EFFICIENCY = {"cpu": 0.4, "cuda": 0.35}
"""Share of the measured (CPU) or usual (GPU) matrix-product speed that whole training steps reach."""
_GPU_GFLOPS = 100_000.0


@dataclass(frozen=True)
class Shape:
    """What matters of a model's weights. Parameters in numbers, not bytes."""

    linear: list[tuple[int, int]]
    """[out, in] of every linear layer inside the body, the ones that carry adapters."""
    other: int
    """Parameters that are in no such layer: embeddings, norms, head."""
    width: int
    feed_forward: int
    layers: int
    vocabulary: int

    @property
    def linear_parameters(self) -> int:
        return sum(rows * columns for rows, columns in self.linear)


@dataclass(frozen=True)
class Estimate:
    """Needs of one run. `parts` are bytes per part, `seconds` those of training, measures included."""

    memory_bytes: int
    seconds: float
    parts: dict[str, int]

    def words(self) -> str:
        return f"about {self.memory_bytes / 1e9:.1f} GB of memory and {minutes(self.seconds)}"


def minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def shape_of(folder: Path) -> Shape:
    """Read a model folder's shape from config.json and the safetensors headers.

    Raises:
        BadFile: they do not describe a language model.
    """
    try:
        return _shape(read_json(folder / "config.json"), dict(_headers(folder)))
    except (KeyError, TypeError, ValueError, AttributeError, struct.error) as error:
        raise BadFile(
            f"{folder} does not describe a language model ({type(error).__name__}: {error}): check its config.json and "
            "weights, or fetch the model again."
        ) from error


def _shape(config: dict[str, Any], tensors: dict[str, list[int]]) -> Shape:
    config = config.get("text_config", config)
    vocabulary, width = int(config["vocab_size"]), int(config.get("hidden_size", config.get("n_embd", 0)))
    linear = [(s[0], s[1]) for s in tensors.values() if len(s) == 2 and vocabulary not in s]
    total = sum(_size(shape) for shape in tensors.values())
    return Shape(
        linear=linear,
        other=total - sum(rows * columns for rows, columns in linear),
        width=width,
        feed_forward=int(config.get("intermediate_size", 4 * width)),
        layers=int(config.get("num_hidden_layers", config.get("n_layer", 1))),
        vocabulary=vocabulary,
    )


def _headers(folder: Path) -> Iterator[tuple[str, list[int]]]:
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        yield from ((name, entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _size(shape: list[int]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def estimate(stage: Stage, shape: Shape, *, device: str, precision: str, gflops: float | None) -> Estimate:
    """Memory and time of training `stage`.

    Args:
        gflops: measured speed of matrix products on the CPU in the precision used; None on a GPU.
    """
    parts = {
        "process": PROCESS_BYTES if device == "cpu" else 500_000_000,
        "model": weight_bytes(shape, precision),
        "adapter": 16 * adapter_parameters(stage, shape),  # fp32 weight, gradient and two moments
        "activations": _activations(stage, shape, precision),
        "logits": LOGIT_COPIES * 4 * stage.training.loss_chunk * shape.vocabulary,
    }
    return Estimate(round(SLACK * sum(parts.values())), _seconds(stage, shape, device, gflops), parts)


def weight_bytes(shape: Shape, precision: str) -> int:
    """Bytes of the base's weights in memory."""
    return round(shape.linear_parameters * _BYTES[precision] + shape.other * _OTHER_BYTES[precision])


def adapter_parameters(stage: Stage, shape: Shape) -> int:
    """LoRA parameters on all linear layers: rank * (in + out) each. An upper bound for fewer layers."""
    return stage.adapter.rank * sum(rows + columns for rows, columns in shape.linear)


def _activations(stage: Stage, shape: Shape, precision: str) -> int:
    """Bytes kept for the backward pass: per token and layer about 17 vectors of the width and 8 of the feed-forward."""
    element = 4 if precision == "fp32" else 2
    tokens = stage.training.rows_at_once * stage.mixture.row_tokens
    layer = (17 * shape.width + 8 * shape.feed_forward) * element
    if stage.training.checkpoint_activations:
        return tokens * (shape.layers * shape.width * element + layer)
    return tokens * shape.layers * layer


def _seconds(stage: Stage, shape: Shape, device: str, gflops: float | None) -> float:
    """Floating-point operations over speed. A frozen linear layer costs 2 a parameter and token forward, 2 backward."""
    teacher = stage.objective.needs_teacher
    body = 2 * shape.linear_parameters
    head = 2 * shape.width * shape.vocabulary
    forward = body * (1 + stage.training.checkpoint_activations)
    per_token = forward + body + 2 * head + (body + head if teacher else 0)
    operations = stage.mixture.total_tokens() * per_token + _measured_tokens(stage) * (body + head)
    speed = (gflops or _GPU_GFLOPS) * 1e9 * _EFFICIENCY[device]
    return operations / speed


def _measured_tokens(stage: Stage) -> int:
    measures = stage.measures
    steps = max(1, stage.mixture.total_tokens() // (stage.training.rows_per_step * stage.mixture.row_tokens))
    times = 2 if not measures.every_steps else 1 + -(-steps // measures.every_steps)
    return times * (measures.domain_tokens + measures.general_tokens + measures.prompt_tokens)


def require_memory(
    stage: Stage, shape: Shape, needed: Estimate, available_bytes: float, *, device: str, precision: str
) -> None:
    """Raises TooLittle when the run cannot fit, naming the settings that would make it fit."""
    if needed.memory_bytes <= available_bytes:
        return
    where = "on the GPU" if device == "cuda" else "here"
    raise TooLittle(
        f"This run needs about {needed.memory_bytes / 1e9:.1f} GB of memory, but {available_bytes / 1e9:.1f} GB are "
        f"free {where}: {_remedy(stage, shape, available_bytes, device, precision)}."
    )


def _remedy(stage: Stage, shape: Shape, available_bytes: float, device: str, precision: str) -> str:
    """The first, least painful change under which the run would fit."""
    from mixcpt.config import override

    changes: list[dict[str, object]] = [
        {"training.rows_at_once": 1},
        {"training.rows_at_once": 1, "training.checkpoint_activations": True},
        {"training.rows_at_once": 1, "training.checkpoint_activations": True, "model.precision": "nf4"},
        {
            "training.rows_at_once": 1,
            "training.checkpoint_activations": True,
            "model.precision": "nf4",
            "mixture.row_tokens": max(16, stage.mixture.row_tokens // 4),
        },
    ]
    for change in changes:
        changed = override(stage, change)
        then = str(change.get("model.precision", precision))
        if estimate(changed, shape, device=device, precision=then, gflops=None).memory_bytes <= available_bytes:
            return "set " + " and ".join(f"{name} to {str(value).lower()}" for name, value in change.items())
    return "choose a smaller model"
