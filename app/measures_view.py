"""The Measures tab of a run: what was measured of it anew, with intervals over documents, and measuring more."""

import shlex
from collections.abc import Sequence
from typing import Any

import streamlit as st

from app import show, state
from app.pins import pin_button
from app.watching import watch
from app.words import ago, plain, printable
from mixcpt import charts, measured
from mixcpt.corpus import list_corpora
from mixcpt.jobs import MOVING, Job
from mixcpt.measured import CURVE, TOKENS, Order, Taken
from mixcpt.runs import Run
from mixcpt.score_jobs import has_adapter

_ON, _TOKENS, _STRENGTHS = "measures_on", "measures_tokens", "measures_strengths"
_STEPS = {5: CURVE, 11: tuple(number / 10 for number in range(11))}


def page(run: Run) -> None:
    """The whole tab."""
    taken = measured.read(run)
    if not taken:
        st.markdown("#### Not measured again yet")
        st.markdown(
            "What a run gained and forgot was measured on the way, on little text. Here it is measured again on more: "
            "its field and general text of five kinds, document by document, so that a difference has an interval. "
            "Nothing is trained."
        )
    _ordering(run, bool(taken))
    if taken:
        _table(run, taken)
        _curve(run)


# ---- measuring -------------------------------------------------------------------------------------------------------


def _ordering(run: Run, again: bool) -> None:
    if not has_adapter(run):
        st.caption("It can be measured once it has its adapter: when it is done. A recorded run came without.")
        return
    if job := under_way([run]):
        watch_measuring(job, key="measures_watch")
        return
    job = measured.latest(state.workspace(), [run.id])
    if job and job.state == "failed":
        st.error(f"The last measuring failed: {plain(job.status.message)}", icon=":material/error:")
    parts = not run.config.adapter.vocabulary
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Measure again" if again else "Measure",
            key="measures_again",
            type="secondary" if again else "primary",
            icon=":material/straighten:",
            on_click=_submit,
            args=(run, (1.0,)),
            help="What is known already under the same conditions is not measured again.",
        )
        st.button(
            "Strength curve",
            key="measures_curve",
            icon=":material/timeline:",
            disabled=not parts,
            on_click=_submit,
            args=(run, None),
            help="Measures it with the adapter counting less, from the base (0) to the whole run (1): a curve of gain "
            "against forgetting, without any training."
            if parts
            else "Its embeddings and head were trained as whole matrices, so its adapter cannot count in part.",
        )
        with st.popover("What is measured", icon=":material/tune:", key="measures_what"):
            _form(run)


def _form(run: Run) -> None:
    st.markdown("Always: the run's own field, five kinds of general text, and general prompts.")
    usual = {*measured.texts_of(run, Order())}
    own = [one.name for one in list_corpora(state.workspace()) if not one.name.startswith("builtin-")]
    st.multiselect(
        "Further corpora",
        [name for name in own if name not in usual],
        key=_ON,
        placeholder="none",
        help="Their held-out part is measured too: what did this run do to another field?",
    )
    st.number_input(
        "Tokens of each text",
        min_value=100,
        max_value=10_000_000,
        value=TOKENS,
        step=1000,
        key=_TOKENS,
        help="At most so many, of each document its first 512. More make the intervals narrower and take longer.",
    )
    st.segmented_control(
        "Strengths of a curve", list(_STEPS), default=5, required=True, key=_STRENGTHS,
        help="At how many strengths the curve is measured, the base among them.",
    )  # fmt: skip
    st.caption("The same by command")
    order = _order(None)
    words = ["mixcpt", "measure", run.id, "--strengths", ",".join(f"{one:g}" for one in order.strengths)]
    words += [word for corpus in order.on for word in ("--on", corpus)]
    words += ["--tokens", str(order.tokens)] if order.tokens != TOKENS else []
    st.code(shlex.join(words), language="bash", wrap_lines=True)


def _order(strengths: Sequence[float] | None) -> Order:
    """What stands in the form; without strengths those of a curve."""
    return Order(
        on=tuple(state.peek(_ON) or ()),
        strengths=tuple(strengths or _STEPS[state.peek(_STRENGTHS) or 5]),
        tokens=int(state.peek(_TOKENS) or TOKENS),
    )


@show.told
def _submit(run: Run, strengths: Sequence[float] | None) -> None:
    measured.submit(state.workspace(), [run], _order(strengths))
    st.toast("It is in the queue.", icon=":material/straighten:")


def under_way(runs: Sequence[Run]) -> Job | None:
    """The measuring of any of these runs that waits or works."""
    job = measured.latest(state.workspace(), [run.id for run in runs])
    return job if job and job.state in MOVING else None


def watch_measuring(job: Job, key: str) -> None:
    watch([job], key, "Stop measuring", help="What was measured so far is kept.")


# ---- what was measured -----------------------------------------------------------------------------------------------


def _table(run: Run, taken: Sequence[Taken]) -> None:
    found = sorted({one.strength for one in taken}, reverse=True)
    st.subheader("What it gained and forgot, by text", anchor=False)
    strength = found[0]
    if len(found) > 1:
        strength = st.segmented_control(
            "Strength of the adapter", found, default=found[0], required=True, key="measures_strength",
            format_func=lambda one: f"{one:g}", help="1 is the run as it is, 0 the base.",
        )  # fmt: skip
    lines = [one for one in taken if one.strength == strength]
    general = [one for one in lines if one.part == measured.GENERAL_PART]
    if len(general) > 1:
        lines.append(measured.pooled(general, "all general text together"))
    _figures("measures_bits", "Bits per byte of held-out text: lower is better.", lines, "bits", "%.3f")
    _figures("measures_kl", "Distance to the base on general prompts: KL, nats per token.", lines, "kl", "%.4f")
    newest = max(taken, key=lambda one: one.finished)
    st.caption(
        f"Measured {ago(newest.finished)} in {newest.how['precision']} on {newest.how['device']}, base and run alike. "
        "Bits per byte have no chance level and no majority baseline: what counts is the difference to the base."
    )


def _figures(key: str, words: str, lines: Sequence[Taken], measure: str, form: str) -> None:
    shown = [one for one in lines if one.measure == measure]
    if not shown:
        return
    st.caption(words)
    signed = form.replace("%", "%+")
    table: dict[str, list[Any]] = {
        "Text": [printable(one.text) for one in shown],
        "Kind": [one.kind if one.how.get("text") else "general" for one in shown],
        "Base": [one.base for one in shown],
        "This run": [one.figure for one in shown],
        "Difference": [one.difference for one in shown],
        "95 % from": [one.interval[0] for one in shown],
        "to": [one.interval[1] for one in shown],
        "So it": [one.verdict for one in shown],
        "Documents": [len(one.documents) for one in shown],
        "Tokens": [one.tokens for one in shown],
    }
    if measure == "kl":
        table = {name: values for name, values in table.items() if name not in ("Base", "Difference", "Kind")}
        table["Prompts"] = table.pop("Documents")
    number = st.column_config.NumberColumn
    interval = "95 % interval of the difference, by drawing the documents again and again (paired bootstrap)."
    st.dataframe(
        table,
        hide_index=True,
        key=key,
        column_config={
            "Base": number(format=form, help="The model before any training, on the same documents."),
            "This run": number(format=form),
            "Difference": number(format=signed, help="This run minus base: below zero is better."),
            "95 % from": number(format=signed if measure == "bits" else form, help=interval),
            "to": number(format=signed if measure == "bits" else form, help=interval),
            "So it": st.column_config.TextColumn(
                help="What the interval allows to say: where it holds zero, nothing can be told from noise."
            ),
            "Documents": number(help="The interval rests on so many; of fewer than ten it is too narrow."),
            "Prompts": number(help="The interval rests on so many."),
            "Tokens": number(format="localized", help="Predicted tokens in all."),
        },
    )


def _curve(run: Run) -> None:
    points = measured.points(run)
    if len(points) < 2:
        return
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader(
            "Over the strength of its adapter",
            anchor=False,
            width="content",
            help="The simplest way to forget less: let the adapter count less. Where gain stays high while forgetting "
            "falls, that strength is the better run.",
        )
        pin_button(run.info.experiment, "strengths", [run.id], key="measures_pin")
    show.chart(charts.strengths(points), key="measures_chart")
