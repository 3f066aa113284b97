"""The command `talk`, with the inference process of the workspace on models of two layers."""

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from adapted import adapted_run, end_process

from mixcpt import cli, cli_talk
from mixcpt.client import Client
from mixcpt.exchanges import BROKEN_OFF, Answer, Question, begin
from mixcpt.processes import lease, lease_holder
from mixcpt.runs import Run
from mixcpt.settings import validate
from mixcpt.workspace import Workspace


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    workspace = Workspace(tmp_path_factory.mktemp("cli-talk") / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXCPT_HOME", str(workspace.root))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield workspace
    end_process(workspace)


@pytest.fixture(scope="module")
def runs(home: Workspace, tiny_model_folder: Path) -> list[Run]:
    first = adapted_run(home, tiny_model_folder, seed=1, name="wells")
    second = adapted_run(home, tiny_model_folder, seed=2, stage="sft", parent=first)
    return [first, second, adapted_run(home, tiny_model_folder, seed=3)]


def in_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert cli.main(["talk", *arguments, "--prompt", "Why?", "--max-tokens", "6", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_one_run_is_asked_with_its_whole_chain(runs: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    found = in_json(capsys, runs[1].id, "--template", "question-answer")
    assert [answer["run"] for answer in found["answers"]] == [None, runs[0].id, runs[1].id]
    assert [answer["title"] for answer in found["answers"]] == ["base", "wells", runs[1].id]
    assert [answer["stage"] for answer in found["answers"]] == ["base", "cpt", "sft"]
    assert (found["state"], found["template"], found["seed"]) == ("done", "question-answer", 0)
    for row, answer in zip(found["log_probability"], found["answers"], strict=True):
        assert len(answer["tokens"]) == 6 and answer["ended"] == "length"
        assert row == pytest.approx([-sum(nats) for nats in answer["nats"]], abs=1e-5)


def test_several_runs_are_asked_as_named(runs: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    found = in_json(capsys, runs[2].id, runs[0].id, runs[2].id)
    assert [answer["run"] for answer in found["answers"]] == [runs[2].id, runs[0].id]
    found = in_json(capsys, runs[2].id, runs[0].id, "--base")
    assert [answer["run"] for answer in found["answers"]] == [None, runs[2].id, runs[0].id]
    found = in_json(capsys, runs[1].id, "--only")
    assert [answer["run"] for answer in found["answers"]] == [runs[1].id]


def test_at_strength_zero_a_run_answers_as_the_base(runs: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [runs[0].id, "--temperature", "1", "--top-p", "0.9", "--seed", "3"]
    base, run = in_json(capsys, *arguments, "--strength", "0")["answers"]
    assert base["text"] == run["text"] and run["first_difference"] is None and run["strength"] == 0
    base, run = in_json(capsys, *arguments)["answers"]
    assert base["text"] != run["text"] and run["first_difference"] is not None


def test_a_conversation_goes_on(runs: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    first = in_json(capsys, runs[0].id, "--only")
    later = in_json(capsys, runs[0].id, "--only", "--after", first["exchange"])
    assert [turn["role"] for turn in later["conversations"][0]] == ["user", "assistant", "user"]
    assert later["conversations"][0][1]["content"] == first["answers"][0]["text"]


def test_the_question_may_come_from_stdin(
    runs: list[Run], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("From a pipe?\n"))
    assert cli.main(["talk", runs[0].id, "--only", "--prompt", "-", "--max-tokens", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["conversations"][0][0]["content"] == "From a pipe?\n"


def test_in_words_answers_and_a_table(runs: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["talk", runs[0].id, "--prompt", "Why?", "--max-tokens", "4", "--strength", "0.5"]) == 0
    said = capsys.readouterr()
    assert "=== base: 4 tokens, cut at the limit" in said.out and "=== cpt wells at 0.5: 4 tokens" in said.out
    assert "template none, seed 0; exchange talk-" in said.out
    lines = said.out.splitlines()
    assert lines[-3].split() == ["base", "cpt", "wells", "at", "0.5"] and lines[-2].startswith("base ")
    assert "writing" in said.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cpt-nope", "--prompt", "x"], "There is no run 'cpt-nope'"),
        (["RUN", "--prompt", " "], "the question is empty"),
        (["RUN", "--prompt", "x", "--strength", "2"], "'strength' is 2.0"),
        (["RUN", "--prompt", "x", "--temperature", "-1"], "'temperature' is -1.0"),
        (["RUN", "--prompt", "x", "--max-tokens", "0"], "'max_new_tokens' is 0"),
        (["RUN", "--prompt", "x", "--template", "odd"], "no chat template 'odd'"),
        (["RUN", "--prompt", "x", "--after", "talk-0"], "no exchange talk-0"),
        (["RUN", "--prompt", "x" * 300], "reads 256 at most"),
    ],
)
def test_bad_input_is_one_sentence(
    runs: list[Run], capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert cli.main(["talk", *(runs[0].id if part == "RUN" else part for part in arguments)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("mixcpt: ") and words in said.err and said.out == ""


def test_a_run_without_an_adapter_is_refused(
    home: Workspace, tiny_model_folder: Path, runs: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    bare = adapted_run(home, tiny_model_folder)
    (bare.adapter / "adapter_config.json").unlink()
    assert cli.main(["talk", bare.id, "--prompt", "x"]) == 2
    assert "no finished adapter" in capsys.readouterr().err


def test_too_many_models_are_refused(
    runs: list[Run], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_talk, "MODELS_AT_ONCE", 2)
    assert cli.main(["talk", *(run.id for run in runs), "--prompt", "x"]) == 2
    assert "These are 3 models, and 2 can be asked" in capsys.readouterr().err


def test_a_busy_machine_is_named_and_the_exit_code_is_one(
    home: Workspace, runs: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    Client(home).unload()
    _until_free(home)
    with lease(home, "a notebook") as taken:
        assert taken is not None
        assert cli.main(["talk", runs[0].id, "--prompt", "x"]) == 1
    assert "A notebook has the machine" in capsys.readouterr().err


def _until_free(home: Workspace) -> None:
    deadline = time.monotonic() + 30
    while lease_holder(home) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("state", "message"), [("failed", BROKEN_OFF), ("interrupted", "Training x has the machine.")])
def test_what_was_written_before_an_end_is_printed(
    runs: list[Run],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    message: str,
) -> None:
    asked = {"voices": [{"run": None}], "messages": [{"role": "user", "content": "Why?"}]}
    exchange = begin(
        validate(Question, asked, "the test"), [Answer(None, 1.0, "base", "base", text="half", ids=[1])], []
    )
    exchange.end(state, message)
    monkeypatch.setattr(Client, "ask", lambda self, *_, **__: exchange.id)
    monkeypatch.setattr(Client, "exchange", lambda self, id: exchange)
    assert cli.main(["talk", runs[0].id, "--prompt", "Why?"]) == 1
    said = capsys.readouterr()
    assert "half" in said.out and message in said.err
