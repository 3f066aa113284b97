"""A comparison without what its runs have read: scores by hand, and what is left alone."""

import json
from typing import Any

import pytest
from made import made_run, open_page, texts

from mixcpt import answers
from mixcpt.answers import Answered
from mixcpt.claim_cards import compare_command
from mixcpt.claims import claims, pairs_against
from mixcpt.cli import main
from mixcpt.columns import as_csv
from mixcpt.compare import compare, summarise, titled
from mixcpt.comparison import as_html
from mixcpt.findings import cautions
from mixcpt.runs import Run
from mixcpt.statistics import share_interval
from mixcpt.unseen import seen, unseen
from mixcpt.workspace import Workspace

BASE = [1.0, 0.0, 0.0, 0.0]
CHOICES = (["a", "b"], ["a", "b"], ["a", "b", "c", "d"], ["a", "b"])
RIGHT = ("a", "b", "b", "a")


def asked(run: Run, task: str, right: list[float], found: list[int], keep: bool = True, **more: Any) -> None:
    """Keeps a set of four questions as an evaluation leaves it, some of them found in what the run read."""
    before = run.results().get("evaluation", {})

    def score(correct: list[float]) -> dict[str, Any]:
        share = {"accuracy": sum(correct) / 4, "interval": [0, 1], "correct": correct}
        return share | {"items": 4, "chance": 0.4375, "majority": 0.5, "exact": {**share, "accuracy": 0.125}}

    difference = {"difference": (sum(right) - sum(BASE)) / 4, "interval": [0, 1]}
    one: dict[str, Any] = {
        "base": score(BASE),
        "final": score(right),
        "gain": difference | {"exact": difference},
        "asked": {"fingerprint": "f", "precision": "fp32", "kind": "choice"} | more,
        "contamination": {"items": found, "by_construction": more.get("memorised", False), "without": None},
    }
    run.write_results("evaluation", {part: before.get(part, {}) | {task: one[part]} for part in one})
    if keep:
        rows = zip(CHOICES, RIGHT, BASE, right, strict=True)
        answers.write(run, task, (Answered(f"{n}", c, [r], "", "", b, f) for n, (c, r, b, f) in enumerate(rows)))


@pytest.fixture
def two(workspace: Workspace) -> list[Run]:
    one, other = made_run(workspace, arm="one"), made_run(workspace, arm="other")
    asked(one, "mine", [1.0, 1.0, 0.0, 1.0], [0])
    asked(other, "mine", [0.0, 1.0, 1.0, 0.0], [3])
    asked(one, "clean", [1.0, 0.0, 1.0, 0.0], [])
    asked(other, "clean", [1.0, 1.0, 1.0, 0.0], [])
    return [one, other]


def test_what_one_run_read_is_left_out_for_all(two: list[Run]) -> None:
    assert seen(compare(two), two) == {("mine", "f fp32"): {0, 3}}
    before = compare(two)
    one, other = unseen(before, two)
    assert (one["mine_accuracy"], other["mine_accuracy"]) == (0.5, 1.0)  # of the second and the third question
    assert one["mine_interval"] == share_interval(1, 2) and one["mine_items"] == other["mine_items"] == 2
    assert one["mine_base"] == 0 and (one["mine_gain"], other["mine_gain"]) == (0.5, 1.0)
    assert one["mine_chance"] == (1 / 2 + 1 / 4) / 2 and one["mine_majority"] == 1  # b is right in both
    assert one["left_out"] == {"mine": [0, 3]} and one["mine_how"] == other["mine_how"] != before[0]["mine_how"]
    assert "mine_contaminated" not in one and "mine_exact_accuracy" not in one
    same = [key for key in before[0] if not key.startswith("mine_")]
    assert [one[key] for key in same] == [before[0][key] for key in same], "all else is as it was"


def test_where_nothing_was_found_nothing_changes(two: list[Run]) -> None:
    for run in two:
        asked(run, "mine", [1.0, 1.0, 0.0, 1.0], [])
    rows = compare(two)
    assert unseen(rows, two) == rows and cautions(titled(rows_of_arms(two)))[-1].startswith("Differences of up to")


def rows_of_arms(runs: list[Run]) -> list[dict[str, Any]]:
    return summarise(titled(compare(runs)))


def test_memorised_probes_and_other_questions_are_left_alone(two: list[Run]) -> None:
    asked(two[0], "mine", [1.0, 1.0, 0.0, 1.0], [0], memorised=True)
    assert seen(compare(two), two) == {("mine", "f fp32"): {3}}
    asked(
        two[1], "mine", [0.0, 1.0, 1.0, 0.0], [3], precision="nf4"
    )  # not the same, so it keeps what it lost to itself
    one, other = unseen(compare(two), two)
    assert one["mine_items"] == 4 and other["mine_items"] == 3 and "left_out" not in one


def test_without_its_answers_a_set_has_no_score(two: list[Run]) -> None:
    (two[0].folder / "answers" / "mine.jsonl").unlink()
    one, other = unseen(compare(two), two)
    assert "mine_accuracy" not in one and one["left_out"] == {"mine": [0, 3]} and other["mine_accuracy"] == 1.0
    said = " ".join(cautions(summarise(titled([one, other]))))
    assert "1 of 2 arms have no mine score then: the answers were not kept" in said
    asked(two[0], "mine", [1.0, 1.0, 0.0, 1.0], [0, 1, 2])
    one, other = unseen(compare(two), two)
    assert "mine_accuracy" not in one and "mine_accuracy" not in other
    assert "4 of the mine questions are left out" in " ".join(cautions(summarise(titled([one, other]))))


def test_claims_cards_and_tables_follow(workspace: Workspace, two: list[Run]) -> None:
    arms = rows_of_arms(two)
    assert "Up to 1 of the mine questions stand in what a run read" in " ".join(cautions(arms))
    rows = unseen(titled(compare(two)), two)
    arms = summarise(rows)
    assert "2 of the mine questions are left out" in " ".join(cautions(arms))
    pairs = pairs_against(arms)
    (claim,) = [claim for claim in claims(pairs, workspace)[0] if claim.measure.key == "mine_accuracy"]
    assert claim.difference == 0.5 and claim.over_items and claim.over_items.items == 2
    assert compare_command(pairs).endswith(" --unseen")
    assert "left_out" not in as_csv(rows).splitlines()[0]
    assert "--unseen" in as_html(workspace, two, leave_out=True) and "--unseen</" not in as_html(workspace, two)


def test_seeds_of_an_arm_tell_the_most_that_any_has_read(workspace: Workspace, two: list[Run]) -> None:
    more = made_run(workspace, arm="one", seed=1)
    asked(more, "mine", [1.0, 1.0, 1.0, 1.0], [1, 2])
    arm, _ = rows_of_arms([two[0], more, two[1]])
    assert arm["mine_contaminated"] == 2


def test_seeds_of_which_one_kept_no_answers(workspace: Workspace, two: list[Run]) -> None:
    more = made_run(workspace, arm="one", seed=1)
    asked(more, "mine", [1.0, 1.0, 1.0, 1.0], [])
    (two[0].folder / "answers" / "mine.jsonl").unlink()
    runs = [two[0], more, two[1]]
    arm, _ = summarise(unseen(titled(compare(runs)), runs))
    assert (arm["mine_accuracy"], arm["mine_accuracy_runs"], arm["left_out"]) == (1.0, 1, {"mine": [0, 3]})


def test_an_earlier_run_of_the_same_seed_takes_no_questions_away(workspace: Workspace, two: list[Run]) -> None:
    again = made_run(workspace, arm="one")
    asked(again, "mine", [1.0, 1.0, 0.0, 1.0], [1])
    runs = [*two, again]
    assert unseen(compare(runs), runs)[-1]["left_out"] == {"mine": [1, 3]}


def test_on_the_way_there_are_no_scores(two: list[Run]) -> None:
    tokens = compare(two)[0]["domain_tokens"]
    rows = compare(two, tokens)
    assert unseen(rows, two) == rows and "mine_accuracy" not in rows[0]


def test_the_command(
    workspace: Workspace, two: list[Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIXCPT_HOME", str(workspace.root))
    ids = [run.id for run in two]
    assert main(["compare", *ids, "--json", "--unseen"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["arms"][1]["mine_accuracy"] == 1.0 and shown["runs"][0]["left_out"] == {"mine": [0, 3]}
    assert main(["compare", *ids, "--claims", "--unseen"]) == 0
    assert "of the mine questions right" in (said := capsys.readouterr().out) and "--unseen" in said
    assert main(["compare", *ids, "--unseen"]) == 0
    assert "2 of the mine questions are left out" in capsys.readouterr().err


def test_the_switch_of_the_page_appears_where_something_was_found(studio: Workspace) -> None:
    runs = [made_run(studio, arm=arm) for arm in ("one", "other")]
    for run in runs:
        asked(run, "mine", [1.0, 1.0, 0.0, 1.0], [])
    address = ",".join(run.id for run in runs)
    assert not [one for one in open_page("compare", runs=address).toggle if one.key == "compare_unseen"]
    asked(runs[0], "mine", [1.0, 1.0, 0.0, 1.0], [0])
    app = open_page("compare", runs=address)
    assert "Up to 1 of the mine questions" in texts(app).replace("\\", "")
    assert "1 of mine" in app.toggle(key="compare_unseen").help.replace("\\", "")
    assert [one for one in app.button if one.key == "compare_pin_questions"]
    app.toggle(key="compare_unseen").set_value(True).run()
    assert not [one for one in app.button if one.key == "compare_pin_questions"]  # a notebook would draw all questions
    assert not app.exception and "1 of the mine questions is left out" in texts(app).replace("\\", "")
    assert app.query_params["unseen"] == "1"
    again = open_page("compare", runs=address, unseen="1")
    assert again.toggle(key="compare_unseen").value is True
    assert "1 of the mine questions is left out" in texts(again).replace("\\", "")
