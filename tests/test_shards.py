"""Shards: what was written whole is read back bit for bit, and nothing else is believed."""

import os
from pathlib import Path

import numpy as np
import pytest

from mixcpt import shards
from mixcpt.shards import DamagedShard, Entry, Shard, Writer

WIDTH = 3
KEYS = [bytes([number]) * shards.KEY_BYTES for number in range(5)]


def states(tokens: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**16, (tokens, WIDTH), dtype=np.uint16)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[np.ndarray]]:
    """A finished shard "a" with segments of 4 and 2 tokens, written together, and one of 5."""
    parts = [states(4, 1), states(2, 2), states(5, 3)]
    writer = Writer(tmp_path, "a", WIDTH)
    writer.append([(KEYS[0], parts[0]), (KEYS[1], parts[1])])
    writer.append([(KEYS[2], parts[2])])
    writer.close()
    return tmp_path, parts


def test_what_is_written_is_read_back(written: tuple[Path, list[np.ndarray]]) -> None:
    folder, parts = written
    entries = shards.read_index(folder, "a")
    assert [(entry.key, entry.start, entry.tokens) for entry in entries] == [
        (KEYS[0], 0, 4), (KEYS[1], 4 * WIDTH * 2, 2), (KEYS[2], 6 * WIDTH * 2, 5),
    ]  # fmt: skip
    shard = Shard(folder, "a", WIDTH)
    for entry, part in zip(entries, parts, strict=True):
        found = shard.read(entry)
        assert np.array_equal(found, part)
        assert not found.flags.writeable
    shard.close()
    assert shards.names(folder) == ["a"]
    assert shards.tokens_of(folder, "a") == 11
    assert shards.index_path(folder, "a").stat().st_size == 3 * 32
    assert shards.states_path(folder, "a").stat().st_size == 11 * WIDTH * 2


def test_a_part_of_the_index_can_be_read(written: tuple[Path, list[np.ndarray]]) -> None:
    folder, _ = written
    assert [entry.key for entry in shards.read_index(folder, "a", 1)] == KEYS[1:3]
    assert [entry.key for entry in shards.read_index(folder, "a", 0, 2)] == KEYS[:2]
    assert shards.read_index(folder, "a", 2, 1) == []
    assert shards.read_index(folder, "none") == []


def test_a_shard_is_read_while_it_grows(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "a", WIDTH)
    (first,) = writer.append([(KEYS[0], states(4))])
    shard = Shard(tmp_path, "a", WIDTH)
    kept = shard.read(first)
    (second,) = writer.append([(KEYS[1], states(6, 1))])
    assert np.array_equal(shard.read(second), states(6, 1))
    assert np.array_equal(kept, states(4))  # the older map lives as long as what was read from it
    shard.close()
    writer.close()


def test_a_torn_record_does_not_count(written: tuple[Path, list[np.ndarray]]) -> None:
    folder, _ = written
    index = shards.index_path(folder, "a")
    os.truncate(index, index.stat().st_size - 1)
    assert [entry.key for entry in shards.read_index(folder, "a")] == KEYS[:2]


def test_states_that_are_cut_off_are_noticed_without_touching_them(written: tuple[Path, list[np.ndarray]]) -> None:
    """Also when the file was mapped whole before: to read past its end would kill the process."""
    folder, parts = written
    entries = shards.read_index(folder, "a")
    shard = Shard(folder, "a", WIDTH)
    shard.read(entries[2])
    os.truncate(shards.states_path(folder, "a"), 8 * WIDTH * 2)
    with pytest.raises(DamagedShard, match="it has 48 bytes, and should have 66"):
        shard.read(entries[2])
    assert np.array_equal(shard.read(entries[0]), parts[0])
    shard.close()


@pytest.mark.parametrize("byte", [0, 13, 23])
def test_one_wrong_bit_is_noticed(written: tuple[Path, list[np.ndarray]], byte: int) -> None:
    folder, parts = written
    path = shards.states_path(folder, "a")
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)
    first, second, _ = shards.read_index(folder, "a")
    shard = Shard(folder, "a", WIDTH)
    with pytest.raises(DamagedShard, match="checksum"):
        shard.read(first)
    assert np.array_equal(shard.read(second), parts[1])
    shard.close()


@pytest.mark.parametrize(
    "change", [{"key": KEYS[4]}, {"start": 6}, {"tokens": 3}, {"tokens": 0}, {"start": 10**12}, {"checksum": 0}]
)
def test_a_wrong_record_is_noticed(written: tuple[Path, list[np.ndarray]], change: dict[str, object]) -> None:
    folder, _ = written
    entry: Entry = shards.read_index(folder, "a")[0]._replace(**change)  # type: ignore[arg-type]
    shard = Shard(folder, "a", WIDTH)
    with pytest.raises(DamagedShard):
        shard.read(entry)
    shard.close()


def test_a_shard_is_written_by_one_only_and_shows_it(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "a", WIDTH)
    assert shards.is_open(tmp_path, "a")
    with pytest.raises(FileExistsError):
        Writer(tmp_path, "a", WIDTH)
    assert not writer.is_gone
    shards.remove(tmp_path, "a")
    assert writer.is_gone
    writer.close()
    assert not shards.is_open(tmp_path, "a")
    assert list(tmp_path.iterdir()) == []


def test_states_of_another_width_are_not_written(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "a", WIDTH)
    with pytest.raises(ValueError, match="width 3"):
        writer.append([(KEYS[0], np.zeros((4, 2), np.uint16))])
    writer.close()
    assert shards.read_index(tmp_path, "a") == []


def test_after_a_failed_write_the_shard_is_whole_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes half of the states, then is full; later there is room again."""
    writer = Writer(tmp_path, "a", WIDTH)
    writer.append([(KEYS[0], states(4))])
    write = os.pwrite
    taken = 0

    def full(file: int, data: memoryview, start: int) -> int:
        nonlocal taken
        if taken:
            raise OSError(28, "No space left on device")
        taken = write(file, data[: len(data) // 2], start)
        return taken

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        writer.append([(KEYS[1], states(6, 1))])
    monkeypatch.setattr(os, "pwrite", write)
    writer.append([(KEYS[2], states(5, 2))])
    writer.close()
    entries = shards.read_index(tmp_path, "a")
    assert [entry.key for entry in entries] == [KEYS[0], KEYS[2]]
    shard = Shard(tmp_path, "a", WIDTH)
    assert np.array_equal(shard.read(entries[1]), states(5, 2))
    shard.close()
