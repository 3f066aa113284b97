"""Several models answer one question: against float64 arithmetic on one text at a time, in a loop written otherwise."""

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import adapted_run
from peft import PeftModel
from transformers import AutoModelForCausalLM

from mixcpt import talk
from mixcpt.errors import BadInput, Diverged, Interrupted
from mixcpt.exchanges import Exchange, Exchanges, Question, log_probabilities, to_dict
from mixcpt.prompts import Prepared, base_of, form_of, prepare
from mixcpt.records import Message
from mixcpt.resident import Resident
from mixcpt.runs import Run
from mixcpt.settings import validate
from mixcpt.workspace import Workspace

EOS = 256
ASK = "Which river?"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("talk") / "home")


@pytest.fixture(scope="module")
def runs(home: Workspace, tiny_model_folder: Path) -> list[Run]:
    first = adapted_run(home, tiny_model_folder, seed=1, strength=0.02)
    return [first, adapted_run(home, tiny_model_folder, seed=2, stage="sft", parent=first)]


@pytest.fixture(scope="module")
def held(home: Workspace, runs: list[Run]) -> Resident:
    return Resident(base_of(home, runs[0], ""))


@pytest.fixture(scope="module")
def exact(tiny_model_folder: Path, runs: list[Run]) -> list[Any]:
    """Base, first and second run in float64."""

    def base() -> Any:
        loaded: Any = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float64)
        return loaded.eval()

    return [base(), *(PeftModel.from_pretrained(base(), str(run.adapter)).double().eval() for run in runs)]


def ready(home: Workspace, *voices: tuple[Run | None, float], **sampling: Any) -> Prepared:
    question = {
        "voices": [{"run": run.id if run else None, "strength": strength} for run, strength in voices],
        "messages": [{"role": "user", "content": ASK}],
        "template": "question-answer",
        "sampling": {"max_new_tokens": 20, **sampling},
    }
    return prepare(home, validate(Question, question, "the test"))


def answered(held: Resident, prepared: Prepared, check: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
    """Have it answered; all states it was seen in."""
    seen: list[dict[str, Any]] = []
    talk.answer(held, prepared, lambda: seen.append(to_dict(prepared.exchange)), check)
    return seen


def greedy(model: Any, prompt: list[int], steps: int) -> list[int]:
    ids: list[int] = []
    with torch.no_grad():
        while len(ids) < steps and (not ids or ids[-1] != EOS):
            ids.append(int(model(input_ids=torch.tensor([prompt + ids]), use_cache=False).logits[0, -1].argmax()))
    return ids


def nats(model: Any, prompt: list[int], ids: list[int]) -> list[float]:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + ids]), use_cache=False).logits[0]
    rows = logits[len(prompt) - 1 : -1]
    return [(torch.logsumexp(row, 0) - row[id]).item() for row, id in zip(rows, ids, strict=True)]


def test_every_model_writes_what_it_would_write_alone(
    home: Workspace, held: Resident, runs: list[Run], exact: list[Any]
) -> None:
    prepared = ready(home, (None, 1), (runs[0], 1), (runs[1], 1), (runs[1], 0))
    answered(held, prepared)
    prompt = prepared.prompts[0].tolist()
    expected = [greedy(model, prompt, 20) for model in exact]
    found = [answer.ids for answer in prepared.exchange.answers]
    assert found == [*expected, expected[0]] and len({tuple(ids) for ids in found}) == 3
    assert prepared.exchange.state == "done"


def test_log_probabilities_are_those_of_each_model_for_each_answer(
    home: Workspace, held: Resident, runs: list[Run], exact: list[Any]
) -> None:
    prepared = ready(home, (None, 1), (runs[0], 1), (runs[1], 1), temperature=1.0)
    answered(held, prepared)
    exchange, prompt = prepared.exchange, prepared.prompts[0].tolist()
    for answer, row in zip(exchange.answers, log_probabilities(exchange), strict=True):
        for model, found, total in zip(exact, answer.nats, row, strict=True):
            expected = nats(model, prompt, answer.ids)
            assert found == pytest.approx(expected, abs=2e-4)
            assert total == pytest.approx(-math.fsum(expected), abs=2e-3)


def test_an_answer_without_chance_is_nowhere_likelier_token_by_token_than_under_its_own_model(
    home: Workspace, held: Resident, runs: list[Run]
) -> None:
    prepared = ready(home, (None, 1), (runs[1], 1))
    answered(held, prepared)
    first, second = log_probabilities(prepared.exchange)
    assert first[0] is not None and first[1] is not None and first[0] > first[1]
    assert second[0] is not None and second[1] is not None and second[1] > second[0]


def test_one_seed_is_the_same_luck_for_all(home: Workspace, held: Resident, runs: list[Run]) -> None:
    """At strength 0 a run is the base, so it must write the very same; another seed writes something else."""
    texts = []
    for seed in (4, 4, 5):
        prepared = ready(home, (None, 1), (runs[1], 0), temperature=1.5, top_p=0.9, seed=seed)
        answered(held, prepared)
        first, second = prepared.exchange.answers
        assert first.ids == second.ids and second.differs is None
        texts.append(first.ids)
    assert texts[0] == texts[1] != texts[2]


def test_the_first_differing_token_is_marked_where_it_stands(home: Workspace, held: Resident, runs: list[Run]) -> None:
    prepared = ready(home, (None, 1), (runs[0], 1), (runs[0], 0))
    answered(held, prepared)
    first, other, same = prepared.exchange.answers
    assert first.differs is None and same.differs is None and other.differs is not None
    place = other.differs["token"]
    assert first.ids[:place] == other.ids[:place] and first.ids[place] != other.ids[place]
    before = held.tokenizer.decode(other.ids[:place]).rstrip("\ufffd")
    assert other.text.startswith(before) and other.differs["start"] == len(before)
    assert other.differs["start"] <= other.differs["stop"] <= len(other.text)


def test_answers_grow_side_by_side_and_every_token_is_told(home: Workspace, held: Resident, runs: list[Run]) -> None:
    prepared = ready(home, (None, 1), (runs[0], 1))
    seen = answered(held, prepared)
    assert [state["state"] for state in seen[:1] + seen[-2:]] == ["writing", "scoring", "done"]
    lengths = [[len(answer["ids"]) for answer in state["answers"]] for state in seen if state["state"] == "writing"]
    assert all(sum(after) - sum(before) == 1 for before, after in pairwise(lengths))
    assert max(abs(one - other) for one, other in lengths) <= talk.TURN_TOKENS
    assert all(not answer["nats"] for state in seen[:-1] for answer in state["answers"])


def test_texts_hold_whole_characters_only_while_they_grow(home: Workspace, held: Resident, runs: list[Run]) -> None:
    """The tiny model writes bytes at random, so many a character is begun and not finished."""
    prepared = ready(home, (runs[1], 1), temperature=1.0, max_new_tokens=60)
    for state in answered(held, prepared):
        (answer,) = state["answers"]
        assert answer["ended"] or not answer["text"].endswith("\ufffd")
        assert len(answer["pieces"]) == len(answer["ids"])


def test_the_end_token_ends_an_answer_and_is_not_in_its_text(home: Workspace, held: Resident, runs: list[Run]) -> None:
    free = ready(home, (runs[0], 0))
    answered(held, free)
    ids = free.exchange.answers[0].ids
    bound = ready(home, (runs[0], 0))
    object.__setattr__(bound, "ends", frozenset({ids[3]}))
    answered(held, bound)
    (answer,) = bound.exchange.answers
    length = ids.index(ids[3]) + 1
    assert (answer.ids, answer.ended) == (ids[:length], "end")
    assert answer.text == held.tokenizer.decode(ids[: length - 1]) and len(answer.nats[0]) == length


def test_a_stop_is_heard_before_the_next_token(home: Workspace, held: Resident, runs: list[Run]) -> None:
    prepared, calls = ready(home, (None, 1), (runs[0], 1)), 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 11:
            raise Interrupted("Stopped.", "stopped")

    with pytest.raises(Interrupted):
        answered(held, prepared, check)
    assert [len(answer.ids) for answer in prepared.exchange.answers] == [8, 2]


def test_what_is_said_later_is_answered_in_each_ones_own_conversation(
    home: Workspace, held: Resident, runs: list[Run], exact: list[Any]
) -> None:
    before = ready(home, (None, 1), (runs[1], 1), max_new_tokens=8)
    answered(held, before)
    Exchanges(home).save(before.exchange)
    question = before.question.model_dump() | {"after": before.exchange.id}
    later = prepare(home, validate(Question, question, "the test"))
    answered(held, later)
    for prompt, answer, model in zip(later.prompts, later.exchange.answers, (exact[0], exact[2]), strict=True):
        assert answer.ids == greedy(model, prompt.tolist(), 8)
    assert later.prompts[0].tolist() != later.prompts[1].tolist()


def test_a_model_without_numbers_is_told(home: Workspace, tiny_model_folder: Path) -> None:
    run = adapted_run(home, tiny_model_folder, strength=1e30)
    with pytest.raises(Diverged, match="no number"):
        answered(Resident(base_of(home, run, "")), ready(home, (run, 1)))


MESSAGES = [
    Message("user", "Say it."),
    Message("assistant", "It is said: ü."),
    Message("user", "More."),
    Message("assistant", "No."),
]


def test_losses_are_those_of_the_definition(
    home: Workspace, held: Resident, runs: list[Run], exact: list[Any], tiny_model_folder: Path
) -> None:
    held.use(runs[0], 0.3)  # whatever was used before must not matter
    form = form_of(tiny_model_folder, "question-answer")
    found = talk.losses(held, runs[1], form, MESSAGES)
    ids = found["ids"]
    assert held.tokenizer.decode(ids[:-1]).endswith("Answer:\nNo.") and ids[-1] == EOS
    assert found["base"] == pytest.approx([0.0, *nats(exact[0], ids[:1], ids[1:])], abs=2e-4)
    assert found["adapted"] == pytest.approx([0.0, *nats(exact[2], ids[:1], ids[1:])], abs=2e-4)
    assert [id for id, counts in zip(ids, found["mask"], strict=True) if counts] == ids[-4:]
    assert "".join(found["texts"][-4:-1]) == "No."


def test_losses_of_the_base_alone(held: Resident, runs: list[Run], tiny_model_folder: Path) -> None:
    form = form_of(tiny_model_folder, "none")
    held.use(runs[1])
    alone, beside = talk.losses(held, None, form, MESSAGES), talk.losses(held, runs[1], form, MESSAGES)
    assert alone["adapted"] is None and alone["base"] == beside["base"] != beside["adapted"]


def test_losses_need_an_answer(held: Resident, tiny_model_folder: Path) -> None:
    with pytest.raises(BadInput, match="must end with an answer"):
        talk.losses(held, None, form_of(tiny_model_folder, "chatml"), MESSAGES[:1])


def test_exchange_is_plain_json(home: Workspace, held: Resident, runs: list[Run]) -> None:
    prepared = ready(home, (None, 1), (runs[0], 0.5))
    answered(held, prepared)
    assert isinstance(prepared.exchange, Exchange)
    assert json.loads(json.dumps(to_dict(prepared.exchange), allow_nan=False)) == to_dict(prepared.exchange)
