"""What can be exported and what cannot, each in a sentence; and taking an export elsewhere."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from exportable import exportable_run, tiny_model
from made import made_job, made_run
from safetensors.numpy import load_file, save_file

from mixcpt import builtin, exporting, exports, recorded
from mixcpt.errors import BadFile, BadInput, NotFound, TooLittle
from mixcpt.exports import check, check_out, estimate_bytes, find, is_current, submit, take
from mixcpt.jobs import Jobs
from mixcpt.modelfiles import model_fingerprint
from mixcpt.runs import Run, Runs
from mixcpt.tasks import write_tasks
from mixcpt.workspace import Workspace, write_json

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def model(tiny_tokenizer_folder: Path, tmp_path: Path) -> Path:
    return tiny_model("llama", tmp_path / "little-llama", tiny_tokenizer_folder)


@pytest.fixture
def run(workspace: Workspace, model: Path) -> Run:
    return exportable_run(workspace, model)


def fill_disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12 - free, free))


# --- what cannot be exported


def test_an_unknown_kind(workspace: Workspace, run: Run) -> None:
    with pytest.raises(BadInput, match=r"no export 'gguf': take one of adapter, merged, tasks"):
        check(workspace, run, "gguf")


def test_a_run_that_has_not_finished(workspace: Workspace) -> None:
    for state in ("queued", "running", "failed", "paused"):
        run = made_run(workspace, state=state)
        with pytest.raises(BadInput, match=rf"Run {run.id} is {state} and has no adapter yet: let it finish first"):
            check(workspace, run, "adapter")


def test_a_recorded_run(workspace: Workspace) -> None:
    run = recorded.add(workspace)[0]
    with pytest.raises(BadInput, match=r"a recorded run, which comes without its adapter: .*mixcpt rerun"):
        check(workspace, run, "merged")


def test_a_damaged_adapter(workspace: Workspace, run: Run) -> None:
    weights, settings = run.adapter / "adapter_model.safetensors", run.adapter / "adapter_config.json"
    whole, described = weights.read_bytes(), settings.read_bytes()
    for bad in (b"", b"\0" * 8, whole[:-1], whole + b"x", b"not safetensors at all, but long enough for a header"):
        weights.write_bytes(bad)
        with pytest.raises(BadFile, match=rf"adapter of run {run.id} is damaged or not whole: train it again"):
            check(workspace, run, "adapter")
    weights.write_bytes(whole)
    for wrong in ("{", "[]", '{"peft_type": "IA3"}'):
        settings.write_text(wrong)
        with pytest.raises(BadFile, match=r"damaged or not whole"):
            check(workspace, run, "adapter")
    settings.write_bytes(described)
    check(workspace, run, "adapter")


def test_a_base_model_that_was_deleted(workspace: Workspace, run: Run, model: Path) -> None:
    shutil.rmtree(model)
    with pytest.raises(NotFound, match=r"little-llama of run .* is not here any more: put it back there"):
        check(workspace, run, "adapter")
    built_in = made_run(workspace)
    shutil.copytree(run.adapter, built_in.adapter, dirs_exist_ok=True)
    with pytest.raises(NotFound, match=r"smollm2-135m of run .*: fetch it with `mixcpt model add smollm2-135m`"):
        check(workspace, built_in, "merged")


def test_a_base_model_that_changed(workspace: Workspace, run: Run, model: Path) -> None:
    write_json(run.folder / "started.json", {"model": model_fingerprint(model)})
    check(workspace, run, "merged")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64] + b"\1" * 64)
    with pytest.raises(BadInput, match=r"little-llama changed since run .* was trained on it"):
        check(workspace, run, "merged")


def test_a_base_model_that_is_stored_in_few_bits(workspace: Workspace, run: Run, model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    write_json(model / "config.json", config | {"quantization_config": {"quant_method": "gptq"}})
    check(workspace, run, "adapter")
    with pytest.raises(BadInput, match=r"stored quantised \(gptq\).*: export the adapter"):
        check(workspace, run, "merged")


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan"), float("inf")])
def test_a_strength_that_is_none(workspace: Workspace, run: Run, strength: float) -> None:
    with pytest.raises(BadInput, match=rf"The strength is {strength:g}: take one from 0 \(the base\) to 1"):
        check(workspace, run, "adapter", strength)


def test_a_strength_of_what_has_none(workspace: Workspace, run: Run) -> None:
    with pytest.raises(BadInput, match=r"The strength is 0\.5, but questions hold no adapter: leave the strength out"):
        check(workspace, run, "tasks", 0.5)
    weights = load_file(run.adapter / "adapter_model.safetensors")
    weights["base_model.model.lm_head.weight"] = np.zeros((257, 64), np.float32)
    save_file(weights, run.adapter / "adapter_model.safetensors")
    check(workspace, run, "adapter")
    with pytest.raises(
        BadInput, match=r"holds more than LoRA matrices, for example base_model.*: export it at strength 1"
    ):
        check(workspace, run, "adapter", 0.5)


def test_questions_that_nobody_asked(workspace: Workspace, run: Run) -> None:
    unasked = made_run(workspace)
    with pytest.raises(BadInput, match=rf"Run {unasked.id} was asked no questions yet: .*mixcpt evaluate"):
        check(workspace, unasked, "tasks")
    shutil.rmtree(run.adapter)
    check(workspace, run, "tasks")  # asking needs no adapter


# --- sizes, and what lies there


@pytest.mark.parametrize("to", exports.KINDS)
def test_the_size_is_estimated_well(workspace: Workspace, run: Run, to: str) -> None:
    estimated = estimate_bytes(workspace, run, to)
    made = exporting.make(workspace, run, to)
    assert made.bytes == pytest.approx(estimated, rel=0.5, abs=25_000)  # the card is half of it, models are so small
    assert find(run, to) == made


def test_an_export_is_right_until_anything_changes(workspace: Workspace, run: Run, model: Path) -> None:
    made = exporting.make(workspace, run, "adapter")
    assert is_current(workspace, made) and exporting.make(workspace, run, "adapter") == made
    created = (made.folder / "export.json").read_text()
    run.relabel(name="another name")
    assert not is_current(workspace, made)
    again = exporting.make(workspace, run, "adapter")
    assert "# another name" in (again.folder / "README.md").read_text() and is_current(workspace, again)
    assert (again.folder / "export.json").read_text() != created
    write_json(model / "tokenizer_config.json", {"eos_token": "<eos>", "pad_token": "<eos>"})
    assert not is_current(workspace, again)


def test_tasks_are_right_until_other_questions_are_asked(workspace: Workspace, run: Run) -> None:
    made = exporting.make(workspace, run, "tasks")
    assert is_current(workspace, made)
    write_tasks({"more": builtin.questions()[:3]}, run.folder / "tasks")
    assert not is_current(workspace, made)
    assert (exporting.make(workspace, run, "tasks").folder / "more.yaml").is_file()


def test_deleting_a_run_removes_its_exports(workspace: Workspace, run: Run) -> None:
    made = exporting.make(workspace, run, "adapter")
    packed = exporting.pack(workspace, made)
    Runs(workspace).delete(run)
    assert not made.folder.exists() and not packed.exists() and not list(workspace.runs.glob("*/exports"))


def test_an_export_is_removed_and_made_again(workspace: Workspace, run: Run) -> None:
    made = exporting.make(workspace, run, "adapter")
    exporting.pack(workspace, made)
    exports.remove(run, "adapter")
    assert find(run, "adapter") is None and not [p for p in made.folder.parent.iterdir() if p.suffix != ".lock"]
    exports.remove(run, "adapter")
    assert exporting.make(workspace, run, "adapter").made_of == made.made_of


# --- elsewhere


def test_it_is_copied_whole_to_a_new_folder(workspace: Workspace, run: Run, tmp_path: Path) -> None:
    made = exporting.make(workspace, run, "adapter")
    out = tmp_path / "new" / "one"
    take(made, out)
    assert {path.name for path in out.iterdir()} == {path.name for path in made.folder.iterdir()}
    for file in made.folder.iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes()
    with pytest.raises(BadInput, match=rf"{out} is there already"):
        take(made, out)


def test_a_copy_that_fails_leaves_nothing(
    workspace: Workspace, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exporting.make(workspace, run, "adapter")

    def fail(source: Path, target: Path, **_: object) -> None:
        (target / "half").write_text("")
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copytree", fail)
    with pytest.raises(OSError, match="No space left"):
        take(made, tmp_path / "out" / "one")
    assert not list((tmp_path / "out").iterdir())


def test_where_nothing_can_be_made(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(BadInput, match=r"is there already"):
        check_out(file)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"is there already"):
        check_out(tmp_path / "link")
    with pytest.raises(BadInput, match=rf"cannot be made, for {file} is a file"):
        check_out(file / "below")
    fill_disk(monkeypatch, 10**9)
    check_out(tmp_path / "a" / "b" / "c", 9 * 10**8)
    with pytest.raises(TooLittle, match=r"needs 2\.0 GB of disk, but 1\.0 GB are free there"):
        check_out(tmp_path / "a" / "b" / "c", 2 * 10**9)


# --- the job


def test_the_same_export_is_queued_once(workspace: Workspace, run: Run) -> None:
    first = submit(workspace, run, "adapter", zipped=True)
    assert submit(workspace, run, "adapter").id == first.id
    assert submit(workspace, run, "merged").id != first.id
    payload = {"to": "adapter", "zip": True, "strength": 1.0}
    assert (first.kind, first.run, first.payload) == ("export", run.id, payload)
    weak = submit(workspace, run, "merged", strength=0.5)
    assert weak.payload["strength"] == 0.5 and weak.label.endswith("merged at 0.5")
    assert submit(workspace, run, "merged", strength=0.5).id == weak.id
    first.update(state="failed")
    assert submit(workspace, run, "adapter").id != first.id
    assert run.state(Jobs(workspace)) == "done", "an export is no part of how a run stands"


def test_what_cannot_be_exported_is_not_queued(workspace: Workspace) -> None:
    run = made_run(workspace, state="running")
    with pytest.raises(BadInput, match=r"has no adapter yet"):
        submit(workspace, run, "adapter")
    assert not [job for job in Jobs(workspace).all() if job.kind == "export"]


def test_the_latest_job_of_a_kind(workspace: Workspace, run: Run) -> None:
    assert exports.latest_job(workspace, run, "adapter") is None
    made_job(workspace, "export", "done", run=run.id, payload={"to": "adapter"})
    second = made_job(workspace, "export", "failed", run=run.id, payload={"to": "adapter"})
    made_job(workspace, "export", "done", run=run.id, payload={"to": "merged"})
    found = exports.latest_job(workspace, run, "adapter")
    assert found and found.id == second.id
