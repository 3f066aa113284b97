"""From a draft to a run in the queue, exactly once; and the jobs that a launch may need first.

A draft is launched under a lock of its own, and every step finds what an earlier attempt left: the run names its draft
(as its recipe), its jobs name the run, and the draft names the run last of all. So neither a double click, nor two
tabs, nor a kill at any point makes a second run or one without jobs.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from mixcpt import guesses
from mixcpt.drafts import AlignDraft, AnyDraft, Draft, Drafts
from mixcpt.errors import BadConfig, BadInput, Damaged
from mixcpt.jobs import MOVING, Job, Jobs
from mixcpt.lineage import continuing, has_template
from mixcpt.modelstore import BUILTIN_MODELS, terms_to_accept
from mixcpt.questions import is_file, question_sets
from mixcpt.recipe import Recipe
from mixcpt.requirements import require_parts
from mixcpt.roots import check_path, suggestions
from mixcpt.runs import Run, Runs
from mixcpt.stages import AnyStage
from mixcpt.submission import submit_run
from mixcpt.workspace import Workspace, locked, new_id

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


D = TypeVar("D", Draft, AlignDraft, AnyDraft)


def launch_draft(workspace: Workspace, draft: AnyDraft) -> Run:
    """The run of this draft, in the queue; made now when the draft has none yet. One of stage two waits there for the
    run that it continues.

    Raises:
        NotFound: the draft is gone, or the run that it became was deleted. BadInput: something that the run needs is
        not there, or may not be read.
    """
    drafts = Drafts(workspace)
    with drafts.alone(draft.id):
        kept = drafts.get(draft.id)
        if kept.launched:
            return Runs(workspace).get(kept.launched)
        run = _begun(workspace, draft) or _create(workspace, draft)
        if draft.guess:
            guesses.keep(run, draft.guess)
        submit_run(workspace, run)
        drafts.save(draft.model_copy(update={"launched": run.id}))
        return run


def successor(workspace: Workspace, draft: D) -> D:
    """A new draft with the settings of one that was launched; name and guess belonged to that run."""
    new = draft.model_copy(update={"id": new_id("draft"), "name": "", "guess": None, "launched": None})
    Drafts(workspace).save(new)
    return new


def _begun(workspace: Workspace, draft: AnyDraft) -> Run | None:
    """The run that an attempt which was killed had made of this draft. A run whose files are damaged is none: its
    run.json was written whole before anything else could happen to it."""
    return next((run for run in Runs(workspace).all() if _recipe(run) == draft.id), None)


def _recipe(run: Run) -> str | None:
    try:
        return run.info.recipe
    except (Damaged, TypeError):  # not JSON, or not what a run says of itself
        return None


def _create(workspace: Workspace, draft: AnyDraft) -> Run:
    parent = Runs(workspace).get(draft.parent) if draft.parent else None
    check_ready(workspace, draft.stage, parent)
    return Runs(workspace).create(
        draft.stage,
        experiment=draft.experiment,
        name=draft.name,
        tags=draft.tags,
        parent=parent.id if parent else None,
        recipe=draft.id,
    )


def check_ready(workspace: Workspace, stage: AnyStage, parent: Run | None = None) -> None:
    """See that a run of this stage could begin, where it continues `parent`.

    Raises:
        BadInput: a source, a selection, a template, a question set or a model is not there or may not be read, terms
            were not accepted, or the parent cannot be continued.
    """
    if parent is not None:
        require_adapter_to_come(workspace, parent)
    continuing(stage, parent)
    require_parts(workspace, stage, parent.config if parent else None, has_template(parent))
    check_files(workspace, stage)
    question_sets(stage.evaluation)
    if terms_to_accept(workspace, stage.model.name):
        raise BadConfig(
            f"The model {stage.model.name} comes under terms that nobody has accepted yet: accept them, and fetch it."
        )


def require_adapter_to_come(workspace: Workspace, parent: Run) -> None:
    """Raises BadInput where the parent has no adapter, and none is on its way."""
    state = parent.state(Jobs(workspace))
    if (parent.adapter / "adapter_model.safetensors").is_file() or state in (*MOVING, "paused"):
        return
    remedy = f"train it again (`mixcpt rerun {parent.id}`)" if state == "done" else f"`mixcpt resume {parent.id}`"
    raise BadInput(f"{parent.title} is {state} and has no finished adapter to continue: {remedy}.")


def check_files(workspace: Workspace, stage: AnyStage) -> None:
    """See that all files a stage names lie where people who open the app may read.

    Raises:
        BadInput: a model folder or a question set lies elsewhere, or is not there.
    """
    check_model(workspace, stage.model.name)
    check_question_files(workspace, stage.evaluation.tasks)


def check_question_files(workspace: Workspace, tasks: Iterable[str]) -> None:
    """See that all question sets that are files lie where people who open the app may read.

    Raises:
        BadInput: one lies elsewhere, or is not there.
    """
    for task in filter(is_file, tasks):
        if not Path(task).is_absolute():
            raise BadInput(
                f"The question set {task!r} is unknown: take general, atlas, instructions, probes, probes:CORPUS, "
                "lm-eval:NAME, preset:quick, preset:paper, or the full path of a file."
            )
        check_path(workspace, task)


def check_model(workspace: Workspace, name: str) -> None:
    """See that `name` is a built-in model, a folder that may be read, or could be a hub id.

    Raises:
        BadInput: it is none of these.
    """
    if name in BUILTIN_MODELS:
        return
    folder = Path(os.path.expanduser(name))
    if name.isprintable() and (folder.is_absolute() or folder.is_dir()):
        if not folder.resolve().is_relative_to(workspace.models.resolve()):
            check_path(workspace, str(folder.absolute()))
        if not (folder / "config.json").is_file():
            raise BadInput(f"{name} holds no config.json: name the folder of a model saved with save_pretrained.")
    elif not _HUB_ID.fullmatch(name):
        raise BadConfig(
            f"The model {name!r} is unknown: take a built-in one ({', '.join(BUILTIN_MODELS)}), the full path of a "
            "folder, or a hub id such as org/name."
        )


def local_models(workspace: Workspace) -> list[str]:
    """Folders with a model that may be named: in the workspace's models/, and where people may take files from."""
    folders = [*sorted(workspace.models.glob("[!.]*")), *suggestions(workspace)]
    found = [folder for folder in folders if folder.name not in BUILTIN_MODELS and (folder / "config.json").is_file()]
    return [str(folder) for folder in found]


def recipe_of(draft: Draft) -> Recipe:
    """The draft as a recipe, which `mixcpt run` carries out."""
    return Recipe(name=draft.experiment, description=draft.name, parent=draft.parent, cpt=draft.stage)


def preparing(workspace: Workspace, kind: str, **payload: Any) -> Job | None:
    """The latest job of this kind with this payload: how measuring the machine, fetching a model or tokenising a
    mixture's sources stands. Whether terms are accepted in it makes no difference."""

    def same(job: Job) -> bool:
        return all(job.payload.get(key) == value for key, value in payload.items() if key != "accept_terms")

    jobs = [job for job, _ in Jobs(workspace).snapshot() if job.kind == kind]
    return next((job for job in reversed(jobs) if same(job)), None)


def prepare(workspace: Workspace, kind: str, **payload: Any) -> Job:
    """Queue a `doctor`, `fetch`, `prepare` or `probes` job, unless the same is queued or running, from any tab."""
    with locked(workspace.jobs / ".prepare.lock"):
        job = preparing(workspace, kind, **payload)
        if job and job.state in MOVING:
            return job
        return Jobs(workspace).submit(
            kind, payload, label=payload.get("model") or payload.get("corpus", "this machine")
        )
