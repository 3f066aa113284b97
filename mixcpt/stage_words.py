"""Stage two in words: after what a run comes, what it learns from, and against what it is measured.

Everything is plain text, for whoever shows it to escape. A run that was deleted is called by its id.
"""

from mixcpt.errors import NotFound
from mixcpt.lineage import BASE
from mixcpt.palette import STAGE_NAMES
from mixcpt.presets import OPTIONS
from mixcpt.runs import Run, Runs
from mixcpt.samples import facts_in_words, kept_facts
from mixcpt.stages import Dpo, Sft
from mixcpt.workspace import Workspace


def run_words(workspace: Workspace, id: str | None) -> str:
    """A run with its stage and id, as in "SFT run mixture (sft-…)"; None is the base."""
    if id is None:
        return "the base itself"
    try:
        run = Runs(workspace).get(id)
    except NotFound:
        return f"{id}, which is gone"
    called = "" if run.title == run.id else f"{run.title} ({run.id})"
    return f"{STAGE_NAMES[run.info.stage]} run {called or run.id}"


def chain_words(run: Run) -> str:
    """From the base to this run, as in "base → knowledge: mixture → SFT: mixture"."""
    try:
        chain = run.chain()
    except NotFound:
        chain = [run]
    first = STAGE_NAMES[BASE] if chain[0].info.parent is None else f"{chain[0].info.parent}, which is gone"
    return " → ".join([first, *(f"{STAGE_NAMES[one.info.stage]}: {one.title}" for one in chain)])


def samples_words(stage: Sft, run: Run | None = None) -> str:
    """Which samples are learned from: those that `run` has chosen, else what will be chosen."""
    if run and (facts := kept_facts(run)):
        return facts_in_words(facts)
    samples = stage.samples
    if samples.selection:
        return f"selection {samples.selection}"
    some = "" if samples.candidates is None else f", from {samples.candidates:,} candidates"
    return f"{samples.source}, {samples.rule.words()}{some}"


def template_words(name: str) -> str:
    """A chat template by the name that the configuration or a run's samples.json has for it."""
    return OPTIONS["template"].get(name, name)


def template_of_chain(run: Run) -> str:
    """The name of the template that the chain which ends with this run saves with its adapter; "auto" where it leaves
    that to the model."""
    configs = (one.config for one in reversed(run.chain()))
    return next((c.template for c in configs if isinstance(c, Sft) and c.template != "auto"), "auto")


def reference_words(workspace: Workspace, stage: Dpo, parent: str | None) -> str:
    """What the preferences of a DPO run are measured against; `parent` is the run that it continues."""
    named = stage.preference.reference
    id = parent if named == "parent" else None if named == BASE else named
    return "the base itself" if id is None else f"a frozen copy of {run_words(workspace, id)}"
