"""Exchanges: what may be asked, what is kept, and how answers are compared."""

import math
from typing import Any

import pytest

from mixcpt import exchanges
from mixcpt.errors import BadConfig, BadInput, Damaged, NotFound
from mixcpt.exchanges import (
    Answer,
    Exchange,
    Exchanges,
    Question,
    Voice,
    begin,
    first_difference,
    from_dict,
    log_probabilities,
    to_dict,
)
from mixcpt.settings import validate
from mixcpt.workspace import Workspace

ASK: dict[str, Any] = {"voices": [{"run": None}], "messages": [{"role": "user", "content": "Why?"}]}


def exchange_of(**answers: list[int]) -> Exchange:
    """An exchange with one answer for each name."""
    question = validate(Question, {**ASK, "voices": [Voice() for _ in answers]}, "the test")
    return begin(question, [Answer(None, 1.0, name, "base", ids=ids) for name, ids in answers.items()], [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"voices": []}, "voices"),
        ({"voices": [{"run": None}] * 9}, "at most 8"),
        ({"voices": [{"run": None, "strength": 1.1}]}, "'voices.0.strength' is 1.1"),
        ({"voices": [{"run": None, "strength": float("nan")}]}, "strength"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "'messages.0.role' is 'robot'"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "the question is empty"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "ends with no question",
        ),
        ({"sampling": {"temperature": -1}}, "'sampling.temperature' is -1"),
        ({"sampling": {"max_new_tokens": 5000}}, "max_new_tokens"),
        ({"sampling": {"seed": 2**63}}, "seed"),
        ({"unknown": 1}, "the key 'unknown' is unknown"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadConfig, match=words.replace(".", r"\.")):
        validate(Question, ASK | change, "the question")


def test_what_was_saved_is_what_comes_back(workspace: Workspace) -> None:
    exchange = exchange_of(a=[1, 2], b=[1])
    exchange.answers[0].nats = [[0.5, 0.25], [1.0, 2.0]]
    exchange.answers[1].differs = {"token": 0, "start": 0, "stop": 2}
    Exchanges(workspace).save(exchange)
    assert Exchanges(workspace).get(exchange.id) == exchange == from_dict(to_dict(exchange))


def test_only_the_owner_may_look_into_the_folder(workspace: Workspace) -> None:
    assert Exchanges(workspace).folder.parent.stat().st_mode & 0o777 == 0o700


def test_the_latest_are_kept(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "KEPT", 3)
    kept = Exchanges(workspace)
    ids = []
    for _ in range(5):
        exchange = exchange_of(a=[1])
        kept.save(exchange)
        ids.append(exchange.id)
    kept.prune()
    assert sorted(path.stem for path in kept.folder.iterdir()) == sorted(ids)[2:]


def test_unknown_damaged_and_forged_ids(workspace: Workspace) -> None:
    kept = Exchanges(workspace)
    with pytest.raises(NotFound, match="There is no exchange talk-1"):
        kept.get("talk-1")
    with pytest.raises(BadInput, match="cannot be used"):
        kept.get("../../secret")
    exchange = exchange_of(a=[1])
    kept.save(exchange)
    for broken in ("{", "[]", '{"id": "x"}', '{"answers": [{}]}'):
        (kept.folder / f"{exchange.id}.json").write_text(broken)
        with pytest.raises(Damaged, match="is damaged"):
            kept.get(exchange.id)
    assert kept.unfinished() == []


def test_unfinished_are_those_that_move(workspace: Workspace) -> None:
    kept = Exchanges(workspace)
    moving, done = exchange_of(a=[1]), exchange_of(a=[1])
    done.state = "done"
    for exchange in (moving, done):
        kept.save(exchange)
    assert kept.unfinished() == [moving]


def test_an_end_says_why_of_each_answer_that_was_not_whole() -> None:
    exchange = exchange_of(a=[1], b=[2])
    exchange.answers[0].ended = "end"
    exchange.end("stopped", "enough")
    assert [answer.ended for answer in exchange.answers] == ["end", "stopped"]
    assert exchange.is_final and exchange.message == "enough"


@pytest.mark.parametrize(
    ("first", "other", "place"),
    [
        ([1, 2, 3], [1, 2, 3], None),
        ([1, 2, 3], [1, 5, 3], 1),
        ([1, 2], [1, 2, 3], None),
        ([1, 2, 9], [1, 9], 1),
        ([], [1], None),
    ],
)
def test_the_first_difference(first: list[int], other: list[int], place: int | None) -> None:
    assert first_difference(first, other) == place


def test_log_probabilities_are_sums_over_tokens() -> None:
    exchange = exchange_of(a=[1, 2], b=[1])
    assert log_probabilities(exchange) == [[None, None], [None, None]]
    exchange.answers[0].nats = [[0.5, 0.25], [1.0, 2.0]]
    exchange.answers[1].nats = [[], [3.5]]
    assert log_probabilities(exchange) == [[-0.75, -3.0], [None, -3.5]]


def test_speed_is_tokens_over_time() -> None:
    answer = Answer(None, 1.0, "a", "base", ids=[1, 2, 3], seconds=0.5)
    assert answer.tokens_per_second is not None and math.isclose(answer.tokens_per_second, 6)
    assert Answer(None, 1.0, "a", "base").tokens_per_second is None
