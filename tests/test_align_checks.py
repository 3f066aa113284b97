"""Checks before a run of stage two: a finding comes when its cause is there, not without it, and its fix mends it."""

import json
import struct
from typing import Any

import pytest
from chosen import instructions, pairs, select
from made import made_child, made_run, stage_of
from test_preflight import machine_of

from mixcpt.jobs import Jobs
from mixcpt.machine import Machine
from mixcpt.preflight import Finding, preflight
from mixcpt.runs import Run
from mixcpt.settings import override
from mixcpt.stages import Sft, follow
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace


@pytest.fixture
def ready(small_corpora: Workspace, tiny_tokenizer: TextTokenizer) -> Workspace:
    """Sources of 80 instructions and 80 pairs, and a built-in model as far as checks look at it: two linear layers, a
    context of 4,096 and a chat template."""
    instructions(small_corpora, "talk", [f"Answer number {number}." for number in range(80)], tiny_tokenizer)
    pairs(small_corpora, "taste", [(f"Yes, {number}.", f"No, {number}.") for number in range(80)], tiny_tokenizer)
    folder = small_corpora.models / "smollm2-135m"
    folder.mkdir()
    config = {"vocab_size": 257, "hidden_size": 64, "num_hidden_layers": 1, "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mixcpt.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    header = json.dumps({"a": {"dtype": "BF16", "shape": [64, 64], "data_offsets": [0, 0]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return small_corpora


@pytest.fixture
def knowledge(ready: Workspace) -> Run:
    sources = [{"source": "field", "share": 60, "domain": True}, {"source": "world", "share": 40}]
    return made_run(ready, stage=stage_of(mixture__sources=sources, evaluation__tasks=["general"]))


@pytest.fixture
def answering(ready: Workspace, knowledge: Run) -> Run:
    run = made_child(ready, knowledge)
    run.adapter.mkdir(exist_ok=True)
    (run.adapter / "adapter_model.safetensors").write_bytes(b"\0")
    return run


def after(parent: Run, stage: str = "sft", **changes: Any) -> Sft:
    source = "taste" if stage == "dpo" else "talk"
    given = {"samples.source": source} | {name.replace("__", "."): value for name, value in changes.items()}
    return follow(parent.config, "dpo" if stage == "dpo" else "sft", given)


def found(
    workspace: Workspace, stage: Sft, parent: Run | None, words: str, machine: Machine | None = None
) -> Finding | None:
    hits = [one for one in preflight(workspace, stage, machine or machine_of(), parent) if words in one.sentence]
    assert len(hits) <= 1
    return hits[0] if hits else None


def test_sound_stages_have_nothing_against_them(ready: Workspace, knowledge: Run, answering: Run) -> None:
    assert preflight(ready, after(knowledge), machine_of(), knowledge) == []
    assert preflight(ready, after(answering, "dpo"), machine_of(), answering) == []


FAULTS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "more than there are": ("sft", {"samples__rule__count": 500}, "only 80 to choose from", "note"),
    "too few": ("sft", {"samples__rule__count": 8}, "8 samples is very little", "warning"),
    "too few pairs": ("dpo", {"samples__rule__count": 1}, "One sample is very little", "warning"),
    "too long": ("sft", {"samples__max_tokens": 16}, "which are left out: allow longer ones", "warning"),
    "longer than the model": ("sft", {"samples__max_tokens": 8192}, "look at 4,096 at most", "stop"),
    "high rate": ("sft", {"training__learning_rate": 0.002}, "0.002 is high for SFT", "warning"),
    "high rate of DPO": ("dpo", {"training__learning_rate": 0.0005}, "0.0005 is high for DPO", "warning"),
    "read too often": ("sft", {"training__epochs": 20}, "read 20 times", "warning"),
    "no domain measure": ("sft", {"measures__domain_tokens": 0}, "gain in the field", "warning"),
    "nf4 on a processor": ("sft", {"model__precision": "nf4"}, "slow on a processor", "warning"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_its_fix_mends_it(ready: Workspace, answering: Run, name: str) -> None:
    kind, changes, words, level = FAULTS[name]
    assert found(ready, after(answering, kind), answering, words) is None
    faulty = override(after(answering, kind), {path.replace("__", "."): value for path, value in changes.items()})
    finding = found(ready, faulty, answering, words)
    assert finding is not None and finding.level == level and finding.fix is not None
    assert found(ready, override(faulty, finding.fix), answering, words) is None


def test_a_model_without_a_template_is_told_which_there_are(ready: Workspace, knowledge: Run) -> None:
    (ready.models / "smollm2-135m" / "chat_template.jinja").unlink()
    stage = after(knowledge)
    finding = found(ready, stage, knowledge, "has no chat template")
    assert finding is not None and finding.level == "stop" and "chatml, llama3" in finding.sentence
    assert finding.fix is not None
    assert found(ready, override(stage, finding.fix), knowledge, "chat template") is None


def test_another_template_than_the_parents_is_told(ready: Workspace, knowledge: Run) -> None:
    chatty = made_child(ready, knowledge, changes={"template": "alpaca"})
    chatty.adapter.mkdir(exist_ok=True)
    (chatty.adapter / "adapter_model.safetensors").write_bytes(b"\0")
    assert found(ready, after(chatty, "dpo", template="alpaca"), chatty, "half unlearn") is None
    stage = after(chatty, "dpo", template="zephyr")
    finding = found(ready, stage, chatty, "template 'alpaca', but this run uses 'zephyr'")
    assert finding is not None and finding.fix == {"template": "auto"}
    assert found(ready, override(stage, finding.fix), chatty, "half unlearn") is None
    own = found(ready, after(chatty, "dpo", template="own"), chatty, "template 'alpaca', but this run uses 'own'")
    assert own is not None


@pytest.mark.parametrize(
    ("state", "level", "words"),
    [
        ("queued", "note", "is queued: this run waits for its training"),
        ("running", "note", "is running: this run waits for its training"),
        ("paused", "warning", "is paused, and this run waits"),
        ("failed", "stop", "is failed and has no finished adapter to continue: `mixcpt resume cpt-"),
        ("cancelled", "stop", "is cancelled and has no finished adapter"),
    ],
)
def test_how_the_parent_stands_is_told(ready: Workspace, knowledge: Run, state: str, level: str, words: str) -> None:
    run = made_run(ready, stage=stage_of(**{"mixture__sources": knowledge.config.mixture.sources}), state=state)
    finding = found(ready, after(run), run, words)
    assert finding is not None and finding.level == level
    assert found(ready, after(knowledge), knowledge, words) is None


def test_a_recorded_parent_has_no_adapter_to_go_on_with(ready: Workspace, knowledge: Run) -> None:
    (knowledge.adapter / "adapter_model.safetensors").unlink()
    for job in Jobs(ready).all():
        job.update(state="done")
    finding = found(ready, after(knowledge), knowledge, f"train it again (`mixcpt rerun {knowledge.id}`)")
    assert finding is not None and finding.level == "stop"


def test_an_unusual_way_through_the_stages_is_told(ready: Workspace, knowledge: Run, answering: Run) -> None:
    early = found(ready, after(knowledge, "dpo"), knowledge, "do SFT first, then DPO")
    assert early is not None and early.level == "warning"
    assert found(ready, after(answering, "dpo"), answering, "do SFT first") is None
    for kind, level in (("sft", "note"), ("dpo", "warning")):
        alone = found(ready, after(knowledge, kind), None, "starts from the base model itself")
        assert alone is not None and alone.level == level


def test_what_does_not_fit_its_parent_stops_it(ready: Workspace, knowledge: Run) -> None:
    finding = found(ready, override(after(knowledge), {"adapter.rank": 5}), knowledge, "adapter.rank is 5")
    assert finding is not None and finding.level == "stop"


def test_pairs_without_a_preference_are_counted(
    ready: Workspace, answering: Run, tiny_tokenizer: TextTokenizer
) -> None:
    odd = [("Same.", " Same. "), ("Alike.", "Alike."), ("fine", "worse")]
    pairs(ready, "odd", odd + [(f"a {number}", f"b {number}") for number in range(20)], tiny_tokenizer)
    finding = found(ready, after(answering, "dpo", samples__source="odd"), answering, "left out")
    assert finding == Finding("note", "2 of 23 pairs have the same answer as chosen and rejected: they are left out.")
    assert found(ready, after(answering, "dpo"), answering, "left out") is None


def test_a_selection_is_looked_at_instead_of_its_source(ready: Workspace, answering: Run) -> None:
    select(ready, "mine", tokens=[40] * 20, run=answering.id)
    select(ready, "few", tokens=[40] * 3, run="cpt-of-old")
    assert preflight(ready, after(answering, samples__selection="mine"), machine_of(), answering) == []
    few = after(answering, samples__selection="few")
    finding = found(ready, few, answering, "3 samples is very little")
    assert finding is not None and finding.fix is None
    other = found(ready, few, answering, "scored under cpt-of-old")
    assert other is not None and other.level == "note"
    gone = found(ready, after(answering, samples__selection="gone"), answering, "no selection 'gone'")
    assert gone is not None and gone.level == "stop"
    (ready.root / "selections" / "few" / "selection.json").write_text("{")
    damaged = found(ready, few, answering, "is damaged")
    assert damaged is not None and damaged.level == "stop"


def test_long_work_is_told_and_shortened(ready: Workspace, answering: Run) -> None:
    slow = machine_of(gflops=0.0005)
    finding = found(ready, after(answering), answering, "can be paused", slow)
    assert finding is not None and finding.level == "note" and finding.fix is not None
    assert finding.fix["samples.rule.count"] >= 16 and finding.fix["samples.candidates"] >= 64
    assert found(ready, after(answering), answering, "can be paused") is None


def test_too_little_memory_names_the_settings_of_samples(ready: Workspace, answering: Run) -> None:
    stage = after(answering, training__samples_per_step=64, training__samples_at_once=64)
    finding = found(ready, stage, answering, "GB of memory", machine_of(memory_gb=0.1))
    assert finding is not None and finding.level == "stop"
    whole = [machine_of(memory_gb=gb / 100) for gb in range(60, 200)]
    fixed = [hit for one in whole if (hit := found(ready, stage, answering, "GB of memory", one)) and hit.fix]
    assert fixed and fixed[0].fix is not None and "training.samples_at_once" in fixed[0].fix
