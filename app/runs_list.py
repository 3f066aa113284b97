"""The Runs page without a run: what goes on now, and the history with what can be done to several runs at once."""

import zlib
from collections.abc import Sequence
from typing import Any

import streamlit as st

from app import panels, show, state
from app.panels import RUNS, STATES
from app.words import moment, plain, printable
from mixcpt.errors import MixcptError
from mixcpt.overview import ORDERS, RunSummary, matching, ordered, overview
from mixcpt.palette import STAGE_NAMES
from mixcpt.queue import queue
from mixcpt.runs import NAME_LENGTH, TAG_LENGTH, TAGS, Run, Runs

COMPARE, LAUNCH = "../pages/compare.py", "../pages/launch.py"
ROWS = 20
"""Longer lists scroll."""


def now() -> None:
    """What runs and what waits."""
    st.subheader("Now", anchor=False)
    panels.queue_list(panels.queue_key(queue(state.workspace())))


def history() -> None:
    """Every run, filtered and sorted; a click on a run opens it, ticks choose several."""
    st.subheader("History", anchor=False)
    runs = overview(state.workspace())
    if not runs:
        show.empty(
            "No runs yet",
            "A run is one training. It appears here as soon as it is launched, and stays until you delete it.",
            page=LAUNCH,
            label="Launch a run",
            icon=":material/rocket_launch:",
        )
        return
    shown = _filtered(runs)
    if not shown:
        st.caption(f"None of the {len(runs)} runs fits. Empty the filters to see them all.")
        return
    place = st.container()  # the actions stand above the table, but follow from what is chosen in it
    chosen = _table(shown)
    with place:
        _actions(chosen, total=len(runs), shown=len(shown))


def _filtered(runs: Sequence[RunSummary]) -> list[RunSummary]:
    text, experiment, states, tags, order = st.columns([3, 3, 2, 2, 2], vertical_alignment="bottom")
    with text:
        words = st.text_input(
            "Find",
            key="runs_filter",
            placeholder="name, arm, model, …",
            icon=":material/search:",
            type="search",
            live=True,
            bind="query-params",
        )
    with experiment:
        experiments = _choice("Experiment", "runs_experiments", {run.experiment for run in runs})
    with states:
        wanted = _choice("State", "runs_states", {run.state for run in runs})
    with tags:
        labels = _choice("Tag", "runs_tags", {tag for run in runs for tag in run.tags})
    with order:
        by = st.selectbox("Order", list(ORDERS), key="runs_order", bind="query-params")
    found = matching(runs, text=words or "", experiments=experiments, states=wanted, tags=labels)
    return ordered(found, by)


def _choice(label: str, key: str, options: set[str]) -> list[str]:
    def words(option: str) -> str:
        return STATES[option].word if key == "runs_states" else plain(option)

    return st.multiselect(label, sorted(options), key=key, placeholder="all", format_func=words, bind="query-params")


def _table(runs: Sequence[RunSummary]) -> list[RunSummary]:
    """Draws the table; opens the run whose cell was clicked, and returns those that are ticked."""
    # Another list is another table: a tick on row 3 must not pass to whatever run comes to stand there.
    key = f"runs_table_{zlib.crc32(' '.join(run.id for run in runs).encode())}"
    event: Any = st.dataframe(
        _columns(runs),
        key=key,
        hide_index=True,
        height="content" if len(runs) <= ROWS else 740,
        placeholder="–",
        on_select="rerun",
        selection_mode=["multi-row", "single-cell"],
        column_config=_column_config(),
    )
    selection = event["selection"]
    if selection["cells"]:
        st.switch_page(RUNS, query_params={"run": runs[selection["cells"][0][0]].id})
    return [runs[row] for row in selection["rows"]]


def _columns(runs: Sequence[RunSummary]) -> dict[str, list[Any]]:
    titles = {run.id: run.title for run in overview(state.workspace())}
    return {
        "Run": [printable(run.title) for run in runs],
        "State": [[STATES[run.state].word] for run in runs],
        "Stage": [STAGE_NAMES.get(run.stage, run.stage) for run in runs],
        "Gain": [run.domain_gain for run in runs],
        "Forgetting": [run.forgetting for run in runs],
        "KL": [run.prompt_kl for run in runs],
        "Tokens": [run.tokens for run in runs],
        "Experiment": [printable(run.experiment) for run in runs],
        "Arm": [printable(run.arm) for run in runs],
        "Tags": [[printable(tag) for tag in run.tags] for run in runs],
        "Retention": [run.retention for run in runs],
        "Model": [printable(run.model) for run in runs],
        "Continues": [printable(titles.get(run.parent or "", run.parent or "")) for run in runs],
        "Seed": [run.seed for run in runs],
        "Created": [moment(run.created) if run.created else None for run in runs],
    }


def _column_config() -> dict[str, Any]:
    column = st.column_config
    return {
        "Run": column.TextColumn(width="medium", help="Click it to open the run."),
        "State": column.MultiselectColumn(
            width="small",
            options=[look.word for look in STATES.values()],
            color=[look.colour for look in STATES.values()],
        ),
        "Stage": column.TextColumn(
            width="small", help="knowledge: continual pre-training; SFT and DPO: the stages after it."
        ),
        "Gain": column.NumberColumn(
            format="%+.3f", help="Bits per byte that were saved on held-out text of the field: higher is better."
        ),
        "Forgetting": column.NumberColumn(
            format="%+.3f", help="Bits per byte that general text costs more than before: lower is better."
        ),
        "KL": column.NumberColumn(format="%.3f", help="Distance to the base on general prompts, in nats per token."),
        "Tokens": column.NumberColumn(format="localized", help="Tokens read so far, repetitions counted."),
        "Tags": column.ListColumn(width="small"),
        "Retention": column.TextColumn(help="How it was kept from forgetting."),
        "Continues": column.TextColumn(help="The run whose adapter it trained on; empty: the base model."),
        "Seed": column.NumberColumn(format="%d", width="small"),
        "Created": column.DatetimeColumn(format="D MMM YYYY, HH:mm"),
    }


def _actions(chosen: Sequence[RunSummary], *, total: int, shown: int) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if not chosen:
            number = f"{shown} of {total} runs" if shown < total else f"{total} run{'s' if total > 1 else ''}"
            st.caption(f"{number}. Click one to open it; tick some to compare, tag or delete them.")
            return
        ids = [run.id for run in chosen]
        st.markdown(f"**{len(ids)} chosen**", width="content")
        if len(ids) == 1:
            if st.button("Open", key="runs_open", icon=":material/open_in_full:", type="primary"):
                st.switch_page(RUNS, query_params={"run": ids[0]})
            with st.popover("Rename", icon=":material/edit:", key="runs_rename"):
                rename_form(chosen[0])
        else:
            if st.button("Compare", key="runs_compare", icon=":material/compare_arrows:", type="primary"):
                st.switch_page(COMPARE, query_params={"runs": ",".join(ids)})
            with st.popover("Tag", icon=":material/label:", key="runs_tag"):
                _tag_form(ids)
        if st.button("Delete", key="runs_delete", icon=":material/delete:"):
            confirm_delete(ids)


def rename_form(run: RunSummary) -> None:
    """Name and tags of one run. What is typed survives the page's own refreshing, for a form sends it as a whole."""
    with st.form(f"runs_labels_{run.id}", border=False):
        name = st.text_input(
            "Name",
            run.name,
            max_chars=NAME_LENGTH,
            key=f"runs_name_{run.id}",
            help="What you call this run. Without one it is called after its arm.",
            placeholder=printable(run.arm or run.id),
        )
        tags = _tag_input(f"runs_tags_{run.id}", run.tags)
        if st.form_submit_button("Save", type="primary", key=f"runs_labels_save_{run.id}"):
            try:
                Run(state.workspace().runs / run.id).relabel(name=name, tags=tags)
            except MixcptError as problem:
                show.error(problem)
                return
            st.toast("Saved.", icon=":material/check:")
            st.rerun()


def _tag_form(ids: Sequence[str]) -> None:
    with st.form("runs_tag_form", border=False):
        tags = _tag_input("runs_tag_new", ())
        if st.form_submit_button(f"Add to {len(ids)} runs", type="primary", key="runs_tag_save"):
            try:
                for id in ids:
                    run = Run(state.workspace().runs / id)
                    run.relabel(tags=(*run.labels.tags, *tags))
            except MixcptError as problem:
                show.error(problem)
                return
            st.toast("Tagged.", icon=":material/label:")
            st.rerun()


def _tag_input(key: str, tags: Sequence[str]) -> list[str]:
    known = sorted({*tags, *(tag for run in overview(state.workspace()) for tag in run.tags)})
    return st.multiselect(
        "Tags",
        known,
        default=list(tags),
        key=key,
        format_func=printable,
        accept_new_options=True,
        max_selections=TAGS,
        placeholder="type a tag, then Enter",
        help=f"Words to find runs by, of at most {TAG_LENGTH} characters each.",
    )


@st.dialog("Delete for good?", icon=":material/delete:")
def confirm_delete(ids: Sequence[str]) -> None:
    """Says what is lost, and deletes only after a second click."""
    runs = [run for run in overview(state.workspace()) if run.id in ids]  # newest first, so children before parents
    for run in runs[:8]:
        st.markdown(f"- **{plain(run.title)}**, {plain(run.experiment)}, {run.tokens:,} tokens")
    if len(runs) > 8:
        st.markdown(f"- and {len(runs) - 8} more")
    st.markdown(
        "Adapters, checkpoints, curves and scores are removed from the disk. This cannot be undone. "
        "What you wrote about them in a notebook stays."
    )
    with st.container(horizontal=True):
        label = f"Delete {len(runs)} run{'s' if len(runs) != 1 else ''}"
        if st.button(label, key="runs_delete_yes", type="primary", on_click=delete, args=(runs,)):
            if "run" in st.query_params:
                st.switch_page(RUNS)  # the page of a run that is gone
            st.rerun()
        if st.button("Keep", key="runs_delete_no"):
            st.rerun()


def delete(runs: Sequence[RunSummary]) -> None:
    """Delete what can be deleted, children before parents, and tell how it went. What is gone already is no fault."""
    deleted = 0
    for run in runs:
        folder = state.workspace().runs / run.id
        if not folder.exists():
            continue
        try:
            Runs(state.workspace()).delete(Run(folder))
            deleted += 1
        except MixcptError as problem:  # a callback's error would not reach the page's own handling
            st.toast(plain(problem), icon=":material/error:", duration="long")
    if deleted:
        st.toast(f"Deleted {deleted} run{'s' if deleted > 1 else ''}.", icon=":material/delete:")
