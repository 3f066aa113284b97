"""What may come after what: a run of stage two continues one adapter, and DPO measures against the very run it starts
from. It gives up DPO after DPO, and an adapter that grows or shrinks on its way.
"""

from typing import TYPE_CHECKING

from mixcpt.errors import BadInput
from mixcpt.settings import override
from mixcpt.stages import Dpo, Sft

if TYPE_CHECKING:
    from mixcpt.runs import Run

BASE = "base"
"""The reference of a DPO run that continues none."""
_GOES_ON = ("cpt", "sft")


def continuing(stage: Sft, parent: "Run | None") -> Sft:
    """The stage as a run keeps it that continues `parent` (None: the base): with its reference named.

    Raises:
        BadInput: the parent's stage cannot be continued, its model or adapter is another, or the reference of DPO is
            not what the run starts from.
    """
    if parent is not None:
        _require_stage(stage, parent)
        _require_adapter(stage, parent)
    return _with_reference(stage, parent.id if parent else BASE) if isinstance(stage, Dpo) else stage


def _require_stage(stage: Sft, parent: "Run") -> None:
    before = parent.config.stage
    if before not in _GOES_ON:
        raise BadInput(
            f"{stage.stage} cannot continue {parent.id}, which is a run of {before}: choose one of "
            f"{' or '.join(_GOES_ON)}."
        )


def _require_adapter(stage: Sft, parent: "Run") -> None:
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
