"""What was measured, read from files written by hand: what counts, what belongs together, and intervals."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made import made_run

from mixcpt import measured
from mixcpt.builtin import GENERAL
from mixcpt.errors import Damaged
from mixcpt.measured import at_strength, between, points, pooled, read
from mixcpt.runs import Run
from mixcpt.statistics import paired_ratio_interval
from mixcpt.workspace import Workspace, write_json


def write(
    run: Run,
    text: str = "builtin/atlas",
    strength: float = 1.0,
    values: tuple[float, ...] = (8.0, 30.0),
    *,
    finished: str = "2026-01-01T00:00:00Z",
    measure: str = "bits",
    **how: Any,
) -> Path:
    """Two documents of 10 and 20 bytes, for which the base needs 10 and 40 bits."""
    folder = measured.folder_of(run)
    folder.mkdir(exist_ok=True)
    path = folder / f"{len(list(folder.iterdir())):016x}.json"
    bits = measure == "bits"
    write_json(
        path,
        {
            "text": text,
            "measure": measure,
            "strength": strength,
            "tokens": 28,
            "documents": ["a", "b"],
            "sizes": [10, 20],
            "base_values": [10.0, 40.0] if bits else [0.0, 0.0],
            "values": list(values),
            "how": {"text": text, "limit": 5000, "precision": "fp32", "device": "cpu", **how},
            "finished": finished,
        },
    )
    return path


@pytest.fixture
def run(workspace: Workspace) -> Run:
    return made_run(workspace)


def test_figures_by_hand(run: Run) -> None:
    write(run)
    (taken,) = read(run)
    assert (taken.base, taken.figure) == pytest.approx((50 / 30, 38 / 30))
    assert taken.difference == pytest.approx(-0.4)
    # twice the first document: -4/20; twice the second: -20/40
    assert taken.interval == pytest.approx((-0.5, -0.2)) and taken.is_sure
    assert (taken.part, taken.kind) == ("field", "field")
    assert not replace(taken, values=(12.0, 30.0)).is_sure


def test_nothing_was_measured(run: Run) -> None:
    assert read(run) == [] and points(run) == [] and at_strength(run) == []


def test_the_newest_conditions_count_and_of_one_condition_every_strength(run: Run) -> None:
    write(run, strength=0.5, limit=1000, finished="2026-01-01T00:00:00Z")
    write(run, strength=1.0, limit=1000, finished="2026-01-02T00:00:00Z")
    write(run, strength=1.0, limit=1000, finished="2026-01-03T00:00:00Z", values=(7.0, 30.0))
    assert [(one.strength, one.values[0]) for one in read(run)] == [(0.5, 8.0), (1.0, 7.0)]
    write(run, strength=1.0, limit=9000, finished="2026-01-04T00:00:00Z")
    assert [one.how["limit"] for one in read(run)] == [9000]


def test_texts_stand_in_the_order_in_which_they_are_measured(run: Run) -> None:
    write(run, "mine")
    write(run, "builtin/instructions", measure="kl", values=(1.0, 2.0))
    write(run, "builtin/general-code")
    write(run, "builtin/general")
    write(run)
    assert [(one.text, one.kind) for one in read(run)] == [
        ("builtin/atlas", "field"),
        ("builtin/general", "prose"),
        ("builtin/general-code", "code"),
        ("mine", "other"),
        ("builtin/instructions", "prompts"),
    ]
    kl = read(run)[-1]
    assert kl.base == 0 and kl.figure == pytest.approx(0.1)


def test_points_put_all_general_text_together_or_one_kind(run: Run) -> None:
    for strength, bits in ((0.0, 40.0), (0.5, 35.0), (1.0, 30.0)):
        write(run, strength=strength, values=(10.0, bits))
        write(run, "builtin/general", strength, (10.0, 40.0 + 10 * strength))
        write(run, "builtin/general-code", strength, (10.0, 40.0 + 40 * strength))
    write(run, "builtin/instructions", measure="kl", values=(1.0, 2.0))
    none, half, whole = points(run)
    assert (none.gain, none.forgetting, none.kl) == (0, 0, None)
    assert (half.gain, half.forgetting) == pytest.approx((5 / 30, 25 / 60))
    assert (whole.gain, whole.forgetting, whole.kl) == pytest.approx((10 / 30, 50 / 60, 0.1))
    assert (whole.gain_documents, whole.forgetting_documents) == (2, 4)
    assert whole.gain_interval == pytest.approx((0, 0.5))
    before, after = (10.0, 40.0, 10.0, 40.0), (10.0, 50.0, 10.0, 80.0)
    assert whole.forgetting_interval == paired_ratio_interval(before, after, [10, 20, 10, 20])
    assert [point.forgetting for point in points(run, "code")] == pytest.approx([0, 20 / 30, 40 / 30])
    assert points(run, "web") == []


def test_a_strength_that_lacks_a_text_is_no_point(run: Run) -> None:
    for text in ("builtin/atlas", "builtin/general", "builtin/general-web"):
        write(run, text)
    write(run, strength=0.5)
    write(run, "builtin/general", 0.5)
    assert [point.strength for point in points(run)] == [1]
    assert [point.strength for point in points(run, "prose")] == [0.5, 1]


def test_two_runs_are_compared_document_by_document(workspace: Workspace, run: Run) -> None:
    other = made_run(workspace, seed=1)
    write(run)
    write(other, values=(10.0, 24.0))
    (one,), (two,) = read(run), read(other)
    found = between(one, two)
    assert found and found.documents == 2 and found.difference == pytest.approx(-4 / 30)
    assert found.interval == pytest.approx((-6 / 20, 2 / 10))
    write(other, limit=1000, finished="2026-02-01T00:00:00Z")
    assert between(one, read(other)[0]) is None


def test_a_document_without_a_byte_does_not_spoil_the_interval(run: Run) -> None:
    write(run)
    (taken,) = read(run)
    longer = replace(taken, sizes=(10, 20, 0), base_values=(10.0, 40.0, 1.0), values=(8.0, 30.0, 1.0))
    assert longer.interval == pytest.approx((-0.5, -0.2))


def test_what_does_not_belong_together_is_not_pooled(run: Run) -> None:
    write(run)
    write(run, "builtin/general", 0.5)
    with pytest.raises(ValueError, match="one strength"):
        pooled(read(run))


def test_a_damaged_file_is_named(run: Run) -> None:
    path = write(run)
    write_json(path, {"text": "builtin/atlas", "measure": "bits"})
    with pytest.raises(Damaged, match=r"is damaged .*measure again"):
        read(run)


def test_every_kind_of_general_text_has_another_name() -> None:
    assert len(set(GENERAL.values())) == len(GENERAL)
