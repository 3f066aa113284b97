"""The command line as scripts see it: exit codes, one sentence on stderr, one JSON document on stdout, and docs/cli.md.

One recipe is run to its end with real worker processes and shared; else jobs run inside this process.
"""

import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from in_process import InProcess, write_prose
from made import made_run
from made import stage_of as stage_of_draft
from peft import PeftModel
from test_machine import PLAIN
from transformers import AutoModelForCausalLM

from mixcpt import guesses, machine, recipes, submission, supervisor, worker
from mixcpt.cli import main
from mixcpt.corpus import Corpus
from mixcpt.drafts import Guess
from mixcpt.jobs import Jobs
from mixcpt.notebook import Notebook
from mixcpt.runs import Run, Runs
from mixcpt.settings import override, validate
from mixcpt.stages import Stage
from mixcpt.workspace import Workspace

DOCUMENT = Path(__file__).parents[1] / "docs" / "cli.md"


@dataclass
class Output:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout as one JSON document; `loads` refuses anything before or after it."""
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


Cli = Callable[..., Output]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: object) -> Output:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return Output(code, out, err)

    return call


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty workspace, named by MIXCPT_HOME; the working directory is empty too."""
    monkeypatch.setenv("MIXCPT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return Workspace()


def stage_of(model: Path) -> dict[str, Any]:
    return {
        "model": {"name": str(model), "precision": "fp32", "device": "cpu"},
        "mixture": {
            "budget_tokens": 512,
            "row_tokens": 128,
            "sources": [{"source": "field", "share": 3, "domain": True}, {"source": "world", "share": 1}],
        },
        "training": {"learning_rate": 5e-3},
        "measures": {
            "every_steps": 1,
            "domain_tokens": 100,
            "general_tokens": 100,
            "prompt_tokens": 50,
            "general": "world",
        },
        "evaluation": {"tasks": []},
    }


def write_recipe(folder: Path, model: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({"name": "tiny", "cpt": stage_of(model)} | changes))
    return path


# --- one recipe, with corpora, tuning, an arm under two seeds and questions, by the installed command and real workers


@dataclass
class Finished:
    workspace: Workspace
    output: Output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Finished:
    folder = tmp_path_factory.mktemp("recipe")
    write_prose(folder / "field.jsonl", range(40))
    write_prose(folder / "world.jsonl", range(100, 140))
    questions = [{"question": "Who weighs?", "choices": ["the miller", "a cat"], "answer": n % 2} for n in range(4)]
    (folder / "asked.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    recipe = write_recipe(
        folder,
        tiny_model_folder,
        corpora=[{"name": "field", "files": ["field.jsonl"]}, {"name": "world", "files": ["world.jsonl"]}],
        tune={"values": [1e-4, 5e-3], "budget_tokens": 256, "groups": {"ce": {"objective.retention": "none"}}},
        arms=[{"name": "asked", "tuned": "ce", "set": {"evaluation.tasks": ["asked.jsonl"]}}],
    )
    home = folder / "home"
    done = subprocess.run(
        [Path(sys.executable).with_name("mixcpt"), "run", recipe, "--json", "--set", "seeds=[0, 1]"],
        env={**os.environ, "MIXCPT_HOME": str(home)},
        cwd=home.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return Finished(Workspace(home), Output(done.returncode, done.stdout, done.stderr))


@pytest.fixture
def there(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """MIXCPT_HOME is that recipe's workspace; its two runs."""
    assert finished.output.code == 0, finished.output.err
    monkeypatch.setenv("MIXCPT_HOME", str(finished.workspace.root))
    return [run for run in Runs(finished.workspace).all() if run.info.arm == "asked"]


def test_a_recipe_runs_to_its_end_with_real_workers(finished: Finished, there: list[Run]) -> None:
    printed = finished.output.json
    assert printed["recipe"] == "tiny"
    assert [(run["id"], run["arm"], run["seed"], run["status"]) for run in printed["runs"]] == [
        (run.id, "asked", seed, "done") for seed, run in enumerate(there)
    ]
    assert "Traceback" not in finished.output.err and "Error" not in finished.output.err
    for run in Runs(finished.workspace).all():
        assert run.id in finished.output.err, "whoever waits wants to know what is running"
    kinds = [(job.kind, job.state) for job in Jobs(finished.workspace).all()]
    assert sorted(kinds) == [("evaluate", "done")] * 2 + [("ingest", "done")] * 2 + [("train", "done")] * 4
    pids = {job.status.pid for job in Jobs(finished.workspace).all()}
    assert len(pids) == 8 and os.getpid() not in pids, "each job has a process of its own"
    for run in there:
        assert run.results()["evaluation"]["final"]["asked"]["items"] == 4
        assert run.curve()[-1]["measure"]["domain_bits_per_byte"] < run.curve()[0]["measure"]["domain_bits_per_byte"]


def test_runs_as_json_and_as_text(there: list[Run], cli: Cli) -> None:
    shown = cli("runs", "--json")
    assert shown.code == 0 and shown.err == ""
    check_keys("mixcpt runs", shown.json)
    assert [(row["id"], row["arm"]) for row in shown.json][2:] == [(run.id, "asked") for run in there]
    assert [row["arm"] for row in shown.json][:2] == ["tune ce 0.0001", "tune ce 0.005"]
    row = shown.json[2]
    assert row["scores"] == there[0].curve()[-1]["measure"] and row["tokens"] == there[0].curve()[-1]["tokens"]
    lines = cli("runs").out.splitlines()
    assert len(lines) == 4 and lines[2].startswith(f"{there[0].id}  done") and "domain_bits_per_byte" in lines[2]


def test_jobs_as_json_and_as_text(there: list[Run], cli: Cli) -> None:
    shown = cli("jobs", "--json")
    check_keys("mixcpt jobs", shown.json)
    assert [(row["kind"], row["run"]) for row in shown.json][-2:] == [("train", there[1].id), ("evaluate", there[1].id)]
    assert shown.json[0]["run"] is None and "Corpus field" in shown.json[0]["message"]
    assert len(cli("jobs").out.splitlines()) == 8


def test_show_as_json_and_as_text(there: list[Run], cli: Cli) -> None:
    run = there[0]
    shown = cli("show", run.id, "--json").json
    check_keys("mixcpt show", [shown])
    assert validate(Stage, shown["config"], "what was shown") == run.config
    assert (shown["curve"], shown["results"], shown["folder"]) == (run.curve(), run.results(), str(run.folder))
    assert [job["kind"] for job in shown["jobs"]] == ["train", "evaluate"]
    text = cli("show", run.id[:-1]).out
    assert text.startswith(f"run {run.id}  done") and "asked: 50.0% → " in text and str(run.folder) in text


def test_compare_as_json_csv_and_text(there: list[Run], cli: Cli) -> None:
    shown = cli("compare", "tiny", "--json")
    assert shown.err == ""
    found = shown.json
    check_keys("mixcpt compare", [found])
    assert [row["run"] for row in found["runs"]] == [run.id for run in there], "tuning is no result"
    rows = [{key.replace("asked", "TASK"): value for key, value in row.items()} for row in found["runs"]]
    of_general = {"general_forgetting", "general_forgetting_interval"}
    where_some_are_found = {"TASK_uncontaminated", "TASK_uncontaminated_difference", "left_out"}
    of_form = {key for key in documented("mixcpt compare", 1) if key.startswith("format_")}
    check_keys("mixcpt compare", rows, table=1, missing=of_general | where_some_are_found | of_form)
    (arm,) = found["arms"]
    assert arm["seeds"] == [0, 1]
    low, high = arm["domain_gain_ci"]
    assert low < arm["domain_gain"] < high
    assert cli("compare", there[0].id, "tiny", "--json").json["runs"] == found["runs"], "a run is named once"
    csv = cli("compare", "tiny", "--csv")
    assert len(csv.out.splitlines()) == 3 and csv.out.startswith("run,experiment,arm,") and csv.err == ""
    text = cli("compare", "tiny")
    assert text.out.splitlines()[2].startswith("asked  2") and "over seeds" in text.err


def test_compare_at_equal_domain_tokens(there: list[Run], cli: Cli) -> None:
    first = cli("compare", there[0].id, "--json").json["runs"][0]
    point = there[0].curve()[1]
    wanted = round(point["tokens"] * first["domain_tokens"] / first["tokens"])
    (row,) = cli("compare", there[0].id, "--domain-tokens", wanted, "--json").json["runs"]
    assert row["tokens"] == point["tokens"] and "asked_accuracy" not in row
    refused = cli("compare", there[0].id, "--domain-tokens", 10**9)
    assert_refused(refused, "no measure near 1,000,000,000 domain tokens")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_exported_adapter_is_loaded_by_plain_peft(
    there: list[Run], cli: Cli, tiny_model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "adapter"
    done = cli("export", there[0].id, "--to", "adapter", out)
    assert (done.code, done.out) == (0, f"{out}\n") and "export asked, adapter: done" in done.err
    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    ids = torch.tensor([[40, 50, 60, 70]])
    with torch.no_grad():
        before = base(ids).logits
        after = PeftModel.from_pretrained(base, str(out)).eval()(ids).logits
    assert (after - before).abs().max() > 0.01
    refused = cli("export", there[0].id, out)
    assert refused.code == 2 and f"{out} is there already" in refused.err


def test_a_run_that_is_done_can_neither_be_cancelled_nor_resumed(there: list[Run], cli: Cli) -> None:
    assert_refused(cli("cancel", there[0].id), f"Run {there[0].id} is done, so there is nothing to cancel")
    assert_refused(cli("resume", there[0].id), "is done")


# --- corpora, by real workers, which need no torch


def test_corpus_add_show_list_and_remove(home: Workspace, cli: Cli, tiny_model_folder: Path, tmp_path: Path) -> None:
    write_prose(tmp_path / "one.jsonl", range(20))
    (tmp_path / "two.txt").write_text("The wells of the east are dug by hand, and roofed before the first snow falls.")
    added = cli("corpus", "add", "wells", "one.jsonl", "two.txt", "--model", tiny_model_folder, "--json")
    assert added.code == 0, added.err
    manifest = added.json
    check_keys("mixcpt corpus show", [manifest])
    assert (manifest["name"], manifest["kind"], manifest["documents"]) == ("wells", "documents", 21)
    assert [(file["name"], file["documents"]) for file in manifest["files"]] == [("one.jsonl", 20), ("two.txt", 1)]
    assert manifest["tokens"] == manifest["bytes"], "this model's tokens are bytes"
    assert "ingest wells: done" in added.err
    assert cli("corpus", "show", "wells", "--json").json == manifest
    assert cli("corpus", "list", "--json").json == [manifest]
    text = cli("corpus", "show", "wells").out
    assert "documents        21" in text and "files            2" in text
    assert cli("corpus", "list").out.startswith("wells")

    again = cli("corpus", "add", "wells", "two.txt", "--model", tiny_model_folder)
    assert_refused(again, "a corpus 'wells' already: choose another name, or add --replace")
    assert cli("corpus", "remove", "wells").code == 0
    assert cli("corpus", "list", "--json").json == []
    assert_refused(cli("corpus", "show", "wells"), "no corpus 'wells'")


def test_a_job_that_finds_its_input_bad_is_exit_code_2_and_its_sentence(
    home: Workspace, cli: Cli, tiny_model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text("Too little.")
    failed = cli("corpus", "add", "short", "short.txt", "--model", tiny_model_folder, "--json")
    assert (failed.code, failed.out) == (2, "")
    last = failed.err.splitlines()[-1]
    assert last.startswith("mixcpt: The corpus 'short'") and "add more text" in last
    (job,) = cli("jobs", "--json").json
    assert (job["status"], job["kind"]) == ("failed", "ingest") and job["message"] in last


# --- cancel, resume, rerun


@pytest.fixture
def queued(small_corpora: Workspace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Workspace, Run]:
    """A run that waits, in a workspace whose jobs run inside this process."""
    monkeypatch.setenv("MIXCPT_HOME", str(small_corpora.root))
    monkeypatch.setattr(recipes, "Supervisor", InProcess)
    monkeypatch.setattr(supervisor, "Supervisor", InProcess)
    stage = override(validate(Stage, stage_of(tiny_model_folder), "the test"), {"mixture.budget_tokens": 256})
    run = Runs(small_corpora).create(stage, experiment="tiny", arm="only")
    submission.submit_run(small_corpora, run)
    return small_corpora, run


def test_cancel_resume_and_rerun(queued: tuple[Workspace, Run], cli: Cli) -> None:
    workspace, run = queued
    cancelled = cli("cancel", run.id)
    assert cancelled.code == 0 and f"mixcpt resume {run.id}" in cancelled.out
    assert run.state(Jobs(workspace)) == "cancelled"
    assert_refused(cli("cancel", run.id), "is cancelled, so there is nothing to cancel")
    assert_refused(cli("export", run.id, "out"), "is cancelled and has no adapter yet")

    resumed = cli("resume", run.id[:-2])
    assert (resumed.code, resumed.out) == (0, f"{run.id}\n")
    assert run.state(Jobs(workspace)) == "done" and "train only: done" in resumed.err

    rerun = cli("rerun", run.id)
    again = Runs(workspace).get(rerun.out.strip())
    assert rerun.code == 0 and again.id != run.id
    measured = [[(point["step"], point["measure"]) for point in one.curve()] for one in (run, again)]
    assert measured[0] == measured[1], "the same configuration gives the same run"
    rows = cli("runs", "--json").json
    assert [row["id"] for row in rows] == [run.id, again.id]
    assert [row["status"] for row in rows] == ["done", "done"]


def test_a_running_run_is_asked_to_stop(queued: tuple[Workspace, Run], cli: Cli) -> None:
    workspace, run = queued
    (job,) = Jobs(workspace).all()
    job.update(state="running", pid=os.getpid())
    assert cli("cancel", run.id).code == 0
    assert (job.state, job.requested()) == ("running", "cancel"), "the worker ends by itself and saves first"
    assert_refused(cli("resume", run.id), "is running")


def test_a_failed_job_is_exit_code_1(
    queued: tuple[Workspace, Run],
    cli: Cli,
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = write_recipe(tmp_path, tiny_model_folder)
    with monkeypatch.context() as patch:
        patch.setitem(worker.HANDLERS, "train", "in_process:diverge")
        failed = cli("run", recipe, "--json")
        again = cli("rerun", failed.json["runs"][0]["id"])
    assert (failed.code, again.code) == (1, 1)
    assert again.err.splitlines()[-1] == "mixcpt: The loss became nan at step 5: lower the learning rate."
    (row,) = failed.json["runs"]
    assert row["status"] == "failed"
    last = failed.err.splitlines()[-1]
    assert last.startswith("mixcpt: ") and row["id"] in last and "The loss became nan at step 5" in last
    plain = cli("run", recipe, "--set", "cpt.mixture.budget_tokens=256")
    assert plain.code == 0
    assert plain.out.split() == [cli("runs", "--json").json[-1]["id"]], "ids on stdout and nothing else"


def test_an_experiment_that_is_not_finished_cannot_be_compared(queued: tuple[Workspace, Run], cli: Cli) -> None:
    _, run = queued
    assert_refused(cli("compare", "tiny"), "experiment 'tiny' has no finished run yet")
    assert_refused(cli("compare", run.id), f"Run {run.id} has no measures yet")


def test_comparing_an_experiment_says_how_many_runs_are_left_out(queued: tuple[Workspace, Run], cli: Cli) -> None:
    workspace, waiting = queued
    for arm in ("only", "tune ce 0.1"):
        run = Runs(workspace).create(waiting.config, experiment="tiny", arm=arm)
        run.append({"step": 0, "tokens": 0, "measure": {"general_bits_per_byte": 1.0}})
        Jobs(workspace).submit("train", {}, run=run.id).update(state="done")
    compared = cli("compare", "tiny", "--json")
    assert compared.code == 0 and len(compared.json["runs"]) == 1
    assert compared.err == "tiny: 1 of 2 runs left out, for they are not finished\n"


# --- what the app offers, from a terminal


@pytest.fixture
def two_runs(small_corpora: Workspace, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Two finished runs of the experiment `trial`, nothing trained."""
    monkeypatch.setenv("MIXCPT_HOME", str(small_corpora.root))
    return [made_run(small_corpora, seed=seed, stage=stage_of_draft(training__learning_rate=rate))
            for seed, rate in ((0, 1e-3), (1, 1e-4))]  # fmt: skip


def test_rename_and_tag(two_runs: list[Run], cli: Cli) -> None:
    run = two_runs[0]
    assert cli("rename", run.id, "high *rate*").code == 0
    assert cli("tag", run.id, "keep", "wells").out == f"{run.id}  keep, wells\n"
    (row,) = [row for row in cli("runs", "--json").json if row["id"] == run.id]
    assert (row["name"], row["tags"]) == ("high *rate*", ["keep", "wells"])
    shown = cli("show", run.id, "--json").json
    assert (shown["name"], shown["tags"]) == ("high *rate*", ["keep", "wells"])
    assert cli("tag", run.id).out == f"{run.id}  no tags\n"
    assert_refused(cli("rename", run.id, "two\nlines"), "cannot be seen")


def test_delete_asks_or_wants_yes(two_runs: list[Run], cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    run = two_runs[0]

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert_refused(cli("delete", run.id), "add --yes")
    monkeypatch.setattr(sys, "stdin", Terminal("no\n"))
    assert "Nothing was deleted" in cli("delete", run.id).err and run.folder.exists()
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert cli("delete", run.id).out == f"run {run.id} deleted\n" and not run.folder.exists()
    assert cli("delete", two_runs[1].id, "--yes").code == 0
    assert cli("runs", "--json").json == []


def test_corpus_search(two_runs: list[Run], cli: Cli) -> None:
    found = cli("corpus", "search", "field", "MILLER OF place", "--limit", 3, "--json")
    check_keys("mixcpt corpus search", [found.json])
    documents = Corpus.open(Workspace(), "field").documents()
    assert found.json["total"] == len(documents)
    assert [one["text"] for one in found.json["documents"]] == [document.text for document in documents[:3]]
    assert cli("corpus", "search", "field", "no such words", "--json").json == {"total": 0, "documents": []}
    assert f"of {len(documents)} documents hold" in cli("corpus", "search", "field", "barley").out
    assert_refused(cli("corpus", "search", "gone", "x"), "no corpus 'gone'")
    assert cli("corpus", "search", "field", "x", "--limit", -1).code == 2


def test_estimate_of_every_arm(two_runs: list[Run], cli: Cli, tiny_model_folder: Path, tmp_path: Path) -> None:
    machine.keep(Workspace(), PLAIN)
    arms = [{"name": "one"}, {"name": "two", "set": {"mixture.budget_tokens": 1024}}]
    tune = {"values": [1e-4, 1e-3, 1e-2], "budget_tokens": 256, "groups": {"ce": {"objective.retention": "none"}}}
    recipe = write_recipe(tmp_path, tiny_model_folder, arms=arms, seeds=[0, 1], tune=tune)
    found = cli("estimate", recipe, "--json").json
    check_keys("mixcpt estimate", [found])
    assert [(arm["arm"], arm["runs"]) for arm in found["arms"]] == [("tune ce", 3), ("one", 2), ("two", 2)]
    assert found["seconds"] == pytest.approx(sum(arm["runs"] * arm["seconds"] for arm in found["arms"]))
    assert found["arms"][2]["seconds"] > found["arms"][1]["seconds"]
    assert found["memory_bytes"] == max(arm["memory_bytes"] for arm in found["arms"])
    assert "two" in cli("estimate", recipe).out and "in all" in cli("estimate", recipe).out


def test_preview_of_a_row(two_runs: list[Run], cli: Cli, tiny_model_folder: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tiny_model_folder)
    found = cli("preview", recipe, "--row", 1, "--json").json
    check_keys("mixcpt preview", [found])
    rows = found["mixture"]["rows"]
    assert rows >= 4  # 512 tokens in rows of 128
    assert found["row"]["number"] == 1 and len(found["row"]["tokens"]) + found["row"]["room"] == 128
    text = cli("preview", recipe, "--row", 1).out
    assert f"row 1 of {rows}: " in text and "--- field: " in text and "⟦" in text and "asked for 75.0%" in text
    assert_refused(cli("preview", recipe, "--row", rows), f"no row {rows}", f"has {rows}")


def test_guess_and_outcome(two_runs: list[Run], cli: Cli, tiny_model_folder: Path, tmp_path: Path) -> None:
    """made_run: the field from 1.6 to 1.22 bits per byte, general text from 1.25 to 1.345 (at 95 % of the change)."""
    guesses.keep(two_runs[0], Guess(domain_gain=20, forgetting=3))
    shown = cli("show", two_runs[0].id, "--json").json
    check_keys("mixcpt show", [shown])
    assert (shown["guess"]["domain_gain"], shown["guess"]["forgetting"]) == (20, 3)
    assert shown["guess"]["outcome"]["domain_gain"] == pytest.approx(100 * 0.4 * (1 - math.exp(-3)) / 1.6)
    assert f"guess: {shown['guess']['sentence']}" in cli("show", two_runs[0].id).out
    assert cli("show", two_runs[1].id, "--json").json["guess"] is None
    recipe = write_recipe(tmp_path, tiny_model_folder)
    for wrong in ("20", "gain=20", "gain=x,forgetting=3", "gain=20,forgetting=3,more=1"):
        assert_refused(cli("run", recipe, "--guess", wrong), "guess")


def test_a_guess_is_kept_with_the_runs(queued: tuple[Workspace, Run], cli: Cli, tmp_path: Path,
                                       tiny_model_folder: Path) -> None:  # fmt: skip
    recipe = write_recipe(tmp_path, tiny_model_folder)
    done = cli("run", recipe, "--set", "cpt.mixture.budget_tokens=256", "--guess", "gain=20,forgetting=3")
    assert done.code == 0
    run = Runs(queued[0]).get(done.out.strip())
    assert guesses.read(run) == Guess(domain_gain=20, forgetting=3)
    assert cli("show", run.id, "--json").json["guess"]["outcome"] is not None


def test_compare_as_a_page_and_as_differences(two_runs: list[Run], cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert cli("compare", "trial", "--html", out).out == f"{out}\n"
    assert out.read_text().startswith("<!doctype html>") and two_runs[0].id in out.read_text()
    diff = cli("compare", "trial", "--diff", "--json").json
    rates = {row["setting"]: row["values"] for row in diff}["training.learning_rate"]
    assert list(rates) == [run.id for run in two_runs] and len(set(rates.values())) == 2
    assert "training.learning_rate" in cli("compare", "trial", "--diff").out
    assert cli("compare", "trial", "--diff", "--csv").code == 2


def test_charts_notes_and_pins(two_runs: list[Run], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "plane.html"
    assert cli("chart", "plane", "trial", "--out", out).out == f"{out}\n"
    assert "Gain against forgetting" in out.read_text()
    assert cli("chart", "lengths", "field", "--out", out).code == 0
    assert_refused(cli("chart", "pie", "trial", "--out", out), "no chart 'pie'", "plane")

    assert cli("note", "trial", "It **works**.").code == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO("From a file."))
    assert cli("note", "trial", "-").code == 0
    assert_refused(cli("note", "trial", "  "), "The note is empty")
    first = cli("pin", "trial", "plane", "trial", "--caption", "All")
    assert first.out == cli("pin", "trial", "plane", "trial", "--caption", "All").out, "pinned once"
    assert_refused(cli("pin", "trial", "pie", "trial"), "no chart 'pie'")
    kept = Notebook(Workspace(), "trial").read()
    assert [note.text for note in kept.notes] == ["It **works**.", "From a file."]
    assert [(pin.chart, pin.subjects) for pin in kept.pins] == [("plane", tuple(run.id for run in two_runs))]


def test_the_notebook_as_a_file(two_runs: list[Run], cli: Cli, tmp_path: Path) -> None:
    cli("note", "trial", "It **works**.")
    printed = cli("notebook", "trial").out
    assert printed.startswith("# Notebook: trial") and "It **works**" in printed
    for kind, sign in (("html", "<!doctype html>"), ("ipynb", '"nbformat"'), ("md", "# Notebook")):
        out = tmp_path / f"notebook.{kind}"
        assert cli("notebook", "trial", "--to", kind, "--out", out).out == f"{out}\n"
        assert sign in out.read_text() and "works" in out.read_text()
    assert_refused(cli("notebook", "gone"), "no experiment 'gone'", "take one of trial")


def test_pause_and_rerun_with_changes(queued: tuple[Workspace, Run], cli: Cli) -> None:
    workspace, run = queued
    assert f"mixcpt resume {run.id}" in cli("pause", run.id).out and run.state(Jobs(workspace)) == "paused"
    done = cli("rerun", run.id, "--set", "training.learning_rate=1e-4")
    again = Runs(workspace).get(done.out.strip())
    assert again.config == override(run.config, {"training.learning_rate": 1e-4}) and again.info.arm == ""
    assert_refused(cli("rerun", run.id, "--set", "training.rate=1"), "'training.rate' is unknown")


def test_the_recorded_experiment(home: Workspace, cli: Cli) -> None:
    ids = cli("recorded").out.split()
    assert ids and [row["id"] for row in cli("runs", "--json").json] == ids == cli("recorded").out.split()
    assert {row["status"] for row in cli("runs", "--json").json} == {"done"}


# --- bad input


def assert_refused(output: Output, *parts: str) -> None:
    """Exit code 2, nothing on stdout, one sentence on stderr."""
    assert output.code == 2, output.err
    assert output.out == ""
    assert output.err.startswith("mixcpt: ") and output.err.endswith((".\n", "?\n"))
    assert output.err.count("\n") == 1
    for part in parts:
        assert part in output.err


@pytest.mark.parametrize("command", ["show", "cancel", "resume", "rerun", "compare"])
def test_an_unknown_run_is_refused(home: Workspace, cli: Cli, command: str) -> None:
    assert_refused(cli(command, "cpt-2020"), "no run 'cpt-2020'", "mixcpt runs")


def test_an_unknown_run_cannot_be_exported(home: Workspace, cli: Cli, tmp_path: Path) -> None:
    assert_refused(cli("export", "cpt-2020", tmp_path / "out"), "no run 'cpt-2020'")
    assert not (tmp_path / "out").exists()


def test_recipes_that_are_none(home: Workspace, cli: Cli, tmp_path: Path) -> None:
    assert_refused(cli("run", "nowhere.yaml"), "no recipe at nowhere.yaml")
    assert_refused(cli("run", tmp_path), f"{tmp_path} is a folder")
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert_refused(cli("run", "list.yaml"), "list.yaml holds list instead of settings")
    (tmp_path / "broken.yaml").write_text("name: [\n")
    assert_refused(cli("run", "broken.yaml"), "broken.yaml is not valid YAML: ", "in line 2, column 1; correct it")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    assert_refused(cli("run", "latin.yaml"), "latin.yaml is not valid YAML: 'utf-8'", "save it as UTF-8")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("cpt.training.learning_rat=1e-4", ("'cpt.training.learning_rat' is unknown", "'learning_rate'?")),
        ("cpt.mixture.sources.0.share=0", ("shares of sources sum to 0", "above 0")),
        ("cpt.training.learning_rate=-1", ("'cpt.training.learning_rate' is -1", "greater than 0")),
        ("cpt.mixture.sources.0.source=nowhere", ("no corpus 'nowhere'",)),
        ("cpt.model.name=no-such-model", ("model 'no-such-model' is unknown", "smollm2-135m")),
        ("cpt.model.name=./no-such-folder", ("no model folder at ", "/no-such-folder: check the path")),
        ("cpt.evaluation.tasks=[gone.jsonl]", ("no question set", "gone.jsonl")),
        ("nonsense", ("--set 'nonsense' cannot be read", "name=value")),
    ],
)
def test_settings_that_cannot_be(
    home: Workspace, cli: Cli, tiny_model_folder: Path, tmp_path: Path, change: str, parts: tuple[str, ...]
) -> None:
    stage = stage_of(tiny_model_folder)
    stage["mixture"]["sources"][1]["share"] = 0
    recipe = write_recipe(tmp_path, tiny_model_folder, cpt=stage)
    assert_refused(cli("run", recipe, "--set", change), *parts)
    assert cli("jobs", "--json").json == [] and cli("runs", "--json").json == []


def test_an_unknown_key_in_the_file_is_named(
    home: Workspace, cli: Cli, tiny_model_folder: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, tiny_model_folder, sedes=[1])
    assert_refused(cli("run", recipe), "tiny.yaml", "'sedes' is unknown: did you mean 'seeds'?")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["x", "gone.txt"], "no file or folder 'gone.txt'"),
        (["Bad/Name", "a.txt"], "corpus name 'Bad/Name' cannot be used"),
        (["x", "a.txt", "--model", "no-such-model"], "model 'no-such-model' is unknown"),
        (["x", "a.txt", "--where", "split"], "--where ['split'] cannot be read"),
        (["builtin-atlas", "a.txt"], "'builtin-atlas' has a name kept for built-in sources"),
    ],
)
def test_corpora_that_cannot_be_added(
    home: Workspace, cli: Cli, tiny_model_folder: Path, tmp_path: Path, arguments: list[str], part: str
) -> None:
    (tmp_path / "a.txt").write_text("words")
    assert_refused(cli("corpus", "add", "--model", tiny_model_folder, *arguments), part)
    assert cli("jobs", "--json").json == []


def test_unknown_corpora(home: Workspace, cli: Cli) -> None:
    assert_refused(cli("corpus", "show", "wells"), "no corpus 'wells'")
    assert_refused(cli("corpus", "remove", "wells"), "no corpus 'wells'")


def test_a_workspace_that_is_a_file_is_refused(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MIXCPT_HOME", str(tmp_path / "file"))
    assert_refused(cli("runs"), "is a file", "MIXCPT_HOME")


def test_a_workspace_that_cannot_be_made_is_said_in_one_sentence(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXCPT_HOME", "/proc/nowhere")
    failed = cli("runs")
    assert failed.code == 1 and failed.out == ""
    assert failed.err.startswith("mixcpt: ") and "/proc/nowhere" in failed.err and failed.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["show"], ["runs", "--jsn"]])
def test_wrong_usage_is_exit_code_2(home: Workspace, cli: Cli, arguments: list[str]) -> None:
    refused = cli(*arguments)
    assert (refused.code, refused.out) == (2, "") and "usage: mixcpt" in refused.err


def test_an_empty_workspace_is_empty_lists_and_a_hint(home: Workspace, cli: Cli) -> None:
    for command in (["runs"], ["jobs"], ["corpus", "list"]):
        assert cli(*command, "--json").json == []
        assert "no " in cli(*command).out


def test_a_reader_that_goes_away_is_no_error(home: Workspace) -> None:
    """As in `mixcpt runs | head -1`."""
    read, write = os.pipe()
    os.close(read)
    command = [str(Path(sys.executable).with_name("mixcpt")), "runs"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.stderr == ""


def test_the_doctor_as_json(home: Workspace, cli: Cli) -> None:
    shown = cli("doctor", "--json")
    assert shown.code == 0
    check_keys("mixcpt doctor", [shown.json])
    assert shown.json["precision"] in ("nf4", "bf16", "fp32") and shown.json["memory_gb"] > 0.5


# --- docs/cli.md tells the truth


TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "whole number": (int,),
    "number": (int, float),
    "list": (list,),
    "object": (dict,),
}


def documented(section: str, table: int = 0) -> dict[str, tuple[type, ...]]:
    """Key to allowed types, from the `table`-th table below a heading; a type in italics may be null."""
    (body,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", DOCUMENT.read_text("utf-8"), re.M | re.S)
    rows = re.split(r"^\| key \| type \| meaning \|\n\|---\|---\|---\|\n", body, flags=re.M)[table + 1]
    keys: dict[str, tuple[type, ...]] = {}
    for names, kind in re.findall(r"^\| ([^|]+) \| ([^|]+) \|", rows.split("\n\n")[0], re.M):
        types = TYPES[kind.split(",")[0].strip("* ")]
        for name in re.findall(r"`([\w]+)`", names):
            keys[name] = types + ((type(None),) if kind.startswith("*") else ())
    return keys


def check_keys(section: str, rows: list[dict[str, Any]], table: int = 0, missing: set[str] | None = None) -> None:
    """Every row has exactly the documented keys (but `missing`), each of a documented type."""
    keys = documented(section, table)
    assert rows and keys
    for row in rows:
        assert row.keys() == keys.keys() - (missing or set())
        for key, value in row.items():
            assert isinstance(value, keys[key]) and not isinstance(value, bool), (key, value)
