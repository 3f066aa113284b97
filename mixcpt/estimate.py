"""How much memory and time a run will need, before it starts; logits included. No torch: it reads the model's files.

Formulas are ours; the constants named below were measured (`bench/estimate.py` gives them again). It gives up precision
for families far from Llama's shape: there the activations are a guess from the sizes of layers. It leaves out what a
job takes to start, and the questions at the end.
"""

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixcpt.errors import BadFile, TooLittle
from mixcpt.settings import override
from mixcpt.stages import AnyStage, Dpo, Sft, Stage
from mixcpt.workspace import read_json

PROCESS_BYTES = 630_000_000
"""Python, torch and transformers before any model."""
LOGIT_COPIES = 2
"""Tensors of [chunk, vocabulary], in the type of the products, that are alive at once in the chunked loss."""
LOGIT_BLOCKS = 16_000_000
"""Bytes of the blocks in which a processor goes over them."""
SLACK = 1.15
"""What allocators keep beyond what is asked of them, the more the longer a run takes."""

_BYTES = {"fp32": 4.0, "bf16": 2.0, "nf4": 0.57}
_OTHER_BYTES = {"fp32": 4, "bf16": 2, "nf4": 2}
"""Of what is in no linear layer: embeddings, head and norms. With NF4 on a processor that is faster in fp32 it is 4."""
_EFFICIENCY = {"fp32": 0.6, "bf16": 0.52, "nf4": 0.6}
_GPU_EFFICIENCY = 0.35
"""Share of the measured (CPU) or usual (GPU) matrix-product speed that whole training steps reach: the less, the faster
the products, for all else is then the larger part of a step."""
STAGE_TWO = 0.6
"""Of that, what stage two reaches on a CPU: TRL pads its samples and makes whole logits."""
_PER_EDGE, _PER_NORM = 1.05, 2.4
"""Numbers that are kept for the backward pass, for each token: for each input and output of a linear layer, and for
each weight of a norm (the norms of transformers keep fp32). Fitted to SmolLM2 and Gemma 3."""
_GPU_GFLOPS = 100_000.0
_NORM = re.compile(r"norm|\bln_")
_TILE = (4096, 32_768)
"""Tokens and words whose logits TRL makes at once."""
TILE_COPIES = 7
"""fp32 tensors of such a tile that are alive at once where no GPU does it in place."""


@dataclass(frozen=True)
class Shape:
    """What matters of a model's weights. Parameters in numbers, not bytes."""

    linear: list[tuple[int, int]]
    """[out, in] of every linear layer inside the body, the ones that carry adapters."""
    other: int
    """Parameters that are in no such layer: embeddings, norms, head."""
    norms: int
    """Of `other` those of norms."""
    width: int
    layers: int
    vocabulary: int
    ends: int
    """Of `other` those of embeddings and head, which count once where they are tied."""

    @property
    def linear_parameters(self) -> int:
        return sum(rows * columns for rows, columns in self.linear)


@dataclass(frozen=True)
class SampleSizes:
    """What is known of a stage's samples before they are chosen: of how many candidates how many will be learned from,
    the mean of their tokens (of a pair both answers, each with its question), the longest text, and how many tokens are
    read beforehand for their scores."""

    candidates: int
    count: int
    mean_tokens: float
    longest_tokens: int
    scored_tokens: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """Needs of one run. `parts` are bytes per part, `seconds` those of training, measures included. `at_hand` is the
    share of its tokens whose teacher's states are cached; None where that plays no part, or is not known."""

    memory_bytes: int
    seconds: float
    parts: dict[str, int]
    at_hand: float | None = None

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
        norms=sum(_size(shape) for name, shape in tensors.items() if len(shape) == 1 and _NORM.search(name)),
        width=width,
        layers=int(config.get("num_hidden_layers", config.get("n_layer", 1))),
        vocabulary=vocabulary,
        ends=sum(_size(shape) for shape in tensors.values() if len(shape) == 2 and vocabulary in shape),
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


def estimate(
    stage: AnyStage,
    shape: Shape,
    *,
    device: str,
    precision: str,
    gflops: float | None,
    sizes: SampleSizes | None = None,
    cached: float = 0.0,
) -> Estimate:
    """Memory and time of training `stage`, for stage two with the scoring before it.

    Args:
        gflops: measured speed of matrix products on the CPU in the precision used; None on a GPU.
        sizes: what is known of the samples of stage two, which needs it.
        cached: share of the knowledge stage's tokens that the teacher need not read, for its states are cached.
    """
    tokens = _tokens_at_once(stage, sizes)
    parts = {
        "process": PROCESS_BYTES if device == "cpu" else 500_000_000,
        "model": weight_bytes(shape, precision),
        "adapter": _adapter_bytes(stage, shape, precision),
        "activations": _activations(stage, shape, precision, tokens),
        "logits": _logits(stage, shape, device, precision, tokens),
    }
    needed = _of_samples(stage, shape, _known(sizes)) if isinstance(stage, Sft) else _of_rows(stage, shape, cached)
    share = STAGE_TWO if isinstance(stage, Sft) and device == "cpu" else 1
    seconds = _seconds(needed, device, precision, gflops) / share
    return Estimate(round(SLACK * sum(parts.values())), seconds, parts)


def reading_seconds(shape: Shape, tokens: float, *, device: str, precision: str, gflops: float | None) -> float:
    """Time in which a model reads so many tokens and tells the loss of each; `gflops` as `estimate`."""
    return _seconds(tokens * sum(_passes(shape)), device, precision, gflops)


def _seconds(operations: float, device: str, precision: str, gflops: float | None) -> float:
    return operations / ((gflops or _GPU_GFLOPS) * 1e9 * efficiency(device, precision))


def efficiency(device: str, precision: str) -> float:
    """Share of the speed of large matrix products that training reaches (measured)."""
    return _EFFICIENCY[precision] if device == "cpu" else _GPU_EFFICIENCY


def _known(sizes: SampleSizes | None) -> SampleSizes:
    if sizes is None:
        raise TypeError("the estimate of a stage that learns from samples needs their sizes")
    return sizes


def weight_bytes(shape: Shape, precision: str) -> int:
    """Bytes of the base's weights in memory."""
    return round(shape.linear_parameters * _BYTES[precision] + shape.other * _OTHER_BYTES[precision])


def adapter_parameters(stage: AnyStage, shape: Shape) -> int:
    """LoRA parameters on all linear layers: rank * (in + out) each. An upper bound for fewer layers."""
    return stage.adapter.rank * sum(rows + columns for rows, columns in shape.linear)


def trained_parameters(stage: AnyStage, shape: Shape) -> int:
    """All that is trained: LoRA, and in the knowledge stage embeddings and head when asked."""
    whole = shape.ends if stage.adapter.vocabulary and isinstance(stage, Stage) else 0
    return adapter_parameters(stage, shape) + whole


def _adapter_bytes(stage: AnyStage, shape: Shape, precision: str) -> int:
    """fp32 weight, gradient and two moments; DPO keeps a second copy of the weights, its reference. A trained head is
    also rounded to the type of the products, and its gradient is alive three times: summed in the loss, scaled by the
    backward pass, added to what is there. Later stages hold embeddings and head beside the base's."""
    bytes = 16 * trained_parameters(stage, shape)
    is_kept = stage.objective.needs_run if isinstance(stage, Stage) else isinstance(stage, Dpo)  # as it was at first
    bytes += 4 * adapter_parameters(stage, shape) if is_kept else 0
    if not stage.adapter.vocabulary:
        return bytes
    kept = _OTHER_BYTES[precision]
    if isinstance(stage, Sft):
        return bytes + _answers(stage) * kept * shape.ends
    return bytes + (8 + (kept if precision != "fp32" else 0)) * shape.width * shape.vocabulary


def _tokens_at_once(stage: AnyStage, sizes: SampleSizes | None) -> int:
    """Tokens, padding included, that go forward and backward together: DPO reads both answers of a pair at once."""
    if not isinstance(stage, Sft):
        return stage.training.rows_at_once * stage.mixture.row_tokens
    longest = min(_known(sizes).longest_tokens, stage.samples.max_tokens)
    return stage.training.samples_at_once * longest * _answers(stage)


def _answers(stage: Sft) -> int:
    return 2 if isinstance(stage, Dpo) else 1


def _activations(stage: AnyStage, shape: Shape, precision: str, tokens: int) -> int:
    """Bytes kept for the backward pass: with checkpoints the states between layers, and all of one layer."""
    element = 4 if precision == "fp32" else 2
    edges = sum(rows + columns for rows, columns in shape.linear)
    kept = _PER_EDGE * edges + _PER_NORM * shape.norms
    if stage.training.checkpoint_activations:
        kept = shape.layers * shape.width + kept / shape.layers
    return round(tokens * kept * element)


def _logits(stage: AnyStage, shape: Shape, device: str, precision: str, tokens: int) -> int:
    """Bytes of the logits that are alive at once. TRL makes them in tiles of 4,096 tokens and 32,768 words: on a GPU in
    place, in plain torch with copies in fp32."""
    element = 4 if precision == "fp32" else 2
    if not isinstance(stage, Sft):
        return LOGIT_COPIES * element * stage.training.loss_chunk * shape.vocabulary + LOGIT_BLOCKS
    tile = min(tokens, _TILE[0]) * min(shape.vocabulary, _TILE[1])
    return tile * (element if device == "cuda" else element + 4 * TILE_COPIES)


def operations(stage: AnyStage, shape: Shape, tokens: float, cached: float = 0) -> float:
    """Floating-point operations of training on `tokens`, of which the teacher's states of `cached` are at hand. Matrix
    products only, and not those of attention and adapter. A frozen linear layer costs 2 a parameter and token forward
    and 2 backward, a trained head 2 more; TRL makes the logits anew for the backward pass; DPO asks its reference
    too."""
    body, head = _passes(shape)
    student = body * (1 + stage.training.checkpoint_activations) + body
    if isinstance(stage, Sft):
        return tokens * (student + 3 * head + (body + head if isinstance(stage, Dpo) else 0))
    teacher = (tokens - cached) * body + tokens * head if stage.objective.needs_teacher else 0
    return tokens * (student + (3 if stage.adapter.vocabulary else 2) * head) + teacher


def _of_rows(stage: Stage, shape: Shape, cached: float) -> float:
    """Operations of the knowledge stage, measures included."""
    tokens = stage.mixture.total_tokens()
    steps = max(1, tokens // (stage.training.rows_per_step * stage.mixture.row_tokens))
    measured = _measured_tokens(stage, steps, whole=2)
    return operations(stage, shape, tokens, cached * tokens) + measured * sum(_passes(shape))


def _of_samples(stage: Sft, shape: Shape, sizes: SampleSizes) -> float:
    """Operations of stage two: scores, training and measures."""
    read = sizes.count * stage.training.epochs
    steps = max(1, -(-read // stage.training.samples_per_step))
    unlearned = sizes.scored_tokens + _measured_tokens(stage, steps, whole=3)
    return operations(stage, shape, read * sizes.mean_tokens) + unlearned * sum(_passes(shape))


def _passes(shape: Shape) -> tuple[int, int]:
    """Operations a token of the body and of the head, forward; backward through frozen weights costs the same."""
    return 2 * shape.linear_parameters, 2 * shape.width * shape.vocabulary


def _measured_tokens(stage: AnyStage, steps: int, whole: int) -> int:
    """Tokens read by all measures; `whole` is how often they are taken at the least, at the start and at the end."""
    measures = stage.measures
    times = whole if not measures.every_steps else whole - 1 - (-steps // measures.every_steps)
    return times * (measures.domain_tokens + measures.general_tokens + measures.prompt_tokens)


def require_memory(
    stage: AnyStage,
    shape: Shape,
    needed: Estimate,
    available_bytes: float,
    *,
    device: str,
    precision: str,
    sizes: SampleSizes | None = None,
) -> None:
    """Raises TooLittle when the run cannot fit, naming the settings that would make it fit."""
    if needed.memory_bytes <= available_bytes:
        return
    where = "on the GPU" if device == "cuda" else "here"
    raise TooLittle(
        f"This run needs about {needed.memory_bytes / 1e9:.1f} GB of memory, but {available_bytes / 1e9:.1f} GB are "
        f"free {where}: {_remedy(stage, shape, available_bytes, device, precision, sizes)}."
    )


def _remedy(
    stage: AnyStage, shape: Shape, available_bytes: float, device: str, precision: str, sizes: SampleSizes | None
) -> str:
    """The first, least painful change under which the run would fit."""
    for change in lighter(stage):
        changed = override(stage, change)
        then = str(change.get("model.precision", precision))
        needed = estimate(changed, shape, device=device, precision=then, gflops=None, sizes=sizes)
        if needed.memory_bytes <= available_bytes:
            return "set " + " and ".join(f"{name} to {str(value).lower()}" for name, value in change.items())
    return "choose a smaller model"


def lighter(stage: AnyStage) -> list[dict[str, Any]]:
    """Changes that save memory, the least painful first: the first two change nothing of what is learned."""
    if isinstance(stage, Sft):
        part, length = "training.samples_at_once", {"samples.max_tokens": max(16, stage.samples.max_tokens // 4)}
    else:
        part, length = "training.rows_at_once", {"mixture.row_tokens": max(16, stage.mixture.row_tokens // 4)}
    found: list[dict[str, Any]] = [{part: 1}]
    for more in ({"training.checkpoint_activations": True}, {"model.precision": "nf4"}, length):
        found.append(found[-1] | more)
    return found
