"""The estimate before a run, counted by hand on a model of 164 weights, and refusals whose remedy must really fit."""

import json
import re
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from mixcpt.errors import TooLittle
from mixcpt.estimate import (
    LOGIT_BLOCKS,
    PROCESS_BYTES,
    SLACK,
    STAGE_TWO,
    TILE_COPIES,
    Estimate,
    SampleSizes,
    Shape,
    adapter_parameters,
    efficiency,
    estimate,
    minutes,
    operations,
    reading_seconds,
    require_memory,
    shape_of,
    trained_parameters,
)
from mixcpt.settings import override, parse_change, validate
from mixcpt.stages import AnyStage, Sft, Stage, follow

TINY = Shape(linear=[(4, 4), (8, 4), (4, 8)], other=84, norms=4, width=4, layers=1, vocabulary=10, ends=80)
KEPT = 1.05 * (8 + 12 + 12) + 2.4 * 4
"""Numbers a token that are kept for the backward pass."""


def write_safetensors(path: Path, shapes: dict[str, list[int]]) -> None:
    """A file as the format says it: length of the header, header, (here empty) data. Nobody but `shape_of` opens it."""
    tensors = {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    header = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def stage(**changes: object) -> Stage:
    base = {
        "mixture": {
            "budget_tokens": 64,
            "row_tokens": 16,
            "sources": [{"source": "field", "share": 1, "domain": True}],
        },
        "adapter": {"rank": 2},
        "training": {"loss_chunk": 3, "rows_per_step": 2, "rows_at_once": 2},
        "measures": {"every_steps": 0, "domain_tokens": 10, "general_tokens": 20, "prompt_tokens": 30},
    }
    return override(
        validate(Stage, base, "the test"), {key.replace("__", "."): value for key, value in changes.items()}
    )


def parts(stage: Stage, device: str = "cpu", precision: str = "bf16") -> dict[str, int]:
    return estimate(stage, TINY, device=device, precision=precision, gflops=1.0).parts


def test_a_shape_is_counted_over_all_shards(tmp_path: Path) -> None:
    config = {"vocab_size": 10, "hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    block = "model.layers.0."
    write_safetensors(
        tmp_path / "model-1.safetensors",
        {"model.embed.weight": [10, 4], block + "q.weight": [4, 4], block + "up.weight": [8, 4]},
    )
    write_safetensors(
        tmp_path / "model-2.safetensors",
        {block + "down.weight": [4, 8], block + "norm.weight": [4], "lm_head.weight": [10, 4]},
    )
    shape = shape_of(tmp_path)
    assert shape == TINY  # other: embeddings 40, norm 4, head 40
    assert shape.linear_parameters == 16 + 32 + 32


def test_a_shape_is_read_from_a_nested_text_config_and_older_names(tmp_path: Path) -> None:
    config = {"vocab_size": 1, "text_config": {"vocab_size": 10, "n_embd": 4, "n_layer": 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_safetensors(tmp_path / "model.safetensors", {"h.weight": [4, 4]})
    shape = shape_of(tmp_path)
    assert (shape.vocabulary, shape.width, shape.layers, shape.norms) == (10, 4, 3, 0)


def test_shape_of_a_real_folder(tiny_model_folder: Path) -> None:
    """Two blocks: q, o 64x64, k, v 32x64, gate, up 128x64, down 64x128; tied embeddings 257x64; five norms of 64."""
    shape = shape_of(tiny_model_folder)
    assert shape.linear_parameters == 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64)
    assert shape.other == 257 * 64 + 5 * 64
    assert adapter_parameters(stage(), shape) == 2 * 2 * (2 * 128 + 2 * 96 + 3 * 192)


def test_the_parts_by_hand() -> None:
    wanted = {
        "process": PROCESS_BYTES,
        "model": 80 * 2 + 84 * 2,
        "adapter": 16 * 2 * (8 + 12 + 12),  # rank 2; fp32 weight, gradient, two moments
        "activations": round(32 * KEPT * 2),  # two rows of 16 tokens, two bytes each
        "logits": 2 * 2 * 3 * 10 + LOGIT_BLOCKS,
    }
    found = estimate(stage(), TINY, device="cpu", precision="bf16", gflops=1.0)
    assert found.parts == wanted
    assert found.memory_bytes == round(SLACK * sum(wanted.values()))


def test_trained_embeddings_and_head_by_hand() -> None:
    """Weight, gradient and moments of both (80 numbers), the gradient of the head (40) twice more, its rounding."""
    for precision, rounded in (("fp32", 0), ("bf16", 2 * 40), ("nf4", 2 * 40)):
        plain, whole = (parts(stage(adapter__vocabulary=on), precision=precision) for on in (False, True))
        assert whole == plain | {"adapter": plain["adapter"] + 16 * 80 + 8 * 40 + rounded}
    held_in: tuple[tuple[Literal["sft", "dpo"], int], ...] = (("sft", 1), ("dpo", 2))  # DPO's reference has them too
    for name, copies in held_in:
        without, held = (
            estimate(
                override(learning(name), {"adapter.vocabulary": on}),
                TINY,
                device="cpu",
                precision="bf16",
                gflops=1.0,
                sizes=BIG_SAMPLES,
            ).parts["adapter"]
            for on in (False, True)
        )
        assert held == without + copies * 2 * 80
    tokens = 1000
    slower = operations(stage(adapter__vocabulary=True), TINY, tokens) - operations(stage(), TINY, tokens)
    assert slower == tokens * 2 * 4 * 10  # the gradient of the head's weights is one more product
    assert trained_parameters(stage(adapter__vocabulary=True), TINY) == adapter_parameters(stage(), TINY) + 80


def test_precision_changes_weights_and_activations() -> None:
    assert parts(stage(), precision="fp32")["model"] == 164 * 4
    assert parts(stage(), precision="fp32")["activations"] == 2 * parts(stage())["activations"]
    assert parts(stage(), precision="nf4")["model"] == round(80 * 0.57 + 84 * 2)  # all but linear layers: 16 bits


def test_settings_that_save_memory_save_it_in_their_part() -> None:
    whole = parts(stage())
    assert parts(stage(training__rows_at_once=1)) == whole | {"activations": round(16 * KEPT * 2)}
    kept = round(32 * (4 + KEPT) * 2)  # the layer's input, and one layer at a time
    assert parts(stage(training__checkpoint_activations=True)) == whole | {"activations": kept}
    assert parts(stage(training__loss_chunk=6)) == whole | {"logits": 2 * whole["logits"] - LOGIT_BLOCKS}
    assert parts(stage(), device="cuda")["process"] == 500_000_000


def test_seconds_by_hand() -> None:
    """Body 2·80 = 160 and head 2·4·10 = 80 operations a token and pass."""
    training = 64 * (160 + 160 + 2 * 80)  # forward, backward (frozen), head both ways
    teacher = 64 * (160 + 80)
    measuring = 2 * (10 + 20 + 30) * (160 + 80)  # at start and end
    speed = 1e9 * efficiency("cpu", "bf16")

    def seconds(**changes: object) -> float:
        return estimate(stage(**changes), TINY, device="cpu", precision="bf16", gflops=1.0).seconds

    assert seconds() == pytest.approx((training + teacher + measuring) / speed)
    read = reading_seconds(TINY, 60, device="cpu", precision="bf16", gflops=1.0)
    assert read == pytest.approx(measuring / 2 / speed)
    assert seconds(objective__retention="none") == pytest.approx((training + measuring) / speed)
    again = 64 * 160
    recomputed = (training + teacher + measuring + again) / speed
    assert seconds(training__checkpoint_activations=True) == pytest.approx(recomputed)
    # The teacher's head is always asked, its body only for what is not cached.
    cached = estimate(stage(), TINY, device="cpu", precision="bf16", gflops=1.0, cached=0.75).seconds
    assert cached == pytest.approx((training + 64 * (160 / 4 + 80) + measuring) / speed)
    # 64 tokens in steps of 32 are two steps: measured before, after the first and after the second
    assert seconds(measures__every_steps=1) == pytest.approx((training + teacher + 1.5 * measuring) / speed)


def test_a_budget_of_domain_tokens_costs_all_that_is_read() -> None:
    sources = [{"source": "field", "share": 1, "domain": True}, {"source": "world", "share": 3}]
    plain = stage(mixture__sources=sources, mixture__budget_tokens=256)
    domain = stage(mixture__sources=sources, mixture__budget_tokens=64, mixture__domain_tokens_only=True)
    of = [estimate(s, TINY, device="cpu", precision="bf16", gflops=1.0).seconds for s in (plain, domain)]
    assert of[0] == of[1]


# Stage two

SIZES = SampleSizes(candidates=40, count=10, mean_tokens=20.0, longest_tokens=30, scored_tokens=700.0)


def learning(name: Literal["sft", "dpo"], **changes: object) -> Sft:
    """Steps of four samples, two at once; measured only at start and end."""
    usual = {"training": {"samples_per_step": 4, "samples_at_once": 2}}
    return override(follow(stage(), name, usual), {key.replace("__", "."): value for key, value in changes.items()})


def needs(stage: Sft, sizes: SampleSizes = SIZES, device: str = "cpu", precision: str = "bf16") -> Estimate:
    return estimate(stage, TINY, device=device, precision=precision, gflops=1.0, sizes=sizes)


def test_the_parts_of_samples_by_hand() -> None:
    tokens = 2 * 30  # two samples at once, as long as the longest
    wanted = parts(stage()) | {
        "activations": round(tokens * KEPT * 2),
        "logits": tokens * 10 * (2 + 4 * TILE_COPIES),  # the whole vocabulary of 10 is one tile
    }
    assert needs(learning("sft")).parts == wanted
    pairs = {
        "adapter": 20 * 2 * (8 + 12 + 12),  # with the weights of the reference
        "activations": 2 * wanted["activations"],  # chosen and rejected
        "logits": 2 * wanted["logits"],
    }
    assert needs(learning("dpo")).parts == wanted | pairs


def test_a_sample_is_no_longer_than_allowed() -> None:
    short = needs(learning("sft", samples__max_tokens=16)).parts
    assert short["activations"] == round(2 * 16 * KEPT * 2)


def test_logits_are_made_in_tiles() -> None:
    """Of at most 4,096 tokens and 32,768 words; on a GPU in place."""
    wide = replace(TINY, vocabulary=100_000)
    long = replace(SIZES, longest_tokens=8192)
    stage = learning("sft", samples__max_tokens=8192)

    def logits(device: str, precision: str) -> int:
        return estimate(stage, wide, device=device, precision=precision, gflops=1.0, sizes=long).parts["logits"]

    tile = 4096 * 32_768
    assert logits("cpu", "bf16") == tile * (2 + 4 * TILE_COPIES)
    assert logits("cpu", "fp32") == tile * (4 + 4 * TILE_COPIES)
    assert logits("cuda", "nf4") == tile * 2


def test_seconds_of_samples_by_hand() -> None:
    """Body 160 and head 80 operations a token and pass, as above."""
    speed = 1e9 * efficiency("cpu", "bf16") * STAGE_TWO
    training = 10 * 20 * (160 + 160 + 3 * 80)
    scoring = 700 * (160 + 80)
    measuring = 3 * (10 + 20 + 30) * (160 + 80)  # base, start and end
    sft = (training + scoring + measuring) / speed
    assert needs(learning("sft")).seconds == pytest.approx(sft)
    dpo = (training + 10 * 20 * (160 + 80) + scoring + measuring) / speed
    assert needs(learning("dpo")).seconds == pytest.approx(dpo)
    assert needs(learning("sft"), replace(SIZES, scored_tokens=0)).seconds == pytest.approx(
        (training + measuring) / speed
    )
    thrice = needs(learning("sft", training__epochs=3)).seconds
    assert thrice == pytest.approx(sft + 2 * training / speed)
    again = needs(learning("sft", training__checkpoint_activations=True)).seconds
    assert again == pytest.approx(sft + 10 * 20 * 160 / speed)
    # ten samples are three steps: the base, the start, and after each of them
    assert needs(learning("sft", measures__every_steps=1)).seconds == pytest.approx(sft + 2 / 3 * measuring / speed)


def test_stage_two_is_not_estimated_without_its_samples() -> None:
    with pytest.raises(TypeError, match="needs their sizes"):
        estimate(learning("sft"), TINY, device="cpu", precision="bf16", gflops=1.0)


BIG = Shape(
    linear=[(4096, 4096)] * 4 * 32 + [(14336, 4096)] * 3 * 32,
    other=2 * 128_256 * 4096,
    norms=65 * 4096,
    width=4096,
    layers=32,
    vocabulary=128_256,
    ends=2 * 128_256 * 4096,
)
BIG_STAGE = stage(mixture__row_tokens=1024, training__rows_per_step=8, training__rows_at_once=8)


BIG_SAMPLES = SampleSizes(candidates=1000, count=1000, mean_tokens=400.0, longest_tokens=2048)
EIGHT = {"training__samples_per_step": 8, "training__samples_at_once": 8, "samples__max_tokens": 2048}
BIG_STAGES: dict[str, AnyStage] = {"cpt": BIG_STAGE, "sft": learning("sft", **EIGHT), "dpo": learning("dpo", **EIGHT)}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", BIG_STAGES)
def test_whatever_remedy_is_named_makes_the_run_fit(name: str, device: str, precision: str) -> None:
    """`model.precision` is auto, so what it means here must count, not what it would mean elsewhere."""
    heavy = BIG_STAGES[name]
    known: dict[str, Any] = {"sizes": None if name == "cpt" else BIG_SAMPLES}
    whole = estimate(heavy, BIG, device=device, precision=precision, gflops=1.0, **known)
    remedies = set()
    for share in (0.99, 0.7, 0.5, 0.35, 0.25, 0.2, 0.15, 0.1, 0.01):
        available = share * whole.memory_bytes
        with pytest.raises(TooLittle) as caught:
            require_memory(heavy, BIG, whole, available, device=device, precision=precision, **known)
        message = str(caught.value)
        assert f"about {whole.memory_bytes / 1e9:.1f} GB" in message and f"{available / 1e9:.1f} GB are" in message
        assert ("on the GPU" in message) == (device == "cuda")
        remedy = message.rsplit(": ", 1)[1].rstrip(".")
        remedies.add(remedy)
        if remedy == "choose a smaller model":
            continue
        named = re.findall(r"([a-z_.]+) to (\w+)", remedy)
        changes = dict(parse_change(f"{name}={value}") for name, value in named)
        changed = override(heavy, changes)
        then = str(changes.get("model.precision", precision))
        fitting = estimate(changed, BIG, device=device, precision=then, gflops=1.0, **known)
        assert fitting.memory_bytes <= available, remedy
        require_memory(changed, BIG, fitting, available, device=device, precision=then, **known)
    assert len(remedies) >= 3
    own = "rows" if name == "cpt" else "samples"
    assert any(f"training.{own}_at_once to 1" in remedy for remedy in remedies)


def test_a_hopeless_run_is_told_to_take_a_smaller_model() -> None:
    needed = estimate(BIG_STAGE, BIG, device="cpu", precision="bf16", gflops=1.0)
    with pytest.raises(TooLittle, match="choose a smaller model"):
        require_memory(BIG_STAGE, BIG, needed, 1e9, device="cpu", precision="bf16")


def test_a_run_that_just_fits_is_let_through() -> None:
    needed = Estimate(100, 1.0, {})
    require_memory(stage(), TINY, needed, 100, device="cpu", precision="bf16")
    with pytest.raises(TooLittle):
        require_memory(stage(), TINY, needed, 99, device="cpu", precision="bf16")


def test_durations_in_words() -> None:
    assert [minutes(seconds) for seconds in (3, 89, 90, 600, 5399, 5400)] == [
        "3 seconds",
        "89 seconds",
        "2 minutes",
        "10 minutes",
        "90 minutes",
        "1.5 hours",
    ]
    assert Estimate(2_500_000_000, 120, {}).words() == "about 2.5 GB of memory and 2 minutes"


def test_no_torch_is_needed(tiny_model_folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from mixcpt.estimate import shape_of;"
        "shape_of(Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tiny_model_folder)], check=False).returncode == 0
