"""The commands probes and contamination."""

import json
from pathlib import Path

import pytest
from prose import records

from mixcpt import answers
from mixcpt.answers import Answered
from mixcpt.cli import main
from mixcpt.corpus import ingest_records
from mixcpt.questions import read_questions
from mixcpt.runs import Runs
from mixcpt.settings import validate
from mixcpt.stages import Stage
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace


@pytest.fixture
def home(workspace: Workspace, tiny_tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("MIXCPT_HOME", str(workspace.root))
    ingest_records(workspace, "field", records(120), files=[], tokenizer=tiny_tokenizer, heldout_fraction=0.2)
    return workspace


def test_probes_are_printed_with_their_checks(home: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probes", "field", "--items", "24"]) == 0
    out = capsys.readouterr().out
    assert "corpus field: 24 terms" in out and "most frequent" in out and "memorised: Near the" in out


def test_probes_as_json_and_as_a_file_of_questions(
    home: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "questions.jsonl"
    arguments = ["--items", "24", "--seed", "1", "--side", "memorised", "--out", str(path), "--json"]
    assert main(["probes", "field", *arguments]) == 0
    out, err = capsys.readouterr()
    made = json.loads(out)
    assert made["seed"] == 1 and len(made["probes"]) == 24 and {check["chance"] for check in made["checks"]} == {0.25}
    assert "24 questions (memorised)" in err
    wanted = [{key: one[key] for key in ("question", "choices", "answer")} for one in made["sets"]["memorised"]]
    assert read_questions(path) == wanted


def test_what_cannot_be_made_is_refused(home: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probes", "nowhere"]) == 2
    assert "There is no corpus 'nowhere': choose from field." in capsys.readouterr().err


def test_contamination_looks_again_and_keeps_what_it_finds(
    home: Workspace, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = {
        "model": {"name": str(tiny_model_folder)},
        "mixture": {"sources": [{"source": "field", "share": 1, "domain": True}], "budget_tokens": 100_000},
    }
    run = Runs(home).create(validate(Stage, stage, "the test"), experiment="test")
    read = records(120)[0].text
    rows = [
        Answered(text, [], ["x"], "", "", 0, right) for text, right in ((read, 1), ("Who knows?", 0), (read[::-1], 0))
    ]
    answers.write(run, "mine", rows)
    run.write_results("evaluation", {"final": {"mine": {"items": 3}}, "asked": {"mine": {}}})
    assert main(["contamination", run.id, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["contamination"].values()
    assert found["items"] == [0] and found["sources"] == {"field": 1} and found["too_short"] == 1
    assert run.results()["evaluation"]["contamination"]["mine"] == found
    assert main(["contamination", run.id]) == 0
    assert "mine: 1 of 3 questions stand in the training text (field: 1); without them 0.0%" in capsys.readouterr().out
    assert main(["contamination", run.id, "--words", "4"]) == 2
    assert "--least 8 is more than --words 4" in capsys.readouterr().err
