"""Choices on disk: two people, two clicks at once, samples that are gone, and rules that end in another way."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from test_selection import EASY, INFO, SAMPLES, TABLE, rule, sample

from mixcpt.choices import Choice, Choices, begin, ending, first_rule, reach
from mixcpt.errors import BadConfig, BadInput, NotFound
from mixcpt.scores import ScoreTable
from mixcpt.selection import Selection
from mixcpt.settings import validate
from mixcpt.workspace import Workspace


def a_choice(id: str = "choice-1", **more: object) -> Choice:
    return validate(Choice, {"id": id, "scores": INFO["id"], "rule": EASY, **more}, "the test")


def test_a_choice_is_written_at_its_first_change(workspace: Workspace) -> None:
    choices, first = Choices(workspace), a_choice()
    with pytest.raises(NotFound, match="no choice 'choice-1' any more: open the scores again"):
        choices.get(first.id)
    changed = choices.change(first, lambda choice: choice.model_copy(update={"keep": ("e",)}))
    assert changed == Choices(workspace).get(first.id) == a_choice(keep=("e",))
    choices.delete(first.id)
    choices.delete(first.id)
    with pytest.raises(NotFound):
        choices.get(first.id)


def test_two_people_have_a_choice_each(workspace: Workspace) -> None:
    choices = Choices(workspace)
    choices.change(a_choice("choice-1"), lambda choice: choice.model_copy(update={"keep": ("e",)}))
    choices.change(a_choice("choice-2"), lambda choice: choice.model_copy(update={"discard": ("a",)}))
    assert (choices.get("choice-1").keep, choices.get("choice-2").keep) == (("e",), ())


def test_many_clicks_at_once_are_all_heard(workspace: Workspace) -> None:
    first = a_choice()

    def keep(id: str) -> Choice:
        return Choices(workspace).change(first, lambda choice: choice.model_copy(update={"keep": (*choice.keep, id)}))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(keep, [f"s{n}" for n in range(20)]))
    assert sorted(Choices(workspace).get(first.id).keep) == sorted(f"s{n}" for n in range(20))


@pytest.mark.parametrize("id", ["../runs/x", "/etc/passwd", "", "A"])
def test_an_address_cannot_leave_the_choices(workspace: Workspace, id: str) -> None:
    with pytest.raises(BadInput):
        Choices(workspace).get(id)
    with pytest.raises(BadInput):
        Choices(workspace).change(a_choice(id), lambda choice: choice)


def test_a_choice_begins_somewhere() -> None:
    with pytest.raises(BadConfig, match="begins with scores or with a saved selection"):
        a_choice(selection="one")
    with pytest.raises(BadConfig, match="name one of the two"):
        a_choice(scores=None)


def test_it_begins_with_the_few_easiest(workspace: Workspace) -> None:
    TABLE.save(workspace)
    begun = begin(workspace, scores=TABLE.id)
    assert begun.rule == rule(strategy="easiest", score="loss_plain", count=2)  # of five that can be trained on
    assert a_choice().of(begun).ids == ["a", "b"]
    many = [sample(f"s{n}", 1.0, alignment_response=1.0) for n in range(400)]
    assert first_rule(many, ["loss_plain", "alignment_response"]).count == 64
    assert first_rule(many, ["loss_plain", "alignment_response"]).score == "alignment_response"
    assert first_rule(many, []) == rule(strategy="all")


def test_or_with_a_saved_selection_as_it_is(workspace: Workspace) -> None:
    Selection.of(TABLE, EASY, keep=["e"], discard=["b"]).save(workspace, "mine")
    begun = begin(workspace, selection="mine")
    choice = a_choice(scores=None, selection="mine").by(begun)
    assert (choice.rule, choice.keep, choice.discard) == (EASY, ("e",), ("b",))
    assert choice.of(begun).ids == ["a", "e"]


def test_hands_on_samples_that_are_gone_are_left_out_and_told() -> None:
    choice = a_choice(keep=("e", "gone", "x"), discard=("b", "lost"))
    begun = Selection.of(TABLE, EASY)
    assert choice.lost(begun) == {"gone", "x", "lost"}, "x is there, but cannot be trained on"
    of = choice.of(begun)
    assert (of.keep, of.discard, of.ids) == (["e"], ["b"], ["a", "e"])


EASIEST, HARDEST = {"strategy": "easiest", "score": "loss_plain"}, {"strategy": "hardest", "score": "loss_plain"}


@pytest.mark.parametrize(
    ("given", "end", "changes"),
    [
        (EASIEST | {"count": 2}, "threshold", {"threshold": 2.0}),
        (EASIEST | {"count": 2}, "tokens", {"tokens": 30}),
        (EASIEST | {"threshold": 2.5}, "count", {"count": 3}),
        (EASIEST | {"tokens": 70}, "count", {"count": 3}),
        (HARDEST | {"count": 2}, "threshold", {"threshold": 3.0}),
        (EASIEST | {"count": 2}, "", {}),
        (EASIEST | {"threshold": 0.5}, "count", {"count": 1}),
        ({"strategy": "random"}, "count", {"count": 5}),
    ],
)
def test_another_end_takes_the_same(given: dict[str, object], end: str, changes: dict[str, object]) -> None:
    """Losses and tokens: a 1.0 10, b 2.0 20, d 2.0 40, c 3.0 30, e 5.0 50."""
    blank = {"count": None, "tokens": None, "threshold": None}
    assert ending(Selection.of(TABLE, rule(**given)), end) == blank | changes


def test_how_far_a_rule_reaches() -> None:
    def reached(**values: object) -> float | None:
        return reach(Selection.of(TABLE, rule(**values)))

    assert reached(**EASIEST, count=4) == 3.0 and reached(**EASIEST) == 5.0 and reached(**HARDEST) == 1.0
    assert reached(**EASIEST, threshold=0.25) == 0.25
    assert reached(**EASIEST, tokens=1) == 1.0 and reached(**HARDEST, tokens=1) == 5.0, "nothing fits: where it begins"
    assert reached(strategy="random") is None
    empty = Selection.of(ScoreTable(INFO, [s for s in SAMPLES if s.reason]), rule(**EASIEST))
    assert reach(empty) is None
