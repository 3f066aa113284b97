"""What comes of a comparison: the finding in words, plane and curves, tables, questions, downloads."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from app import asking_view, diagnosis_view, plane_view, show, state
from app.claims_view import arm_against_arm
from app.compare_chooser import Choice
from app.pins import heading
from app.words import plain, printable
from mixcpt import charts, columns, comparison
from mixcpt.compare import Row, summarise, tasks, templates
from mixcpt.findings import cautions, findings, leaders
from mixcpt.multiples_chart import MOST
from mixcpt.runs import Run
from mixcpt.settings_diff import SAME_SETTINGS, settings_table

_MEASURES = {"general": "General forgetting", "domain": "Domain gain", "kl": "KL to the base"}
_PINS = {"general": "forgetting_curves", "domain": "gain_curves", "kl": "kl_curves"}
_SENTENCES = 6
_QUESTIONS = "Questions answered right"
_SCORED = ("accuracy", "items", "how")
"""What the chart of questions changes with."""


def comparison_of(choice: Choice) -> None:
    rows, arms = choice.rows, summarise(choice.rows)
    runs = [Run(state.workspace().runs / row["run"]) for row in rows]
    _in_words(arms)
    arm_against_arm(rows, arms, choice.domain_tokens)
    left, right = st.columns(2, gap="medium")
    with left:
        plane_view.plane(rows, runs)
    with right:
        _curves(rows)
    _multiples(rows, arms)
    differences(arms, key="compare_table")
    diagnosis_view.of_arms(arms)
    _questions(arms, rows, runs, choice)
    _settings(runs, rows)
    _downloads(runs, choice)


def _in_words(arms: Sequence[Row]) -> None:
    found = [*leaders(arms), *findings(arms)]
    with st.container(border=True, gap="small"):
        st.subheader("What came out", anchor=False)
        st.markdown(_bullets(found[:_SENTENCES]))
        if len(found) > _SENTENCES:
            with st.expander(f"{len(found) - _SENTENCES} more", key="compare_more"):
                st.markdown(_bullets(found[_SENTENCES:]))
        st.caption(" ".join(cautions(arms)))


def _bullets(found: Sequence[Any]) -> str:
    return "\n".join(f"- **{plain(finding.title)}** {finding.words}." for finding in found)


def _what(rows: Sequence[Row]) -> tuple[Any, ...]:
    """All that the figures depend on: which runs, under which titles, and up to where each was read."""
    return tuple((row["run"], row["title"], row["tokens"], len(row["curve"]), len(row)) for row in rows)


@st.cache_resource(show_spinner=False, max_entries=64)
def _figure(name: str, what: tuple[Any, ...], _rows: Sequence[Row]) -> go.Figure:
    """Kept for all sessions: drawing takes longer than all the rest of the page."""
    if name == "multiples":
        return charts.multiples(_rows)
    return charts.questions(_rows) if name == "questions" else charts.forgetting_curves(_rows, name)


def _curves(rows: Sequence[Row]) -> None:
    with st.container(border=True, height="stretch"):
        measure = st.session_state.get("compare_measure") or "general"
        heading(
            "Over tokens read",
            _PINS[measure],
            rows,
            "Differences to the base. Of several seeds "
            "the thick line is their mean, the band goes from the lowest to the highest.",
        )
        st.segmented_control(
            "Measure",
            list(_MEASURES),
            default="general",
            required=True,
            format_func=_MEASURES.__getitem__,
            key="compare_measure",
            label_visibility="collapsed",
        )
        show.chart(_figure(measure, _what(rows), rows), key="compare_curves")


def _multiples(rows: Sequence[Row], arms: Sequence[Row]) -> None:
    """A panel an arm, where there is more than one."""
    if len(arms) < 2:
        return
    with st.container(border=True):
        heading(
            "Each arm by itself", "multiples", rows,
            "The curves of every arm in a panel of its own, all on the same axes; a line is a seed.",
        )  # fmt: skip
        show.chart(_figure("multiples", _what(rows), rows), key="compare_multiples")
        if len(arms) > MOST:
            st.caption(f"The first {MOST} of {len(arms)} arms.")


def differences(arms: Sequence[Row], *, key: str) -> None:
    """The tables of arms: what each gained, forgot and answered, against the base, and the form of its answers."""
    st.subheader("Differences to the base", anchor=False, help=columns.HOW_TO_READ)
    _table(arms, columns.columns(arms), key)
    if words := columns.against(arms):
        st.caption(plain(words))
    if formats := columns.format_columns(arms):
        st.subheader(columns.FORMATS, anchor=False, help=columns.HOW_TO_READ_FORMATS)
        _table([arm for arm in arms if templates([arm])], formats, f"{key}_formats")


def _table(arms: Sequence[Row], shown: Sequence[columns.Column], key: str) -> None:
    data: dict[str, list[Any]] = {
        "title": [printable(arm["title"]) for arm in arms],
        "seeds": [", ".join(map(str, arm["seeds"])) for arm in arms],
    }
    config: dict[str, Any] = {
        "title": st.column_config.TextColumn("Arm", pinned=True, width="medium", help="Runs that differ only by seed."),
        "seeds": st.column_config.TextColumn("Seeds", width="small"),
    }
    for column in shown:
        data[column.key] = [_rounded(arm.get(column.key), column.form) for arm in arms]
        config[column.key] = _number(f"{printable(column.title)} ({column.unit})", column)
        intervals = [arm.get(f"{column.key}_ci") for arm in arms]
        if any(intervals):
            spread = f"{column.key}_spread"
            data[spread] = [_rounded((pair[1] - pair[0]) / 2 if pair else None, column.form) for pair in intervals]
            config[spread] = st.column_config.NumberColumn(
                "±", format=_FORMATS[column.form].replace("+", ""), width="small",
                help="Half the width of the 95 % interval of the mean over seeds.",
            )  # fmt: skip
        if any(items := [columns.over_items(arm, column) for arm in arms]):
            data[f"{column.key}_items"] = items
            config[f"{column.key}_items"] = st.column_config.TextColumn(
                "95 %", width=105, help="Interval over the questions or answers, of arms with one seed.",
            )  # fmt: skip
    st.dataframe(data, column_config=config, hide_index=True, key=key, placeholder="–")


def _rounded(value: Any, form: str) -> Any:
    """Streamlit's percent shows up to two decimals, which a few dozen questions do not carry."""
    return round(value, 2) if form == ".0%" and value is not None else value


_FORMATS = {",d": "localized", "signed": "%+.3f", ".3f": "%.3f", ".0%": "percent"}


def _number(label: str, column: columns.Column) -> Any:
    return st.column_config.NumberColumn(label, format=_FORMATS[column.form], help=plain(column.help))


def _questions(arms: Sequence[Row], rows: Sequence[Row], runs: Sequence[Run], choice: Choice) -> None:
    with st.container(border=True):
        if asked := tasks(arms):
            help = "With 95 % intervals; what overlaps is hardly told apart."
            if choice.unseen:  # a notebook draws the chart anew, of all questions
                st.subheader(_QUESTIONS, anchor=False, help=help)
            else:
                heading(_QUESTIONS, "questions", rows, help)
            scores = tuple(row.get(f"{task}_{key}") for row in rows for task in asked for key in _SCORED)
            show.chart(_figure("questions", (*_what(rows), scores), arms), key="compare_questions")
        else:
            st.subheader(_QUESTIONS, anchor=False)
            at_end = "They are asked at the end of training, so not at equal tokens of the field."
            st.caption(at_end if choice.domain_tokens else "None of these runs was asked any questions yet.")
        asking_view.asking(runs)


def _settings(runs: Sequence[Run], rows: Sequence[Row]) -> None:
    st.subheader("In which settings they differ", anchor=False)
    if len(rows) == 1:
        st.caption("One run differs from none: choose another beside it.")
        return
    table = settings_table(runs, rows)
    if not table.rows:
        st.caption(SAME_SETTINGS)
        return
    data, config = {}, {}
    for place, (head, *cells) in enumerate(zip(table.columns, *table.rows, strict=True)):
        key = str(place)  # arms may be called anything, but no two columns alike
        data[key] = [printable(cell) for cell in cells]
        config[key] = st.column_config.TextColumn(printable(head), pinned=place < 2)
    st.dataframe(data, column_config=config, hide_index=True, key="compare_settings")


def _downloads(runs: Sequence[Run], choice: Choice) -> None:
    with st.container(horizontal=True):
        st.download_button(
            "Table as CSV", lambda: columns.as_csv(choice.rows), "comparison.csv", "text/csv", key="compare_csv",
            icon=":material/table:", on_click="ignore", help="One line a run, every figure in full precision.",
        )  # fmt: skip
        st.download_button(
            "Table as JSON", lambda: comparison.as_json(choice.rows), "comparison.json", "application/json",
            key="compare_json", icon=":material/data_object:", on_click="ignore",
            help="Every run with its curve, and every arm over its seeds, for programs.",
        )  # fmt: skip
        st.download_button(
            "Page as HTML",
            lambda: comparison.as_html(state.workspace(), runs, choice.domain_tokens, choice.unseen),
            "comparison.html", "text/html", key="compare_html", icon=":material/download:", on_click="ignore",
            help="One file with charts and tables that needs neither the studio nor a network.",
        )  # fmt: skip
