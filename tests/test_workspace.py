"""The workspace: names that cannot leave it, writes that are whole or not there, folders that appear at once."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

import json
import multiprocessing
import os
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mixcpt.errors import BadInput, Damaged, TooLittle
from mixcpt.workspace import (
    Workspace,
    building,
    check_name,
    locked,
    new_id,
    now,
    read_json,
    write_atomic,
    write_json,
)


@pytest.mark.parametrize("name", ["a", "0", "my-corpus", "a.b_c-1", "x" * 64, "a..b"])
def test_plain_names_are_taken_as_they_are(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/etc", "A", "-a", ".hidden", "_a", "a b", "a\n", "a\0", "é", "x" * 65, "a\\b"],
)
def test_names_that_could_leave_the_workspace_are_refused(name):
    with pytest.raises(BadInput) as caught:
        check_name(name, "corpus name")
    assert str(caught.value).startswith(f"The corpus name {name!r} cannot be used: take 1 to 64 lower-case letters")


def test_write_atomic_replaces_the_whole_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, "long old text\n")
    write_atomic(path, "neu: ü\n")
    assert path.read_bytes() == "neu: ü\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_keeps_the_old_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "x" * 100_000 + "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_round_trip_is_readable_by_others(tmp_path):
    path = tmp_path / "a.json"
    value = {"ü": [1, 2.5, None, True], "b": "x\ny"}
    write_json(path, value)
    assert read_json(path) == json.loads(path.read_bytes()) == value
    assert "ü" in path.read_text(encoding="utf-8") and path.read_text(encoding="utf-8").endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_is_no_number_and_keeps_the_old(tmp_path, value):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"a": value})
    assert read_json(path) == {"a": 1}


def _hold(path: str, log: str) -> None:
    for _ in range(3):
        with locked(Path(path)):
            with open(log, "a") as file:
                file.write("in ")
            time.sleep(0.01)
            with open(log, "a") as file:
                file.write("out ")


def test_a_lock_is_held_by_one_process_at_a_time(tmp_path):
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    workers = [context.Process(target=_hold, args=(str(tmp_path / "deep" / "lock"), str(log))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert log.read_text().split() == ["in", "out"] * 9


def _die_holding(path: str) -> None:
    with locked(Path(path)):
        os._exit(1)


def test_the_lock_of_a_dead_process_is_free(tmp_path):
    worker = multiprocessing.get_context("fork").Process(target=_die_holding, args=(str(tmp_path / "lock"),))
    worker.start()
    worker.join()
    assert worker.exitcode == 1
    with locked(tmp_path / "lock"):
        pass


def test_a_lock_is_freed_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path / "lock"):
        raise RuntimeError
    with locked(tmp_path / "lock"):
        pass


def test_a_folder_appears_whole_when_its_block_ends(tmp_path):
    target = tmp_path / "deep" / "a"
    with building(target) as folder:
        (folder / "x").write_text("1")
        assert not target.exists()
        assert folder.parent == target.parent and folder.name.startswith(".")
    assert (target / "x").read_text() == "1"
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_whose_block_fails_does_not_appear(tmp_path):
    with pytest.raises(RuntimeError), building(tmp_path / "a") as folder:
        (folder / "x").write_text("1")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_building_replaces_an_older_folder_only_at_the_end(tmp_path):
    target = tmp_path / "a"
    target.mkdir()
    (target / "old").write_text("1")
    with pytest.raises(RuntimeError), building(target):
        raise RuntimeError
    assert (target / "old").exists()
    with building(target) as folder:
        (folder / "new").write_text("2")
        assert (target / "old").exists()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_ids_are_fresh_sort_by_time_and_may_be_folder_names(monkeypatch):
    ids = {new_id("run") for _ in range(50)}
    assert len(ids) == 50
    assert all(re.fullmatch(r"run-\d{8}-\d{6}-[0-9a-f]{6}", check_name(each)) for each in ids)
    moments = iter([time.gmtime(0), time.gmtime(86_400 * 365)])
    monkeypatch.setattr("mixcpt.workspace.time.gmtime", lambda *_: next(moments))
    first, second = new_id("run"), new_id("run")
    assert first.startswith("run-19700101-000000-") and first < second


def test_now_is_utc_to_the_second(monkeypatch):
    monkeypatch.setattr("mixcpt.workspace.time.gmtime", lambda: time.struct_time((2026, 3, 4, 5, 6, 7, 0, 0, 0)))
    assert now() == "2026-03-04T05:06:07Z"


def test_the_root_is_the_argument_then_the_environment_then_home(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXCPT_HOME", str(tmp_path / "environment"))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    assert Workspace(tmp_path / "given").root == tmp_path / "given"
    assert Workspace().root == tmp_path / "environment"
    monkeypatch.delenv("MIXCPT_HOME")
    assert Workspace().root == tmp_path / "user" / "mixcpt"
    assert Workspace("~/other").root == tmp_path / "user" / "other"
    monkeypatch.chdir(tmp_path)
    assert Workspace("here").root == tmp_path / "here"


def test_a_workspace_makes_its_folders_and_opening_it_again_keeps_them(tmp_path):
    workspace = Workspace(tmp_path / "w")
    (workspace.runs / "x").mkdir()
    again = Workspace(tmp_path / "w")
    assert sorted(path.name for path in again.root.iterdir()) == ["corpora", "experiments", "jobs", "models", "runs"]
    assert (again.runs / "x").is_dir()


def test_a_file_in_place_of_the_workspace_is_refused(tmp_path):
    (tmp_path / "w").write_text("")
    with pytest.raises(BadInput, match="is a file, but the workspace must be a folder: set MIXCPT_HOME"):
        Workspace(tmp_path / "w")


def test_a_full_disk_is_named_with_what_is_needed(tmp_path, monkeypatch):
    workspace = Workspace(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_500_000_000))
    workspace.require_disk(1_500_000_000, "The model")
    with pytest.raises(TooLittle, match=r"^The model needs 2\.0 GB of disk, but .* has 1\.5 GB free: free some space"):
        workspace.require_disk(2_000_000_000, "The model")


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_file_is_named_in_one_sentence(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(Damaged, match=r"a\.json is damaged"):
        read_json(path)
