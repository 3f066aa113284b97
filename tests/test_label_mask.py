"""The label mask, token by token, counted by hand with a tokenizer whose tokens are bytes."""

from pathlib import Path

import pytest

from mixcpt.label_mask import as_text, masked, words
from mixcpt.records import Message, Record
from mixcpt.samples import Batch, Sample
from mixcpt.templates import ChatTemplate, named_template
from mixcpt.tokens import TextTokenizer


@pytest.fixture
def template(tiny_tokenizer_folder: Path, tiny_tokenizer: TextTokenizer) -> ChatTemplate:
    return ChatTemplate(tiny_tokenizer_folder, named_template("question-answer", tiny_tokenizer), "question-answer")


def sample(template: ChatTemplate, *conversations: list[Message]) -> Sample:
    answers = tuple(template.render(turns) for turns in conversations)
    return Sample("s", Record(kind="instructions", messages=tuple(conversations[0])), answers)


def turns(*texts: str) -> list[Message]:
    roles = ("user", "assistant")
    return [Message(roles[number % 2], text) for number, text in enumerate(texts)]


def test_every_answer_is_learned_with_its_end(template: ChatTemplate) -> None:
    tokens = masked(sample(template, turns("Hi", "Yes", "So", "No")), 0, template.tokenizer)
    assert as_text(tokens) == ("⟦Question:\nHi\n\nAnswer:\n⟧Yes<eos>⟦\n\nQuestion:\nSo\n\nAnswer:\n⟧No<eos>")
    assert [token.text for token in tokens if token.is_end] == ["<eos>", "<eos>"]
    assert sum(token.is_learned for token in tokens) == len("Yes") + len("No") + 2


def test_of_a_pair_only_the_answers_that_are_compared_count(template: ChatTemplate) -> None:
    pair = sample(template, turns("Hi", "Yes", "So", "No"), turns("Hi", "Yes", "So", "Ah"))
    for number, answer in enumerate(("No", "Ah")):
        tokens = masked(pair, number, template.tokenizer)
        assert "".join(token.text for token in tokens if token.is_learned) == f"{answer}<eos>"
        assert sum(token.is_end for token in tokens) == 1  # that of the earlier turn is only read
    batch = Batch((pair,), True, 1, template, {})
    read = sum(len(answer.ids) for answer in pair.answers)
    assert words(batch).startswith(f"Of the {read} tokens of this step 6 are compared ({6 / read:.0%})")


def test_text_that_looks_like_a_turn_mark_is_text(template: ChatTemplate) -> None:
    tokens = masked(sample(template, turns("<eos>", "<eos> no")), 0, template.tokenizer)
    assert [token.is_end for token in tokens].count(True) == 1
    assert as_text(tokens).startswith("⟦Question:\n<eos>\n\nAnswer:\n⟧<eos> no<eos>")


def test_a_step_in_words(template: ChatTemplate) -> None:
    batch = Batch((sample(template, turns("Hi", "Yes")),), True, 1, template, {})
    read = len("Question:\nHi\n\nAnswer:\nYes") + 1
    assert words(batch).startswith(f"Of the {read} tokens of this step 4 are learned")
