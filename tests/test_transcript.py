"""What is kept of an asking: answers side by side, gains, and the section of results.json; no model is asked."""

from typing import Any

import pytest
from made import made_run

from mixcpt import answers
from mixcpt.config import EvaluationConfig
from mixcpt.grading import Asked, Score
from mixcpt.questions import Question
from mixcpt.runs import Run
from mixcpt.transcript import FORMAT, Transcript, refusals, scores_in_short
from mixcpt.workspace import Workspace

HOW = {"finished": "2026-01-31T12:00:00Z", "precision": "fp32", "device": "cpu", "batch_size": 4}
QUESTIONS: list[Question] = [
    {"question": f"Which {number}?", "choices": ["this", "that"], "answer": number % 2} for number in range(4)
]


def score(correct: list[float], given: list[Any]) -> Score:
    share = sum(correct) / len(correct)
    return Score("six", share, (0.0, 1.0), len(correct), 0.5, 0.5, correct, given=given)


def transcript(run: Run, name: str = "six", **more: Any) -> Transcript:
    """Of four questions two are right before and three after; one is lost, two are gained."""
    asked = Asked(name, None, QUESTIONS, more.pop("chosen", None))
    base = {name: (score([1.0, 0.0, 0.0, 1.0], [0, 0, 1, 1]), QUESTIONS)}
    final = {name: (score([1.0, 1.0, 1.0, 0.0], [0, 1, 0, 0]), QUESTIONS)}
    given: dict[str, Any] = {"formats": {}, "probes": {}, "unavailable": {}} | more
    return Transcript(run, [asked], base, final, how=HOW, **given)


@pytest.fixture
def run(workspace: Workspace) -> Run:
    made = made_run(workspace)
    made.write_results("evaluation", {})
    return made


def test_answers_are_kept_side_by_side(run: Run) -> None:
    transcript(run).keep({"six": QUESTIONS})
    kept = answers.read(run, "six")
    assert [(one.base, one.final, one.right) for one in kept] == [
        ("this", "this", ["this"]), ("this", "that", ["that"]), ("that", "this", ["this"]), ("that", "this", ["that"]),
    ]  # fmt: skip
    assert [one.outcome for one in kept] == ["kept right", "gained", "gained", "lost"]
    assert (run.folder / "tasks" / "six.jsonl").read_text().count("\n") == 4


def test_the_gain_is_final_minus_base_with_an_interval_around_it(run: Run, workspace: Workspace) -> None:
    found = transcript(run).section(workspace, {"six": {"items": [2]}})
    gain = found["gain"]["six"]
    assert gain["difference"] == 0.25 and gain["interval"][0] <= 0.25 <= gain["interval"][1]
    assert found["base"]["six"]["accuracy"] == 0.5 and "given" not in found["final"]["six"]
    assert found["asked"]["six"]["kind"] == "choice" and found["asked"]["six"]["batch_size"] == 4
    assert found["contamination"] == {"six": {"items": [2]}} and (found["finished"], found["precision"]) == (
        HOW["finished"], "fp32",
    )  # fmt: skip


def test_what_was_not_asked_again_stays(run: Run, workspace: Workspace) -> None:
    first = transcript(run, unavailable={"format own": "no template", "lm-eval:far": "no hub"})
    run.write_results("evaluation", first.section(workspace, {}))
    counted = {"well_formed": {"share": 0.5}}
    later = transcript(run, "more", formats={"own": ({"base": counted, "final": counted}, [])})
    found = later.section(workspace, {})
    assert list(found["final"]) == ["six", "more"] and found["gain"]["six"]["difference"] == 0.25
    assert found["unavailable"] == {"lm-eval:far": "no hub"}  # the format could be measured this time
    assert found[FORMAT]["own"]["device"] == "cpu"


def test_refusals_and_scores_are_those_of_what_was_asked_for(run: Run, workspace: Workspace) -> None:
    counted = {side: {"well_formed": {"share": share}} for side, share in (("base", 0.25), ("final", 0.75))}
    found = transcript(
        run, "general", formats={"alpaca": (counted, [])}, unavailable={"format own": "no template", "other": "gone"}
    ).section(workspace, {})
    config = EvaluationConfig(tasks=["general"], format_items=4, format_templates=["own", "alpaca"])
    assert refusals(found, config, []) == {"format own": "no template"}
    assert scores_in_short(found, config, []) == ["general 50% → 75%", "well formed (alpaca) 25% → 75%"]
    assert scores_in_short(found, EvaluationConfig(tasks=["general"]), []) == ["general 50% → 75%"]
