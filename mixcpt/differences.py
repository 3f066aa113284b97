"""What sets one stage apart from another, setting by setting, in the words of the form."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from mixcpt.stages import AnyStage


@dataclass(frozen=True)
class Difference:
    """`path` is the dotted name that recipes and `--set` use; the values are as YAML would write them."""

    path: str
    label: str
    value: Any
    usual: Any


def differences(stage: AnyStage, usual: AnyStage) -> list[Difference]:
    """The settings of `stage` that are not as in `usual`, in the order of the form."""
    other = {path: value for path, _, value in _leaves(usual)}
    return [
        Difference(path, label, value, other[path]) for path, label, value in _leaves(stage) if value != other[path]
    ]


def _leaves(config: BaseModel, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    plain = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value = config.__dict__[name]
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            extra = field.json_schema_extra
            label = str(extra["label"]) if isinstance(extra, dict) else name
            yield prefix + name, label, plain[name]
