"""Drafts of stage two: what a run may continue, what it begins with, and what becomes of its settings when another run
is continued or the other stage is chosen. Page and command line both begin here, and `mixcpt.launching` launches.

What is continued decides model, adapter and field; the rest of a draft is kept through such a change as far as it makes
sense there. It gives up DPO after DPO, as `mixcpt.lineage` does.
"""

import shlex
from typing import Any, Literal

from mixcpt import further
from mixcpt.differences import differences
from mixcpt.drafts import EXPERIMENT, AlignDraft, AnyDraft, Draft, Drafts, default_stage
from mixcpt.errors import BadConfig, NotFound
from mixcpt.jobs import LIVE
from mixcpt.lineage import BASE, FOLLOWS, continuing
from mixcpt.overview import RunSummary, overview
from mixcpt.palette import STAGE_NAMES
from mixcpt.recipe import Recipe
from mixcpt.requirements import selection_facts
from mixcpt.runs import NAME_LENGTH, Run, Runs
from mixcpt.settings import as_change
from mixcpt.stages import AnyStage, Dpo, Sft, follow
from mixcpt.templates import NAMED
from mixcpt.workspace import Workspace, new_id

Kind = Literal["sft", "dpo"]
_INHERITED = ("stage", "model", "mixture", "adapter", "preference.reference")
_OF_THE_KIND = ("samples", "training.learning_rate", "preference")
"""Settings whose usual value depends on whether it is SFT or DPO."""


def parents(workspace: Workspace) -> list[RunSummary]:
    """Runs that SFT or DPO can continue, newest first: those with an adapter, and those that will have one."""
    return [run for run in overview(workspace) if can_be_continued(workspace, run)]


def can_be_continued(workspace: Workspace, run: RunSummary, by: str = "sft") -> bool:
    """Whether a stage `by` (what holds of SFT holds of DPO) can come after this run, at once or when its training is
    done."""
    if run.stage not in FOLLOWS[by]:
        return False
    coming = run.state in LIVE and run.kind != "evaluate"
    return coming or (workspace.runs / run.id / "adapter" / "adapter_model.safetensors").is_file()


def stage_after(
    workspace: Workspace,
    parent: Run | None,
    kind: Kind | None = None,
    selection: str | None = None,
    changes: dict[str, Any] | None = None,
) -> Sft:
    """The stage that comes after `parent` (None: the base). Without `kind` the selection says which it is for, else
    what is continued: SFT comes after the knowledge stage, DPO after SFT. Without a selection the samples are chosen by
    the usual rule. `changes` are nested or dotted settings.

    Raises:
        NotFound: there is no such selection. BadConfig: an unknown setting or a contradiction.
    """
    kind = kind or _kind_for(workspace, parent, selection)
    given = changes or {}
    for path in given:
        if parent and path.startswith(_INHERITED):
            raise BadConfig(f"{path} cannot be set, for it is that of {parent.id}, which is continued: leave it out.")
    before = _before(parent)
    if selection is not None:
        facts = selection_facts(workspace, selection)
        given = {**_template_of(facts, before), **given, "samples.selection": facts["name"]}
    return follow(before, kind, given)


def _template_of(selection: dict[str, Any], before: AnyStage) -> dict[str, str]:
    """The named template under which a selection was scored: what was easy there is learned there, unless the chain has
    a template already."""
    template = selection["scores"].get("template") or {}
    aligned = isinstance(before, Sft) and before.template != "auto"
    return {"template": template["name"]} if template.get("name") in NAMED and not aligned else {}


def begin(workspace: Workspace, stage: Sft, parent: Run | None, experiment: str = "") -> AlignDraft:
    """A new draft, on disk; in the experiment of the parent unless another is named."""
    draft = AlignDraft(
        id=new_id("draft"),
        stage=stage,
        parent=parent.id if parent else None,
        experiment=experiment or (parent.info.experiment if parent else EXPERIMENT),
    )
    Drafts(workspace).save(draft)
    return draft


def _kind_for(workspace: Workspace, parent: Run | None, selection: str | None) -> Kind:
    if selection is not None:
        return "dpo" if selection_facts(workspace, selection)["scores"]["kind"] == "preferences" else "sft"
    return "dpo" if parent and parent.info.stage == "sft" else "sft"


def _before(parent: Run | None) -> AnyStage:
    return parent.config if parent else default_stage()


def rebased(workspace: Workspace, draft: AlignDraft, kind: Kind, parent: Run | None) -> AlignDraft:
    """The draft as one of `kind` that continues `parent`; what was changed by hand is kept as far as it fits there.
    Where it was in the experiment of the run that it continued, it goes to that of the new one."""
    old = Runs(workspace).get(draft.parent) if draft.parent else None
    kept = _changed(draft.stage, old)
    if kind != draft.stage.stage:
        kept = {path: value for path, value in kept.items() if not path.startswith(_OF_THE_KIND)}
    if old or parent:
        kept = {path: value for path, value in kept.items() if not path.startswith(_INHERITED)}
    moved = old is not None and draft.experiment == old.info.experiment
    experiment = parent.info.experiment if parent and (moved or draft.experiment == EXPERIMENT) else draft.experiment
    stage = follow(_before(parent), kind, kept)
    return draft.model_copy(update={"stage": stage, "parent": parent.id if parent else None, "experiment": experiment})


def usual_for(run: Run) -> AnyStage:
    """The settings that a new draft would have in the place of this run: what is special about it is what differs."""
    stage = run.config
    try:
        parent = run.parent
    except NotFound:
        parent = None
    if not isinstance(stage, Sft):
        return further.further_stage(parent) if parent else default_stage()
    before = _before(parent) if parent or run.info.parent is None else stage
    usual = follow(before, stage.stage)
    return continuing(usual, run.parent) if isinstance(stage, Dpo) and before is not stage else usual


def _changed(stage: Sft, parent: Run | None) -> dict[str, Any]:
    """The dotted settings that are other than usual after `parent`."""
    usual = follow(_before(parent), stage.stage)
    return {one.path: one.value for one in differences(stage, usual) if one.path != "preference.reference"}


def settings_of(found: Recipe | AnyStage, parent: Run | None, kind: Kind | None = None) -> tuple[Kind, dict[str, Any]]:
    """What a file says of stage two, as `stage_after` takes it: a stage, or a recipe that has one, of `kind` if there
    are both. What follows from `parent` is left out.

    Raises:
        BadConfig: the file has no such stage.
    """
    stages = found.chain(found.cpt) if isinstance(found, Recipe) else [found]
    fitting = [stage for stage in stages if isinstance(stage, Sft)]
    if not fitting:
        raise BadConfig("The file holds no settings of SFT or DPO: name a recipe or a config.yaml that does.")
    chosen = next((stage for stage in fitting if stage.stage == kind), fitting[0])
    given = chosen.model_dump(mode="json")
    for name in ("stage", *(("model", "mixture", "adapter") if parent else ())):
        del given[name]
    if "preference" in given:
        del given["preference"]["reference"]
    return "dpo" if isinstance(chosen, Dpo) else "sft", given


def named(workspace: Workspace, draft: AnyDraft) -> AnyDraft:
    """The draft with a name, where it continues a run or is of stage two, and nobody gave it one."""
    if draft.name or (isinstance(draft, Draft) and not draft.parent):
        return draft
    parent = Runs(workspace).get(draft.parent) if draft.parent else None
    if isinstance(draft, Draft):
        return draft.model_copy(update={"name": further.suggested_name(draft.stage, parent)}) if parent else draft
    return draft.model_copy(update={"name": suggested_name(draft.stage, parent)})


def suggested_name(stage: Sft, parent: Run | None) -> str:
    """What a run is called when nobody names it, as in "mixture + SFT, easiest"."""
    chosen = stage.samples.selection or stage.samples.rule.strategy
    whole = f"{parent.title if parent else BASE} + {STAGE_NAMES[stage.stage]}, {chosen}"
    return whole if len(whole) <= NAME_LENGTH else f"…{whole[1 - NAME_LENGTH :]}"


def command(draft: AlignDraft, parent: Run | None) -> str:
    """The command that does the same as launching the draft."""
    stage, changes = draft.stage, _changed(draft.stage, parent)
    words = ["mixcpt", "align", parent.id if parent else BASE, "--stage", stage.stage]
    if selection := changes.pop("samples.selection", None):
        words += ["--selection", selection]
    if draft.experiment != (parent.info.experiment if parent else EXPERIMENT):
        words += ["--experiment", draft.experiment]
    if draft.name:
        words += ["--name", draft.name]
    for path, value in changes.items():
        words += ["--set", as_change(path, value)]
    return shlex.join(words)
