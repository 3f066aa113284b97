"""The commands score, scores, select and selection: what they print, what they leave on disk, and what they refuse."""

import json
from pathlib import Path
from typing import Any

import pytest
from in_process import InProcess
from test_selection import INFO, SAMPLES, TABLE, rule, sample

from mixcpt import supervisor
from mixcpt.cli import main
from mixcpt.corpus import ingest_records
from mixcpt.jobs import Jobs
from mixcpt.records import Message, Record
from mixcpt.scores import ScoreTable
from mixcpt.selection import Selection, list_selections, open_selection
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace

Printed = Any


@pytest.fixture
def home(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The workspace of the command line; jobs are done in this process."""
    monkeypatch.setenv("MIXCPT_HOME", str(workspace.root))
    monkeypatch.setattr(supervisor, "Supervisor", InProcess)
    return workspace


@pytest.fixture
def scored(home: Workspace) -> Workspace:
    TABLE.save(home)
    return home


def answer(capsys: Printed, *arguments: str) -> Any:
    """What a command prints with --json."""
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: Printed, *arguments: str) -> str:
    """The one sentence of a command that fails; nothing else is printed."""
    assert main(list(arguments)) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("mixcpt: ") and printed.err.count("\n") == 1
    return str(printed.err)


# ---- score -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def talk(home: Workspace, tiny_tokenizer: TextTokenizer) -> Workspace:
    pairs = [(f"question {number}", "yes it is") for number in range(24)] + [("q", "x" * 300), ("held", "out")]
    records = [
        Record("instructions", messages=(Message("user", one), Message("assistant", other)), meta={"id": one})
        for one, other in pairs
    ]
    ingest_records(home, "talk", records, files=[], heldout_ids={"held"}, tokenizer=tiny_tokenizer)
    prose = [Record("documents", f"A text of some length, number {n}.") for n in range(20)]
    ingest_records(home, "prose", prose, files=[], tokenizer=tiny_tokenizer)
    return home


def test_a_source_is_scored_and_its_scores_are_listed(
    talk: Workspace, tiny_model_folder: Path, capsys: Printed
) -> None:
    asked = ("score", "talk", "--model", str(tiny_model_folder), "--template", "chatml", "--max-tokens", "200")
    found = answer(capsys, *asked)
    assert (found["source"], found["run"], found["template"]["name"]) == ("talk", None, "chatml")
    assert (found["samples"], found["left_out"]) == (24, 1)
    assert found["reasons"] == {"it has … tokens (… of them the answer), more than the … allowed": 1}
    assert "alignment_response" in found["scores"] and "ifd" in found["scores"]
    assert [info["id"] for info in answer(capsys, "scores")] == [found["id"]]
    assert main([*asked, "--forms", "plain", "--limit", "5"]) == 0
    printed = capsys.readouterr()
    assert "5 samples scored, 1 left out" in printed.out and "Loss, plain text" in printed.out
    assert "score talk under" in printed.err and "done" in printed.err
    assert main(["scores"]) == 0
    assert f"{found['id']}  talk  under {tiny_model_folder}  chatml" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["prose"], "The source 'prose' holds documents, which have no answers to score"),
        (["nothing"], "There is no corpus 'nothing'"),
        (["talk", "--template", "fancy"], "There is no chat template 'fancy'"),
        (["talk", "--forms", "alone"], "what is alone, which gives no score"),
        (["talk", "--forms", ""], "'what.0' is ''"),
        (["talk", "--beta", "0"], "'beta' is 0.0"),
        (["talk"], "has no chat template of its own: choose one of chatml"),
    ],
)
def test_what_cannot_be_scored_is_told_before_a_job_is_made(
    talk: Workspace, tiny_model_folder: Path, capsys: Printed, arguments: list[str], says: str
) -> None:
    assert says in refused(capsys, "score", *arguments, "--model", str(tiny_model_folder))
    assert Jobs(talk).all() == []


def test_a_run_that_is_gone_is_told(talk: Workspace, capsys: Printed) -> None:
    assert "There is no run 'cpt-1'" in refused(capsys, "score", "talk", "--run", "cpt-1")


def test_no_scores_yet(home: Workspace, capsys: Printed) -> None:
    assert main(["scores"]) == 0 and "no scores yet: mixcpt score" in capsys.readouterr().out
    assert answer(capsys, "scores") == []


def test_damaged_scores_are_named_beside_the_others(scored: Workspace, capsys: Printed) -> None:
    ScoreTable({**INFO, "id": "other"}, SAMPLES).save(scored)
    (scored.root / "scores" / "tables" / "other" / "table.json").write_text("{")
    assert main(["scores"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{TABLE.id}  talk") and "other cannot be read" in printed.err


# ---- select ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        (["--count", "2"], ["a", "b"]),
        (["--score", "loss_plain", "--threshold", "2.5"], ["a", "b", "d"]),
        (["--strategy", "hardest", "--tokens", "80"], ["e", "c"]),
        (["--strategy", "all", "--discard", "a", "--discard", "b"], ["c", "e", "d"]),
        (["--strategy", "by-hand", "--keep", "e"], ["e"]),
        (["--count", "1", "--keep", "e", "--discard", "a"], ["e"]),
    ],
)
def test_samples_are_chosen_and_saved(scored: Workspace, capsys: Printed, arguments: list[str], ids: list[str]) -> None:
    found = answer(capsys, "select", "talk", "mine", *arguments)
    assert found["ids"] == ids and found["counts"]["chosen"] == len(ids)
    assert open_selection(scored, "mine").ids == ids


def test_chance_is_the_seed(scored: Workspace, capsys: Printed) -> None:
    asked = ("select", "talk", "mine", "--strategy", "random", "--count", "3", "--replace", "--seed")
    first, second, again = (answer(capsys, *asked, seed) for seed in ("1", "2", "1"))
    assert first == again and first["ids"] != second["ids"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--keep", "zz"], "There is no sample 'zz' among these scores"),
        (["--keep", "x"], "The sample 'x' cannot be kept, for the answer is empty"),
        (["--threshold", "0.5"], "The selection 'mine' has no rows (the easiest by Loss, plain text"),
        (["--strategy", "random", "--threshold", "1"], "a threshold says nothing for random"),
        (["--strategy", "random", "--score", "ifd"], "--score says nothing for random: leave it out"),
        (["--score", "ifd"], "No sample has the score 'ifd': these have loss_plain."),
        (["--count", "0"], "'count' is 0"),
    ],
)
def test_rules_that_choose_nothing_are_refused(
    scored: Workspace, capsys: Printed, arguments: list[str], says: str
) -> None:
    assert says in refused(capsys, "select", "talk", "mine", *arguments)
    assert list_selections(scored) == []


def test_names_and_scores_that_do_not_fit(scored: Workspace, capsys: Printed) -> None:
    assert "There is no score 'other'" in refused(capsys, "select", "other", "mine")
    assert "selection name 'No Name' cannot be used" in refused(capsys, "select", "talk", "No Name")
    assert main(["select", "talk", "mine", "--count", "2"]) == 0
    assert "chosen      2 of 5 samples" in capsys.readouterr().out
    assert "There is a selection 'mine' already" in refused(capsys, "select", "talk", "mine", "--count", "3")
    assert open_selection(scored, "mine").ids == ["a", "b"]


def test_scores_without_a_score_can_be_drawn_from(home: Workspace, capsys: Printed) -> None:
    ScoreTable({**INFO, "id": "bare"}, [sample("a"), sample("b")]).save(home)
    assert "hold no score to choose by: take --strategy random or all" in refused(capsys, "select", "bare", "mine")
    assert answer(capsys, "select", "bare", "mine", "--strategy", "all")["ids"] == ["a", "b"]


# ---- selection -------------------------------------------------------------------------------------------------------


def test_a_selection_goes_out_and_comes_in_again(scored: Workspace, tmp_path: Path, capsys: Printed) -> None:
    Selection.of(TABLE, rule(strategy="all"), discard=["a"]).save(scored, "most")
    out = tmp_path / "out.jsonl"
    assert main(["selection", "export", "most", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n" and out.read_text().count("\n") == 4
    assert f"{out} is there already" in refused(capsys, "selection", "export", "most", str(out))
    found = answer(capsys, "selection", "import", "again", str(out), "--scores", "talk")
    assert found["ids"] == ["c", "e", "b", "d"] and found["rule"]["strategy"] == "by-hand"
    assert answer(capsys, "selection", "show", "again") == found
    assert [one["name"] for one in answer(capsys, "selection", "list")] == ["again", "most"]
    assert main(["selection", "list"]) == 0
    assert "4 samples       140 tokens  all, in their order" in capsys.readouterr().out
    out.write_text('{"id": "zz"}\n')
    says = refused(capsys, "selection", "import", "bad", str(out), "--scores", "talk")
    assert "out.jsonl does not fit these scores (line 1: the id 'zz' is unknown)" in says
    for name in ("again", "most"):
        assert main(["selection", "remove", name]) == 0
    assert "selection most removed\n" in capsys.readouterr().out
    assert "There is no selection 'most': score a source" in refused(capsys, "selection", "remove", "most")
    assert main(["selection", "list"]) == 0 and "no selections yet" in capsys.readouterr().out


def test_a_damaged_selection_is_named(scored: Workspace, capsys: Printed) -> None:
    Selection.of(TABLE, rule(strategy="all")).save(scored, "most")
    (scored.root / "selections" / "most" / "selection.json").write_text("{}")
    assert "it lacks chosen" in refused(capsys, "selection", "show", "most")
    assert main(["selection", "list"]) == 0
    assert "most cannot be read: its selection.json is damaged" in capsys.readouterr().err
