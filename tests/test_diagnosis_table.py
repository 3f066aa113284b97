"""Diagnoses of many runs in short, and on the pages that are taken along."""

from made import made_run, stage_of

from mixcpt.compare import with_curves
from mixcpt.comparison import as_html
from mixcpt.diagnosis_table import in_short
from mixcpt.studies import make, save
from mixcpt.study_kinds import Choice
from mixcpt.study_reports import findings, to_html, to_markdown
from mixcpt.workspace import Workspace


def test_a_sentence_for_the_healthy_and_a_line_for_each_sign(workspace: Workspace) -> None:
    fine = made_run(workspace, arm="fine", forgetting=0.0)
    bad = [
        made_run(workspace, arm="bad", seed=seed, forgetting=0.4, stage=stage_of(adapter__rank=4)) for seed in (0, 1)
    ]
    sentence, table = in_short(workspace, with_curves([fine, *bad]))
    assert sentence.startswith("1 of 3 runs show no sign of failure. Could not be judged: ")
    assert "learned, but not usable (3 of 3 runs)" in sentence and "`mixcpt diagnose RUN`" in sentence
    told = [line[:4] for line in table.rows if line[3] == "Catastrophic forgetting"]
    assert told == [["bad", str(seed), run.id, "Catastrophic forgetting"] for seed, run in enumerate(bad)]
    assert {line[2] for line in table.rows} == {run.id for run in bad}
    assert all("bits per byte" in line[4] and line[5] for line in table.rows if line[3] == "Catastrophic forgetting")


def test_healthy_runs_have_a_sentence_and_no_line(workspace: Workspace) -> None:
    runs = [made_run(workspace, arm="fine", seed=seed, forgetting=0.0) for seed in (0, 1)]
    sentence, table = in_short(workspace, with_curves(runs))
    assert sentence.startswith("None of these 2 runs shows a sign of failure.") and not table.rows
    alone, _ = in_short(workspace, with_curves(runs[:1]))
    assert alone == (
        "This run shows no sign of failure. Could not be judged: diverged and learned, but not usable; `mixcpt "
        "diagnose RUN` says what would tell."
    )


def test_a_run_at_several_strengths_is_told_once(workspace: Workspace) -> None:
    rows = with_curves([made_run(workspace, forgetting=0.4)])
    sentence, table = in_short(workspace, [*rows, {**rows[0], "title": "weaker", "strength": 0.5}])
    assert sentence.startswith("This run shows a sign of failure.") and {line[0] for line in table.rows} == {
        rows[0]["title"]
    }


def test_the_page_of_a_comparison_tells_it(workspace: Workspace) -> None:
    fine, bad = made_run(workspace, arm="fine", forgetting=0.0), made_run(workspace, arm="bad", forgetting=0.4)
    page = as_html(workspace, [fine, bad])
    assert "<h2>Diagnosis</h2>" in page and "<td>Catastrophic forgetting</td>" in page
    page = as_html(workspace, [fine])
    assert "This run shows no sign of failure." in page and "Catastrophic forgetting</td>" not in page


def test_the_reports_of_a_study_tell_it(workspace: Workspace) -> None:
    study = make(workspace, "lssd", Choice(seeds=[0], tune=False), name="mine")
    save(workspace, study)
    plain = stage_of(objective__retention="none")
    bad = made_run(workspace, experiment="mine", arm="LSSD off", forgetting=0.4, stage=plain)
    made_run(workspace, experiment="mine", arm="LSSD on", forgetting=0.0)
    written = to_markdown(findings(workspace, study))
    told = written.partition("## Diagnosis")[2].partition("## How it was done")[0].replace("\\", "")
    assert "1 of 2 runs show no sign of failure." in told
    assert f"| LSSD off | 0 | {bad.id} | Catastrophic forgetting |" in told and "| LSSD on |" not in told
    assert "<td>Catastrophic forgetting</td>" in to_html(findings(workspace, study))
