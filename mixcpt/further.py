"""A further corpus after a run: the knowledge stage that continues it, and the draft of one.

What is continued decides model and adapter; mixture, objective and all else are those of the latest knowledge stage of
its chain, so that only the field is another. Page and command line both begin here. It gives up settings of the runs
before the latest knowledge stage: whoever wants them sets them.
"""

from typing import Any

from mixcpt.config import SourceShare
from mixcpt.drafts import EXPERIMENT, Draft, Drafts, default_stage
from mixcpt.errors import BadConfig, BadInput
from mixcpt.figures import listed
from mixcpt.requirements import source_kind
from mixcpt.runs import NAME_LENGTH, Run
from mixcpt.settings import override
from mixcpt.stages import Stage
from mixcpt.workspace import Workspace

INHERITED = ("stage", "model", "adapter")
"""What follows from the run that is continued."""
FIELD_SHARE = 60
"""Of a field in a mixture that had none, beside 40 of all else."""


def further_stage(parent: Run, corpus: str | None = None, changes: dict[str, Any] | None = None) -> Stage:
    """The knowledge stage after `parent`, with `corpus` for its field where one is named; `changes` are dotted.

    Raises:
        BadConfig: an unknown setting, a contradiction, or a setting that follows from the parent. NotFound: a run
            of its chain was deleted.
    """
    for path in changes or {}:
        if path.partition(".")[0] in INHERITED:
            raise BadConfig(f"{path} cannot be set, for it is that of {parent.id}, which is continued: leave it out.")
    knowledge = (one.config for one in reversed(parent.chain()))
    before = next((stage for stage in knowledge if isinstance(stage, Stage)), default_stage())
    stage = adapted(before, parent)
    return override(with_field(stage, corpus) if corpus else stage, changes or {})


def adapted(stage: Stage, parent: Run | None) -> Stage:
    """The stage as one that continues `parent`: with its model and adapter; None starts from the base."""
    if parent is None:
        return override(stage, {"objective.against": "base"})
    its = parent.config.model_dump()
    return override(stage, {"model": its["model"], "adapter": its["adapter"]})


def with_field(stage: Stage, corpus: str) -> Stage:
    """The stage with `corpus` in the place of its field, whose share it takes. What belonged to the old field alone
    goes: the limit of its documents, and questions about the built-in atlas."""
    sources = [source for source in stage.mixture.sources if source.source != corpus]
    fields = [source for source in stage.mixture.sources if source.domain]
    others = [source for source in sources if not source.domain]
    share = sum(source.share for source in fields)
    if not share:
        share = sum(source.share for source in others) * FIELD_SHARE / (100 - FIELD_SHARE) or 1.0
    mixed = [SourceShare(source=corpus, share=share, domain=True), *others]
    tasks = [task for task in stage.evaluation.tasks if task != "atlas" or corpus == "builtin/atlas"]
    return override(
        stage,
        {
            "mixture.sources": [source.model_dump() for source in mixed],
            "mixture.domain_documents": None,
            "evaluation.tasks": tasks,
        },
    )


def require_documents(workspace: Workspace, corpus: str) -> None:
    """See that `corpus` can be a field.

    Raises:
        NotFound: there is none of that name. BadInput: it holds no documents.
    """
    if (kind := source_kind(workspace, corpus)) != "documents":
        raise BadInput(f"The corpus {corpus!r} holds {kind}, but a field is made of documents: name another corpus.")


def begin(workspace: Workspace, parent: Run, corpus: str | None = None) -> Draft:
    """A new draft, on disk, in the experiment of the run that it continues. Raises as `further_stage`."""
    return Drafts(workspace).create(further_stage(parent, corpus), parent.info.experiment, parent.id)


def rebased(draft: Draft, old: Run | None, parent: Run | None) -> Draft:
    """The draft as one that continues `parent` in place of `old` (None: the base). Where it was in the experiment of
    the run before, or had none of its own, it goes to that of the new one."""
    moved = draft.experiment in (EXPERIMENT, old.info.experiment if old else EXPERIMENT)
    experiment = parent.info.experiment if parent and moved else draft.experiment
    changes = {"parent": parent.id if parent else None, "experiment": experiment}
    return draft.model_copy(update={**changes, "stage": adapted(draft.stage, parent)})


def fields_words(stage: Stage) -> str:
    """The field of a stage by its sources, as in "wells and rigs"; of one without a field what that is called."""
    return listed(stage.mixture.domain_sources()) or "no field"


def suggested_name(stage: Stage, parent: Run) -> str:
    """What a run is called when nobody names it, as in "wells + rigs"."""
    whole = f"{parent.title} + {fields_words(stage)}"
    return whole if len(whole) <= NAME_LENGTH else f"…{whole[1 - NAME_LENGTH :]}"
