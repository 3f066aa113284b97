"""The teacher cache as a whole: its limit, its size, what is dropped first, and emptying it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mixcpt import shards, teachercache
from mixcpt.errors import BadInput, Damaged
from mixcpt.shards import Writer
from mixcpt.teachercache import Origin, clear, limit, segment_key, set_limit, size
from mixcpt.workspace import Workspace, write_json

ORIGIN = Origin("tiny", "0123456789abcdef", "cpu", "fp32")
KB = 1000 - 32
"""Bytes of states that make a shard of a thousand bytes with their record."""


def shard(workspace: Workspace, name: str, used: float, origin: Origin = ORIGIN, keep_open: bool = False) -> Writer:
    """A shard of 1,000 bytes, last used at this time."""
    folder = workspace.teacher_cache / origin.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "origin.json", {"name": origin.name, "device": origin.device, "precision": origin.precision})
    writer = Writer(folder, name, width=4)
    writer.append([(segment_key(np.array([ord(letter) for letter in name])), np.zeros((KB // 8, 4), np.uint16))])
    if not keep_open:
        writer.close()
    os.utime(shards.index_path(folder, name), (used, used))
    return writer


def names(workspace: Workspace) -> list[str]:
    return sorted(path.stem for path in workspace.teacher_cache.glob("*/*.index"))


def test_an_empty_cache(workspace: Workspace) -> None:
    empty = size(workspace)
    assert (empty.bytes, empty.tokens, empty.origins) == (0, 0, [])
    assert empty.limit_bytes == teachercache.LIMIT_BYTES == limit(workspace)
    assert clear(workspace) == 0


def test_its_size_is_told_by_model_the_latest_used_first(workspace: Workspace) -> None:
    other = Origin("large", "fedcba9876543210", "cuda", "nf4", "bf16")
    shard(workspace, "a", used=1000)
    shard(workspace, "b", used=3000, origin=other)
    shard(workspace, "c", used=2000)
    found = size(workspace)
    assert found.bytes == 3000
    assert found.tokens == 3 * KB // 8
    assert [(one.name, one.device, one.precision, one.bytes, one.used) for one in found.origins] == [
        ("large", "cuda", "nf4", 1000, 3000.0),
        ("tiny", "cpu", "fp32", 2000, 2000.0),
    ]


def test_an_unreadable_origin_hides_nothing(workspace: Workspace) -> None:
    shard(workspace, "a", used=1000)
    for text in ("{", "[]"):
        (workspace.teacher_cache / ORIGIN.folder / "origin.json").write_text(text, encoding="utf-8")
        assert [(one.name, one.bytes) for one in size(workspace).origins] == [("?", 1000)]


def test_a_lower_limit_drops_what_was_not_used_for_longest(workspace: Workspace) -> None:
    for name, used in (("a", 2000), ("b", 1000), ("c", 3000)):
        shard(workspace, name, used)
    assert set_limit(workspace, 2500 / 1e9) == 1000
    assert names(workspace) == ["a", "c"]
    assert limit(workspace) == 2500
    assert set_limit(workspace, 1) == 0
    assert limit(workspace) == 1_000_000_000


def test_a_limit_of_nothing_empties_it_but_for_what_is_being_written(workspace: Workspace) -> None:
    shard(workspace, "a", used=1000)
    writer = shard(workspace, "b", used=500, keep_open=True)
    assert set_limit(workspace, 0) == 1000
    assert names(workspace) == ["b"]
    assert not writer.is_gone
    writer.close()


@pytest.mark.parametrize("gigabytes", [-1, float("nan"), float("inf")])
def test_an_impossible_limit_is_refused(workspace: Workspace, gigabytes: float) -> None:
    with pytest.raises(BadInput, match="give 0"):
        set_limit(workspace, gigabytes)
    assert not workspace.teacher_cache.exists()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"limit_bytes": null}'])
def test_damaged_settings_are_named(workspace: Workspace, text: str) -> None:
    workspace.teacher_cache.mkdir()
    (workspace.teacher_cache / "settings.json").write_text(text, encoding="utf-8")
    with pytest.raises(Damaged, match=r"settings\.json is damaged .* move it away"):
        limit(workspace)


def test_emptying_takes_everything_and_the_limit_stays(workspace: Workspace) -> None:
    set_limit(workspace, 3)
    shard(workspace, "a", used=1000)
    writer = shard(workspace, "b", used=2000, keep_open=True)
    (workspace.teacher_cache / ".cleared-half").mkdir()  # of somebody who was killed while emptying it
    assert clear(workspace) == 2000
    assert writer.is_gone  # who is writing notices
    assert sorted(path.name for path in workspace.teacher_cache.iterdir()) == [".lock", "settings.json"]
    assert limit(workspace) == 3_000_000_000
    writer.close()


def room(workspace: Workspace, needed: int, most: int, *keep: str) -> bool:
    folder = workspace.teacher_cache / ORIGIN.folder
    return teachercache.make_room(workspace, needed, most, keep=frozenset((folder, name) for name in keep))


def test_room_is_made_by_dropping_the_longest_unused(workspace: Workspace) -> None:
    for name, used in (("a", 2000), ("b", 1000), ("c", 3000)):
        shard(workspace, name, used)
    assert room(workspace, 900, 4000) and names(workspace) == ["a", "b", "c"]
    assert room(workspace, 1100, 4000) and names(workspace) == ["a", "c"]
    assert room(workspace, 3900, 4000) and names(workspace) == []


def test_what_is_in_use_is_not_dropped_for_room(workspace: Workspace) -> None:
    shard(workspace, "a", used=1000)
    shard(workspace, "b", used=2000)
    assert room(workspace, 1500, 3000, "a") and names(workspace) == ["a"]
    shard(workspace, "c", used=3000)
    # Not even both would do beside what is kept: nothing is lost for nothing.
    assert not room(workspace, 2500, 3000, "a") and names(workspace) == ["a", "c"]


def test_a_shard_that_is_being_written_counts_with_what_it_may_become(workspace: Workspace) -> None:
    """Of a limit of 16,000 bytes a shard may have an eighth: 2,000."""
    writer = shard(workspace, "a", used=1000, keep_open=True)
    assert room(workspace, 14_000, 16_000)
    assert not room(workspace, 14_001, 16_000)
    writer.close()
    assert room(workspace, 15_000, 16_000) and names(workspace) == ["a"]


def test_some_of_the_disk_stays_free(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    shard(workspace, "a", used=1000)
    usage = type("usage", (), {"free": teachercache.SPARE_BYTES + 500})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert room(workspace, 500, 10**9) and names(workspace) == ["a"]
    assert room(workspace, 1500, 10**9) and names(workspace) == []
    assert not room(workspace, 1500, 10**9)


def test_a_segment_is_known_by_its_ids() -> None:
    ids = np.array([3, 1, 4, 1, 5])
    assert (
        segment_key(ids) == segment_key(ids.astype(np.int32)) == segment_key(np.array([3, 0, 1, 0, 4, 0, 1, 0, 5])[::2])
    )
    assert segment_key(ids) != segment_key(ids[:4])
    assert segment_key(ids) != segment_key(ids[::-1])
    assert len(segment_key(ids)) == 16


@pytest.mark.parametrize(
    "change", [{"model": "fedcba9876543210"}, {"device": "cuda"}, {"precision": "bf16"}, {"compute": "bf16"}]
)
def test_another_origin_has_another_folder(change: dict[str, str]) -> None:
    parts = {"name": "tiny", "model": "0123456789abcdef", "device": "cpu", "precision": "fp32"}
    assert Origin(**parts).folder == ORIGIN.folder == Origin(**parts | {"name": "renamed"}).folder
    assert Origin(**parts | change).folder != ORIGIN.folder


def test_another_version_of_the_libraries_has_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ORIGIN.folder
    monkeypatch.setattr(teachercache, "_version", lambda library: "99.0")
    assert ORIGIN.folder != before
    assert Path(before).name == before
