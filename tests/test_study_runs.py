"""Studies carried out with a tiny model, in this process: to the end, stopped in between, and taken up again."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from in_process import InProcess, diverge
from made import made_run

from mixcpt import doctor, machine, study_runs, worker
from mixcpt.cli import main
from mixcpt.errors import BadInput, MixcptError
from mixcpt.estimate import reading_seconds, shape_of
from mixcpt.figures import signed
from mixcpt.jobs import Jobs
from mixcpt.matrices import arms
from mixcpt.measured import alike, points
from mixcpt.measuring import measure
from mixcpt.mixture import prepare
from mixcpt.runs import Run, Runs
from mixcpt.settings import override
from mixcpt.statistics import detectable
from mixcpt.studies import Study, grid, last_runs, make, save
from mixcpt.study_kinds import Choice
from mixcpt.study_results import beside, power, results
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace


@pytest.fixture(autouse=True)
def quick(quick_machine: None) -> None:
    """A machine that need not be timed."""


def tiny(workspace: Workspace, model: Path, id: str = "lssd", then: Sequence[str] = (), **changes: Any) -> Study:
    """Two arms, two seeds, one step each, over the corpora `field` and `world`; nothing is asked."""
    choice = Choice(corpus="field", then=[*then], models=[str(model)], tokens=128, seeds=[0, 1], tune=False)
    study = make(workspace, id, choice, name="tiny")
    sources = [{"source": "field", "share": 3, "domain": True}, {"source": "world", "share": 1}]
    own = {
        "recipe.cpt.model.precision": "fp32",
        "recipe.cpt.model.device": "cpu",
        "recipe.cpt.mixture.sources": [*sources, *study.recipe.cpt.model_dump()["mixture"]["sources"][2:]],
        "recipe.cpt.mixture.row_tokens": 64,
        "recipe.cpt.measures.general": "world",
        "recipe.cpt.measures.every_steps": 0,
        "recipe.cpt.measures.domain_tokens": 100,
        "recipe.cpt.measures.general_tokens": 100,
        "recipe.cpt.measures.prompt_tokens": 0,
        "recipe.cpt.evaluation.tasks": [],
        "measured": 0,
    }
    return override(study, own | changes)


ONE_SEED: dict[str, Any] = {"recipe.seeds": [0], "choice.seeds": [0]}
"""Two runs and not four, where the seeds are not what is tested."""


def do(workspace: Workspace, study: Study) -> list[Run]:
    supervisor: Any = InProcess(workspace)
    return study_runs.carry_on(workspace, study, supervisor, say=lambda text: None, on_change=lambda job: None)


def states(workspace: Workspace, study: Study) -> list[str]:
    return [cell.state for line in grid(workspace, study) for cell in line]


def test_a_study_runs_every_arm_under_every_seed_and_writes_its_report(
    small_corpora: Workspace,
    tiny_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study = tiny(small_corpora, tiny_model_folder)
    assert states(small_corpora, study) == ["new"] * 4
    runs = do(small_corpora, study)
    assert [(run.info.arm, run.info.seed) for run in runs] == [
        ("LSSD off", 0), ("LSSD off", 1), ("LSSD on", 0), ("LSSD on", 1),
    ]  # fmt: skip
    assert states(small_corpora, study) == ["done"] * 4
    rows = results(small_corpora, study)
    assert [row["title"] for row in rows] == ["LSSD off", "LSSD off", "LSSD on", "LSSD on"]
    report = (small_corpora.experiments / "tiny" / "report.md").read_text().replace("\\", "")
    assert "# LSSD on and off" in report and "2 seeds" in report and all(run.id in report for run in runs)
    page = (small_corpora.experiments / "tiny" / "report.html").read_text()
    assert "plotly" in page and "What does LSSD do to my mixture?" in page
    monkeypatch.setenv("MIXCPT_HOME", str(small_corpora.root))
    capsys.readouterr()
    assert main(["study", "show", "tiny", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [cell["state"] for cell in shown["grid"]] == ["done"] * 4
    assert [claim["measure"] for claim in shown["claims"][0]["claims"]] == ["domain_gain", "forgetting"]
    assert main(["study", "show", "tiny"]) == 0 and "LSSD on" in capsys.readouterr().out
    assert main(["study", "report", "tiny"]) == 0 and "## Claim cards" in capsys.readouterr().out


def test_carrying_on_makes_no_run_twice_and_resumes_what_stopped(
    small_corpora: Workspace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = override(tiny(small_corpora, tiny_model_folder), ONE_SEED)
    handlers = dict(worker.HANDLERS)
    monkeypatch.setitem(worker.HANDLERS, "train", "in_process:diverge")
    with pytest.raises(MixcptError, match=r"2 of 2 runs of tiny did not end well.*mixcpt study run tiny"):
        do(small_corpora, study)
    assert diverge.__name__ == "diverge" and states(small_corpora, study) == ["failed"] * 2
    made = [run.id for run in Runs(small_corpora).all()]
    monkeypatch.setitem(worker.HANDLERS, "train", handlers["train"])
    assert sorted(run.id for run in do(small_corpora, study)) == sorted(made)
    jobs = len(Jobs(small_corpora).all())
    do(small_corpora, study)
    assert [run.id for run in Runs(small_corpora).all()] == made and len(Jobs(small_corpora).all()) == jobs


def test_tries_of_a_tuning_are_not_made_twice(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    tune = {"values": [1e-4, 1e-2], "budget_tokens": 64, "groups": {"ce": {"objective.retention": "none"}}}
    study = override(tiny(small_corpora, tiny_model_folder), ONE_SEED | {"recipe.tune": tune})
    do(small_corpora, study)
    tries = [run.id for run in Runs(small_corpora).all() if run.info.arm.startswith("tune ")]
    (small_corpora.experiments / "tiny" / "tuning.json").unlink()
    do(small_corpora, study)
    assert len(tries) == 2
    assert [run.id for run in Runs(small_corpora).all() if run.info.arm.startswith("tune ")] == tries


def test_finished_runs_are_measured_anew_and_at_the_strengths_that_are_asked_for(
    small_corpora: Workspace, tiny_model_folder: Path
) -> None:
    study = tiny(small_corpora, tiny_model_folder, measured=60, strengths={"LSSD off": [0.5]})
    runs = do(small_corpora, study)
    assert [[point.strength for point in points(run)] for run in runs] == [[0.5, 1.0], [0.5, 1.0], [1.0], [1.0]]
    rows = results(small_corpora, study)
    weaker = [row for row in rows if row["arm"] == "LSSD off, strength 0.5"]
    assert len(rows) == 6 and [row["seed"] for row in weaker] == [0, 1]
    whole = points(runs[0])[1]
    assert (rows[0]["domain_gain"], rows[0]["forgetting"]) == (whole.gain, whole.forgetting)
    assert weaker[0]["domain_gain"] == points(runs[0])[0].gain
    report = (small_corpora.experiments / "tiny" / "report.md").read_text().replace("\\", "")
    assert "LSSD off, strength 0.5" in report
    jobs = len(Jobs(small_corpora).all())
    do(small_corpora, study)
    assert len(Jobs(small_corpora).all()) == jobs
    # One run measured on more text must not be held against the others; carrying on puts all on the same again.
    measure(small_corpora, runs[0], tokens=90)
    assert not alike(runs) and {row["measured_by"] for row in results(small_corpora, study)} == {"training"}
    assert beside(small_corpora, study) is None
    (more,) = measure(small_corpora, runs[0], on=["builtin/atlas"], usual=False, tokens=40)  # counts for nothing there
    do(small_corpora, study)
    told = beside(small_corpora, study)
    assert told is not None and told.columns == ["Arm", "builtin/atlas (bits/byte)"]
    assert told.rows == [["LSSD off", f"{signed(more.difference, 3)} (1 seed)"], ["LSSD on", "–"]]
    assert "## Measured besides" in (small_corpora.experiments / "tiny" / "report.md").read_text()
    assert alike(runs) and [row["domain_gain"] for row in results(small_corpora, study)] == [
        row["domain_gain"] for row in rows
    ]


def test_decoupled_and_joint_are_trained_and_compared_at_their_ends(
    small_corpora: Workspace, tiny_model_folder: Path
) -> None:
    study = override(tiny(small_corpora, tiny_model_folder, id="joint"), ONE_SEED)
    changes = {"evaluation.format_items": 0, "mixture.sources.1.source": "builtin/replay", "mixture.row_tokens": 256}
    study = override(study, {f"recipe.cpt.{path}": value for path, value in changes.items()})
    study = override(study, {"recipe.sft.samples": {"source": "builtin/instructions", "max_tokens": 250,
                                                    "rule": {"strategy": "random", "count": 2}}})  # fmt: skip
    runs = do(small_corpora, study)
    assert [(run.info.arm, run.info.stage) for run in runs] == [
        ("decoupled", "sft"), ("joint", "cpt"),
    ]  # fmt: skip
    assert states(small_corpora, study) == ["done"] * 2


def test_a_chain_is_trained_corpus_by_corpus_and_measured_on_all_of_them(
    small_corpora: Workspace,
    tiny_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study = tiny(small_corpora, tiny_model_folder, id="chain", then=["world"], measured=60)
    mixed = [{"source": "world", "share": 3, "domain": True}, {"source": "field", "share": 1}]
    study = override(study, {"recipe.then": [{"mixture.sources": mixed}]})
    ends = do(small_corpora, study)
    assert [(run.info.arm, run.info.seed) for run in ends] == [("CE", 0), ("CE", 1), ("CE + LSSD", 0), ("CE + LSSD", 1)]
    chains = [[one.config.mixture.domain_sources() for one in run.chain()] for run in ends]
    assert chains == [[["field"], ["world"]]] * 4 and states(small_corpora, study) == ["done"] * 4
    assert len(Runs(small_corpora).all()) == 8
    first, second = arms(ends)
    assert (first.title, first.seeds, first.missing) == ("CE", (0, 1), [])
    rows = results(small_corpora, study)
    back, ahead = first.figure("backward_transfer"), second.figure("forward_transfer")
    assert back and ahead and [row["backward_transfer"] for row in rows[:2]] == [*back.points]
    assert [row["forward_transfer"] for row in rows[2:]] == [*ahead.points]
    report = (small_corpora.experiments / "tiny" / "report.md").read_text().replace("\\", "")
    assert "## Every corpus after every stage" in report and "| 2. world |" in report
    assert "CE: Backward transfer" in report and "backward transfer" in report.split("## Claim cards")[1]
    assert "--then world" in report and "| Corpora, in turn | field, world |" in report
    assert "CE + LSSD<br>minus CE" in (small_corpora.experiments / "tiny" / "report.html").read_text().replace(
        "\\u003c", "<"
    ).replace("\\u003e", ">")
    monkeypatch.setenv("MIXCPT_HOME", str(small_corpora.root))
    capsys.readouterr()
    assert main(["matrix", "tiny"]) == 0
    out = capsys.readouterr().out
    assert "CE (seeds 0, 1)" in out and "CE + LSSD minus CE" in out
    assert main(["study", "show", "tiny"]) == 0 and "of earlier corpora" in capsys.readouterr().out
    jobs = len(Jobs(small_corpora).all())
    do(small_corpora, study)
    assert len(Jobs(small_corpora).all()) == jobs


# In the background


def test_a_study_is_queued_once_and_resumed(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    study = tiny(small_corpora, tiny_model_folder)
    job = study_runs.submit(small_corpora, study)
    assert study_runs.submit(small_corpora, study).id == job.id
    study_runs.stop(small_corpora, "tiny")
    assert job.state == "cancelled"
    with pytest.raises(BadInput, match="does not run"):
        study_runs.stop(small_corpora, "tiny")
    assert study_runs.submit(small_corpora, study).id == job.id and job.state == "queued"


def test_the_job_of_a_study_does_all_of_it(
    small_corpora: Workspace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Quiet(InProcess):
        def __init__(self, workspace: Workspace, check: Any):
            super().__init__(workspace)

    monkeypatch.setattr(study_runs, "_Stoppable", Quiet)
    study = override(tiny(small_corpora, tiny_model_folder), ONE_SEED)
    job = study_runs.submit(small_corpora, study)
    InProcess(small_corpora).run_until([job.id])
    assert (job.state, job.status.message) == ("done", "All 2 runs are done, and the report is written.")
    assert len(last_runs(small_corpora, study)) == 2


def test_a_stopped_job_stops_the_runs_that_wait(
    small_corpora: Workspace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny(small_corpora, tiny_model_folder)
    job = study_runs.submit(small_corpora, study)

    class Asked(study_runs._Stoppable):
        def step(self) -> None:
            job.request.write_text("cancel")  # as soon as the runs are there
            super().step()

    monkeypatch.setattr(study_runs, "_Stoppable", Asked)
    InProcess(small_corpora).run_until([job.id])
    assert job.state == "cancelled" and states(small_corpora, study) == ["cancelled"] * 4


# Beforehand


def test_the_cost_is_the_sum_over_runs_and_the_cache_is_shared(
    small_corpora: Workspace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = doctor.machine(small_corpora)
    monkeypatch.setattr(machine, "read", lambda workspace: facts)
    two = [{"source": "field", "share": 3, "domain": True}, {"source": "world", "share": 1}]
    study = override(tiny(small_corpora, tiny_model_folder), {"recipe.cpt.mixture.sources": two})
    prepare(small_corpora, study.recipe.cpt.mixture, TextTokenizer.from_folder(tiny_model_folder))
    whole = study_runs.cost(small_corpora, study)
    assert whole is not None and whole.runs == 4 and whole.tuning == 0
    assert sum(whole.arms.values()) == pytest.approx(whole.total)
    assert whole.arms["LSSD on"] > whole.arms["LSSD off"] and whole.measuring == 0
    # Four runs, two of them at half strength too, read the field, five kinds of general text and the prompts.
    measured = study_runs.cost(
        small_corpora, study.model_copy(update={"measured": 60, "strengths": {"LSSD off": [0.5]}})
    )
    assert measured is not None and measured.total == pytest.approx(whole.total + measured.measuring)
    one_token = reading_seconds(
        shape_of(tiny_model_folder), 1, device="cpu", precision="fp32", gflops=machine.peak_gflops(facts, "cpu", "fp32")
    )
    assert measured.measuring == pytest.approx(6 * 7 * 60 * one_token)
    # Long enough that every document is read: the second seed finds the teacher's states of the first.
    long = override(study, {"recipe.cpt.mixture.budget_tokens": 40_000})
    first = override(long, ONE_SEED)
    both, one = study_runs.cost(small_corpora, long), study_runs.cost(small_corpora, first)
    assert both is not None and one is not None
    assert one.saved == 0 and both.saved == pytest.approx(2 * one.total - both.total, rel=1e-3) and both.saved > 0


def test_the_cost_is_not_known_before_the_machine_is(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    assert study_runs.cost(small_corpora, tiny(small_corpora, tiny_model_folder)) is None


def test_what_can_be_detected_comes_from_known_runs_or_from_our_own_study(workspace: Workspace) -> None:
    study = make(workspace, "lssd", Choice(seeds=[0, 1, 2]))
    taken = power(workspace, study)
    assert taken.corrected == "" and power(workspace, make(workspace, "mix-cpt", Choice())).corrected == (
        ", corrected for 4 comparisons"
    )
    eight = power(workspace, make(workspace, "retention", Choice(seeds=[0, 1, 2])))
    assert eight.gain == pytest.approx(detectable(0.05, 3, level=0.05 / 8)) and (eight.gain or 0) > 0.4
    # 3.26404 deviations with three seeds; our own study had 0.05
    assert taken.gain == taken.forgetting == pytest.approx(0.05 * 3.264044, abs=1e-6)
    assert "is taken: 0.05" in taken.origin and "0.163 bits per byte in gain" in taken.words()
    for seed in range(2):
        made_run(workspace, experiment="past", arm="a", seed=seed, gain=0.3 + 0.1 * seed, forgetting=0.1)
        made_run(workspace, experiment="past", arm="b", seed=seed, gain=0.3 - 0.1 * seed, forgetting=0.1 * seed)
    known = power(workspace, study)
    # differences of gain are 0 and 0.2, times 1 - exp(-3): their deviation is 0.141421 * 0.950213
    assert known.gain == pytest.approx(0.141421 * 0.950213 * 3.264044, abs=1e-4)
    assert known.forgetting == pytest.approx(0.0707107 * 0.950213 * 3.264044, abs=1e-4)
    assert "one experiment with smollm2-135m" in known.origin
    # Those runs read 10,240 tokens: too few to speak for a study of ten times as many.
    assert "is taken" in power(workspace, make(workspace, "lssd", Choice(tokens=100_000))).origin
    assert "With one seed nothing" in power(workspace, make(workspace, "lssd", Choice(seeds=[0]))).words()


# By the command line


def test_the_commands_say_what_there_is_and_refuse_nonsense(
    small_corpora: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_model_folder: Path,
) -> None:
    monkeypatch.setenv("MIXCPT_HOME", str(small_corpora.root))
    save(small_corpora, tiny(small_corpora, tiny_model_folder))
    assert main(["study", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["study"] for one in listed["shipped"]][:2] == ["mix-cpt", "lssd"]
    assert [(one["name"], one["runs"], one["done"]) for one in listed["begun"]] == [("tiny", 4, 0)]
    assert main(["study", "list"]) == 0 and "0 of 4 runs done" in capsys.readouterr().out
    plan = ["study", "plan", "lssd", "--corpus", "field", "--model", str(tiny_model_folder), "--seeds", "3,4"]
    assert main([*plan, "--measured", "-1"]) == 2 and "measured" in capsys.readouterr().err
    assert main([*plan, "--yaml"]) == 0 and "seeds:\n- 3\n- 4\n" in capsys.readouterr().out
    assert main(["study", "plan", "lssd", "--seeds", "a"]) == 2 and "--seeds 'a'" in capsys.readouterr().err
    assert main(["study", "report", "tiny"]) == 2 and "No run of the study 'tiny'" in capsys.readouterr().err
    refused = main(["study", "run", "tiny", "--tokens", "9000"]), capsys.readouterr().err
    assert main(["study", "run", "tiny", "--measured", "0"]) == 2 and "--measured" in capsys.readouterr().err
    assert refused[0] == 2 and "'tiny' was begun and goes on as it is, but --tokens is given" in refused[1]
    assert main(["study", "show", "gone"]) == 2 and "take one of tiny" in capsys.readouterr().err
