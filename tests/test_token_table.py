"""Documents as token ids: the text and its end, kept on disk, in a chat template where one is asked for."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mixcpt.config import MixtureConfig, SourceShare
from mixcpt.corpus import Corpus, ingest, ingest_records
from mixcpt.errors import BadInput
from mixcpt.records import Message, Record
from mixcpt.token_table import _chat_ids, is_tokenised, tokenise


def reading(template="none"):
    """A mixture, of which only how text is made of records counts here."""
    return MixtureConfig(sources=[SourceShare(source="birds", share=1)], template=template)


def corpus(workspace, tokenizer, tmp_path, name="birds", count=40):
    folder = tmp_path / f"{name}-files"
    folder.mkdir()
    for number in range(count):
        # Words of their own per document, or cleaning would take them for duplicates.
        words = " ".join(f"{name}{number}word{k}" for k in range(20 + number % 7))
        (folder / f"{number:02}.txt").write_text(words)
    ingest(workspace, name, [folder], tokenizer=tokenizer, seed=0)
    return Corpus.open(workspace, name)


def test_tokens_are_the_text_and_an_end_token(workspace, tiny_tokenizer, tmp_path):
    birds = corpus(workspace, tiny_tokenizer, tmp_path)
    documents = birds.documents("train")
    tokens = tokenise(birds, tiny_tokenizer, reading())
    assert len(tokens) == len(documents)
    for number in range(len(documents)):
        assert tokens[number][-1] == tiny_tokenizer.eos_id
        assert tiny_tokenizer.decode(tokens[number][:-1]) == documents[number].text


def test_tokens_are_kept_and_opened_a_second_time(workspace, tiny_tokenizer, tmp_path, monkeypatch):
    birds, settings = corpus(workspace, tiny_tokenizer, tmp_path), reading()
    assert not is_tokenised(birds, tiny_tokenizer, settings)
    first = tokenise(birds, tiny_tokenizer, settings)
    assert is_tokenised(birds, tiny_tokenizer, settings)
    monkeypatch.setattr(type(tiny_tokenizer), "encode", lambda *_: pytest.fail("tokenised again"))
    second = tokenise(birds, tiny_tokenizer, settings)
    assert np.array_equal(first.ids, second.ids) and np.array_equal(first.offsets, second.offsets)


def test_tokenising_that_is_stopped_leaves_no_table(workspace, tiny_tokenizer, tmp_path):
    birds, settings = corpus(workspace, tiny_tokenizer, tmp_path), reading()

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenise(birds, tiny_tokenizer, settings, should_stop=stop)
    assert len(tokenise(birds, tiny_tokenizer, settings)) == len(birds.documents("train"))


@pytest.mark.parametrize("kind", ["instructions", "preferences"])
def test_instructions_can_stand_in_a_chat_template_for_joint_training(workspace, tiny_tokenizer, kind):
    asked, answers = Message("user", "Two?"), ["Two and " * 40 + "two.", "So."]
    pair = kind == "preferences"
    records = [
        Record(kind=kind, messages=(asked,), chosen=answer, rejected="No.", meta={"id": answer}, file="x")
        if pair
        else Record(kind=kind, messages=(asked, Message("assistant", answer)), meta={"id": answer}, file="x")
        for answer in answers
    ]
    ingest_records(workspace, kind, records, files=[], tokenizer=tiny_tokenizer, heldout_ids={"So."})
    samples = Corpus.open(workspace, kind)
    plain = tokenise(samples, tiny_tokenizer, reading())
    chat = tokenise(samples, tiny_tokenizer, reading("alpaca"))
    assert tiny_tokenizer.decode(plain[0]) == f"Two?\n\n{answers[0]}<eos>"
    assert tiny_tokenizer.decode(chat[0]) == f"### Instruction:\nTwo?\n\n### Response:\n{answers[0]}<eos>"
    with pytest.raises(BadInput, match="no chat template of its own"):
        tokenise(samples, tiny_tokenizer, reading("own"))


def test_a_conversation_that_the_template_cannot_take_is_never_drawn(workspace, tiny_tokenizer):
    asked = Record(kind="instructions", messages=(Message("user", "Two?"), Message("assistant", "Two.")), file="x")
    document: Any = SimpleNamespace(record=asked.to_json())
    template: Any = _Refusing(tiny_tokenizer)
    assert _chat_ids(document, template).tolist() == [256]


class _Refusing:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def render(self, messages):
        raise BadInput("not this one")


def test_documents_are_never_set_in_a_template(workspace, tiny_tokenizer, tmp_path):
    birds = corpus(workspace, tiny_tokenizer, tmp_path)
    plain = tokenise(birds, tiny_tokenizer, reading())
    chat = tokenise(birds, tiny_tokenizer, reading("alpaca"))
    assert np.array_equal(plain.ids, chat.ids)
