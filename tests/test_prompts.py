"""What is settled before a model is loaded: base, template, prompts, ends, and every refusal."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adapted import adapted_run

from mixcpt.errors import BadInput, NotFound
from mixcpt.exchanges import Answer, Exchanges, Question, begin
from mixcpt.prompts import base_of, ends_of, form_of, prepare, prompt_of
from mixcpt.records import Message
from mixcpt.runs import Run
from mixcpt.settings import validate
from mixcpt.templates import ChatTemplate, named_template
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace, write_json

EOS = 256


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("prompts") / "home")


@pytest.fixture(scope="module")
def run(home: Workspace, tiny_model_folder: Path) -> Run:
    return adapted_run(home, tiny_model_folder, name="first")


def question(*runs: Run | None, text: str = "Why?", **more: Any) -> Question:
    voices = [{"run": run.id if run else None} for run in runs]
    return validate(Question, {"voices": voices, "messages": [{"role": "user", "content": text}], **more}, "the test")


@pytest.fixture(scope="module")
def text_of(tiny_tokenizer: TextTokenizer) -> Callable[[Any], str]:
    return tiny_tokenizer.decode


def test_a_run_is_asked_in_the_numbers_it_was_trained_in(home: Workspace, tiny_model_folder: Path) -> None:
    run = adapted_run(home, tiny_model_folder)
    assert (base_of(home, run, "").precision, base_of(home, run, "").device) == ("fp32", "cpu")
    write_json(run.folder / "started.json", {"device": "cpu", "precision": "bf16", "mixture": "x"})
    assert base_of(home, run, "").precision == "bf16"
    (run.folder / "started.json").unlink()
    run.write_results("training", {"device": "cpu", "precision": "bf16"})
    assert base_of(home, run, "").precision == "bf16"


def test_another_model_in_the_same_place_is_told(home: Workspace, tiny_model_folder: Path) -> None:
    run = adapted_run(home, tiny_model_folder)
    write_json(run.folder / "started.json", {"device": "cpu", "precision": "fp32", "model": "0123456789abcdef"})
    with pytest.raises(BadInput, match="is another one than run"):
        base_of(home, run, "")


def test_a_model_that_is_gone_is_told(home: Workspace, tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    run = adapted_run(home, folder)
    shutil.rmtree(folder)
    with pytest.raises(NotFound, match=r"model .* is not here \(any more\): `mixcpt model add"):
        prepare(home, question(run))


def test_without_a_template_turns_are_joined_as_plain_text(
    home: Workspace, run: Run, text_of: Callable[[Any], str]
) -> None:
    ready = prepare(home, question(None, run, text=" Why? "))
    assert ready.exchange.template == "none"
    assert [text_of(prompt) for prompt in ready.prompts] == ["Why?\n\n"] * 2
    assert [(answer.title, answer.stage) for answer in ready.exchange.answers] == [("base", "base"), ("first", "cpt")]


def test_a_named_template_asks_as_it_says(home: Workspace, run: Run, text_of: Callable[[Any], str]) -> None:
    ready = prepare(home, question(run, template="question-answer"))
    assert text_of(ready.prompts[0]) == "Question:\nWhy?\n\nAnswer:\n" and ready.exchange.template == "question-answer"
    assert ready.ends == {EOS}


def test_the_template_of_the_last_run_that_learned_one_is_everybodys(
    home: Workspace, run: Run, tiny_model_folder: Path, text_of: Callable[[Any], str]
) -> None:
    child = adapted_run(home, tiny_model_folder, stage="sft", parent=run)
    alpaca = named_template("alpaca", TextTokenizer.from_folder(tiny_model_folder))
    (child.adapter / "chat_template.jinja").write_text(alpaca)
    ready = prepare(home, question(None, run, child))
    assert {text_of(prompt) for prompt in ready.prompts} == {"### Instruction:\nWhy?\n\n### Response:\n"}
    assert {text_of(prompt) for prompt in prepare(home, question(child, template="none")).prompts} == {"Why?\n\n"}


def test_unknown_templates_and_a_missing_one_of_its_own_are_told(home: Workspace, run: Run) -> None:
    with pytest.raises(NotFound, match="no chat template 'odd'"):
        prepare(home, question(run, template="odd"))
    with pytest.raises(BadInput, match="no chat template of its own"):
        prepare(home, question(run, template="own"))


def test_what_ends_an_answer(tiny_model_folder: Path, tmp_path: Path) -> None:
    """The tokenizer's end, the template's, and what the model's settings name."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    settings = folder / "generation_config.json"
    for named, expected in (([7, 9], {7, 9, EOS}), (5, {5, EOS}), (None, {EOS})):
        settings.write_text(json.dumps({"eos_token_id": named}))
        assert ends_of(form_of(folder, "chatml"), folder) == expected
    settings.unlink()
    assert ends_of(form_of(folder, "none"), folder) == {EOS}
    dotted = ChatTemplate(folder, "{% for m in messages %}{{ m['content'] }}<eos>{% endfor %}")
    assert ends_of(dotted, folder) == {EOS}


def test_a_form_is_read_once_until_its_files_change(
    tiny_model_folder: Path, tmp_path: Path, text_of: Callable[[Any], str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    first = form_of(folder, None)
    assert form_of(folder, None) is first
    (folder / "chat_template.jinja").write_text("{% for m in messages %}[{{ m['content'] }}]{% endfor %}")
    assert text_of(prompt_of(form_of(folder, None), [Message("user", "x")])) == "[x]"


def test_an_earlier_exchange_gives_each_voice_its_own_past(
    home: Workspace, run: Run, text_of: Callable[[Any], str]
) -> None:
    asked = [[{"role": "user", "content": "Why?"}]] * 2
    answers = [Answer(None, 1.0, "base", "base", text="So."), Answer(run.id, 1.0, "first", "cpt", text="")]
    before = begin(question(None, run), answers, asked)
    Exchanges(home).save(before)
    ready = prepare(home, question(None, run, text="And?", after=before.id))
    assert [text_of(prompt) for prompt in ready.prompts] == ["Why?\n\nSo.\n\nAnd?\n\n", "Why?\n\n\n\nAnd?\n\n"]
    assert ready.exchange.conversations[0][1] == {"role": "assistant", "content": "So."}
    with pytest.raises(BadInput, match="other models than those"):
        prepare(home, question(run, text="And?", after=before.id))
    with pytest.raises(NotFound, match="no exchange"):
        prepare(home, question(None, run, after="talk-0"))


def test_runs_on_different_bases_are_told_apart(home: Workspace, run: Run, tiny_model_folder: Path) -> None:
    other = adapted_run(home, tiny_model_folder)
    write_json(other.folder / "started.json", {"device": "cpu", "precision": "bf16"})
    with pytest.raises(BadInput, match=r"fp32 on cpu.*bf16 on cpu.*only models of one base"):
        prepare(home, question(run, other))


def test_a_run_without_an_adapter_and_an_unknown_run(home: Workspace, tiny_model_folder: Path) -> None:
    bare = adapted_run(home, tiny_model_folder)
    shutil.rmtree(bare.adapter)
    with pytest.raises(BadInput, match="no finished adapter"):
        prepare(home, question(bare))
    with pytest.raises(NotFound, match="no run 'cpt-nope'"):
        prepare(home, validate(Question, question(None).model_dump() | {"voices": [{"run": "cpt-nope"}]}, "the test"))


def test_a_conversation_must_fit_the_model(home: Workspace, run: Run) -> None:
    """The tiny model reads 256 tokens: 100 of the prompt with its end of two, and 154 for the answer."""
    fits = {"sampling": {"max_new_tokens": 154}}
    prepare(home, question(run, text="x" * 100, **fits))
    with pytest.raises(BadInput, match=r"has 103 tokens and its answer may have 154 more.* reads 256 at most"):
        prepare(home, question(run, text="x" * 101, **fits))


def test_the_letters_of_a_special_token_are_text(home: Workspace, run: Run, text_of: Callable[[Any], str]) -> None:
    (prompt,) = prepare(home, question(run, text="say <eos> now", template="question-answer")).prompts
    assert EOS not in prompt.tolist() and "<eos>" in text_of(prompt)
