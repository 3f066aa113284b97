"""Training steps at the sizes people train on a GPU, with random weights: nothing is downloaded.

    python bench/gpu.py [--shapes 0.1b 1b 8b] [--tokens 2048 4096 16384] [--steps 5]

The 8B shape (Llama 3's) has its linear layers in NF4, LoRA of rank 16 on all of them, and recomputes its activations;
the smaller ones are in bf16 and keep theirs. Arms: *ce*, *lssd* and *warm* (the teacher's states come from the host's
memory, as from the cache) are this studio's step; *usual* is what is written today: the adapter switched off for the
teacher, whole fp32 logits of both, a clone for the swap, and kl_div. Every arm is a process of its own; one sequence of
`--tokens` tokens a step, the first two steps warm up, medians of the others. Peak memory is what PyTorch's allocator
gave out at most, on a processor that of the process.

An anchor, for plain CE: Unsloth's published table for an 8B model in 4 bits reaches a context of 2,972 tokens in 8 GB
and 21,848 in 12 GB (https://docs.unsloth.ai, "Llama 3.1 (8B) max. context length").

Without a GPU `--device cpu --shapes tiny` walks the same path.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from typing import Any

from step import matrix_speed, timed, usual_loss

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 4096, "tie_word_embeddings": False,
    },
    "0.1b": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49_152, "tie_word_embeddings": True,
    },
    "1b": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128_256, "tie_word_embeddings": True,
    },
    "8b": {
        "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128_256, "tie_word_embeddings": False,
    },
}  # fmt: skip
QUANTISED = ("tiny", "8b")
ARMS = {"ce": "ours, CE", "lssd": "ours, LSSD", "warm": "ours, LSSD cached", "usual": "usual, LSSD"}
WARM_UP = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["0.1b", "1b", "8b"], choices=SHAPES)
    parser.add_argument("--tokens", nargs="+", type=int, default=[2048, 4096, 16_384])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(measure(options)))
        return
    print_machine(options.device)
    print("| shape | tokens | arm | step | tokens/s | peak memory | share of peak | over CE | arithmetic over CE |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for shape in options.shapes:
        for tokens in options.tokens:
            print_rows(options, shape, tokens)


def print_machine(device: str) -> None:
    import bitsandbytes
    import torch
    import transformers

    name = torch.cuda.get_device_name(0) if device == "cuda" else "processor"
    versions = (
        f"torch {torch.__version__}, transformers {transformers.__version__}, bitsandbytes {bitsandbytes.__version__}"
    )
    print(f"{name}; {versions}; large bf16 products {peak(device) / 1e12:,.2f} TFLOP/s\n")


def peak(device: str) -> float:
    """FLOP/s of a large matrix product in bf16."""
    import torch

    return matrix_speed(torch.bfloat16, device, side=8192 if device == "cuda" else 1024)


def print_rows(options: argparse.Namespace, shape: str, tokens: int) -> None:
    first: dict[str, float] | None = None
    for arm in options.arms:
        arguments = ["--device", options.device, "--steps", str(options.steps)]
        arguments += ["--shapes", shape, "--tokens", str(tokens)]
        command = [sys.executable, __file__, *arguments, "--arm", arm]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            if "OutOfMemory" not in done.stderr:
                raise SystemExit(f"{ARMS[arm]} failed:\n{done.stderr[-2000:]}")
            print(f"| {shape} | {tokens:,} | {ARMS[arm]} | out of memory | | | | | |", flush=True)
            continue
        found = json.loads(done.stdout.strip().rpartition("\n")[2])
        first = found if arm == "ce" else first
        seconds, needed = found["seconds"], found["operations"]
        over = f"{seconds / first['seconds']:.2f} | {needed / first['operations']:.2f}" if first else " | "
        print(
            f"| {shape} | {tokens:,} | {ARMS[arm]} | {seconds * 1000:,.0f} ms | {tokens / seconds:,.0f} | "
            f"{found['memory'] / 1e9:.2f} GB | {needed / seconds / found['peak']:.0%} | {over} |",
            flush=True,
        )


def measure(options: argparse.Namespace) -> dict[str, float]:
    """One arm in this process: seconds a step (median), peak memory in bytes, operations a step."""
    import torch

    from mixcpt.config import AdapterConfig
    from mixcpt.lowrank import streamline
    from mixcpt.lssd import Objective, chunked_loss
    from mixcpt.models import attach_adapter, output_head
    from mixcpt.teacher import final_hidden, teacher_mode

    shape, tokens, device, arm = options.shapes[0], options.tokens[0], options.device, options.arm
    torch.manual_seed(0)
    base = build(shape, device)
    model = attach_adapter(base, AdapterConfig(rank=16), seed=0).train()
    if arm != "usual":
        streamline(model)
    if shape in QUANTISED:
        model.activation_checkpointing_enable()
        model.enable_input_require_grads()
    head = output_head(base)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-4)
    ids = torch.randint(0, SHAPES[shape]["vocab_size"], (1, tokens), device=device)
    positions = torch.arange(tokens, device=device)[None]
    labels = torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], -100)], 1)
    objective = Objective(retention_weight=0.0 if arm == "ce" else 1.0)
    cached = torch.randn(tokens, SHAPES[shape]["hidden_size"], dtype=torch.bfloat16) if arm == "warm" else None

    def loss() -> Any:
        if arm == "usual":
            with teacher_mode(model):
                taught = model(input_ids=ids, use_cache=False).logits
            return usual_loss(model(input_ids=ids, use_cache=False).logits, taught, labels) * (tokens - 1)
        taught = None if cached is None else cached.to(device)
        if arm == "lssd":
            with teacher_mode(model):
                taught = final_hidden(model, ids, positions).flatten(0, 1)
        hidden = final_hidden(model, ids, positions).flatten(0, 1)
        return chunked_loss(hidden, taught, labels.flatten(), head, objective, 512 if device == "cuda" else 128).total

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            total = loss()
        (total / (tokens - 1)).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    seconds = [timed(step, device) for _ in range(WARM_UP + options.steps)]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device == "cuda":
        memory = torch.cuda.max_memory_allocated()
    return {
        "seconds": statistics.median(seconds[WARM_UP:]),
        "memory": memory,
        "operations": operations(shape, tokens, arm),
        "peak": peak(device),
    }


def operations(shape: str, tokens: int, arm: str) -> float:
    """Operations of matrix products a step, attention and adapter left out; see `mixcpt.estimate.operations`."""
    sizes = SHAPES[shape]
    width, inner, heads = sizes["hidden_size"], sizes["intermediate_size"], sizes["num_attention_heads"]
    narrow = width * sizes["num_key_value_heads"] // heads
    body = 2 * sizes["num_hidden_layers"] * (2 * width * width + 2 * width * narrow + 3 * width * inner)
    head = 2 * width * sizes["vocab_size"]
    student = (3 if shape in QUANTISED else 2) * body + 2 * head
    teacher = {"ce": 0, "warm": head}.get(arm, body + head)
    return float(tokens * (student + teacher))


def build(shape: str, device: str) -> Any:
    """A frozen Llama of that shape with random weights, made layer by layer so that no more memory is taken than it
    keeps: linear layers in NF4 where the shape is one of QUANTISED, all else in bf16."""
    import torch
    from bitsandbytes.nn.modules import Linear4bit
    from torch import nn
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=131_072, use_cache=False)
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(config)
    for name, module in list(model.model.layers.named_modules()):
        if shape in QUANTISED and isinstance(module, nn.Linear):
            kind = {"quant_type": "nf4", "compress_statistics": True, "compute_dtype": torch.bfloat16}
            layer: Any = Linear4bit(module.in_features, module.out_features, bias=False, **kind)  # type: ignore[no-untyped-call]
            layer.weight.data = 0.02 * torch.randn(module.out_features, module.in_features, dtype=torch.bfloat16)
            layer.support_avx512bf16_for_cpu = False  # as in `mixcpt.models`
            model.model.layers.set_submodule(name, layer.to(device))
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                real = torch.empty(parameter.shape, dtype=torch.bfloat16, device=device)
                filled = real.fill_(1.0) if parameter.dim() == 1 else real.normal_(std=0.02)
                setattr(module, name, nn.Parameter(filled, requires_grad=False))
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    model.is_loaded_in_4bit = shape in QUANTISED
    return model.eval().requires_grad_(False)


if __name__ == "__main__":
    main()
