"""Forms: every field of a stage has a widget, and what a widget gives goes back into the config unchanged."""

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import forms
from app.words import plain
from mixcpt.drafts import default_stage
from mixcpt.errors import BadConfig
from mixcpt.presets import value_at
from mixcpt.settings import override
from mixcpt.stages import AnyStage, Dpo, Sft, Stage, follow

STAGES: dict[type[AnyStage], AnyStage] = {
    Stage: default_stage(),
    Sft: follow(default_stage(), "sft"),
    Dpo: follow(default_stage(), "dpo"),
}
FIELDS = [(model, one) for model in STAGES for one in forms.fields(model)]
OTHER: dict[str, Any] = {  # another valid value of each kind, as a person would give it
    "stage": None,
    "model.name": "org/name",
    "model.precision": "nf4",
    "model.device": "cpu",
    "mixture.preference_text": "both",
    "mixture.template": "alpaca",
    "mixture.joiner": r"\n##\\n",
    "objective.retention": "kl",
    "objective.against": "parent",
    "adapter.layers": "attention",
    "training.schedule": "linear",
    "measures.general": "builtin/general",
    "measures.on": "validation",
    "evaluation.tasks": ["general"],
    "evaluation.format_tokens": 64,
    "evaluation.format_source": "mine",
    "evaluation.format_templates": ["alpaca"],
    "samples.selection": "mine",
    "samples.source": "mine",
    "samples.max_tokens": 64,
    "samples.rule.strategy": "random",
    "samples.rule.score": "ifd",
    "template": "alpaca",
    "preference.reference": "base",
}
BESIDE = {"training.rows_per_step": 2, "samples.rule.count": None}
"""What must be set so that another value fits: rows at once divide it, and only one thing ends a selection."""


def page() -> None:
    import streamlit as st

    from app import forms
    from mixcpt.drafts import default_stage
    from mixcpt.stages import follow

    st.session_state.setdefault("told", {})
    level, kind = st.session_state.get("level", "all"), st.session_state.get("kind", "cpt")
    stage = default_stage() if kind == "cpt" else follow(default_stage(), kind)
    forms.draw(stage, key="t", on_change=st.session_state["told"].__setitem__, level=level)


def drawn(level: str = "all", model: type[AnyStage] = Stage) -> AppTest:
    app = AppTest.from_function(page, default_timeout=30)
    app.session_state["level"], app.session_state["kind"] = level, STAGES[model].stage
    return app.run()


def widgets(app: AppTest) -> dict[str, Any]:
    kinds = ("number_input", "selectbox", "text_input", "toggle", "multiselect")
    return {str(widget.key): widget for kind in kinds for widget in app.get(kind)}


@pytest.mark.parametrize("model", STAGES)
def test_every_field_of_a_stage_has_a_widget_with_its_value_label_and_help(model: type[AnyStage]) -> None:
    app = drawn(model=model)
    assert not app.exception
    shown, fields = widgets(app), list(forms.fields(model))
    assert set(shown) == {f"t_{one.path}" for one in fields} and len(fields) > 30
    for one in fields:
        widget, value = shown[f"t_{one.path}"], value_at(STAGES[model], one.path)
        as_shown = value.replace("\n", "\\n") if one.path == "mixture.joiner" else value
        assert widget.value == ("" if value is None and one.kind is str else as_shown), one.path
        assert widget.label == plain(one.title) and widget.help, one.path


@pytest.mark.parametrize("model", STAGES)
def test_no_field_is_forgotten_but_the_sources(model: type[AnyStage]) -> None:
    def leaves(data: dict[str, Any], prefix: str = "") -> set[str]:
        below = [
            leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}"}
            for name, value in data.items()
        ]
        return set().union(*below)

    known = {one.path for one in forms.fields(model)}
    assert leaves(STAGES[model].model_dump()) - known == {"mixture.sources"}


@pytest.mark.parametrize(
    ("model", "one"),
    [pair for pair in FIELDS if pair[1].path != "stage"],
    ids=lambda value: value.path if isinstance(value, forms.Field) else value.__name__,
)
def test_what_a_widget_gives_reaches_the_config(model: type[AnyStage], one: forms.Field) -> None:
    app, stage = drawn(model=model), STAGES[model]
    widget, value = widgets(app)[f"t_{one.path}"], value_at(stage, one.path)
    given: Any
    expected: Any
    if isinstance(value, bool):
        given = expected = not value
    elif one.path in OTHER:
        given = expected = OTHER[one.path]
    else:
        given = expected = 2 if one.kind is int and value != 2 else 3 if one.kind is int else 0.25
    if one.path == "mixture.joiner":
        expected = "\n##\\n"
    if one.path.endswith(("row_tokens", "budget_tokens", "checkpoint_steps")):
        given = expected = 64
    widget.set_value(given).run()
    assert not app.exception
    told = app.session_state["told"]
    if given != value:
        assert told == {one.path: expected} and type(told[one.path]) is type(expected)
    known = {other.path for other in forms.fields(model)}
    told = {path: new for path, new in BESIDE.items() if path in known} | told
    assert value_at(override(stage, told), one.path) == expected


def test_a_text_that_may_be_none_is_emptied_and_chosen() -> None:
    script = """
import streamlit as st
from app import forms
from mixcpt.drafts import default_stage
from mixcpt.settings import override
from mixcpt.stages import follow
stage = override(follow(default_stage(), "sft"), {"samples.selection": "mine"})
told = st.session_state.setdefault("told", {})
choices = {"samples.selection": ["mine", "my_other-one"]} if st.session_state.get("choose") else {}
forms.draw(stage, key="t", on_change=told.__setitem__, only="samples", choices=choices)
"""
    app = AppTest.from_string(script, default_timeout=30).run()
    widgets(app)["t_samples.selection"].set_value("").run()
    assert app.session_state["told"] == {"samples.selection": None}
    app = AppTest.from_string(script, default_timeout=30)
    app.session_state["choose"] = True
    box = app.run().selectbox(key="t_samples.selection")
    assert box.options == ["none", "mine", "my_other-one"] and box.value == "mine"
    box.set_value(None).run()
    assert app.session_state["told"] == {"samples.selection": None} and not app.exception


def test_a_number_that_may_be_empty_can_be_emptied() -> None:
    app = drawn()
    widgets(app)["t_evaluation.items"].set_value(None).run()
    assert app.session_state["told"] == {"evaluation.items": None}


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("training.learning_rate", 0.0, "Learning rate is 0, but must be greater than 0."),
        ("adapter.rank", -3, "LoRA rank is -3, but must be greater than or equal to 1."),
    ],
)
def test_a_refusal_names_the_label(path: str, value: float, sentence: str) -> None:
    with pytest.raises(BadConfig) as refused:
        override(default_stage(), {path: value})
    assert path in str(refused.value)
    assert forms.in_words(Stage, str(refused.value)) == f"In these changes: {sentence}"
    assert forms.in_words(Stage, "The corpus 'x' is gone, but: take it out.") == (
        "The corpus 'x' is gone, but: take it out."
    )


def test_at_most_eight_fields_are_basic() -> None:
    shown = widgets(drawn("basic"))
    assert 0 < len(shown) <= 8 and set(shown) < {f"t_{one.path}" for one in forms.fields(Stage)}


def test_small_numbers_are_shown_as_powers() -> None:
    app = drawn()
    rate = widgets(app)["t_training.learning_rate"]
    assert rate.proto.format == "%e" and rate.step == pytest.approx(1e-4)
    assert widgets(app)["t_mixture.budget_tokens"].step == 1000


def test_text_with_line_ends_goes_there_and_back() -> None:
    for text in ("\n\n", "\\n", "a\\\nb\t", "plain"):
        assert forms._unescaped(forms._escaped(text)) == text


def test_options_of_a_select_box_carry_no_backslashes() -> None:
    """Streamlit reads labels as Markdown, but the options of select boxes as they are."""
    script = """
from app import forms
from mixcpt.drafts import default_stage
stage = default_stage()
forms.draw(stage, key="t", on_change=lambda path, value: None, choices={"measures.general": ["my_field-2"]})
"""
    app = AppTest.from_string(script, default_timeout=30).run()
    assert not app.exception
    assert not [option for box in app.selectbox for option in box.options if "\\" in option]


def counter() -> None:
    """A page with a number that is kept, at most 9, and a button that changes it."""
    import streamlit as st

    from app import forms

    kept = st.session_state.setdefault("kept", {"number": 1})
    told = st.session_state.setdefault("told", [])

    def keep(number: int) -> None:
        told.append(number)
        if st.session_state.pop("stopped", False):
            st.rerun()  # as when a newer click stops the callback
        kept["number"] = number if number is None else min(number, 9)

    optional = st.session_state.get("optional", False)
    st.number_input("Number", value=None, step=1, **forms.bound("number", kept["number"], keep, optional=optional))
    st.button("Five", on_click=kept.update, kwargs={"number": 5})


def shown(app: AppTest) -> tuple[str | None, float | None]:
    assert not app.exception
    return app.number_input[0].key, app.number_input[0].value


def test_what_is_entered_is_kept_and_shown_as_it_was_kept() -> None:
    app = AppTest.from_function(counter).run()
    app.number_input[0].set_value(6).run()
    assert shown(app) == ("number", 6)
    app.number_input[0].set_value(20).run()
    assert shown(app) == ("number~1", 9) and app.session_state["told"] == [6, 20]


def test_what_changed_elsewhere_is_a_new_widget_so_that_the_old_one_cannot_undo_it() -> None:
    app = AppTest.from_function(counter).run()
    app.button[0].click().run()
    assert shown(app) == ("number~1", 5)
    app.number_input[0].set_value(6).run()
    assert shown(app) == ("number~1", 6)
    app.number_input[0].set_value(7)
    app.button[0].click().run()  # both arrive together: the click was the later one
    assert shown(app) == ("number~2", 5) and app.session_state["told"] == [6, 7]


def test_what_was_entered_and_told_to_no_callback_is_kept_when_the_page_is_drawn() -> None:
    app = AppTest.from_function(counter).run()
    app.session_state["number"] = 7  # the widget's value arrived, and its callback was never called
    app.run()
    assert app.session_state["told"] == [7] and shown(app) == ("number", 7)
    app.session_state["number"] = 30
    app.run()
    assert app.session_state["told"] == [7, 30] and shown(app) == ("number~1", 9)


def test_a_callback_that_was_stopped_half_way_is_told_again() -> None:
    app = AppTest.from_function(counter).run()
    app.session_state["stopped"] = True
    app.number_input[0].set_value(4).run()
    assert app.session_state["told"] == [4, 4] and shown(app) == ("number", 4)
    assert app.session_state["kept"] == {"number": 4}


def test_nothing_is_entered_where_a_field_can_be_emptied() -> None:
    app = AppTest.from_function(counter).run()
    app.session_state["number"] = None  # as Streamlit itself does with a choice that is none any more
    app.run()
    assert app.session_state["told"] == [] and shown(app) == ("number~1", 1)
    app.session_state["optional"] = True
    app.session_state["number~1"] = None
    app.run()
    assert app.session_state["told"] == [None] and shown(app) == ("number~1", None)
