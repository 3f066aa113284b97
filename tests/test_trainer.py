"""What the trainer of every stage promises: whole checkpoints, honest times, and a run that goes on as it began."""

import shutil
from pathlib import Path

import pytest
import torch
from test_training import interrupted_run, new_run, quiet, stage

from mixcpt.errors import BadInput, Interrupted, Unavailable
from mixcpt.machine import Machine
from mixcpt.mixture import Mixture
from mixcpt.runs import Run
from mixcpt.settings import override
from mixcpt.trainer import is_whole, mark_complete, peak_memory
from mixcpt.training import train
from mixcpt.workspace import Workspace, read_json, write_json


def test_a_run_goes_on_only_with_what_it_began_with(
    small_corpora: Workspace, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    run = interrupted_run(small_corpora, stage(folder, model__precision="auto", model__device="auto"), 2)
    begun = read_json(run.folder / "started.json")
    assert begun.keys() == {"mixture", "model", "device", "precision"}

    remedy = rf"changed since run {run.id} began, so it cannot go on: start again with `mixcpt rerun {run.id}`"
    with monkeypatch.context() as patch, pytest.raises(BadInput, match=f"^The mixture {remedy}"):
        patch.setattr(Mixture, "fingerprint", lambda _: "another")
        train(small_corpora, run, say=quiet)
    other = "fp32" if begun["precision"] == "bf16" else "bf16"
    explicit = override(run.config, {"model.precision": other})
    with monkeypatch.context() as patch, pytest.raises(BadInput, match=f"^The precision {remedy}"):
        patch.setattr(Run, "config", explicit)
        train(small_corpora, run, say=quiet)
    whole = (folder / "config.json").read_text()
    (folder / "config.json").write_text(whole + " ")
    with pytest.raises(BadInput, match=f"^The model {remedy}"):
        train(small_corpora, run, say=quiet)
    (folder / "config.json").write_text(whole)

    # Timings on a busy machine may now speak for the other precision: auto stays what it was.
    monkeypatch.setattr(Machine, "cpu_precision", other)
    assert train(small_corpora, run, say=quiet)["precision"] == begun["precision"]
    assert read_json(run.folder / "started.json") == begun


def test_a_run_that_began_on_a_gpu_does_not_go_on_without_one(
    small_corpora: Workspace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = interrupted_run(small_corpora, stage(tiny_model_folder, model__device="auto"), 1)
    write_json(run.folder / "started.json", read_json(run.folder / "started.json") | {"device": "cuda"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Unavailable, match=rf"began on cuda in fp32, which cannot be had now .*mixcpt rerun {run.id}"):
        train(small_corpora, run, say=quiet)


def test_times_after_a_resume_are_those_of_the_whole_run(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    run = interrupted_run(small_corpora, stage(tiny_model_folder, measures__every_steps=2), 7)
    slow = 1000.0
    for record in run.losses()[:1] + run.curve()[:1]:  # what a resumed process cannot know of itself
        run.append(record | {"seconds": slow})
    results = train(small_corpora, run, say=quiet)
    assert all(point["seconds"] > 0 for point in run.curve())
    training, measuring = (sum(record["seconds"] for record in records) for records in (run.losses(), run.curve()))
    assert training > slow and measuring > slow
    assert results["seconds"] == pytest.approx(training + measuring, abs=0.06)
    assert results["measure_share"] == pytest.approx(measuring / (training + measuring), abs=0.001)


def test_a_checkpoint_with_a_subfolder_is_whole_while_its_files_are(tmp_path: Path) -> None:
    inner = tmp_path / "states" / "rank-0.bin"
    inner.parent.mkdir()
    inner.write_bytes(b"1234")
    (tmp_path / "adapter.bin").write_bytes(b"12")
    mark_complete(tmp_path)
    assert read_json(tmp_path / "complete.json")["files"] == {"adapter.bin": 2, "states/rank-0.bin": 4}
    assert is_whole(tmp_path)
    inner.write_bytes(b"123")
    assert not is_whole(tmp_path)


def test_memory_on_the_cpu_is_the_process_also_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7)
    assert peak_memory(torch.device("cpu")) > 50_000_000
    assert peak_memory(torch.device("cuda")) == 7


def test_a_torn_checkpoint_is_not_used(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    run = new_run(small_corpora, stage(tiny_model_folder))

    def check() -> None:
        if len(run.losses()) == 7:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        train(small_corpora, run, check=check, say=quiet)
    newest = run.checkpoints()[-1]
    with open(newest / "optimizer.pt", "r+b") as file:
        file.truncate(100)
    said: list[str] = []
    train(small_corpora, run, say=said.append)
    assert said[-2:] == ["checkpoint-7 is torn and is not used", "resuming from step 6"]
