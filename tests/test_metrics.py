"""The last and first records of a file that only grows, without reading all of it."""

from pathlib import Path

import pytest

from mixcpt import metrics
from mixcpt.metrics import append, first, last


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_nothing_is_found_in_nothing(path: Path) -> None:
    assert (last(path, "loss"), first(path, "loss")) == (None, None)
    path.touch()
    assert (last(path, "loss"), first(path, "loss")) == (None, None)


def test_the_last_and_the_first_of_a_key(path: Path) -> None:
    for number in range(4):
        append(path, {"step": number, "measure" if number % 2 else "loss": number})
    assert last(path, "loss") == {"step": 2, "loss": 2} and last(path, "measure") == {"step": 3, "measure": 3}
    assert first(path, "loss") == {"step": 0, "loss": 0} and last(path, "step") == {"step": 3, "measure": 3}
    assert last(path, "memory") is None


def test_a_key_inside_a_record_is_not_its_own(path: Path) -> None:
    append(path, {"step": 1, "loss": 3.0})
    append(path, {"step": 1, "measure": {"loss": 2.0}})
    assert last(path, "loss") == {"step": 1, "loss": 3.0}


@pytest.mark.parametrize(("resumed_at", "then", "found"), [(2, [], 2), (2, [3], 3), (-1, [], None), (-1, [1], 1)])
def test_cancelled_records_do_not_count(path: Path, resumed_at: int, then: list[int], found: int | None) -> None:
    for number in (1, 2, 3, 4):
        append(path, {"step": number, "loss": 1.0})
    append(path, {"event": "resume", "step": resumed_at})
    for number in then:
        append(path, {"step": number, "loss": 0.5})
    record = last(path, "loss")
    assert (record and record["step"]) == found
    kept = [record["step"] for record in metrics.read(path) if "loss" in record]
    assert (kept[-1] if kept else None) == found


def test_what_is_further_back_than_the_tail_is_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "TAIL_BYTES", 50)
    append(path, {"step": 0, "measure": "é" * 10})
    for number in range(20):
        append(path, {"step": number, "loss": 1.0})
    assert last(path, "measure") == {"step": 0, "measure": "é" * 10}
    assert last(path, "loss") == {"step": 19, "loss": 1.0}


def test_a_torn_line_does_not_count(path: Path) -> None:
    append(path, {"loss": 1})
    with open(path, "ab") as file:
        file.write(b'{"loss": 2}')
    assert last(path, "loss") == {"loss": 1}
    path.write_bytes(b'{"loss": 2}')
    assert first(path, "loss") is None
