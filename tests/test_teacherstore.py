"""The states of one model as a run sees them: kept, found again, damaged, full, unwritable, and shared by processes."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mixcpt import teachercache, teacherstore
from mixcpt.shards import KEY_BYTES
from mixcpt.teachercache import Origin, clear, set_limit, size
from mixcpt.teacherstore import Store
from mixcpt.workspace import Workspace

ORIGIN = Origin("tiny", "0123456789abcdef", "cpu", "fp32")
WIDTH = 4
Opened = Callable[..., Store]


def key(number: int) -> bytes:
    return number.to_bytes(KEY_BYTES, "big")


def states(number: int, tokens: int = 5) -> np.ndarray:
    return np.full((tokens, WIDTH), number, np.uint16)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def opened(workspace: Workspace, said: list[str]) -> Iterator["Opened"]:
    """Opens stores, and closes them in the end."""
    stores: list[Store] = []

    def open_store(owner: str = "run", seen: dict[str, int] | None = None, width: int = WIDTH) -> Store:
        stores.append(Store(workspace, ORIGIN, owner=owner, width=width, seen=seen, say=said.append))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


def found(store: Store, *numbers: int) -> list[int | None]:
    """Of each segment the number that its states are filled with."""
    everything = [store.find(key(number)) for number in numbers]
    return [None if one is None else int(one[0, 0]) for one in everything]


def test_what_is_added_is_found_at_once_and_by_the_next_run(opened: Opened, said: list[str]) -> None:
    first = opened("first")
    assert found(first, 1) == [None]
    first.add([(key(1), states(1)), (key(2), states(2, 3))])
    one = first.find(key(2))
    assert one is not None and np.array_equal(one, states(2, 3))
    first.close()
    second = opened("second")
    assert found(second, 1, 2, 3) == [1, 2, None]
    assert key(1) in second and key(3) not in second
    second.close()
    assert said == []


def test_a_run_sees_what_was_there_at_its_start_and_its_own(opened: Opened) -> None:
    """So it goes on the same whether it was stopped in between or not."""
    other = opened("other")
    other.add([(key(1), states(1))])
    run = opened("run")
    seen = run.snapshot()
    run.add([(key(2), states(2))])
    other.add([(key(3), states(3))])
    assert found(run, 1, 2, 3) == [1, 2, None]
    run.close()
    again = opened("run", seen=seen)
    assert found(again, 1, 2, 3) == [1, 2, None]
    assert again.snapshot() == seen
    again.add([(key(4), states(4))])
    again.close()
    assert found(opened("new"), 1, 2, 3, 4) == [1, 2, 3, 4]
    other.close()


def test_another_width_is_never_believed(opened: Opened, said: list[str]) -> None:
    store = opened()
    store.add([(key(1), states(1))])
    store.close()
    wrong = opened(width=WIDTH // 2)
    assert wrong.find(key(1)) is None
    assert len(said) == 1 and "was damaged (a checksum is wrong)" in said[0]


def damage(path: Path, how: str) -> None:
    if how == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "changed":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["cut", "changed"])
def test_damaged_states_are_said_dropped_and_written_anew(opened: Opened, said: list[str], how: str) -> None:
    first = opened("first")
    first.add([(key(1), states(1)), (key(2), states(2))])
    first.close()
    damage(next(first.folder.glob("*.states")), how)
    second = opened("second")
    assert found(second, 2, 1, 2) == [None, None, None]
    assert len(said) == 1
    assert "was damaged" in said[0] and "computed again" in said[0]
    second.add([(key(2), states(2))])
    assert found(second, 2) == [2]
    second.close()
    third = opened("third")
    assert found(third, 1, 2) == [None, 2]
    third.close()
    assert len(said) == 1


@pytest.mark.parametrize("suffix", ["index", "states"])
def test_a_shard_of_which_half_is_gone_is_computed_again(opened: Opened, said: list[str], suffix: str) -> None:
    first = opened("first")
    first.add([(key(1), states(1))])
    first.close()
    damage(next(first.folder.glob(f"*.{suffix}")), "gone")
    second = opened("second")
    assert found(second, 1) == [None]
    second.add([(key(1), states(1))])
    assert found(second, 1) == [1]
    second.close()
    assert said == []


def test_a_writer_that_was_killed_leaves_what_it_finished(workspace: Workspace, opened: Opened) -> None:
    script = (
        "import os, sys, numpy as np\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from test_teacherstore import ORIGIN, WIDTH, key, states\n"
        "from mixcpt.teacherstore import Store\n"
        "from mixcpt.workspace import Workspace\n"
        "store = Store(Workspace(sys.argv[1]), ORIGIN, owner='killed', width=WIDTH)\n"
        "store.add([(key(1), states(1)), (key(2), states(2))])\n"
        "write, done = os.pwrite, []\n"
        "def half(file, data, start):\n"
        "    written = write(file, data[:len(data) // 2], start)\n"
        "    if done: os.kill(os.getpid(), 9)\n"  # in the midst of the second part
        "    done.append(written)\n"
        "    return written\n"
        "os.pwrite = half\n"
        "store.add([(key(3), states(3)), (key(4), states(4))])\n"
    )
    arguments = [sys.executable, "-c", script, str(workspace.root), str(Path(__file__).parent)]
    assert subprocess.run(arguments, check=False).returncode == -9
    store = opened()
    assert found(store, 1, 2, 3, 4) == [1, 2, None, None]
    store.close()


def test_two_processes_write_at_once_and_lose_nothing(workspace: Workspace, opened: Opened) -> None:
    """Each writes 40 segments of its own and 40 that both write, in a cache that is emptied meanwhile by nobody."""
    script = (
        "import sys\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from test_teacherstore import ORIGIN, WIDTH, key, states\n"
        "from mixcpt.teacherstore import Store\n"
        "from mixcpt.workspace import Workspace\n"
        "first = int(sys.argv[3])\n"
        "store = Store(Workspace(sys.argv[1]), ORIGIN, owner=f'run{first}', width=WIDTH)\n"
        "for number in range(40):\n"
        "    store.add([(key(n), states(n)) for n in (first + number, 1000 + number)])\n"
        "    assert store.find(key(1000 + number))[0, 0] == 1000 + number\n"
        "store.close()\n"
    )
    arguments = [sys.executable, "-c", script, str(workspace.root), str(Path(__file__).parent)]
    both = [subprocess.Popen([*arguments, first]) for first in ("100", "200")]
    assert [process.wait(60) for process in both] == [0, 0]
    store = opened()
    wanted = [*range(100, 140), *range(200, 240), *range(1000, 1040)]
    assert found(store, *wanted) == wanted
    store.close()


def test_a_full_cache_drops_what_others_left_and_keeps_its_own(
    workspace: Workspace, opened: Opened, said: list[str]
) -> None:
    """A limit of 8,000 bytes: shards of 1,000. A segment takes 5 * 4 * 2 + 32 = 72 bytes, 13 of them fill a shard."""
    set_limit(workspace, 8000 / 1e9)
    old = opened("old")
    for number in range(26):
        old.add([(key(number), states(number))])
    old.close()
    for index in old.folder.glob("*.index"):
        os.utime(index, (1000, 1000))
    run = opened("run")
    run.claim([key(25)])  # of the second of the two old shards
    for number in range(100, 300):
        run.add([(key(number), states(number))])
    assert size(workspace).bytes <= 8000
    assert len(said) == 1 and said[0].startswith("the teacher cache is full (limit 8e-06 GB")
    assert found(run, 0, 25) == [None, 25]
    kept = found(run, *range(100, 300))
    assert kept[:80] == list(range(100, 180)) and kept[-1] is None
    run.close()


def test_reading_keeps_a_shard_in_use(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened("first")
    first.add([(key(1), states(1))])
    first.close()
    index = next(first.folder.glob("*.index"))
    os.utime(index, (1000, 1000))
    second = opened("second")
    found(second, 1)
    used = index.stat().st_mtime
    assert used > 1000
    os.utime(index, (1000, 1000))
    found(second, 1)
    assert index.stat().st_mtime == 1000  # not at every reading
    monkeypatch.setattr(teacherstore, "_TOUCH_SECONDS", 0.0)
    found(second, 1)
    assert index.stat().st_mtime >= used
    second.close()


def test_emptied_while_a_run_writes_it_fills_anew(workspace: Workspace, opened: Opened, said: list[str]) -> None:
    run = opened()
    run.add([(key(1), states(1))])
    assert clear(workspace) > 0
    run.add([(key(2), states(2))])
    assert found(run, 1, 2) == [None, 2]
    run.close()
    assert size(workspace).tokens == 5
    assert said == []


@pytest.mark.parametrize("call", ["open", "pwrite"])
def test_a_disk_that_fails_is_said_once_and_stops_nothing(
    opened: Opened, said: list[str], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = opened("before")
    before.add([(key(1), states(1))])
    before.close()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    store = opened()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        store.add([(key(2), states(2))])
        store.add([(key(3), states(3))])
    store.add([(key(4), states(4))])  # not tried again
    assert found(store, 1, 2, 3, 4) == [1, None, None, None]
    store.close()
    assert len(said) == 1
    assert said[0].startswith("the teacher cache cannot be written (No space left on device: ")
    assert said[0].endswith("; the training goes on without")


def test_a_cache_in_a_place_that_cannot_be_made(workspace: Workspace, opened: Opened, said: list[str]) -> None:
    workspace.teacher_cache.write_text("in the way", encoding="utf-8")
    store = opened()
    store.add([(key(1), states(1))])
    assert found(store, 1) == [None]
    store.close()
    assert said and all("the training goes on without" in sentence for sentence in said)


def test_damaged_settings_stop_no_training(workspace: Workspace, opened: Opened, said: list[str]) -> None:
    workspace.teacher_cache.mkdir()
    (workspace.teacher_cache / "settings.json").write_text("{", encoding="utf-8")
    store = opened()
    store.add([(key(1), states(1))])
    assert found(store, 1) == [None]
    store.close()
    assert len(said) == 1 and "settings.json is damaged" in said[0]


def test_shards_are_no_larger_than_an_eighth_of_the_limit() -> None:
    assert teachercache.shard_bytes(8000) == 1000
    assert teachercache.shard_bytes(10**12) == teachercache.SHARD_BYTES
