"""What probes say in words, from results written by hand."""

import math
from dataclasses import replace
from typing import Any

import pytest
from made import made_run

from mixcpt.evaluated import in_words, lines
from mixcpt.probed import Probed, Side, pairs, seen_words
from mixcpt.runs import Run
from mixcpt.workspace import Workspace

MEMORISED, GENERALISED = "probes_field_memorised", "probes_field_generalised"


def score(task: str, correct: list[float]) -> dict[str, Any]:
    share = sum(correct) / len(correct)
    return {"task": task, "accuracy": share, "interval": [0, 1], "items": len(correct), "chance": 0.25,
            "majority": 0.25, "correct": correct}  # fmt: skip


def gain(difference: float, low: float, high: float) -> dict[str, Any]:
    return {"difference": difference, "interval": [low, high]}


@pytest.fixture
def run(workspace: Workspace) -> Run:
    """Four terms: of the sentences that were read the base knows one and the run all; of the others one and two. The
    run read the first three."""
    run = made_run(workspace)
    right = {
        "base": {MEMORISED: [1.0, 0, 0, 0], GENERALISED: [1.0, 0, 0, 0]},
        "final": {MEMORISED: [1.0, 1, 1, 1], GENERALISED: [1.0, 1, 0, 0]},
    }
    found: dict[str, Any] = {
        side: {task: score(task, each) for task, each in sets.items()} for side, sets in right.items()
    }
    found["gain"] = {MEMORISED: gain(0.75, 0.25, 1), GENERALISED: gain(0.25, 0, 0.75)}
    found["asked"] = {
        task: {"finished": "2026-01-02T03:04:05Z", "precision": "fp32", "fingerprint": side, "device": "cpu",
               "batch_size": 1, "kind": "choice", "probes": {"corpus": "field", "side": side}}
        for task, side in ((MEMORISED, "memorised"), (GENERALISED, "generalised"))
    }  # fmt: skip
    only = {"items": 3, "base": {"accuracy": 1 / 3}, "final": {"accuracy": 1.0}, "gain": gain(2 / 3, 0.1, 1)}
    found["contamination"] = {
        MEMORISED: {"items": [0, 1, 2], "sources": {"field": 3}, "too_short": 0, "by_construction": True, "only": only},
        GENERALISED: {"items": [], "sources": {}, "too_short": 0, "by_construction": False, "without": None},
    }
    run.write_results("evaluation", found)
    return run


def test_both_sides_stand_beside_each_other(run: Run) -> None:
    (one,) = pairs(run)
    assert one.memorised == Side(MEMORISED, 3, 1 / 3, 1.0, 2 / 3, [0.1, 1], 0.25), "only what it really read"
    assert one.generalised == Side(GENERALISED, 4, 0.25, 0.5, 0.25, [0, 0.75], 0.25) and one.sentences == 4
    # Gains on the first three terms: read 0, 1, 1; unseen 0, 1, 0. So 1/3 more.
    assert one.more is not None and one.more[0] == pytest.approx(1 / 3)
    assert one.more[1][0] == pytest.approx(0) and one.more[1][1] == pytest.approx(1)


def test_the_words_follow_the_intervals(run: Run) -> None:
    def words(read: tuple[float, float], unseen: tuple[float, float]) -> str:
        one, other = (Side("", 9, 0, 0, 0, interval, 0.25) for interval in (read, unseen))
        return Probed("field", 9, 9, one, other, None).words()

    up, down, none = (0.1, 0.3), (-0.3, -0.1), (-0.1, 0.1)
    assert "in sentences that it read and in sentences that it never saw" in words(up, up)
    assert "learned by heart" in words(up, none) and "learned by heart" in words(up, down)
    assert "carries over" in words(none, up)
    assert "less often than the base" in words(down, none) and "less often than the base" in words(none, down)
    assert "could not be chance" in words(none, none)
    assert "read none of these sentences" in replace(pairs(run)[0], read=0).words() and pairs(run)[0].read == 3
    assert f"probes of field: {pairs(run)[0].words()}" in in_words(run)


def test_what_was_read_is_told_beside_the_score(run: Run) -> None:
    memorised, generalised = lines(run)
    assert seen_words(memorised.seen, 4) == (
        "3 of these 4 sentences stand in what the run read, as is meant here; on those alone 33.3% → 100.0%, +66.7 "
        "points (95 % +10.0 to +100.0, 3 items)."
    )
    assert seen_words(generalised.seen, 4) == "None of the 4 questions was found in the training text."
    without = {"items": 9, "base": {"accuracy": 0.5}, "final": {"accuracy": 0.25}, "gain": gain(-0.25, -0.5, 0)}
    seen = {"items": [1], "sources": {"book": 1}, "too_short": 2, "by_construction": False, "without": without}
    assert seen_words(seen, 10) == (
        "1 of 10 questions stand in the training text (book: 1); without them 50.0% → 25.0%, -25.0 points (95 % "
        "-50.0 to +0.0, 9 items). 2 of 10 are too short to tell."
    )
    assert seen_words({"unknown": "It is gone."}, 3).endswith("is not known. It is gone.")
    assert seen_words({}, 3) == "" and math.isclose(generalised.difference, 0.25)
