"""Objectives that tell sources apart, in whole runs: weights of a source, and MoL."""

from pathlib import Path
from typing import Any

import pytest
import torch
from made import stage_of
from peft import PeftModel
from test_training import At, losses, new_run, quiet, stage
from torch import Tensor
from transformers import AutoModelForCausalLM

from mixcpt.journal import objective_words
from mixcpt.mixture import Mixture, realise
from mixcpt.stages import Stage
from mixcpt.tokens import TextTokenizer
from mixcpt.training import collate, train, weigher
from mixcpt.workspace import Workspace

LIVE = {"training__teacher_cache": False}
"""The cache rounds the teacher's states to bf16, which would show in fp32."""
WEIGHED = {"mixture__sources.0.weight": 2.0, "mixture__sources.1.weight": 0.5, "mixture__sources.1.retention_weight": 3}


def mixed(workspace: Workspace, config: Stage, model: Path) -> Mixture:
    return realise(workspace, config.mixture, TextTokenizer.from_folder(model))


def logits(model: Any, ids: Tensor) -> Tensor:
    """Log-probabilities of one document alone, of the tokens after its first."""
    with torch.no_grad():
        found: Tensor = model(ids.unsqueeze(0)).logits[0, :-1].log_softmax(-1)
    return found


def by_document(model: Path, adapter: Path, mixture: Mixture, rows: list[int]) -> dict[str, dict[str, float]]:
    """By source, in float64, a document at a time, summed over the rows: tokens, CE, KL(q'||p) and KL(p||q)."""
    base: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    student = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64), str(adapter), autocast_adapter_dtype=False
    ).double()
    sums = {name: dict.fromkeys(("tokens", "ce", "lssd", "reverse"), 0.0) for name in mixture.sources}
    for row in (mixture[number] for number in rows):
        for number in sorted(set(row.segment.tolist())):
            ids = torch.from_numpy(row.ids[row.segment == number]).long()
            q, p = logits(base, ids), logits(student, ids)
            found = sums[mixture.sources[mixture.segment(number).source]]
            found["tokens"] += len(ids) - 1
            for place, label in enumerate(ids[1:].tolist()):
                swapped, top = q[place].clone(), int(q[place].argmax())
                swapped[top], swapped[label] = q[place][label].item(), q[place][top].item()
                found["ce"] -= p[place][label].item()
                found["lssd"] += (swapped.exp() * (swapped - p[place])).sum().item()
                found["reverse"] += (p[place].exp() * (p[place] - q[place])).sum().item()
    return sums


def second_step(
    workspace: Workspace, model: Path, folder: Path, **changes: Any
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """What a run records of its second step, and the parts of it computed by document under the adapter of then."""
    config = stage(model, training__warmup=0.0, mixture__budget_tokens=1200, **LIVE, **changes)
    run = new_run(workspace, config)
    caught: list[Any] = []
    keep = At(1, lambda **kwargs: caught.append(kwargs["model"].save_pretrained(str(folder))))
    train(workspace, run, say=quiet, callbacks=(keep,))
    return run.losses()[1], by_document(model, folder, mixed(workspace, config, model), [2, 3])


def test_a_step_with_weighed_sources_is_the_weighed_sum_of_its_documents(
    small_corpora: Workspace, tiny_model_folder: Path, tmp_path: Path
) -> None:
    changes = {**WEIGHED, "objective__retention_weight": 0.5}
    record, parts = second_step(small_corpora, tiny_model_folder, tmp_path / "adapter", **changes)
    field, world = parts["field"], parts["world"]
    assert field["tokens"] > 20 and world["tokens"] > 20
    ce, lssd = 2 * field["ce"] + 0.5 * world["ce"], 2 * field["lssd"] + 1.5 * world["lssd"]
    tokens = field["tokens"] + world["tokens"]
    assert record["loss"] == pytest.approx((ce + 0.5 * lssd) / tokens, rel=1e-5)
    assert record["ce"] == pytest.approx(ce / (2 * field["tokens"] + 0.5 * world["tokens"]), rel=1e-5)
    assert record["retention"] == pytest.approx(lssd / (2 * field["tokens"] + 1.5 * world["tokens"]), rel=1e-4)


def test_a_step_of_mol_is_ce_of_the_field_and_reverse_kl_of_the_rest(
    small_corpora: Workspace, tiny_model_folder: Path, tmp_path: Path
) -> None:
    changes = {"objective__retention": "mol", "objective__retention_weight": 1.5}
    record, parts = second_step(small_corpora, tiny_model_folder, tmp_path / "adapter", **changes)
    field, world = parts["field"], parts["world"]
    assert world["reverse"] / world["tokens"] > 1e-4
    tokens = field["tokens"] + world["tokens"]
    assert record["loss"] == pytest.approx((field["ce"] + 1.5 * world["reverse"]) / tokens, rel=1e-5)
    assert record["ce"] == pytest.approx(field["ce"] / field["tokens"], rel=1e-5)
    assert record["retention"] == pytest.approx(world["reverse"] / world["tokens"], rel=1e-4)


def test_mol_begins_with_a_retention_of_exactly_zero(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    for retention, precision in (("mol", "fp32"), ("kl", "fp32"), ("mol", "bf16"), ("kl", "bf16")):
        changes = {"objective__retention": retention, "model__precision": precision, "mixture__budget_tokens": 512}
        run = new_run(small_corpora, stage(tiny_model_folder, **LIVE, **changes))
        train(small_corpora, run, say=quiet)
        assert run.losses()[0]["retention"] == 0.0, (retention, precision)


def test_mol_keeps_general_text_nearer_to_the_base(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    distance = {}
    for weight in (0.0, 10.0):
        changes = {"objective__retention": "mol", "objective__retention_weight": weight}
        changes |= {"measures__every_steps": 0, "mixture__budget_tokens": 2000}
        run = new_run(small_corpora, stage(tiny_model_folder, **changes))
        distance[weight] = train(small_corpora, run, say=quiet)["final"]["prompt_kl"]
    assert distance[10.0] < 0.8 * distance[0.0]


def test_a_source_of_weight_zero_is_read_and_not_learned_from(
    small_corpora: Workspace, tiny_model_folder: Path
) -> None:
    """One row of two documents: the gradient is that of the other source alone, and steps of nothing change nothing."""
    config = stage(
        tiny_model_folder, **{"mixture__sources.0.weight": 0.0, "mixture__budget_tokens": 1200}, mixture__row_tokens=512
    )
    run = new_run(small_corpora, config)
    train(small_corpora, run, say=quiet)
    record, mixture = run.losses()[0], mixed(small_corpora, config, tiny_model_folder)
    counted = [(mixture.source_of(row) == 1) & (row.labels >= 0) for row in (mixture[0], mixture[1])]
    assert 0 < sum(each.sum() for each in counted) < sum((row.labels >= 0).sum() for row in (mixture[0], mixture[1]))
    share = sum(each.sum() for each in counted) / sum((row.labels >= 0).sum() for row in (mixture[0], mixture[1]))
    assert record["loss"] == pytest.approx(share * (record["ce"] + record["retention"]), rel=1e-5)


def test_equal_weights_of_one_leave_a_run_as_it_was(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    plain = stage(tiny_model_folder, mixture__budget_tokens=600)
    double = stage(
        tiny_model_folder,
        **{"mixture__budget_tokens": 600, "mixture__sources.0.weight": 2, "mixture__sources.1.weight": 2},
    )
    assert weigher(plain, mixed(small_corpora, plain, tiny_model_folder)) is None
    runs = [new_run(small_corpora, config) for config in (plain, double)]
    for run in runs:
        train(small_corpora, run, say=quiet)
    one, two = losses(runs[0])[0], losses(runs[1])[0]
    assert two[1] == pytest.approx(2 * one[1], rel=1e-6) and two[2] == pytest.approx(one[2], rel=1e-6)


def test_factors_lie_at_the_tokens_that_are_predicted(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    config = stage(tiny_model_folder, **WEIGHED, mixture__row_tokens=512)
    mixture = mixed(small_corpora, config, tiny_model_folder)
    rows = sorted(mixture, key=lambda row: len(row.ids))
    short, long = rows[0], next(row for row in rows[::-1] if len(set(mixture.source_of(row).tolist())) == 2)
    batch = collate([short, long], pad_id=256, weigh=weigher(config, mixture))
    for number, row in enumerate((short, long)):
        source, length = mixture.source_of(row), len(row.ids)
        ce, retention = (batch[name][number].tolist() for name in ("ce_factors", "retention_factors"))
        assert ce[: length - 1] == [(2.0, 0.5)[each] for each in source[1:]]
        assert retention[: length - 1] == [(2.0, 1.5)[each] for each in source[1:]]
        assert set(ce[length - 1 :]) == set(retention[length - 1 :]) == {0.0}


def test_mol_in_words() -> None:
    words = objective_words(stage_of(objective__retention="mol", objective__retention_weight=0.5).objective)
    assert words == "cross-entropy + 0.5 × MoL, reverse KL on general text"
