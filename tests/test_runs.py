"""Tests for the run store: what is on disk is whole, or is recognised as unfinished."""

import shutil
from pathlib import Path

import pytest

from mixcpt.config import MixtureConfig, SourceShare
from mixcpt.errors import BadFile, BadInput, NotFound
from mixcpt.jobs import Jobs
from mixcpt.runs import Labels, Run, Runs
from mixcpt.settings import override
from mixcpt.stages import AnyStage, Dpo, Sft, Stage, follow
from mixcpt.workspace import Workspace

STAGE = Stage(mixture=MixtureConfig(sources=[SourceShare(source="builtin/atlas", share=1)]))


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(Workspace(tmp_path))


@pytest.fixture
def run(runs: Runs) -> Run:
    return runs.create(STAGE, experiment="test")


def step(number: int, **more: object) -> dict[str, object]:
    return {"step": number, "loss": 1.0, **more}


def test_a_run_is_read_back_as_it_was_made(runs: Runs, run: Run) -> None:
    stage = STAGE.with_seed(3)
    child = runs.create(stage, experiment="e.1", arm="Plain CE", parent=run.id[:-1], recipe="r", name="Übung")
    read = Runs(runs.workspace).get(child.id)
    assert read.config == stage
    info = read.info
    assert (info.stage, info.experiment, info.arm, info.parent, info.recipe, info.seed, info.name) == (
        "cpt", "e.1", "Plain CE", run.id, "r", 3, "Übung",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["", "../up", "a/b", "Big", ".hidden", "x" * 65, "a\n"])
def test_a_bad_experiment_name_leaves_nothing_behind(runs: Runs, name: str) -> None:
    with pytest.raises(BadInput, match="experiment name"):
        runs.create(STAGE, experiment=name)
    assert list(runs.workspace.runs.iterdir()) == []


def test_an_unknown_parent_is_refused(runs: Runs) -> None:
    with pytest.raises(NotFound, match="no run 'cpt-9'"):
        runs.create(STAGE, experiment="e", parent="cpt-9")


def dpo_after(stage: AnyStage, **changes: object) -> Sft:
    return follow(stage, "dpo", {name.replace("__", "."): value for name, value in changes.items()})


def test_the_reference_of_dpo_is_named_in_the_run(runs: Runs, run: Run) -> None:
    """Not "parent", which says nothing once the run is looked at alone."""

    def reference(stage: Sft, parent: str | None) -> str:
        config = Run(runs.create(stage, experiment="e", parent=parent).folder).config
        assert isinstance(config, Dpo)
        return config.preference.reference

    sft = runs.create(follow(STAGE, "sft"), experiment="e", parent=run.id)
    assert reference(dpo_after(STAGE), sft.id) == sft.id
    assert reference(dpo_after(STAGE), run.id[:-1]) == run.id  # DPO at once, and a parent named by its beginning
    assert reference(dpo_after(STAGE, preference__reference=sft.id), sft.id) == sft.id
    assert (
        reference(dpo_after(STAGE), None) == reference(dpo_after(STAGE, preference__reference="base"), None) == "base"
    )


@pytest.mark.parametrize("reference", ["base", "sft-20260101-000000-aaaaaa", "", "Parent"])
def test_a_reference_that_the_run_does_not_start_from_is_refused(runs: Runs, run: Run, reference: str) -> None:
    with pytest.raises(BadInput, match=f"'{reference}', but this run starts from '{run.id}'.* set it to 'parent' or"):
        runs.create(dpo_after(STAGE, preference__reference=reference), experiment="e", parent=run.id)
    with pytest.raises(BadInput, match="starts from 'base'"):
        runs.create(dpo_after(STAGE, preference__reference=run.id), experiment="e")
    assert [one.id for one in runs.all()] == [run.id]  # nothing was made


def test_a_stage_continues_only_what_it_can(runs: Runs, run: Run) -> None:
    sft = runs.create(follow(STAGE, "sft"), experiment="e", parent=run.id)
    runs.create(follow(STAGE, "sft"), experiment="e", parent=sft.id)  # more of the same
    dpo = runs.create(dpo_after(STAGE), experiment="e", parent=sft.id)
    for stage in (follow(STAGE, "sft"), dpo_after(STAGE)):
        with pytest.raises(BadInput, match=f"{stage.stage} cannot continue {dpo.id}, which is a run of dpo"):
            runs.create(stage, experiment="e", parent=dpo.id)
    with pytest.raises(BadInput, match=r"model\.name is 'gemma-3-270m', but cpt-.* was trained on 'smollm2-135m'"):
        runs.create(override(follow(STAGE, "sft"), {"model.name": "gemma-3-270m"}), experiment="e", parent=run.id)
    with pytest.raises(BadInput, match=r"adapter\.rank is 8, but cpt-.* has 16: take that"):
        runs.create(override(follow(STAGE, "sft"), {"adapter.rank": 8}), experiment="e", parent=run.id)
    assert len(runs.all()) == 4


def test_a_unique_beginning_is_enough(runs: Runs, run: Run) -> None:
    assert runs.get(run.id[:6]).id == run.id


def test_an_ambiguous_beginning_names_its_runs(runs: Runs, run: Run) -> None:
    other = runs.create(STAGE, experiment="e")
    with pytest.raises(NotFound, match="fits 2 runs") as caught:
        runs.get("cpt-")
    assert run.id in str(caught.value) and other.id in str(caught.value)


def test_a_half_copied_folder_is_no_run(runs: Runs, run: Run) -> None:
    copy = runs.workspace.runs / "cpt-copy"
    copy.mkdir()
    (copy / "config.yaml").write_bytes((run.folder / "config.yaml").read_bytes())
    (runs.workspace.runs / "notes.txt").touch()
    assert [run.id for run in runs.all()] == [run.id]
    with pytest.raises(NotFound):
        runs.get("cpt-copy")


def test_a_whole_id_wins_over_longer_ones(runs: Runs, run: Run) -> None:
    shutil.copytree(run.folder, run.folder.with_name(run.id + "0"))
    assert runs.get(run.id).id == run.id


def test_a_mistyped_id_is_answered_with_the_near_one(runs: Runs, run: Run) -> None:
    with pytest.raises(NotFound, match=run.id):
        runs.get("ctp" + run.id[3:])


@pytest.mark.parametrize("id", ["", "..", "../jobs", "/etc", ".lock"])
def test_no_id_leads_out_of_the_folder(runs: Runs, run: Run, id: str) -> None:
    with pytest.raises(NotFound):
        runs.get(id)


def test_a_torn_last_line_is_ignored_and_cut_by_the_next_record(run: Run) -> None:
    run.append(step(1))
    whole = run.metrics.read_bytes()
    for torn in (b"{", b'{"step": 2, "loss": 0.5}', '{"x": "é'.encode()[:-1]):
        run.metrics.write_bytes(whole + torn)
        assert run.read_metrics() == [step(1)]
        run.append(step(2))
        assert run.read_metrics() == [step(1), step(2)]
    run.metrics.write_bytes(b"{")
    run.append(step(1))
    assert run.read_metrics() == [step(1)]


def test_a_damaged_line_is_named_and_not_skipped(run: Run) -> None:
    run.metrics.write_bytes(b'{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(BadFile, match="Line 2"):
        run.read_metrics()


def test_a_resume_cancels_the_records_beyond_its_step(run: Run) -> None:
    for number in (1, 2, 3):
        run.append(step(number, attempt=1))
    resume = {"event": "resume", "step": 1}
    run.append(resume)
    run.append(step(2, attempt=2))
    assert run.read_metrics() == [step(1, attempt=1), resume, step(2, attempt=2)]
    run.append(step(3, attempt=2))
    run.append({"event": "resume", "step": 2})
    assert [record["step"] for record in run.losses()] == [1, 2]


def test_a_restart_cancels_everything(run: Run) -> None:
    run.append({"step": 0, "measure": {}})
    run.append({"event": "resume", "step": -1})
    assert run.curve() == []


def test_curve_and_losses_part_the_records(run: Run) -> None:
    measure = {"step": 1, "measure": {"domain": 2.0}}
    run.append(measure)
    run.append(step(1))
    run.append({"event": "note"})
    assert (run.curve(), run.losses()) == ([measure], [step(1)])


def test_no_metrics_yet_is_an_empty_list(run: Run) -> None:
    assert run.read_metrics() == []


def test_not_a_number_is_refused_and_leaves_no_line(run: Run) -> None:
    run.append(step(1))
    with pytest.raises(ValueError):
        run.append({"step": 2, "loss": float("nan")})
    assert run.read_metrics() == [step(1)]


def test_a_section_of_results_is_replaced_and_the_others_stay(run: Run) -> None:
    assert run.results() == {}
    run.write_results("training", {"loss": 1})
    run.write_results("evaluation", {"general": 0.5})
    run.write_results("training", {"steps": 2})
    assert run.results() == {"training": {"steps": 2}, "evaluation": {"general": 0.5}}


def test_only_complete_checkpoints_count_in_order_of_steps(run: Run) -> None:
    for name in ("checkpoint-100", "checkpoint-20", "checkpoint-3", "checkpoint-x"):
        folder = run.folder / "checkpoints" / name
        folder.mkdir(parents=True)
        if name != "checkpoint-3":
            (folder / "complete.json").write_text("{}")
    assert [folder.name for folder in run.checkpoints()] == ["checkpoint-20", "checkpoint-100"]


def test_a_run_stands_as_its_jobs_do(runs: Runs, run: Run) -> None:
    jobs = Jobs(runs.workspace)
    assert run.state(jobs) == "new"
    jobs.submit("train", {}, run=run.id).update(state="paused")
    assert run.state(jobs) == "paused"


def test_delete_removes_the_run(runs: Runs, run: Run) -> None:
    runs.delete(run)
    assert runs.all() == [] and list(runs.workspace.runs.iterdir()) == []


def test_a_run_at_work_or_with_children_is_not_deleted(runs: Runs, run: Run) -> None:
    job = Jobs(runs.workspace).submit("train", {}, run=run.id)
    with pytest.raises(BadInput, match="is queued"):
        runs.delete(run)
    job.update(state="done")
    child = runs.create(STAGE, experiment="e", parent=run.id)
    with pytest.raises(BadInput, match=child.id):
        runs.delete(run)
    runs.delete(child)
    runs.delete(run)


def test_runs_of_all_stages_are_listed_by_time(runs: Runs) -> None:
    ids = ["sft-20260101-000000-aaaaaa", "cpt-20260102-000000-aaaaaa", "dpo-20260103-000000-aaaaaa"]
    for id in reversed(ids):
        (runs.workspace.runs / id).mkdir()
        (runs.workspace.runs / id / "run.json").touch()
    assert [run.id for run in runs.all()] == ids


def test_runs_made_in_the_same_second_are_listed_in_their_order(runs: Runs) -> None:
    """So that arms are compared in the order in which the recipe names them."""
    made = [runs.create(STAGE, experiment="e").id for _ in range(12)]
    assert [run.id for run in runs.all()] == made


def test_labels_begin_with_the_name_and_change_apart(runs: Runs) -> None:
    run = runs.create(STAGE, experiment="e", name="first", tags=["a", "b"])
    assert run.labels == Labels("first", ("a", "b"))
    run.relabel(name="second")
    run.relabel(tags=["c"])
    assert Runs(runs.workspace).get(run.id).labels == Labels("second", ("c",))
    assert run.info.name == "first"


def test_labels_of_a_run_without_any(run: Run) -> None:
    assert run.labels == Labels() and not (run.folder / "labels.json").exists()
    run.relabel(name="")
    assert not (run.folder / "labels.json").exists()


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "**x** $y$ :red[z]", "Übung 试 👩‍🔬", "a, b; c"])
def test_labels_are_kept_as_typed(run: Run, text: str) -> None:
    run.relabel(name=f"  {text} ", tags=[text, f" {text}", ""])
    assert run.labels == Labels(text, (text,))


@pytest.mark.parametrize(
    ("name", "tags", "complaint"),
    [
        ("n" * 81, [], "81 characters: use at most 80"),
        ("", ["t" * 31], "31 characters: use at most 30"),
        ("", [f"t{number}" for number in range(13)], "13 tags: use at most 12"),
        ("two\nlines", [], "cannot be seen"),
        ("", ["be\x07ll"], "cannot be seen"),
        ("\u202egnp.exe", [], "cannot be seen"),
        ("half \ud83d", [], "cannot be seen"),
    ],
)
def test_bad_labels_are_refused_and_change_nothing(run: Run, name: str, tags: list[str], complaint: str) -> None:
    run.relabel(name="kept", tags=["kept"])
    with pytest.raises(BadInput, match=complaint):
        run.relabel(name=name, tags=tags)
    assert run.labels == Labels("kept", ("kept",))


def test_a_bad_name_makes_no_run(runs: Runs) -> None:
    with pytest.raises(BadInput, match="81 characters"):
        runs.create(STAGE, experiment="e", name="n" * 81)
    assert runs.all() == []


def test_a_deleted_run_is_not_brought_back_by_naming_it(runs: Runs, run: Run) -> None:
    runs.delete(run)
    with pytest.raises(NotFound, match="deleted meanwhile"):
        run.relabel(name="ghost")
    assert not run.folder.exists()


def test_the_title_is_the_name_else_the_arm_else_the_id(runs: Runs, run: Run) -> None:
    assert run.title == run.id
    arm = runs.create(STAGE, experiment="e", arm="plain")
    assert arm.title == "plain"
    arm.relabel(name="mine")
    assert arm.title == "mine"


def test_a_trained_run_without_jobs_is_done(runs: Runs, run: Run) -> None:
    """It was recorded, or copied from another workspace."""
    run.write_results("evaluation", {})
    assert run.state(Jobs(runs.workspace)) == "new"
    run.write_results("training", {"tokens": 1})
    assert run.state(Jobs(runs.workspace)) == "done"
    Jobs(runs.workspace).submit("train", {}, run=run.id)
    assert run.state(Jobs(runs.workspace)) == "queued"


def test_delete_takes_the_jobs_of_the_run_and_no_others(runs: Runs, run: Run) -> None:
    jobs = Jobs(runs.workspace)
    train = jobs.submit("train", {}, run=run.id)
    train.update(state="failed")
    jobs.submit("evaluate", {}, run=run.id, after=[train.id])
    other = jobs.submit("ingest", {})
    runs.delete(run)
    assert [job.id for job in Jobs(runs.workspace).all()] == [other.id]
    assert sorted(folder.name for folder in runs.workspace.jobs.iterdir()) == [".lock", other.id]


def test_a_run_that_is_being_exported_is_not_deleted(runs: Runs, run: Run) -> None:
    run.write_results("training", {})
    Jobs(runs.workspace).submit("export", {}, run=run.id).update(state="running")
    with pytest.raises(BadInput, match="is running"):
        runs.delete(run)


def test_cancel_ends_all_that_has_not_ended(runs: Runs, run: Run) -> None:
    jobs = Jobs(runs.workspace)
    train = jobs.submit("train", {}, run=run.id)
    train.update(state="running")
    evaluate = jobs.submit("evaluate", {}, run=run.id, after=[train.id])
    other = jobs.submit("train", {})
    assert [job.id for job in runs.cancel(run)] == [evaluate.id, train.id]
    assert (train.requested(), evaluate.state, other.state) == ("cancel", "cancelled", "queued")
    train.update(state="cancelled")
    with pytest.raises(BadInput, match="is cancelled, so there is nothing to cancel"):
        runs.cancel(run)


def test_pause_stops_the_job_at_which_the_run_stands(runs: Runs, run: Run) -> None:
    jobs = Jobs(runs.workspace)
    train = jobs.submit("train", {}, run=run.id)
    train.update(state="running")
    assert runs.pause(run).id == train.id and train.requested() == "pause"
    train.update(state="paused")
    with pytest.raises(BadInput, match="is paused, so there is nothing to pause"):
        runs.pause(run)


def test_only_new_lines_are_read_and_all_views_agree(run: Run) -> None:
    run.append(step(1))
    first = run.read_metrics()
    run.append(step(2))
    second = Run(run.folder).read_metrics()
    assert second == [step(1), step(2)] and second[0] is first[0] and first == [step(1)]
    run.append({"event": "resume", "step": 1})
    run.append(step(2, attempt=2))
    assert run.losses() == [step(1), step(2, attempt=2)]


def test_metrics_that_were_replaced_are_read_anew(run: Run) -> None:
    run.append(step(1))
    run.append(step(2))
    assert len(run.losses()) == 2
    run.metrics.write_text('{"step": 7, "loss": 1.0}\n{"step": 8, "loss": 1.0}\n{"step": 9, "loss": 1.0}\n')
    assert [record["step"] for record in run.losses()] == [7, 8, 9]
    run.metrics.unlink()
    assert run.read_metrics() == []
    run.append(step(1))
    assert run.read_metrics() == [step(1)]


def test_a_line_damaged_later_is_named_by_its_number(run: Run) -> None:
    run.append(step(1))
    run.read_metrics()
    with open(run.metrics, "ab") as file:
        file.write(b"{nonsense\n")
    for _ in range(2):
        with pytest.raises(BadFile, match="Line 2"):
            run.read_metrics()
