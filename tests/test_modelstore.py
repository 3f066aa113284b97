"""Where a model lies and whether it is ready, without fetching anything; terms; and the `fetch` job."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from mixcpt import modelstore, worker
from mixcpt.errors import BadConfig, BadFile
from mixcpt.estimate import shape_of
from mixcpt.jobs import Jobs
from mixcpt.modelstore import accept_terms, ensure_model, find_folder, is_there, terms_to_accept
from mixcpt.workspace import Workspace


def make_builtin(workspace: Workspace, name: str) -> Path:
    folder = workspace.models / name
    folder.mkdir()
    (folder / "mixcpt.json").write_text("{}")
    return folder


def test_a_builtin_model_is_there_once_its_mark_is(workspace: Workspace) -> None:
    assert not is_there(workspace, "smollm2-135m")
    (workspace.models / "smollm2-135m").mkdir()
    assert not is_there(workspace, "smollm2-135m")
    shutil.rmtree(workspace.models / "smollm2-135m")
    assert find_folder(workspace, "smollm2-135m") is None
    folder = make_builtin(workspace, "smollm2-135m")
    assert find_folder(workspace, "smollm2-135m") == folder


def test_a_folder_is_ready_when_whole_and_with_a_fast_tokenizer(
    workspace: Workspace, tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    assert find_folder(workspace, str(folder)) == folder
    (folder / "tokenizer_config.json").write_text("not json")
    assert not is_there(workspace, str(folder))
    with pytest.raises(BadFile, match=r"tokenizer_config.json holds no JSON object"):
        ensure_model(workspace, str(folder))
    (folder / "config.json").unlink()
    assert not is_there(workspace, str(folder))
    assert not is_there(workspace, "no-such-model") and not is_there(workspace, str(tmp_path / "gone"))


def test_a_converted_tokenizer_makes_a_folder_ready(
    workspace: Workspace, tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "Slow Model"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "tokenizer.json").unlink()
    assert find_folder(workspace, str(folder)) is None
    converted = modelstore._converted(workspace, folder, folder.name)
    converted.mkdir()
    assert find_folder(workspace, str(folder)) is None
    (converted / "mixcpt.json").write_text("{}")
    assert find_folder(workspace, str(folder)) == converted


def test_a_hub_model_is_looked_for_in_the_cache_alone(
    workspace: Workspace, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert not is_there(workspace, "org/name")
    cache = tmp_path / "models--org--name"
    snapshot = cache / "snapshots" / "abc"
    shutil.copytree(tiny_model_folder, snapshot)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    assert find_folder(workspace, "org/name") == snapshot
    # a download that was broken off: the index names a file that did not come
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not is_there(workspace, "org/name")


def test_terms_are_accepted_once_for_the_workspace(workspace: Workspace) -> None:
    name = "gemma-3-270m"
    assert terms_to_accept(workspace, "smollm2-135m") is None and terms_to_accept(workspace, "org/name") is None
    assert "Gemma Terms of Use" in str(terms_to_accept(workspace, name))
    with pytest.raises(BadConfig, match="--accept-terms"):
        ensure_model(workspace, name)
    accept_terms(workspace, name)
    assert terms_to_accept(Workspace(workspace.root), name) is None


def test_whoever_has_the_model_has_accepted_its_terms(workspace: Workspace) -> None:
    make_builtin(workspace, "gemma-3-270m")
    assert terms_to_accept(workspace, "gemma-3-270m") is None


def test_fetching_is_a_job(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def ensure(workspace: Workspace, name: str, *, accept_terms: bool, progress: object, should_stop: object) -> Path:
        asked.append((name, accept_terms))
        return workspace.models / name

    monkeypatch.setattr(modelstore, "ensure_model", ensure)
    for payload in ({"model": "smollm2-135m"}, {"model": "gemma-3-270m", "accept_terms": True}):
        job = Jobs(workspace).submit("fetch", payload)
        assert worker.work(worker.JobContext(workspace, job)) == 0
        assert (job.state, job.status.message) == ("done", f"The model {payload['model']} is ready.")
    assert asked == [("smollm2-135m", False), ("gemma-3-270m", True)]


def test_a_fetch_that_was_not_accepted_fails_with_its_sentence(workspace: Workspace) -> None:
    job = Jobs(workspace).submit("fetch", {"model": "gemma-3-270m"})
    worker.work(worker.JobContext(workspace, job))
    assert job.state == "failed" and "--accept-terms" in job.status.message and job.status.bad_input


@pytest.mark.parametrize("config", ["{}", "[]", "no json", '{"vocab_size": "many", "hidden_size": 4}'])
def test_a_folder_that_describes_no_model_is_refused(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(BadFile, match=r"does not describe a language model"):
        shape_of(tmp_path)
