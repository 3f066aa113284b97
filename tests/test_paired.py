"""Two runs on the same items: differences and intervals by hand, and what is not the same and so not paired."""

from typing import Any

import pytest
from made import made_run
from measured_by_hand import measured_run

from mixcpt import answers
from mixcpt.answers import Answered
from mixcpt.claims import claims, pairs_against
from mixcpt.compare import compare, summarise, titled
from mixcpt.measured import folder_of
from mixcpt.paired import paired
from mixcpt.runs import Run
from mixcpt.workspace import Workspace, read_json, write_json

FIELD, GENERAL = "builtin/atlas", "builtin/general"
BASE = {FIELD: 2.0, GENERAL: 1.0}


@pytest.fixture
def two(workspace: Workspace) -> tuple[Run, Run]:
    """Of one seed; in training the first gained 0.2 more (times 0.95), and both forgot the same."""
    one, other = made_run(workspace, arm="one", gain=0.6), made_run(workspace, arm="other", gain=0.4)
    return one, other


def bits(run: Run, text: str, *values: float) -> None:
    """Bits of the two documents of a text, of 100 and 300 bytes."""
    measured_run(run, {text: 1.0}, BASE)
    path = folder_of(run) / f"{text.replace('/', '-')}.json"
    write_json(path, read_json(path) | {"values": list(values)})


def asked(run: Run, task: str, correct: list[float], about: list[str] | None = None, **how: Any) -> None:
    """Keeps a set of questions as an evaluation leaves it."""
    found = run.results().get("evaluation", {})
    score = {"accuracy": sum(correct) / len(correct), "interval": [0, 1], "items": len(correct), "chance": 0.25}
    score |= {"majority": 0.25, "correct": correct}
    run.write_results(
        "evaluation",
        {
            "base": found.get("base", {}) | {task: score},
            "final": found.get("final", {}) | {task: score},
            "gain": found.get("gain", {}) | {task: {"difference": 0.0, "interval": [0, 0]}},
            "asked": found.get("asked", {}) | {task: {"fingerprint": "f", "precision": "fp32"} | how},
        },
    )
    rows = [Answered(f"q{n}", [], [], "", "", 0.0, right, name) for n, (right, name) in enumerate(
        zip(correct, about or [""] * len(correct), strict=True))]  # fmt: skip
    answers.write(run, task, rows)


def test_gain_and_forgetting_on_the_same_documents(two: tuple[Run, Run]) -> None:
    one, other = two
    # the first needs 20 bits less for 100 bytes and 30 less for 300: 50 / 400 more gained; documents alone 0.2 and 0.1
    bits(one, FIELD, 100.0, 300.0)
    bits(other, FIELD, 120.0, 330.0)
    gain = paired(one, other, "domain_gain")
    assert gain and gain.difference == pytest.approx(0.125) and gain.interval == pytest.approx((0.1, 0.2))
    assert (gain.items, gain.what, gain.is_sure) == (2, "documents", True)
    assert gain.counted == "2 documents, so few that it is too narrow"
    back = paired(other, one, "domain_gain")
    assert back and back.difference == pytest.approx(-0.125) and back.interval == pytest.approx((-0.2, -0.1))
    # of general text more bits are more forgetting
    bits(one, GENERAL, 110.0, 300.0)
    bits(other, GENERAL, 100.0, 330.0)
    forgetting = paired(one, other, "forgetting")
    assert forgetting and forgetting.difference == pytest.approx(-20 / 400)
    assert forgetting.interval == pytest.approx((-0.1, 0.1)) and not forgetting.is_sure
    assert paired(one, other, "prompt_kl") is None, "that was not measured"


def test_what_was_read_otherwise_is_not_paired(two: tuple[Run, Run]) -> None:
    one, other = two
    bits(one, FIELD, 100.0, 300.0)
    assert paired(one, other, "domain_gain") is None
    measured_run(other, {FIELD: 1.0}, BASE, device="cuda")
    assert paired(one, other, "domain_gain") is None
    measured_run(other, {FIELD: 1.0}, BASE)
    assert paired(one, other, "domain_gain") is not None, "what has changed is read again"
    path = folder_of(other) / "builtin-atlas.json"
    write_json(path, read_json(path) | {"strength": 0.5})
    assert paired(one, other, "domain_gain") is None
    assert paired(one, other, "domain_gain", (1.0, 0.5)) is not None


def test_one_document_has_no_interval(two: tuple[Run, Run]) -> None:
    for run in two:
        measured_run(run, {FIELD: 1.0}, BASE)
        path = folder_of(run) / "builtin-atlas.json"
        alone = {name: read_json(path)[name][:1] for name in ("documents", "sizes", "base_values", "values")}
        write_json(path, read_json(path) | alone)
    assert paired(*two, "domain_gain") is None


def test_questions_that_both_were_asked(two: tuple[Run, Run]) -> None:
    one, other = two
    asked(one, "general", [1.0, 1.0, 1.0, 0.0])
    asked(other, "general", [0.0, 1.0, 0.0, 0.0])
    found = paired(one, other, "general_accuracy")
    assert found and (found.difference, found.items, found.what) == (0.5, 4, "questions")
    assert found.interval == (0.0, 1.0)  # two of four differ by 1: none drawn in 1 of 16 draws, all in 1 of 16
    asked(other, "general", [0.0, 1.0, 0.0, 0.0], precision="bf16")
    assert paired(one, other, "general_accuracy") is None
    asked(other, "general", [0.0, 1.0, 0.0, 0.0], fingerprint="g")
    assert paired(one, other, "general_accuracy") is None
    assert paired(one, other, "wells_accuracy") is None


def test_questions_about_one_thing_go_together(two: tuple[Run, Run]) -> None:
    one, other = two
    about = ["a", "a", "b", "b"]
    asked(one, "atlas", [1.0, 1.0, 0.0, 0.0], about)
    asked(other, "atlas", [0.0, 0.0, 0.0, 0.0], about)
    found = paired(one, other, "atlas_accuracy")
    assert found and found.difference == 0.5 and found.interval == (0.0, 1.0)
    asked(one, "atlas", [1.0, 1.0, 0.0, 0.0], ["a"] * 4)
    assert paired(one, other, "atlas_accuracy") is None, "of one thing no interval has a width"


def test_answers_to_the_same_prompts(two: tuple[Run, Run]) -> None:
    for run, formed in zip(two, ([1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]), strict=True):
        found = run.results()["evaluation"]
        run.write_results("evaluation", found | {"format": {"alpaca": {"fingerprint": "f", "precision": "fp32"}}})
        answers.write(run, "format.alpaca", [Answered("q", [], [], "", "", 0.0, right) for right in formed])
    found = paired(*two, "format_alpaca_well_formed")
    assert found and (found.difference, found.interval, found.items, found.what) == (0.5, (0.0, 1.0), 4, "prompts")
    assert paired(*two, "format_own_well_formed") is None and paired(*two, "format_alpaca_loss") is None
    results = two[0].results()["evaluation"]
    two[0].write_results("evaluation", results | {"format": {"alpaca": {"fingerprint": "g", "precision": "fp32"}}})
    assert paired(*two, "format_alpaca_well_formed") is None


def test_a_claim_of_one_seed_has_the_interval_over_documents(workspace: Workspace, two: tuple[Run, Run]) -> None:
    one, other = two
    bits(one, FIELD, 100.0, 300.0)
    bits(other, FIELD, 120.0, 330.0)
    pairs = pairs_against(summarise(titled(compare([other, one]))))
    gain, forgetting, kl, _ = claims(pairs, workspace)[0]
    assert gain.sentence() == (
        "one gains 0.12 bits per byte more in the field than other (95 % 0.10 to 0.20 over 2 documents, so few that it "
        "is too narrow; one seed, so a hint: of these two runs on other documents, not of other seeds)"
    )
    assert (gain.verdict, gain.good, gain.p) == ("hint", None, None)
    assert forgetting.over_items is None and forgetting.sentence().endswith("(difference 0.00 bits per byte, one seed: "
                                                                            "a hint, not a result)")  # fmt: skip
    assert kl.over_items is None
    on_the_way = claims(pairs)[0][0]
    assert on_the_way.over_items is None and on_the_way.difference == pytest.approx(0.2 * 0.950213, abs=1e-6)


def test_where_no_item_differs_no_interval_is_told(workspace: Workspace, two: tuple[Run, Run]) -> None:
    for run in two:
        asked(run, "wells", [1.0] * 6 + [0.0] * 6)
    own = claims(pairs_against(summarise(titled(compare([two[1], two[0]])))), workspace)[0]
    assert own[-1].sentence() == (
        "one and other answer the same share of the wells questions right within noise (difference 0.0 points, the "
        "same on each of 12 questions; one seed: of these two runs on other questions, not of other seeds)"
    )


def test_where_the_interval_holds_zero_nothing_is_told(workspace: Workspace, two: tuple[Run, Run]) -> None:
    one, other = two
    bits(one, FIELD, 100.0, 360.0)
    bits(other, FIELD, 190.0, 330.0)
    pairs = pairs_against(summarise(titled(compare([other, one]))))
    gain = claims(pairs, workspace)[0][0]
    assert gain.difference == pytest.approx(60 / 400) and gain.verdict == "same"
    assert gain.sentence() == (
        "one and other gain the same in the field within noise (difference 0.15 bits per byte, 95 % \N{MINUS SIGN}0.10 "
        "to 0.90 over 2 documents, so few that it is too narrow; one seed: of these two runs on other documents, not "
        "of other seeds)"
    )


def test_several_seeds_in_common_are_told_over_seeds(workspace: Workspace, two: tuple[Run, Run]) -> None:
    again = [made_run(workspace, arm=arm, seed=1, gain=gain) for arm, gain in (("one", 0.6), ("other", 0.4))]
    for run in (*two, *again):
        measured_run(run, {FIELD: 1.0}, BASE)
    (own,) = claims(pairs_against(summarise(titled(compare([*two, *again])))), workspace)
    assert own[0].seeds == 2 and own[0].over_items is None and own[0].found is not None
    # one seed in common of several: the runs of that seed are paired
    lone = made_run(workspace, arm="lone", seed=1, gain=0.1)
    bits(lone, FIELD, 120.0, 330.0)
    (own,) = claims(pairs_against(summarise(titled(compare([two[0], again[0], lone])))), workspace)
    items = own[0].over_items
    assert items and items.items == 2 and items.difference == own[0].difference == pytest.approx(-50 / 400)
