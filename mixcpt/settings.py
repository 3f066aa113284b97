"""The machinery under the configuration: fields that a form can draw, dotted changes, faults in words, and YAML.

A field's group in a form is the model it stands in. Nothing here knows what is configured.
"""

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mixcpt.errors import BadConfig, Damaged

Level = Literal["basic", "advanced"]


def setting(
    default: Any = ..., *, label: str, help: str, unit: str = "", level: Level = "advanced", **bounds: Any
) -> Any:
    """A pydantic field with what a form needs to draw it: `label`, `unit` and `level` lie in its JSON schema."""
    extra: dict[str, Any] = {"label": label, "unit": unit, "level": level}
    if isinstance(default, (list, dict)):
        bounds["default_factory"] = default.copy
        return Field(description=help, json_schema_extra=extra, **bounds)
    return Field(default, description=help, json_schema_extra=extra, **bounds)


class Config(BaseModel):
    """Base of all configuration: frozen, and closed to keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


C = TypeVar("C", bound=Config)


def override(config: C, changes: dict[str, Any]) -> C:
    """`config` with dotted settings replaced, e.g. {"training.learning_rate": 1e-4, "mixture.sources.0.share": 2}.

    Raises:
        BadConfig: an unknown setting (with the nearest known name) or a value that is out of bounds.
    """
    data = config.model_dump()
    for path, value in changes.items():
        _assign(data, path.split("."), value, path)
    return validate(type(config), data, "these changes")


def _assign(data: Any, keys: Sequence[str], value: Any, path: str) -> None:
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(data, list):
            if not key.isdigit() or int(key) >= len(data):
                raise BadConfig(f"The setting {path!r} is unknown: {key!r} is not an index below {len(data)}.")
            position: Any = int(key)
        elif isinstance(data, dict) and key in data:
            position = key
        else:
            known = list(data) if isinstance(data, dict) else []
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known) or 'nothing'}."
            raise BadConfig(f"The setting {path!r} is unknown: {hint}")
        if last:
            data[position] = value
        else:
            data = data[position]


def validate(model: type[C], data: Any, origin: str) -> C:
    """`data` as `model`; BadConfig with one sentence that names the first fault (setting, value, remedy)."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        more = f" ({len(faults) - 1} more)" if len(faults) > 1 else ""
        raise BadConfig(f"In {origin}: {_sentence(model, faults[0])}{more}") from None


def _sentence(model: type[Config], fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _fields_at(model, fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
        return f"the key {place!r} is unknown: " + (
            f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}."
        )
    if fault["type"] == "missing":
        return f"{place!r} is missing: add it."
    message = fault["msg"].removeprefix("Value error, ")
    if not place or isinstance(fault["input"], (dict, BaseModel)):
        return f"{place + ': ' if place else ''}{message}."
    return f"{place!r} is {fault['input']!r}, but: {message[0].lower()}{message[1:]}."


def _fields_at(model: Any, location: Sequence[int | str]) -> list[str]:
    schema = model.model_json_schema()
    node = schema
    for part in location:
        node = node["items"] if isinstance(part, int) else node.get("properties", {}).get(part, {})
        for option in [node, *node.get("anyOf", []), *node.get("allOf", [])]:
            if "$ref" in option:
                node = schema["$defs"][option["$ref"].rsplit("/", 1)[1]]
    return list(node.get("properties", {}))


class _Loader(yaml.CSafeLoader):
    """YAML as people expect it (1.2): `on` and `no` are words, 1e-4 is a number, a date is text."""


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would read as something else."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_POWER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")
for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver("tag:yaml.org,2002:float", _POWER, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF"))


def read_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # a safe loader: makes no objects


def parse_change(text: str) -> tuple[str, Any]:
    """One `a.b=value` of the command line; the value is read as YAML, so 1e-4, true and [1, 2] mean what they say."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BadConfig(
            f"--set {text!r} cannot be read: write --set name=value, for example training.learning_rate=1e-4."
        )
    try:
        return name.strip(), read_yaml(value)
    except yaml.YAMLError:
        raise BadConfig(f"--set {text!r} cannot be read: {value!r} is not valid YAML, put quotes around it.") from None


def as_change(path: str, value: Any) -> str:
    """The `a.b=value` that `parse_change` reads back."""
    text = f"{path}={value}"
    return text if isinstance(value, str) and parse_change(text)[1] == value else f"{path}={json.dumps(value)}"


def to_yaml(config: Config) -> str:
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def load_yaml(path: Path) -> Any:
    """What `to_yaml` wrote, as plain values. Raises Damaged when it is no YAML any more."""
    try:
        return read_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise Damaged(f"{path} is damaged ({reason}): mend it, or move it away.") from None
