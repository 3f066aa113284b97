"""A guess is kept with its run, and scored against the run's own curve."""

import pytest
from made import made_run, stage_of

from mixcpt import guesses
from mixcpt.drafts import Guess
from mixcpt.runs import Run, Runs
from mixcpt.workspace import Workspace


def run_with(workspace: Workspace, *measures: dict[str, float], done: bool = True) -> Run:
    run = Runs(workspace).create(stage_of(), experiment="trial")
    for step, measure in enumerate(measures):
        run.append({"step": step, "tokens": step, "measure": measure})
    if done:
        run.write_results("training", {"steps": 1})
    return run


BASE = {"domain_bits_per_byte": 2.0, "general_bits_per_byte": 1.0}


def test_a_guess_is_found_again(workspace: Workspace) -> None:
    run = made_run(workspace)
    assert guesses.read(run) is None and guesses.outcome(run) is None
    guesses.keep(run, Guess(domain_gain=20, forgetting=3))
    assert guesses.read(Run(run.folder)) == Guess(domain_gain=20, forgetting=3)


def test_the_score_is_as_worked_out_by_hand(workspace: Workspace) -> None:
    run = run_with(workspace, BASE, {"domain_bits_per_byte": 1.0, "general_bits_per_byte": 1.04})
    guesses.keep(run, Guess(domain_gain=40, forgetting=5))
    outcome = guesses.outcome(run)
    assert outcome is not None
    assert outcome.domain_gain == pytest.approx(50) and outcome.forgetting == pytest.approx(4)
    # gain: 10 off of 50 leaves 80 points; forgetting: 1 off, counted against 10, leaves 90
    assert outcome.score == 85
    assert outcome.sentence == (
        "The field became 50 % better (guessed: 40 % better) and general text became 4 % worse "
        "(guessed: 5 % worse), in bits per byte: 85 of 100 points."
    )


def test_a_half_that_was_not_measured_does_not_count(workspace: Workspace) -> None:
    run = run_with(workspace, {"general_bits_per_byte": 1.0}, {"general_bits_per_byte": 1.0})
    guesses.keep(run, Guess(domain_gain=40, forgetting=0))
    outcome = guesses.outcome(run)
    assert outcome is not None and outcome.domain_gain is None and outcome.score == 100
    assert outcome.sentence.startswith("General text became neither better nor worse")


def test_a_bad_miss_scores_nothing_but_never_less(workspace: Workspace) -> None:
    run = run_with(workspace, BASE, BASE)
    guesses.keep(run, Guess(domain_gain=100, forgetting=500))
    outcome = guesses.outcome(run)
    assert outcome is not None and outcome.score == 0


def test_nothing_is_revealed_before_the_end(workspace: Workspace) -> None:
    run = run_with(workspace, BASE, BASE, done=False)
    guesses.keep(run, Guess(domain_gain=1, forgetting=1))
    assert guesses.outcome(run) is None
