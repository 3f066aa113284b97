"""A draft becomes one run, however often, from wherever and through whatever crash it is launched."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from made import made_run, stage_of

from mixcpt import guesses, launching
from mixcpt.drafts import AlignDraft, Draft, Drafts, Guess
from mixcpt.errors import BadInput, NotFound
from mixcpt.jobs import Jobs
from mixcpt.launching import check_model, launch_draft, prepare, recipe_of, successor
from mixcpt.recipe import load_recipe
from mixcpt.runs import Run, Runs
from mixcpt.settings import to_yaml
from mixcpt.stages import follow
from mixcpt.workspace import Workspace


def draft_of(workspace: Workspace, **changes: object) -> Draft:
    drafts = Drafts(workspace)
    draft = drafts.create(stage_of(**changes), "my-field")
    full = draft.model_copy(
        update={"name": "<b>first</b>", "tags": ("a",), "guess": Guess(domain_gain=9, forgetting=1)}
    )
    drafts.save(full)
    return full


def kinds(workspace: Workspace) -> list[str]:
    return [job.kind for job in Jobs(workspace).all()]


def test_a_launch_makes_the_run_its_jobs_and_keeps_the_guess(workspace: Workspace) -> None:
    draft = draft_of(workspace)
    run = launch_draft(workspace, draft)
    assert (run.info.experiment, run.info.name, run.config) == ("my-field", "<b>first</b>", draft.stage)
    assert kinds(workspace) == ["train", "evaluate"]
    assert guesses.read(run) == draft.guess
    assert Drafts(workspace).get(draft.id).launched == run.id


def test_many_clicks_at_once_make_one_run(workspace: Workspace) -> None:
    draft = draft_of(workspace)
    with ThreadPoolExecutor(8) as pool:
        ids = {run.id for run in pool.map(lambda _: launch_draft(workspace, draft), range(16))}
    assert len(ids) == 1 == len(Runs(workspace).all())
    assert kinds(workspace) == ["train", "evaluate"]


@pytest.mark.parametrize("step", ["guesses.keep", "submit_run"])
def test_a_crash_in_between_is_made_good(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    draft = draft_of(workspace)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"mixcpt.launching.{step}", crash)
        with pytest.raises(KeyboardInterrupt):
            launch_draft(workspace, draft)
    assert len(Runs(workspace).all()) == 1 and kinds(workspace) == []
    run = launch_draft(workspace, draft)
    assert [one.id for one in Runs(workspace).all()] == [run.id]
    assert kinds(workspace) == ["train", "evaluate"] and guesses.read(run) == draft.guess


def test_a_crash_between_the_two_jobs_is_made_good(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = draft_of(workspace)
    with monkeypatch.context() as patch:
        patch.setattr(launching, "submit_run", lambda w, run: Jobs(w).submit("train", {}, run=run.id) and 1 / 0)
        with pytest.raises(ZeroDivisionError):
            launch_draft(workspace, draft)
    launch_draft(workspace, draft)
    train, evaluate = Jobs(workspace).all()
    assert (train.kind, evaluate.kind, evaluate.after) == ("train", "evaluate", [train.id])


def test_a_missing_source_starts_nothing(workspace: Workspace) -> None:
    draft = draft_of(workspace, mixture__sources=[{"source": "gone", "share": 1, "domain": True}])
    with pytest.raises(NotFound, match="gone"):
        launch_draft(workspace, draft)
    assert Runs(workspace).all() == [] and Drafts(workspace).get(draft.id).launched is None


def test_terms_must_be_accepted_first(workspace: Workspace) -> None:
    with pytest.raises(BadInput, match="accept them, and fetch it"):
        launch_draft(workspace, draft_of(workspace, model__name="gemma-3-270m"))


def test_the_next_draft_keeps_the_settings_but_not_the_guess(workspace: Workspace) -> None:
    draft = draft_of(workspace)
    following = successor(workspace, draft)
    assert following.id != draft.id and following.stage == draft.stage and following.experiment == "my-field"
    assert (following.name, following.guess, following.launched) == ("", None, None)
    assert Drafts(workspace).get(following.id) == following


@pytest.mark.parametrize(
    "name", ["/etc", "~root/x", "nonsense", "", "a/b/c", "../x", "./x", "a\0/b", "/a\0b", "~/.ssh"]
)
def test_a_model_is_looked_for_only_where_people_may_look(workspace: Workspace, name: str) -> None:
    with pytest.raises(BadInput):
        check_model(workspace, name)


def test_models_that_may_be_named(workspace: Workspace, tmp_path: Path) -> None:
    folder = workspace.models / "mine"
    folder.mkdir()
    with pytest.raises(BadInput, match="holds no config"):
        check_model(workspace, str(folder))
    (folder / "config.json").write_text("{}")
    for name in (str(folder), "org/name", "smollm2-135m"):
        check_model(workspace, name)
    assert launching.local_models(workspace) == [str(folder)]
    (workspace.models / "sly").symlink_to(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="may not be read"):
        check_model(workspace, str(workspace.models / "sly"))


@pytest.mark.parametrize("task", ["/etc/passwd", "questions.jsonl"])
def test_question_files_are_read_only_where_they_may(workspace: Workspace, task: str) -> None:
    with pytest.raises(BadInput):
        launch_draft(workspace, draft_of(workspace, evaluation__tasks=[task]))


def test_the_yaml_of_a_draft_is_a_recipe_of_the_same_stage(workspace: Workspace, tmp_path: Path) -> None:
    draft = draft_of(workspace)
    (tmp_path / "r.yaml").write_text(to_yaml(recipe_of(draft)), encoding="utf-8")
    recipe = load_recipe(tmp_path / "r.yaml")
    assert recipe.cpt == draft.stage and recipe.name == "my-field"


def test_a_preparation_is_queued_once_while_it_goes_on(workspace: Workspace) -> None:
    first = prepare(workspace, "fetch", model="smollm2-135m", accept_terms=False)
    assert prepare(workspace, "fetch", model="smollm2-135m", accept_terms=False).id == first.id
    assert prepare(workspace, "fetch", model="org/other", accept_terms=False).id != first.id
    first.update(state="failed")
    assert prepare(workspace, "fetch", model="smollm2-135m", accept_terms=False).id != first.id


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_run_keeps_nobody_from_launching(workspace: Workspace, content: str) -> None:
    first = launch_draft(workspace, Drafts(workspace).create())
    (first.folder / "run.json").write_text(content)
    second = launch_draft(workspace, Drafts(workspace).create())
    assert [job.kind for job in Jobs(workspace).all() if job.run == second.id] == ["train", "evaluate"]


# Stage two


def align_draft(workspace: Workspace, parent: Run | None, **changes: object) -> AlignDraft:
    before = parent.config if parent else stage_of()
    stage = follow(before, "sft", {"template": "chatml"} | {n.replace("__", "."): v for n, v in changes.items()})
    return Drafts(workspace).create_align(stage, parent.id if parent else None, "my-field")


def test_a_draft_of_stage_two_waits_for_the_run_that_it_continues(workspace: Workspace) -> None:
    first = launch_draft(workspace, draft_of(workspace))
    draft = align_draft(workspace, first)
    run = launch_draft(workspace, draft)
    assert (run.info.parent, run.info.stage, run.config) == (first.id, "sft", draft.stage)
    train, _, score, *rest = Jobs(workspace).all()
    assert (score.kind, score.after, score.payload["run"]) == ("score", [train.id], first.id)
    assert [job.kind for job in rest] == ["train", "evaluate"] and rest[0].after == [score.id]
    assert launch_draft(workspace, draft).id == run.id and len(Runs(workspace).all()) == 2


def test_a_draft_of_stage_two_may_start_from_the_base(workspace: Workspace) -> None:
    run = launch_draft(workspace, align_draft(workspace, None))
    assert run.info.parent is None and kinds(workspace) == ["score", "train", "evaluate"]


def test_a_crash_between_the_three_jobs_is_made_good(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = align_draft(workspace, None)
    with monkeypatch.context() as patch:
        patch.setattr(launching, "submit_run", lambda w, run: Jobs(w).submit("score", {}, run=run.id) and 1 / 0)
        with pytest.raises(ZeroDivisionError):
            launch_draft(workspace, draft)
    launch_draft(workspace, draft)
    score, train, evaluate = Jobs(workspace).all()
    assert (score.kind, train.after, evaluate.after) == ("score", [score.id], [train.id])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"samples__source": "gone"}, "no corpus 'gone'"),
        ({"samples__source": "builtin/preferences"}, "holds preferences, but sft learns from instructions"),
        ({"samples__selection": "gone"}, "no selection 'gone'"),
        ({"adapter__rank": 3}, r"adapter\.rank is 3"),
    ],
)
def test_stage_two_without_its_parts_starts_nothing(
    workspace: Workspace, changes: dict[str, object], sentence: str
) -> None:
    first = launch_draft(workspace, draft_of(workspace))
    draft = align_draft(workspace, first, **changes)
    with pytest.raises(BadInput, match=sentence):
        launch_draft(workspace, draft)
    assert len(Runs(workspace).all()) == 1


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_what_stopped_without_an_adapter_is_not_continued(workspace: Workspace, state: str) -> None:
    stopped = made_run(workspace, state=state)
    with pytest.raises(
        BadInput, match=f"is {state} and has no finished adapter to continue: `mixcpt resume {stopped.id}`"
    ):
        launch_draft(workspace, align_draft(workspace, stopped))
    trained = made_run(workspace)
    assert launch_draft(workspace, align_draft(workspace, trained)).info.parent == trained.id


def test_the_next_draft_of_stage_two_continues_the_same_run(workspace: Workspace) -> None:
    first = launch_draft(workspace, draft_of(workspace))
    draft = align_draft(workspace, first).model_copy(update={"name": "n", "tags": ("a",)})
    following = successor(workspace, draft)
    assert (following.parent, following.stage, following.tags) == (first.id, draft.stage, ("a",))
    assert (following.name, following.launched) == ("", None) and following.id != draft.id
    assert Drafts(workspace).get(following.id) == following
