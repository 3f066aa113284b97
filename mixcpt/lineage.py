"""What may come after what: a chain has one adapter from its first stage on, and whatever comes next trains it on.

A further corpus may come after any run; SFT comes after knowledge or SFT, and DPO too, which measures against the very
run it starts from. It gives up DPO right after DPO, and an adapter that grows or shrinks on its way: every corpus with
an adapter of its own would leave rank that grows without end, and nothing that is one file for PEFT.
"""

from typing import TYPE_CHECKING, TypeVar, cast

from mixcpt.errors import BadInput
from mixcpt.settings import override
from mixcpt.stages import AnyStage, Dpo, Sft, Stage

if TYPE_CHECKING:
    from mixcpt.runs import Run

A = TypeVar("A", bound=AnyStage)
BASE = "base"
"""The reference of a DPO run that continues none."""
FOLLOWS = {"cpt": ("cpt", "sft", "dpo"), "sft": ("cpt", "sft"), "dpo": ("cpt", "sft")}
"""By stage, the stages of the runs that it can continue."""


def continuing(stage: A, parent: "Run | None") -> A:
    """The stage as a run keeps it that continues `parent` (None: the base): with the reference of DPO named.

    Raises:
        BadInput: the parent's stage cannot be continued, its model or adapter is another, or what the stage is to be
            held against is not what it starts from.
    """
    if parent is not None:
        _require_stage(stage, parent)
        _require_adapter(stage, parent)
    elif isinstance(stage, Stage) and stage.objective.against == "parent":
        raise BadInput(
            "objective.against is 'parent', but this run starts from the base itself and continues none: set it to "
            "'base'."
        )
    if isinstance(stage, Dpo):
        return cast(A, _with_reference(stage, parent.id if parent else BASE))
    return stage


def has_template(run: "Run | None") -> bool:
    """Whether the chain that ends with this run saves a chat template with its adapter."""
    return run is not None and (isinstance(run.config, Sft) or has_template(run.parent))


def _require_stage(stage: AnyStage, parent: "Run") -> None:
    before = parent.config.stage
    if before not in FOLLOWS[stage.stage]:
        raise BadInput(
            f"{stage.stage} cannot continue {parent.id}, which is a run of {before}: choose one of "
            f"{' or '.join(FOLLOWS[stage.stage])}."
        )


def _require_adapter(stage: AnyStage, parent: "Run") -> None:
    before = parent.config
    if stage.model.name != before.model.name:
        raise BadInput(
            f"model.name is {stage.model.name!r}, but {parent.id} was trained on {before.model.name!r}, and its "
            "adapter fits no other: take that model."
        )
    mine, its = stage.adapter.model_dump(), before.adapter.model_dump()
    for name, value in mine.items():
        if value != its[name]:
            raise BadInput(
                f"adapter.{name} is {value!r}, but {parent.id}, whose adapter is trained on, has {its[name]!r}: take "
                "that."
            )


def _with_reference(stage: Dpo, start: str) -> Dpo:
    named = stage.preference.reference
    if named not in ("parent", start):
        raise BadInput(
            f"preference.reference is {named!r}, but this run starts from {start!r}, against which preferences are "
            f"measured: set it to 'parent' or {start!r}."
        )
    return override(stage, {"preference.reference": start})
