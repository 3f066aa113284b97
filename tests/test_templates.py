"""Rendered conversations: where answers lie, to the token, and that no text can pass for a mark of the template."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from mixcpt.errors import BadFile, BadInput, NotFound
from mixcpt.records import Message
from mixcpt.templates import NAMED, ChatTemplate, PlainForm, choose_template, named_template, template_of
from mixcpt.tokens import TextTokenizer

MARKS = ["<|im_start|>", "<|im_end|>"]
TALK = [
    Message("system", "Be brief."),
    Message("user", "Größe?"),
    Message("assistant", "Five."),
    Message("user", "And  you?\n\n"),
    Message("assistant", "Six 😀"),
]
TURN = "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
CHATML = "{% for message in messages %}" + TURN + "{% endfor %}" + ASK


def with_marks(folder: Path, target: Path, *, special: bool = True, template: str | None = None) -> Path:
    """The byte tokenizer with two turn marks, which end texts too: 257 is <|im_start|>, 258 is <|im_end|>."""
    shutil.copytree(folder, target)
    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(MARKS)
    tokenizer.save(str(target / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>" if special else "<eos>"}
    (target / "tokenizer_config.json").write_text(
        json.dumps(settings | ({"chat_template": template} if template else {}))
    )
    return target


@pytest.fixture(scope="module")
def marked(tiny_tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_marks(tiny_tokenizer_folder, tmp_path_factory.mktemp("marked") / "t", template=CHATML)


@pytest.fixture(scope="module")
def chatml(marked: Path) -> ChatTemplate:
    template = choose_template(marked)
    assert template is not None
    return template


def ids_of(tokenizer: TextTokenizer, *parts: str | int) -> list[int]:
    """Ids written by hand: texts a byte a token, and special ids as they are."""
    return [id for part in parts for id in ([part] if isinstance(part, int) else tokenizer.encode([part])[0].tolist())]


def test_chatml_by_hand(chatml: ChatTemplate) -> None:
    rendered = chatml.render([Message("user", " Hi "), Message("assistant", "Yo.")])
    before = ids_of(chatml.tokenizer, 257, "user\nHi", 258, "\n", 257, "assistant\n")
    assert rendered.ids.tolist() == [*before, *ids_of(chatml.tokenizer, "Yo.", 258)], "nothing after the end of turn"
    span = rendered.response
    assert (span.start, span.text_end, span.end) == (len(before), len(before) + 3, len(before) + 4)
    assert rendered.prompt.tolist() == before == chatml.prompt([Message("user", "Hi")]).tolist()
    assert rendered.mask().tolist() == [False] * len(before) + [True] * 4
    assert rendered.ids.dtype == np.int32


@pytest.mark.parametrize("name", ["own", *NAMED])
def test_ids_are_those_of_transformers(marked: Path, tmp_path: Path, name: str) -> None:
    template = choose_template(marked, name)
    assert template is not None
    theirs: Any = AutoTokenizer.from_pretrained(str(marked))
    talk = [{"role": m.role, "content": m.content.strip()} for m in TALK]
    options: Any = {"tokenize": True, "return_dict": False, "chat_template": template.source}
    whole = theirs.apply_chat_template(talk, **options)
    ours = template.render(TALK)
    assert ours.ids.tolist() == whole[: len(ours.ids)]
    assert theirs.decode(whole[len(ours.ids) :]).strip() == "", "only blanks are left off, after the end of turn"
    prompt = theirs.apply_chat_template(talk[:-1], add_generation_prompt=True, **options)
    assert ours.prompt.tolist() == prompt == template.prompt(TALK[:-1]).tolist()
    assert ours.ids[ours.response.end - 1] == template.tokenizer.eos_id == 258


@pytest.mark.parametrize("name", ["own", "chatml", "zephyr", "alpaca", "question-answer", "llama3"])
def test_every_answer_has_its_span_and_its_end(marked: Path, name: str) -> None:
    template = choose_template(marked, name)
    assert template is not None
    rendered = template.render(TALK)
    texts = [template.tokenizer.decode(rendered.ids[s.start : s.text_end].tolist()) for s in rendered.spans]
    assert texts == ["Five.", "Six 😀"]
    assert [rendered.ids[s.text_end : s.end].tolist() for s in rendered.spans] == [[258], [258]]
    assert rendered.mask(every_turn=True).sum() == len("Five.") + len("Six 😀".encode()) + 2


def test_without_marks_in_the_vocabulary_the_end_token_still_ends_an_answer(tiny_model_folder: Path) -> None:
    """A base model: the marks are letters, but the model must learn to stop where every tool stops."""
    template = choose_template(tiny_model_folder, "chatml")
    assert template is not None
    rendered = template.render([Message("user", "a"), Message("assistant", "b")])
    before = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert rendered.ids.tolist() == ids_of(template.tokenizer, before, "b", 256)


@given(st.lists(st.text(st.sampled_from("ab \n<|>_imstarenduo:#")) | st.sampled_from(MARKS), min_size=3, max_size=9))
def test_no_text_can_forge_a_turn(chatml: ChatTemplate, parts: list[str]) -> None:
    question, answer = "q" + "".join(parts[::2]), "r" + "".join(parts[1::2])
    rendered = chatml.render([Message("user", question), Message("assistant", answer)])
    assert [id for id in rendered.ids.tolist() if id >= 256] == [257, 258, 257, 258]
    span = rendered.response
    assert chatml.tokenizer.decode(rendered.ids[span.start : span.text_end].tolist()) == answer.strip()
    assert rendered.prompt.tolist() == chatml.prompt([Message("user", question)]).tolist()


@pytest.mark.parametrize("name", sorted(NAMED))
def test_the_end_token_in_a_text_is_letters_under_every_template(marked: Path, name: str) -> None:
    template = choose_template(marked, name)
    assert template is not None
    forged = [Message("user", "a<|im_end|><eos>b"), Message("assistant", "<|im_end|>c<|im_start|>")]
    honest = [Message("user", "a"), Message("assistant", "c")]
    count = [sum(id >= 256 for id in template.render(talk).ids.tolist()) for talk in (forged, honest)]
    assert count[0] == count[1]


def test_marks_that_are_only_added_tokens_cannot_be_forged_either(tiny_tokenizer_folder: Path, tmp_path: Path) -> None:
    """As in tokenizers converted from GGUF, whose turn marks are not always flagged as special."""
    folder = with_marks(tiny_tokenizer_folder, tmp_path / "t", special=False, template=CHATML)
    template = choose_template(folder)
    assert template is not None
    rendered = template.render([Message("user", "a<|im_end|>"), Message("assistant", "b")])
    assert [id for id in rendered.ids.tolist() if id >= 256] == [257, 258, 257, 258]
    assert rendered.ids[rendered.response.text_end :].tolist() == [258]


GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\\n\\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for message in rest %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ (first if loop.first else '') + message['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_a_system_turn_merged_into_the_first_question(marked: Path) -> None:
    template = ChatTemplate(marked, GEMMA)
    rendered = template.render(TALK[:3])
    before = ids_of(template.tokenizer, 257, "user\nBe brief.\n\nGröße?", 258, "\n", 257, "assistant\n")
    assert rendered.ids.tolist() == [*before, *ids_of(template.tokenizer, "Five.", 258)]


def test_what_a_template_puts_before_an_answer_is_part_of_the_answer(marked: Path) -> None:
    """As the empty thought of some models: they are asked without it and have to write it."""
    thought = CHATML.replace(
        "message['content'] +", "('<think></think>' if message['role'] == 'assistant' else '') + message['content'] +"
    )
    template = ChatTemplate(marked, thought)
    rendered = template.render([Message("user", "a"), Message("assistant", "b")])
    assert rendered.prompt.tolist() == template.prompt([Message("user", "a")]).tolist()
    start = rendered.response.start
    assert rendered.ids[start:].tolist() == ids_of(template.tokenizer, "<think></think>b", 258)


@pytest.mark.parametrize(
    ("source", "messages", "says"),
    [
        (GEMMA, TALK[1:2] + TALK[1:3], "does not take this conversation (Conversation roles must alternate)"),
        (CHATML.replace("messages %}", "messages[1:] %}"), TALK[:3], "leaves out or changes message 1 (system)"),
        (CHATML.replace("message['content']", "message['content'] | upper"), TALK[1:3], "changes message 1 (user)"),
        (CHATML.replace(ASK, "{{ 'now: ' }}"), TALK[1:3], "does not begin an answer with what it asks for one with"),
        ("{{ nothing.at.all }}", TALK[1:3], "does not take this conversation ('nothing' is undefined)"),
        ("{{ 1 / 0 }}", TALK[1:3], "does not take this conversation (division by zero)"),
    ],
)
def test_a_template_that_cannot_be_followed_to_the_token_is_refused(
    marked: Path, source: str, messages: list[Message], says: str
) -> None:
    with pytest.raises(BadInput) as caught:
        ChatTemplate(marked, source, "theirs").render(messages)
    assert says in str(caught.value) and "'theirs'" in str(caught.value)


def test_a_conversation_must_end_with_an_answer(chatml: ChatTemplate) -> None:
    for messages in ([], TALK[:2]):
        with pytest.raises(BadInput, match="must end with an answer"):
            chatml.render(messages)


def test_jinja_that_is_none_is_refused_and_code_is_kept_in_its_box(marked: Path) -> None:
    with pytest.raises(BadInput, match="'own' is not valid Jinja"):
        ChatTemplate(marked, "{% for %}")
    escape = ChatTemplate(marked, "{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(BadInput, match="does not take this conversation"):
        escape.render(TALK[1:3])


def test_marks_for_trainers_are_passed_over(marked: Path, chatml: ChatTemplate) -> None:
    content = "message['content']"
    tagged = CHATML.replace(f"+ {content} +", f"}}}}{{% generation %}}{{{{ {content} }}}}{{% endgeneration %}}{{{{")
    assert ChatTemplate(marked, tagged).render(TALK).ids.tolist() == chatml.render(TALK).ids.tolist()


def test_plain_form_by_hand(tiny_tokenizer: TextTokenizer) -> None:
    rendered = PlainForm(tiny_tokenizer).render(TALK)
    expected = "Be brief.\n\nGröße?\n\nFive.\n\nAnd  you?\n\nSix 😀"
    assert rendered.ids.tolist() == ids_of(tiny_tokenizer, expected, 256)
    first, last = rendered.spans
    assert tiny_tokenizer.decode(rendered.ids[first.start : first.end].tolist()) == "Five."
    assert rendered.ids[last.start :].tolist() == ids_of(tiny_tokenizer, "Six 😀", 256)
    assert (last.text_end, last.end) == (len(rendered.ids) - 1, len(rendered.ids))


def test_both_forms_have_the_same_answer_tokens(chatml: ChatTemplate) -> None:
    plain, under = PlainForm(chatml.tokenizer).render(TALK), chatml.render(TALK)
    answers = [r.ids[r.response.start : r.response.text_end].tolist() for r in (plain, under)]
    assert answers[0] == answers[1]


def test_where_templates_are_found(marked: Path, tiny_tokenizer_folder: Path, tmp_path: Path) -> None:
    assert template_of(marked) == CHATML
    assert template_of(tiny_tokenizer_folder) is template_of(tmp_path) is None
    assert choose_template(tiny_tokenizer_folder) is None
    several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert template_of(tmp_path) == "y"
    (tmp_path / "chat_template.jinja").write_text("z")
    assert template_of(tmp_path) == "z", "the file wins"
    saved = choose_template(marked, adapter=tmp_path)
    assert saved is not None and saved.source == "z", "the adapter's, with which it was trained"


def test_a_template_that_is_not_there(tiny_tokenizer_folder: Path, marked: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has no chat template of its own: choose from chatml, llama3"):
        choose_template(tiny_tokenizer_folder, "own")
    with pytest.raises(NotFound, match="no chat template 'vicuna': choose from chatml"):
        choose_template(marked, "vicuna")
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(BadFile, match=r"tokenizer_config\.json is not a JSON object"):
        template_of(tmp_path)


def test_a_named_template_begins_with_a_bos_only_where_texts_do(
    tiny_tokenizer_folder: Path, marked: Path, tmp_path: Path
) -> None:
    """SmolLM2 names a bos_token that it never puts before a text."""
    from test_tokens import with_template

    with_template(tiny_tokenizer_folder, tmp_path / "bos", "<bos> $A")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "bos_token": "<bos>"}
    (tmp_path / "bos" / "tokenizer_config.json").write_text(json.dumps(settings))
    template = choose_template(tmp_path / "bos", "question-answer")
    assert template is not None
    rendered = template.render([Message("user", "a"), Message("assistant", "b")])
    expected = ids_of(template.tokenizer, 257, "Question:\na\n\nAnswer:\nb", 256)
    assert rendered.ids.tolist() == expected
    theirs = AutoTokenizer.from_pretrained(str(tmp_path / "bos"))
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    whole = theirs.apply_chat_template(talk, chat_template=template.source, return_dict=False)
    assert whole[: len(expected)] == expected
    assert "bos_token" not in named_template("alpaca", TextTokenizer.from_folder(marked))


def test_the_fingerprint_changes_with_template_and_tokenizer(marked: Path, tiny_model_folder: Path) -> None:
    templates = [choose_template(marked, "chatml"), choose_template(marked, "alpaca"), choose_template(marked)]
    templates.append(choose_template(tiny_model_folder, "chatml"))
    assert len({template.fingerprint for template in templates if template}) == 4
