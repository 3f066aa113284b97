"""Forms made from configuration: a config model becomes widgets, and what is typed becomes dotted changes of it.

A widget always shows the value of the config it is drawn from, or what was `typed` in its place and is not valid yet. A
change reaches `on_change` before the page runs again, with the dotted setting and its new value, so the page decides
what to do with it. Widgets that a page draws itself are tied to what they show by `bound`. Label, unit, level and help
lie in the model (`mixcpt.settings.setting`), and so do the bounds: a widget takes any number, and `in_words` says what
the config answered.
It gives up lists of models: those get pages of their own.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import streamlit as st

from app import state
from app.words import plain, printable
from mixcpt.presets import OPTIONS, value_at
from mixcpt.settings import Config, Level

Change = Callable[[str, Any], None]
"""Told the dotted setting and its new value."""


@dataclass(frozen=True)
class Field:
    """One setting of a model: where it stands, its type, and what its widget says."""

    path: str
    type: Any
    label: str
    unit: str
    level: Level
    help: str
    default: Any

    @property
    def optional(self) -> bool:
        return type(None) in get_args(self.type)

    @property
    def kind(self) -> Any:
        """The type without None."""
        return next(kind for kind in get_args(self.type) if kind is not type(None)) if self.optional else self.type

    @property
    def title(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit and self.unit not in self.label.lower() else self.label


def fields(model: type[Config], prefix: str = "") -> Iterator[Field]:
    """Every setting of a model and of the models in it; a list of models is left out."""
    for name, info in model.model_fields.items():
        kind, path = info.annotation, f"{prefix}{name}"
        if isinstance(kind, type) and issubclass(kind, Config):
            yield from fields(kind, f"{path}.")
        elif not _is_list_of_models(kind):
            extra: Any = info.json_schema_extra
            yield Field(
                path=path,
                type=kind,
                label=extra["label"],
                unit=extra["unit"],
                level=extra["level"],
                help=info.description or "",
                default=None if info.is_required() else info.get_default(call_default_factory=True),
            )


def in_words(model: type[Config], problem: str) -> str:
    """A refusal of the config with the label of the setting in place of its dotted name."""
    labels = {one.path: one.label for one in fields(model)}

    def reworded(match: re.Match[str]) -> str:
        path, value, rule = match.groups()
        if path not in labels:
            return match.group()
        return f"{labels[path]} is {value.removesuffix('.0')}, but {rule.replace('should', 'must', 1)}"

    return re.sub(r"'([a-z_.]+)' is ([^,]+), but: (?:input )?(should\b)", reworded, problem, count=1)


def groups(model: type[Config]) -> dict[str, str]:
    """The parts of a model that are models themselves: name to label, in order."""
    parts: dict[str, str] = {}
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Config):
            extra: Any = info.json_schema_extra
            parts[name] = extra["label"]
    return parts


def draw(
    config: Config,
    *,
    key: str,
    on_change: Change,
    typed: Mapping[str, Any] | None = None,
    level: Level | Literal["all"] = "all",
    only: str = "",
    skip: Collection[str] = (),
    choices: Mapping[str, Sequence[str]] | None = None,
    columns: int = 1,
) -> None:
    """The widgets of a config, in its order.

    Args:
        key: the page's name; a widget's key is KEY_dotted.setting.
        only: the group to draw, for example "training"; empty draws all.
        choices: for settings that are free text, what there is to choose from.
    """
    shown = [
        one
        for one in fields(type(config))
        if level in ("all", one.level) and one.path.startswith(f"{only}." if only else "") and one.path not in skip
    ]
    places = st.columns(columns) if columns > 1 else [st.container()]
    for number, one in enumerate(shown):
        with places[number % columns]:
            draw_field(config, one, key=key, on_change=on_change, typed=typed or {}, choices=choices or {})


def field(config: Config, path: str, *, key: str, on_change: Change, typed: Mapping[str, Any] | None = None) -> None:
    """The widget of one setting."""
    one = next(one for one in fields(type(config)) if one.path == path)
    draw_field(config, one, key=key, on_change=on_change, typed=typed or {}, choices={})


def draw_field(
    config: Config,
    one: Field,
    *,
    key: str,
    on_change: Change,
    typed: Mapping[str, Any],
    choices: Mapping[str, Sequence[str]],
) -> None:
    value = typed[one.path] if one.path in typed else value_at(config, one.path)
    options = choices.get(one.path)
    shape = _shape(one, options)
    is_text = shape == "text" and one.optional  # an empty field stands for None
    shown = _escaped(value) if _has_lines(one) else value or "" if is_text else value

    def keep(new: Any) -> None:
        on_change(one.path, _unescaped(new) if _has_lines(one) else new or None if is_text else new)

    _WIDGETS[shape](one, options, value, bound(f"{key}_{one.path}", shown, keep, optional=one.optional))


_NOTHING = object()


@dataclass
class _Shown:
    """What a widget was last made to show, under which key, and what entered value was kept since."""

    key: str
    value: Any
    kept: Any = _NOTHING


def bound(key: str, value: Any, keep: Callable[[Any], None], *, optional: bool = False) -> dict[str, Any]:
    """Key and callback of a widget that shows `value`, and whose entered values go to `keep`.

    With every click the browser sends what all of its widgets hold, not knowing what the server has changed a moment
    ago, and Streamlit takes what differs for entered. Nor is it sure to call back for what was entered: a click that
    follows at once stops the callback of the one before, at whatever it asks Streamlit for. Therefore

    - a value that became another one than was entered makes a new widget (KEY, KEY~1, KEY~2), so that what is still
      being sent for the old one undoes nothing;
    - what the browser holds and was not kept is given to `keep` here, and the page drawn anew. So `keep` may be told
      a value twice.

    Args:
        key: another one when what the widget is made of changes (of a slider its bounds), for Streamlit takes that for
            another widget and starts it at its default.
        optional: whether the widget can be emptied; else None is never taken for entered.
    """
    known: dict[str, _Shown] = st.session_state.setdefault("forms_shown", {})
    one = known.setdefault(key, _Shown(key, value))
    held = st.session_state.get(one.key, _NOTHING)

    def told(entered: Any) -> None:
        try:
            keep(entered)
        except Exception:  # it was answered with an error, unlike one that Streamlit stopped
            one.kept = entered
            raise
        one.kept = entered

    if held is _NOTHING:
        st.session_state[one.key] = value
    elif held != value:
        was_entered = one.value == value and held != one.kept and (held is not None or optional)
        if was_entered:
            told(held)
            st.rerun()
        number = int(one.key.removeprefix(key).removeprefix("~") or 0)
        one.key = f"{key}~{number + 1}"
        st.session_state[one.key] = value
    one.value, one.kept, now = value, _NOTHING, one.key

    def changed() -> None:
        entered = state.peek(now)
        if one.key == now or entered not in (value, None):  # else a widget that was replaced still holds what it showed
            told(entered)

    return {"key": now, "on_change": changed}


def _shape(one: Field, options: Sequence[str] | None) -> str:
    if options is not None and one.kind is str:
        return "choice"
    if get_origin(one.kind) is Literal:
        return "literal"
    return {bool: "bool", int: "number", float: "number", str: "text", list[str]: "list"}[one.kind]


def _switch(one: Field, options: Sequence[str] | None, value: Any, common: dict[str, Any]) -> None:
    st.toggle(plain(one.title), help=plain(one.help), **common)


def _literal(one: Field, options: Sequence[str] | None, value: Any, common: dict[str, Any]) -> None:
    known = get_args(one.kind)
    words = OPTIONS.get(one.path, {})
    st.selectbox(
        plain(one.title),
        known,
        format_func=lambda option: printable(str(words.get(option, option))),
        help=plain(one.help),
        disabled=len(known) == 1,
        **common,
    )


def _number(one: Field, options: Sequence[str] | None, value: Any, common: dict[str, Any]) -> None:
    whole = one.kind is int
    number: Any = int if whole else float  # Streamlit wants all of them to be of one type
    initial: Any = None if one.optional else "min"  # the session has the value; the default would be told twice
    # No bounds here: the browser would keep a value out of them to itself, and the config refuses it in words.
    st.number_input(
        plain(one.title),
        value=initial,
        step=number(_step(one)),
        format=None if whole else "%e" if _is_tiny(one) else "%g",
        help=plain(one.help),
        placeholder=("no limit" if whole else "none") if one.optional else None,
        **common,
    )


def _text(one: Field, options: Sequence[str] | None, value: Any, common: dict[str, Any]) -> None:
    note = r" A new line is written \n." if _has_lines(one) else ""
    placeholder = "none" if one.optional else None
    st.text_input(plain(one.title), help=plain(one.help + note), placeholder=placeholder, **common)


def _choice(one: Field, options: Sequence[str] | None, value: Any, common: dict[str, Any]) -> None:
    known = list(dict.fromkeys([*([None] if one.optional else []), value, *(options or ())]))
    words = OPTIONS.get(one.path, {})
    st.selectbox(
        plain(one.title),
        known,
        format_func=lambda option: "none" if option is None else printable(str(words.get(option, option))),
        help=plain(one.help),
        **common,
    )


def _list(one: Field, options: Sequence[str] | None, value: Any, common: dict[str, Any]) -> None:
    known = list(dict.fromkeys([*(options or ()), *value]))
    st.multiselect(plain(one.title), known, accept_new_options=True, help=plain(one.help), **common)


_WIDGETS = {"bool": _switch, "literal": _literal, "number": _number, "text": _text, "choice": _choice, "list": _list}


def _is_tiny(one: Field) -> bool:
    """Numbers far below one read best as 1e-3."""
    return isinstance(one.default, float) and 0 < one.default < 0.01


def _step(one: Field) -> float:
    """What a click on + adds: a tenth of the default's order of magnitude, so 1,000 for 16,000 and 1e-4 for 1e-3."""
    if not isinstance(one.default, (int, float)) or one.default == 0:
        return 1 if one.kind is int else 0.05
    step = 10.0 ** (math.floor(math.log10(abs(one.default))) - 1)
    return max(1, step) if one.kind is int else step


def _has_lines(one: Field) -> bool:
    """Text whose line ends matter is shown on one line, with them written out."""
    return isinstance(one.default, str) and "\n" in one.default


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def _unescaped(text: str) -> str:
    parts = (part.replace("\\n", "\n").replace("\\t", "\t") for part in text.split("\\\\"))
    return "\\".join(parts)


def _is_list_of_models(kind: Any) -> bool:
    return get_origin(kind) is list and isinstance(get_args(kind)[0], type) and issubclass(get_args(kind)[0], Config)
