"""Training on a random two-layer model: what is promised of a run, on the CPU in fp32 unless a test says otherwise."""

import hashlib
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback

from mixcpt import models
from mixcpt.errors import Diverged, Interrupted
from mixcpt.mixture import realise
from mixcpt.runs import Run, Runs
from mixcpt.settings import override, validate
from mixcpt.stages import Stage
from mixcpt.tokens import TextTokenizer
from mixcpt.training import collate, train
from mixcpt.workspace import Workspace


def stage(model: Path, **changes: Any) -> Stage:
    base = {
        "model": {"name": str(model), "precision": "fp32", "device": "cpu"},
        "mixture": {
            "budget_tokens": 2900,
            "row_tokens": 128,
            "sources": [
                {"source": "field", "share": 60, "domain": True},
                {"source": "world", "share": 40},
            ],
        },
        "training": {"rows_per_step": 2, "rows_at_once": 2, "checkpoint_steps": 3, "learning_rate": 5e-3},
        "measures": {
            "every_steps": 4,
            "domain_tokens": 200,
            "general_tokens": 200,
            "prompt_tokens": 150,
            "general": "world",
        },
        "evaluation": {"tasks": []},
    }
    return override(
        validate(Stage, base, "the test"), {key.replace("__", "."): value for key, value in changes.items()}
    )


def new_run(workspace: Workspace, config: Stage) -> Run:
    return Runs(workspace).create(config, experiment="test")


def quiet(_: str) -> None:
    pass


class At(TrainerCallback):
    """Do something at the end of one step."""

    def __init__(self, step: int, action: Callable[..., None]):
        self.step, self.action = step, action

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.action(**kwargs)


def adapter_digest(run: Run) -> str:
    return hashlib.sha256((run.adapter / "adapter_model.safetensors").read_bytes()).hexdigest()


def losses(run: Run) -> list[tuple[int, float, float]]:
    return [(record["step"], record["loss"], record["ce"]) for record in run.losses()]


def test_a_run_killed_at_step_7_of_12_and_resumed_equals_an_uninterrupted_one(
    small_corpora: Workspace, tiny_model_folder: Path
) -> None:
    config = stage(tiny_model_folder, training__seed=3, adapter__dropout=0.1)
    whole, killed = new_run(small_corpora, config), new_run(small_corpora, config)
    train(small_corpora, whole, say=quiet)
    assert [step for step, _, _ in losses(whole)] == list(range(1, 13))

    script = (
        "import sys, os, signal\n"
        "sys.path.insert(0, sys.argv[3])\n"
        "from test_training import At, quiet\n"
        "from mixcpt.runs import Runs\n"
        "from mixcpt.training import train\n"
        "from mixcpt.workspace import Workspace\n"
        "home = Workspace(sys.argv[1])\n"
        "kill = At(7, lambda **_: os.kill(os.getpid(), signal.SIGKILL))\n"
        "train(home, Runs(home).get(sys.argv[2]), say=quiet, callbacks=(kill,))\n"
    )
    arguments = [sys.executable, "-c", script, str(small_corpora.root), killed.id, str(Path(__file__).parent)]
    assert subprocess.run(arguments, env=os.environ, check=False).returncode == -signal.SIGKILL
    assert killed.losses()[-1]["step"] == 7
    assert not killed.adapter.exists()

    train(small_corpora, killed, say=quiet)
    assert losses(killed) == losses(whole)
    assert [point["measure"] for point in killed.curve()] == [point["measure"] for point in whole.curve()]
    assert adapter_digest(killed) == adapter_digest(whole)


def test_eight_rows_at_once_and_eight_accumulated_give_the_same_gradient(
    small_corpora: Workspace, tiny_model_folder: Path
) -> None:
    """Rows of unequal numbers of counted tokens, so a mean of means would differ."""

    class Catch(TrainerCallback):
        def __init__(self) -> None:
            self.gradients: dict[str, torch.Tensor] = {}

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not self.gradients:
                named = kwargs["model"].named_parameters()
                self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}

    caught = []
    for at_once in (8, 1):
        config = stage(
            tiny_model_folder,
            training__rows_per_step=8,
            training__rows_at_once=at_once,
            mixture__budget_tokens=1000,
            training__max_gradient_norm=1e9,
        )
        catch = Catch()
        train(small_corpora, new_run(small_corpora, config), say=quiet, callbacks=(catch,))
        caught.append(catch.gradients)
    together, accumulated = caught
    assert together.keys() == accumulated.keys() and together
    largest = max(gradient.abs().max().item() for gradient in together.values())
    assert largest > 1e-4
    for name, gradient in together.items():
        assert torch.allclose(gradient, accumulated[name], atol=2e-6 * largest, rtol=1e-4), name


def test_the_adapter_changes_and_the_base_does_not(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    before = hashlib.sha256((tiny_model_folder / "model.safetensors").read_bytes()).hexdigest()
    run = new_run(small_corpora, stage(tiny_model_folder))
    caught: dict[str, Any] = {}
    results = train(small_corpora, run, say=quiet, callbacks=(At(12, lambda **kwargs: caught.update(kwargs)),))
    weights = load_file(run.adapter / "adapter_model.safetensors")
    changed = [name for name, weight in weights.items() if "lora_B" in name and weight.abs().max() > 0]
    assert len(changed) == 2 * 7  # seven linear layers in each of two blocks
    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).state_dict()
    trained = {name.replace(".base_layer", ""): p for name, p in caught["model"].get_base_model().state_dict().items()}
    for name, weight in base.items():
        assert torch.equal(trained[name], weight), name
    assert hashlib.sha256((tiny_model_folder / "model.safetensors").read_bytes()).hexdigest() == before
    # rank 16 on q, o (64→64), k, v (64→32), gate, up (64→128), down (128→64), two layers
    assert results["trainable_parameters"] == 2 * 16 * (2 * 128 + 2 * 96 + 3 * 192)


def test_the_first_loss_is_the_definition_on_each_document_alone(
    small_corpora: Workspace, tiny_model_folder: Path
) -> None:
    """Step 1, adapter still zero: CE by transformers' own loss, one unpacked document at a time, in float64; LSSD from
    its value at student = teacher, (q_k - q_y) ln(q_k / q_y)."""
    config = stage(tiny_model_folder, objective__retention_weight=0.5, training__teacher_cache=False)
    run = new_run(small_corpora, config)
    train(small_corpora, run, say=quiet)
    mixture = realise(small_corpora, config.mixture, TextTokenizer.from_folder(tiny_model_folder))
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float64)
    ce = lssd = 0.0
    counted = 0
    for row in (mixture[0], mixture[1]):
        for number in sorted(set(row.segment.tolist())):
            ids = torch.from_numpy(row.ids[row.segment == number]).long().unsqueeze(0)
            with torch.no_grad():
                q = model(ids).logits[0, :-1].softmax(-1)
            for position, label in enumerate(ids[0, 1:].tolist()):
                top, mine = q[position].max().item(), q[position, label].item()
                ce -= math.log(mine)
                lssd += (top - mine) * math.log(top / mine)
                counted += 1
    first = run.losses()[0]
    assert first["ce"] == pytest.approx(ce / counted, rel=1e-5)
    assert first["retention"] == pytest.approx(lssd / counted, rel=1e-4)
    assert first["loss"] == pytest.approx((ce + 0.5 * lssd) / counted, rel=1e-5)


def test_training_lowers_the_loss_and_the_curve_has_its_points(
    small_corpora: Workspace, tiny_model_folder: Path
) -> None:
    run = new_run(small_corpora, stage(tiny_model_folder))
    results = train(small_corpora, run, say=quiet)
    curve = run.curve()
    assert [point["step"] for point in curve] == [0, 4, 8, 12]
    assert curve[0]["measure"]["prompt_kl"] == pytest.approx(0, abs=1e-6)
    assert curve[-1]["measure"]["prompt_kl"] > 0.001
    assert curve[-1]["measure"]["domain_bits_per_byte"] < curve[0]["measure"]["domain_bits_per_byte"] - 0.2
    assert results["base"] == curve[0]["measure"] and results["final"] == curve[-1]["measure"]
    assert 0 < results["measure_share"] < 1
    assert curve[-1]["tokens"] == results["tokens"] == results["mixture"]["tokens"]


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    small_corpora: Workspace, tiny_model_folder: Path
) -> None:
    def poison(model: PeftModel, **_: Any) -> None:
        with torch.no_grad():
            next(p for name, p in model.named_parameters() if "lora_B" in name).fill_(math.nan)

    run = new_run(small_corpora, stage(tiny_model_folder))
    with pytest.raises(Diverged, match=r"^The loss became nan at step 5: start again .* \(now 0\.005\); the") as caught:
        train(small_corpora, run, say=quiet, callbacks=(At(4, poison),))
    assert "resume" not in str(caught.value)
    assert [checkpoint.name for checkpoint in run.checkpoints()] == ["checkpoint-3"]
    weights = load_file(run.checkpoints()[-1] / "adapter_model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_a_gradient_that_is_no_number_never_reaches_the_weights(
    small_corpora: Workspace, tiny_model_folder: Path
) -> None:
    """The loss is finite, so only the gradient tells."""
    caught: dict[str, Any] = {}

    def poison(model: PeftModel, **_: Any) -> None:
        caught["model"] = model
        weight = next(p for name, p in model.named_parameters() if "lora_B" in name)
        weight.register_hook(lambda gradient: gradient * math.nan)  # type: ignore[no-untyped-call]

    run = new_run(small_corpora, stage(tiny_model_folder))
    with pytest.raises(Diverged, match=r"^The gradient became nan at step 5: start again with a lower learning rate"):
        train(small_corpora, run, say=quiet, callbacks=(At(4, poison),))
    assert all(torch.isfinite(p).all() for p in caught["model"].parameters())
    assert run.losses()[-1]["step"] == 4


def interrupted_run(workspace: Workspace, config: Stage, step: int) -> Run:
    run = new_run(workspace, config)

    def check() -> None:
        if len(run.losses()) == step:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        train(workspace, run, check=check, say=quiet)
    return run


def test_an_adapter_appears_whole_or_not_at_all(
    small_corpora: Workspace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(small_corpora, stage(tiny_model_folder, mixture__budget_tokens=600))
    save = PeftModel.save_pretrained

    def torn(self: PeftModel, folder: str, **options: Any) -> None:
        save(self, folder, **options)
        if "checkpoint" not in folder:
            raise OSError("the disk is full")

    monkeypatch.setattr(PeftModel, "save_pretrained", torn)
    with pytest.raises(OSError, match="the disk is full"):
        train(small_corpora, run, say=quiet)
    assert not run.adapter.exists()


def test_tokens_are_counted_by_step(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    """Three rows a step; the last step has what is left."""
    config = stage(tiny_model_folder, training__rows_per_step=3, training__rows_at_once=3, mixture__budget_tokens=900)
    run = new_run(small_corpora, config)
    train(small_corpora, run, say=quiet)
    lengths = [
        len(row.ids) for row in realise(small_corpora, config.mixture, TextTokenizer.from_folder(tiny_model_folder))
    ]
    assert len(lengths) % 3
    wanted = [sum(lengths[:end]) for end in range(3, len(lengths) + 3, 3)]
    assert [record["tokens"] for record in run.losses()] == wanted


def test_a_cancelled_run_saves_where_it_is_and_goes_on_from_there(
    small_corpora: Workspace, tiny_model_folder: Path
) -> None:
    run = new_run(small_corpora, stage(tiny_model_folder))
    steps = 0

    def check() -> None:
        nonlocal steps
        steps = len(run.losses())
        if steps == 5:
            raise Interrupted("Cancelled; what was done so far is kept.")

    with pytest.raises(Interrupted):
        train(small_corpora, run, check=check, say=quiet)
    assert [checkpoint.name for checkpoint in run.checkpoints()][-1] == "checkpoint-5"
    said: list[str] = []
    train(small_corpora, run, say=said.append)
    assert "resuming from step 5" in said
    assert [step for step, _, _ in losses(run)] == list(range(1, 13))


@pytest.mark.parametrize("precision", ["nf4", "bf16"])
def test_lower_precisions_train_with_fp32_adapters(
    small_corpora: Workspace, tiny_model_folder: Path, precision: str
) -> None:
    config = stage(tiny_model_folder, model__precision=precision, mixture__budget_tokens=1200)
    run = new_run(small_corpora, config)
    caught: dict[str, Any] = {}
    results = train(small_corpora, run, say=quiet, callbacks=(At(2, lambda **kwargs: caught.update(kwargs)),))
    assert results["precision"] == precision
    assert results["final"]["domain_bits_per_byte"] < results["base"]["domain_bits_per_byte"]
    trained = [p for p in caught["model"].parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    moments = [value.dtype for state in caught["optimizer"].state.values() for value in state.values()]
    assert set(moments) == {torch.float32}


def test_retention_none_needs_no_teacher_and_records_none(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    run = new_run(small_corpora, stage(tiny_model_folder, objective__retention="none", mixture__budget_tokens=600))
    train(small_corpora, run, say=quiet)
    assert all("retention" not in record and record["loss"] == pytest.approx(record["ce"]) for record in run.losses())


def test_retention_holds_the_model_nearer_to_its_base(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    distance = {}
    for weight in (0.0, 10.0):
        retention = "kl" if weight else "none"
        config = stage(tiny_model_folder, objective__retention=retention, objective__retention_weight=weight)
        distance[weight] = train(small_corpora, new_run(small_corpora, config), say=quiet)["final"]["prompt_kl"]
    assert distance[10.0] < 0.7 * distance[0.0]


def test_the_saved_adapter_loads_in_plain_peft_and_scores_the_same(
    small_corpora: Workspace, tiny_model_folder: Path
) -> None:
    run = new_run(small_corpora, stage(tiny_model_folder))
    caught: dict[str, Any] = {}
    train(small_corpora, run, say=quiet, callbacks=(At(12, lambda **kwargs: caught.update(kwargs)),))
    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, str(run.adapter)).eval()
    ids = torch.tensor([[10, 20, 30, 40]])
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, caught["model"].eval()(ids).logits, atol=1e-5)
    assert models.parameter_counts(loaded)[1] > 0


def test_collate_pads_last_and_shifts_labels(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    config = stage(tiny_model_folder)
    mixture = realise(small_corpora, config.mixture, TextTokenizer.from_folder(tiny_model_folder))
    rows = sorted(mixture, key=lambda row: len(row.ids))
    batch = collate([rows[0], rows[-1]], pad_id=256)
    length = len(rows[0].ids)
    assert batch["input_ids"].shape == (2, len(rows[-1].ids)) == (2, 128)
    assert batch["position_ids"][0, length:].tolist() == list(range(128 - length))
    assert (batch["labels"][0, length:] == -100).all()
    assert batch["shift_labels"][1, :-1].tolist() == rows[-1].labels[1:].tolist()
    assert batch["shift_labels"][:, -1].tolist() == [-100, -100]
