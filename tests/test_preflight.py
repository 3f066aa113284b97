"""Preflight: every finding comes when its cause is there, not without it, and its fix makes it go away."""

import json
import struct
from typing import Any

import pytest
from made import made_job, stage_of

from mixcpt.config import SourceShare
from mixcpt.machine import Machine, Timings
from mixcpt.outlook import outlook
from mixcpt.preflight import Finding, preflight
from mixcpt.settings import override
from mixcpt.stages import Stage
from mixcpt.workspace import Workspace


def machine_of(memory_gb: float = 20.0, gflops: float = 500.0) -> Machine:
    timings = Timings(fp32=gflops, bf16=gflops / 2, cpu="c", threads=2, torch="2")
    return Machine(
        cpu="c", cores=2, memory_gb=32, memory_available_gb=memory_gb, disk_free_gb=100, python="3", torch="2",
        cuda=None, cuda_missing="no GPU", bitsandbytes="1", nf4_missing=None, timings=timings,
    )  # fmt: skip


@pytest.fixture
def ready(small_corpora: Workspace) -> Workspace:
    """Two corpora, and a built-in model as far as a page looks at it: two linear layers and a context of 256."""
    folder = small_corpora.models / "smollm2-135m"
    folder.mkdir()
    config = {"vocab_size": 257, "hidden_size": 64, "num_hidden_layers": 1, "max_position_embeddings": 256}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mixcpt.json").write_text("{}")
    header = json.dumps({"a": {"dtype": "BF16", "shape": [64, 64], "data_offsets": [0, 0]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return small_corpora


def stage_with(**changes: Any) -> Stage:
    sources = [{"source": "field", "share": 60, "domain": True}, {"source": "world", "share": 40}]
    plain = {"mixture__sources": sources, "evaluation__tasks": ["general"], "mixture__row_tokens": 64}
    plain["training__learning_rate"] = 1e-3
    return stage_of(**plain | changes)


def alone(domain: bool = True) -> list[SourceShare]:
    return [SourceShare(source="field", share=1, domain=domain)]


def found(workspace: Workspace, stage: Stage, words: str, machine: Machine | None = None) -> Finding | None:
    hits = [one for one in preflight(workspace, stage, machine or machine_of()) if words in one.sentence]
    assert len(hits) <= 1
    return hits[0] if hits else None


def test_a_sound_stage_has_nothing_against_it(ready: Workspace) -> None:
    assert preflight(ready, stage_with(), machine_of()) == []


FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no field": ({"mixture__sources": alone(False)}, "marked as your field", "warning"),
    "nothing general": (
        {"mixture__sources": alone(), "objective__retention": "none"}, "will probably forget", "warning",
    ),
    "read too often": ({"mixture__budget_tokens": 1_000_000}, "far more often than helps", "warning"),
    "high rate": ({"training__learning_rate": 0.01}, "is high", "warning"),
    "the atlas' rate for a field of one's own": ({"training__learning_rate": 2e-3}, "suits the built-in atlas", "note"),
    "long rows": ({"mixture__row_tokens": 512}, "look at 256 at most", "stop"),
    "no weight": ({"objective__retention_weight": 0.0}, "does nothing", "warning"),
    "no domain measure": ({"measures__domain_tokens": 0}, "gain in the field", "warning"),
    "no general measure": ({"measures__general_tokens": 0}, "measure the forgetting", "warning"),
    "contamination": ({"measures__general": "world"}, "also trained on", "warning"),
    "no atlas": ({"evaluation__tasks": ["general", "atlas"]}, "only measure guessing", "note"),
    "nf4 on a processor": ({"model__precision": "nf4"}, "slow on a processor", "warning"),
    "no such GPU": ({"model__device": "cuda"}, "no GPU", "stop"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_its_fix_mends_it(ready: Workspace, name: str) -> None:
    changes, words, level = FAULTS[name]
    assert found(ready, stage_with(), words) is None
    finding = found(ready, stage_with(**changes), words)
    assert finding is not None and finding.level == level and finding.fix is not None
    assert found(ready, override(stage_with(**changes), finding.fix), words) is None


def test_a_tiny_field_is_told(ready: Workspace) -> None:
    assert found(ready, stage_with(mixture__domain_documents=1), "by heart") is not None
    assert found(ready, stage_with(), "by heart") is None


def test_missing_things_stop_a_run(workspace: Workspace) -> None:
    gone = found(workspace, stage_with(), "no corpus 'field'")
    assert gone is not None and gone.level == "stop"
    gemma = found(workspace, stage_of(model__name="gemma-3-270m"), "comes under terms")
    assert gemma is not None and gemma.level == "stop"
    here = found(workspace, stage_of(), "will be fetched when the run starts")
    assert here is not None and here.level == "note"


def test_too_little_memory_stops_a_run_that_would_start_now(ready: Workspace) -> None:
    small = machine_of(memory_gb=0.1)
    finding = found(ready, stage_with(), "GB of memory", small)
    assert finding is not None and finding.level == "stop" and finding.fix is None
    made_job(ready, "train", "running")
    waiting = found(ready, stage_with(), "GB of memory", small)
    assert waiting is not None and waiting.level == "warning"


def test_memory_that_a_lighter_way_saves_has_a_fix(ready: Workspace) -> None:
    heavy = stage_with(training__rows_per_step=4096, training__rows_at_once=4096, training__loss_chunk=1)
    here = outlook(ready, heavy, machine_of())
    assert here is not None
    finding = found(ready, heavy, "GB of memory", machine_of(memory_gb=here.needed.memory_bytes / 1e9 - 0.1))
    assert finding is not None and finding.fix == {"training.rows_at_once": 1}


def test_long_runs_and_queues_are_told(ready: Workspace) -> None:
    slow = machine_of(gflops=0.001)
    finding = found(ready, stage_with(), "can be paused", slow)
    assert finding is not None and finding.level == "note"
    made_job(ready, "train", "queued")
    made_job(ready, "doctor", "queued")
    assert found(ready, stage_with(), "There is one job before it") is not None
    for kind in ("train", "evaluate"):
        made_job(ready, kind, "queued", run="one-run")
    assert found(ready, stage_with(), "There are 2 jobs before it") is not None


def test_rows_much_longer_than_documents_are_told(ready: Workspace) -> None:
    manifest = ready.corpora / "field" / "manifest.json"
    data = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(data | {"lengths": {"edges": [0, 16, 32], "counts": [0, 40]}}))
    finding = found(ready, stage_with(mixture__row_tokens=256), "shorter rows")
    assert finding is not None and finding.fix == {"mixture.row_tokens": 64}


def test_without_facts_there_is_no_outlook(ready: Workspace) -> None:
    assert outlook(ready, stage_with(), None) is None
    assert outlook(ready, stage_with(model__name="org/unknown"), machine_of()) is None
