"""What a run was asked, as rows, from results written by hand."""

import shutil
from typing import Any

import pytest
from made import made_run

from mixcpt.errors import BadConfig, BadFile, BadInput
from mixcpt.evaluated import ancestors, format_lines, in_words, latest, lines, require_askable, submit
from mixcpt.jobs import Jobs
from mixcpt.runs import Run, Runs
from mixcpt.workspace import Workspace


def score(accuracy: float, **more: Any) -> dict[str, Any]:
    return {"accuracy": accuracy, "interval": [0.1, 0.9], "items": 40, "chance": 0.0, "majority": 0.1, **more}


HOW = {"finished": "2026-01-02T03:04:05Z", "device": "cpu", "batch_size": 8, "lm_eval": "0"}


def results(
    base: float, final: float, fingerprint: str = "same", precision: str = "fp32", **more: Any
) -> dict[str, Any]:
    """One open set, `wells`."""
    exact = [{"accuracy": share / 2, "interval": [0.0, 0.5]} for share in (base, final)]
    gain = {"difference": final - base, "interval": [0.05, 0.35]}
    return {
        "base": {"wells": score(base, measure="contains", exact=exact[0])},
        "final": {"wells": score(final, measure="contains", exact=exact[1])},
        "gain": {"wells": {**gain, "exact": {"difference": (final - base) / 2, "interval": [-0.05, 0.2]}}},
        "asked": {"wells": {**HOW, "fingerprint": fingerprint, "precision": precision, "kind": "open"}},
        **more,
    }


def format_of(share: float) -> dict[str, Any]:
    checks = {
        check: {"share": share, "interval": [0.0, 1.0]} for check in ("ended", "follows", "right_length", "well_formed")
    }
    return {**checks, "length_ratio": 1 + share, "loss": 2 + share, "items": 20}


FORMAT = {
    "base": format_of(0.25),
    "final": format_of(0.75),
    "gain": {check: {"difference": 0.5, "interval": [0.2, 0.7]} for check in format_of(0)},
    "tokens": 64,
    "source": "builtin/instructions",
}


@pytest.fixture
def run(workspace: Workspace) -> Run:
    return made_run(workspace)


def test_an_open_set_has_a_second_line_for_exact_answers(run: Run) -> None:
    run.write_results("evaluation", results(0.2, 0.4))
    first, second = lines(run)
    assert (first.task, first.measure, first.base, first.final, first.items) == ("wells", "contains", 0.2, 0.4, 40)
    assert (second.task, second.measure, second.base, second.final) == ("wells (exact)", "exact", 0.1, 0.2)
    assert first.is_sure and not second.is_sure


def test_a_set_that_was_asked_by_an_older_version_is_a_line_too(run: Run) -> None:
    old = {part: {"general": score(0.5)} for part in ("base", "final")}
    run.write_results("evaluation", {**old, "gain": {"general": {"difference": 0.0, "interval": [-0.1, 0.1]}}})
    (line,) = lines(run, [run])
    assert (line.measure, line.asked, line.before) == ("acc", {}, (None,)) and not line.is_sure


@pytest.mark.parametrize(
    ("fingerprint", "precision", "shown"), [("same", "fp32", 0.3), ("other", "fp32", None), ("same", "bf16", None)]
)
def test_a_parent_s_score_stands_beside_where_it_was_asked_the_same(
    workspace: Workspace, run: Run, fingerprint: str, precision: str, shown: float | None
) -> None:
    parent = made_run(workspace, arm="before")
    parent.write_results("evaluation", results(0.2, 0.3, fingerprint, precision))
    run.write_results("evaluation", results(0.2, 0.4))
    first, second = lines(run, [parent])
    assert first.before == (shown,) and second.before == (None if shown is None else shown / 2,)


def test_ancestors_are_those_that_are_there(workspace: Workspace, run: Run) -> None:
    child = Runs(workspace).create(run.config, experiment="trial", parent=run.id)
    grandchild = Runs(workspace).create(run.config, experiment="trial", parent=child.id)
    assert [one.id for one in ancestors(grandchild)] == [run.id, child.id]
    assert ancestors(run) == []
    shutil.rmtree(run.folder)
    assert [one.id for one in ancestors(grandchild)] == []


def test_the_format_is_a_line_a_template(run: Run) -> None:
    run.write_results("evaluation", results(0.2, 0.4, format={"own": FORMAT, "alpaca": FORMAT}))
    first, second = format_lines(run)
    assert (first.template, second.template, first.items, first.tokens) == ("own", "alpaca", 20, 64)
    assert first.shares["ended"] == (0.25, 0.75) and first.differences["follows"] == (0.5, [0.2, 0.7])
    assert (first.ratio, first.loss) == ((1.25, 1.75), (2.25, 2.75))


def test_every_score_is_told_with_chance_and_majority(run: Run) -> None:
    run.write_results(
        "evaluation", results(0.2, 0.4, format={"own": FORMAT}, unavailable={"arc_easy": "It could not be had."})
    )
    first, second, form, missing = in_words(run)
    assert first == "wells: 20.0% → 40.0%, +20.0 points (95 % +5.0 to +35.0), 40 items, chance 0%, majority 10%"
    assert second.startswith("wells (exact): 10.0% → 20.0%, +10.0 points (95 % -5.0 to +20.0)")
    assert "well formed 25% → 75%, ends by itself 25% → 75%" in form and "length 1.25 → 1.75 of the" in form
    assert missing == "not asked: It could not be had."


def test_a_run_that_was_asked_nothing_has_no_lines(run: Run) -> None:
    (run.folder / "results.json").unlink()
    assert lines(run) == [] and format_lines(run) == [] and in_words(run) == []


def test_what_is_ordered_is_a_job_with_what_to_ask(workspace: Workspace, run: Run) -> None:
    (run.adapter / "adapter_config.json").write_text("{}")
    assert latest(workspace, [run]) == []
    (job,) = submit(workspace, [run], {"tasks": ["general"], "items": 5})
    (found,) = latest(workspace, [run])
    assert found and found.id == job.id and job.payload == {"ask": {"tasks": ["general"], "items": 5}}
    assert run.state(Jobs(workspace)) == "done"


@pytest.mark.parametrize(
    ("ask", "error", "said"),
    [
        ({"tasks": ["nowhere.jsonl"]}, BadFile, "no question set 'nowhere.jsonl'"),
        ({"tasks": []}, BadInput, "nothing to ask run .*: name a question set"),
        ({"items": 0}, BadConfig, "items"),
        ({"batch": 1}, BadConfig, "'batch' is unknown: did you mean 'batch_size'"),
        ({"tasks": [], "format_items": 2, "format_source": "nothing"}, BadInput, "nothing"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_it_waits(
    workspace: Workspace, run: Run, ask: dict[str, Any], error: type[Exception], said: str
) -> None:
    (run.adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(error, match=said):
        submit(workspace, [run], ask)
    assert latest(workspace, [run]) == []


def test_a_run_without_an_adapter_is_not_asked(workspace: Workspace) -> None:
    run = made_run(workspace, state="running")
    with pytest.raises(BadInput, match="has no finished adapter"):
        require_askable(workspace, run, {})
