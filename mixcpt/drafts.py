"""Drafts: runs that are being put together in the app. They lie on disk, so that a reload, a second tab or a restarted
server finds what was typed; several people have a draft each.

    drafts/<id>.json      a `Draft` of the knowledge stage, or an `AlignDraft` of the stages after it, replaced
                          atomically at every change; after its launch it names the run
"""

import re
import unicodedata
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated

from pydantic import Field

from mixcpt.config import AdapterConfig, EvaluationConfig, MeasureConfig, MixtureConfig, SourceShare
from mixcpt.errors import NotFound
from mixcpt.optimisation import TrainingConfig
from mixcpt.settings import Config, validate
from mixcpt.stages import Dpo, Sft, Stage
from mixcpt.workspace import Workspace, check_name, locked, new_id, read_json, write_json

EXPERIMENT = "my-experiment"


class Guess(Config):
    """What somebody expects of a run before it starts, in percent of the base's bits per byte.

    `domain_gain` is positive when the field gets better, `forgetting` when general text gets worse.
    """

    domain_gain: float = Field(ge=-100, le=100)
    forgetting: float = Field(ge=-100, le=1000)


class RunDraft(Config):
    """A run before its launch: where it will belong, and what is expected of it.

    `parent` is the id of the run it continues, None for the base itself. `launched` is the id of the run that it
    became; `mixcpt.launching` writes it, and nobody else.
    """

    id: str
    experiment: str = EXPERIMENT
    name: str = ""
    tags: tuple[str, ...] = ()
    guess: Guess | None = None
    parent: str | None = None
    launched: str | None = None


class Draft(RunDraft):
    """A run of the knowledge stage before its launch."""

    stage: Stage


class AlignDraft(RunDraft):
    """A run of SFT or DPO before its launch."""

    stage: Annotated[Sft | Dpo, Field(discriminator="stage")]


AnyDraft = Draft | AlignDraft


def default_stage() -> Stage:
    """What a new draft begins with: recipes/quick.yaml, the fictional atlas mixed with general text, small enough for
    a processor."""
    shares = [
        SourceShare(source="builtin/atlas", share=60, domain=True),
        SourceShare(source="builtin/replay", share=20),
        SourceShare(source="builtin/instructions", share=12),
        SourceShare(source="builtin/preferences", share=8),
    ]
    return Stage(
        mixture=MixtureConfig(sources=shares, budget_tokens=12_000, row_tokens=256),
        adapter=AdapterConfig(rank=32, alpha=64),
        training=TrainingConfig(rows_per_step=1, rows_at_once=1, learning_rate=2e-3),
        measures=MeasureConfig(every_steps=20, domain_tokens=400, general_tokens=800, prompt_tokens=500),
        evaluation=EvaluationConfig(tasks=["general", "atlas"], items=100),
    )


def as_name(text: str) -> str:
    """What `text` becomes as the name of an experiment: "My Field (2)" is kept as my-field-2. Always a valid name."""
    latin = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9._]+", "-", latin).strip("-._")[:64].strip("-._")
    return name or EXPERIMENT


class Drafts:
    """The drafts of a workspace."""

    def __init__(self, workspace: Workspace):
        self.folder = workspace.root / "drafts"

    def create(self, stage: Stage | None = None, experiment: str = EXPERIMENT, parent: str | None = None) -> Draft:
        draft = Draft(id=new_id("draft"), stage=stage or default_stage(), experiment=experiment, parent=parent)
        self.save(draft)
        return draft

    def create_align(self, stage: Sft, parent: str | None = None, experiment: str = EXPERIMENT) -> AlignDraft:
        draft = AlignDraft(id=new_id("draft"), stage=stage, parent=parent, experiment=experiment)
        self.save(draft)
        return draft

    def get(self, id: str) -> AnyDraft:
        """Raises NotFound when there is no such draft, BadConfig when this version cannot read it."""
        path = self.folder / f"{check_name(id, 'draft')}.json"
        if not path.is_file():
            raise NotFound(f"There is no draft {id!r} any more: begin a new one.")
        data = read_json(path)
        stage = data.get("stage") if isinstance(data, dict) else None
        is_later = isinstance(stage, dict) and stage.get("stage", "cpt") != "cpt"
        return validate(AlignDraft, data, f"draft {id}") if is_later else validate(Draft, data, f"draft {id}")

    def save(self, draft: AnyDraft) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / f"{check_name(draft.id, 'draft')}.json", draft.model_dump(mode="json"))

    def change(self, id: str, how: Callable[[AnyDraft], AnyDraft]) -> AnyDraft:
        """Replace the draft by what `how` makes of it as it is on disk now, so that two clicks at once both count;
        returns the new one. Raises as `get` does, and what `how` raises: then nothing is changed."""
        with self.alone(id):
            changed = how(self.get(id))
            self.save(changed)
        return changed

    def alone(self, id: str) -> AbstractContextManager[None]:
        """While nobody else changes or launches this draft."""
        return locked(self.folder / f".{check_name(id, 'draft')}.lock")

    def delete(self, id: str) -> None:
        (self.folder / f"{check_name(id, 'draft')}.json").unlink(missing_ok=True)
