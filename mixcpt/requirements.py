"""What must be there before a stage can begin: its sources, its selection, its chat template. Asked before anything is
queued, by recipes and launches alike, so that no chain stops half-way for what could have been known.

Only small files are read. It gives up looking into the samples: whether any of them can be trained on is seen when they
are chosen.
"""

from typing import Any

from mixcpt import probe_sets
from mixcpt.builtin import KINDS, require_source
from mixcpt.corpus import Corpus
from mixcpt.errors import BadInput, NoTemplate
from mixcpt.modelstore import find_folder
from mixcpt.records import Kind
from mixcpt.samples import kind_of, needs_scores
from mixcpt.scores import SCORES
from mixcpt.selection import list_selections, open_selection
from mixcpt.stages import AnyStage, Sft
from mixcpt.templates import NAMED, template_of
from mixcpt.workspace import Workspace

OF_A_RUN = ("implicit_margin", "dpo_loss")
"""Scores of pairs that there are only where a run is compared with its base."""


def require_parts(
    workspace: Workspace, stage: AnyStage, before: AnyStage | None = None, has_template: bool = False
) -> None:
    """See that all that a stage reads is there; `before` is the stage that it continues, and `has_template` says
    whether its chain saves a chat template.

    Raises:
        NotFound: a source, the selection or a corpus of probes is gone. BadInput: its samples are of the other kind,
            or have no such score, or probes are asked for but there is no field. NoTemplate: there is no chat template.
    """
    measured = stage.mixture.domain_sources() if isinstance(stage, Sft) else stage.mixture.target_tokens()
    for source in [*measured, stage.measures.general]:
        require_source(workspace, source)
    probe_sets.require(workspace, stage.evaluation.tasks, stage.mixture.domain_sources())
    if stage.evaluation.format_items:
        source = stage.evaluation.format_source
        _require_kind("instructions", source_kind(workspace, source), f"source {source!r}", "the format is measured on")
    if isinstance(stage, Sft):
        _require_samples(workspace, stage)
        _require_score(stage, before)
        _require_template(workspace, stage, has_template or isinstance(before, Sft))


def _require_samples(workspace: Workspace, stage: Sft) -> None:
    config = stage.samples
    if config.selection is None:
        where, kind = f"source {config.source!r}", source_kind(workspace, config.source)
    else:
        where = f"selection {config.selection!r}"
        kind = selection_facts(workspace, config.selection)["scores"]["kind"]
    _require_kind(kind_of(stage), kind, where, f"{stage.stage} learns from")


def _require_score(stage: Sft, before: AnyStage | None) -> None:
    if not needs_scores(stage):
        return
    score, wanted = str(stage.samples.rule.score), kind_of(stage)
    there = [name for name, kind in SCORES.items() if kind.kind == wanted and (before or name not in OF_A_RUN)]
    if score not in there:
        why = (
            "compares a run with its base, but this starts from the base itself"
            if score in OF_A_RUN
            else (f"is no score of {wanted}, which {stage.stage} learns from")
        )
        raise BadInput(f"samples.rule.score is {score!r}, which {why}: take one of {', '.join(there)}.")


def _require_kind(wanted: Kind, kind: Kind, where: str, what_for: str) -> None:
    if kind != wanted:
        raise BadInput(f"The {where} holds {kind}, but {what_for} {wanted}: take another.")


def source_kind(workspace: Workspace, name: str) -> Kind:
    """What a source holds, without making a built-in one.

    Raises:
        NotFound: there is no such source.
    """
    require_source(workspace, name)
    return KINDS[name] if name in KINDS else Corpus.open(workspace, name).manifest.kind


def selection_facts(workspace: Workspace, name: str) -> dict[str, Any]:
    """What a saved selection says of itself, without its samples.

    Raises:
        NotFound: there is none of that name. BadFile, BadConfig: it is damaged.
    """
    found = next((facts for facts in list_selections(workspace) if facts["name"] == name), None)
    if found is None:
        open_selection(workspace, name)  # tells why not
        raise BadInput(f"The selection {name!r} cannot be read: save it again.")
    return found


def _require_template(workspace: Workspace, stage: Sft, has_template: bool) -> None:
    """A stage of stage two saves its template with the adapter, so what comes after it always has one."""
    if stage.template in NAMED or (stage.template == "auto" and has_template):
        return
    folder = find_folder(workspace, stage.model.name)
    if folder and template_of(folder) is None:
        raise NoTemplate(
            f"{stage.model.name} has no chat template, as base models do: set template to one of {', '.join(NAMED)}."
        )
