import shutil
from pathlib import Path

from mixcpt import recorded, study_reports
from mixcpt.compare import compare, summarise
from mixcpt.jobs import Jobs
from mixcpt.runs import Runs
from mixcpt.studies import grid, open_study
from mixcpt.study_kinds import at_strength
from mixcpt.study_results import results
from mixcpt.workspace import Workspace


def test_the_recorded_runs_are_whole_and_done(workspace: Workspace) -> None:
    runs = recorded.add(workspace)
    assert [run.info.arm for run in runs] == [
        "documents, CE",
        "documents, CE + LSSD",
        "mixture, CE",
        "mixture, CE + LSSD",
        "mixture, LSSD alone",
        "mixture, CE, half the rate",
    ]
    for run in runs:
        assert run.info.experiment == recorded.EXPERIMENT
        assert run.state(Jobs(workspace)) == "done"
        assert len(run.losses()) == run.results()["training"]["steps"] > 50
        assert set(run.results()["evaluation"]["final"]) == {"general", "atlas_recall", "atlas_two_step"}


def test_they_show_what_the_docs_say_of_them(workspace: Workspace) -> None:
    """docs/first-results.md, "Run again": the table there is of these runs."""
    text = (Path(__file__).parents[1] / "docs" / "first-results.md").read_text()
    table = text[text.index("## Run again") :]
    for row in compare(recorded.add(workspace)):
        line = next(line for line in table.splitlines() if line.startswith(f"| {row['arm']} |"))
        gain, forgetting, kl = (float(cell) for cell in line.split("|")[2:5])
        assert gain == round(row["domain_gain"], 3)
        assert forgetting == round(row["forgetting"], 3)
        assert kl == round(row["prompt_kl"], 3)


def test_the_recorded_study_is_whole_and_claims(workspace: Workspace) -> None:
    runs = recorded.add(workspace, recorded.STUDY)
    study = open_study(workspace, recorded.STUDY)
    assert len(runs) == len(study.arms) * len(study.choice.seeds) == 18
    assert {cell.state for line in grid(workspace, study) for cell in line} == {"done"}
    rows = results(workspace, study)
    assert {row["measured_by"] for row in rows} == {"study"}, "measured when all was done, strengths included"
    assert {row["arm"] for row in rows} == {*study.arms, *(at_strength("plain", s) for s in (0.25, 0.5, 0.75))}
    assert len(study_reports.cards_of(workspace, study, summarise(rows))) == len(study.pairs)


def test_adding_twice_changes_nothing_and_what_was_deleted_comes_back_only_when_asked(workspace: Workspace) -> None:
    recorded.add_once(workspace)
    runs = Runs(workspace)
    assert len(runs.all()) == 24
    shutil.rmtree(runs.all()[0].folder)
    recorded.add_once(workspace)
    assert len(runs.all()) == 23
    assert len(recorded.add(workspace)) == 6 and len(runs.all()) == 24
