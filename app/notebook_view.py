"""The notebook on a page: the experiment, exports, and the entries in their order, a part of them at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from app import forms, notebook_editor, show, state
from app.words import ago, moment, plain
from mixcpt import charts, reports
from mixcpt.errors import BadFile, MixcptError
from mixcpt.journal import Entry, Fact, journal
from mixcpt.notebook import ExperimentSummary, Notebook, arrange, experiments
from mixcpt.notes import safe

ENTRIES_AT_ONCE = 30
_EXPERIMENT = "experiment"


@dataclass(frozen=True)
class Look:
    """How a kind of entry is shown: a word, an icon, a colour of Streamlit's badges."""

    word: str
    icon: str
    colour: Any


LOOKS = {
    "corpus": Look("Corpus", ":material/library_books:", "blue"),
    "mixture": Look("Mixture", ":material/blender:", "violet"),
    "launch": Look("Launch", ":material/rocket_launch:", "gray"),
    "failure": Look("Stopped", ":material/error:", "red"),
    "result": Look("Result", ":material/flag:", "green"),
    "outcome": Look("Guess", ":material/psychology:", "orange"),
    "note": Look("Note", ":material/edit_note:", "yellow"),
    "pin": Look("Chart", ":material/keep:", "blue"),
}
_ON_ONE_LINE = {"corpus", "launch"}
_FEW = 7
"""Facts that are read well on one line."""
_ABOVE, _UP, _DOWN, _EDIT, _DELETE = "Write a note above", "Move up", "Move down", "Edit", "Delete"
_HIDE, _UNHIDE, _REMOVE, _RUN, _CORPUS = "Hide", "Show again", "Remove the chart", "Open the run", "Open the corpus"


def choose() -> Notebook | None:
    """The notebook that the address or the chooser names; says what a notebook is while there is none."""
    found = experiments(state.workspace())
    if not found:
        show.empty(
            "No experiment yet",
            "A notebook tells the story of an experiment. It writes itself: which corpora were added, what was mixed, "
            "each launch, each result, and how near your guess came. You write **notes** in between and **pin** charts "
            "from any page, then take it all along as Markdown, HTML or a Jupyter notebook.\n\n"
            "It begins with your first run.",
            page="../pages/launch.py",
            label="Launch a run",
            icon=":material/rocket_launch:",
        )
        return None
    names = [experiment.name for experiment in found]
    wanted = st.query_params.get(_EXPERIMENT)
    if wanted is not None and wanted not in names:
        st.warning(f"There is no experiment {plain(wanted)}, so this is the newest one.", icon=":material/search_off:")
    name = wanted if wanted in names else names[0]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox(
            "Experiment",
            names,
            **forms.bound("notebook_experiment", name, _choose),
            help="Every run belongs to an experiment, and every experiment has its own notebook.",
            width=340,
        )
        notebook = Notebook(state.workspace(), name)
        _tools(notebook)
    _caption(next(experiment for experiment in found if experiment.name == name))
    return notebook


def _choose(name: str) -> None:
    st.query_params.from_dict({_EXPERIMENT: name})


def _caption(experiment: ExperimentSummary) -> None:
    counts = ((experiment.runs, "run"), (experiment.notes, "note"), (experiment.pins, "pinned chart"))
    words = [f"{number:,} {noun}{'' if number == 1 else 's'}" for number, noun in counts]
    st.caption(" · ".join(words) + (f" · last run {ago(experiment.latest)}" if experiment.latest else ""))


def _tools(notebook: Notebook) -> None:
    st.button(
        "Write a note",
        icon=":material/edit_note:",
        type="primary",
        key="notebook_write",
        help="A note of yours at the end, in Markdown. From the menu of an entry you write one above it.",
        on_click=notebook_editor.begin,
        args=(notebook,),
    )
    with st.popover("Export", icon=":material/download:", key="notebook_export", help="Take the notebook along."):
        st.caption("Hidden entries stay at home.")
        formats: tuple[tuple[str, str, str, Callable[[Notebook], str], str], ...] = (
            ("Markdown", "md", "text/markdown", reports.to_markdown, "Text; charts become tables of their figures."),
            ("HTML", "html", "text/html", reports.to_html, "One page that opens anywhere, its charts alive."),
            (
                "Jupyter",
                "ipynb",
                "application/x-ipynb+json",
                reports.to_ipynb,
                "A notebook whose code draws the charts anew from your runs, with the library mixcpt.",
            ),
        )
        for label, ending, mime, make, help in formats:
            st.download_button(
                label,
                data=_later(make, notebook),
                file_name=reports.file_name(notebook, ending),
                mime=mime,
                key=f"notebook_export_{ending}",
                help=help,
                on_click="ignore",
                icon=":material/download:",
                type="tertiary",
            )


def _later(make: Callable[[Notebook], str], notebook: Notebook) -> Callable[[], bytes]:
    return lambda: make(notebook).encode()


def timeline(notebook: Notebook) -> None:
    """The entries, the editor of a note in its place, and left drafts in theirs."""
    try:
        entries, editors = notebook.entries(), notebook_editor.editors(notebook)
    except BadFile as problem:
        show.error(problem)
        for entry in arrange(journal(notebook.workspace, notebook.experiment), ())[:ENTRIES_AT_ONCE]:
            with st.container(border=True):
                _head(notebook, entry)
                _body(notebook, entry)
        return
    hidden = sum(entry.hidden for entry in entries)
    if hidden and st.toggle(
        f"Show {hidden} hidden", key="notebook_show_hidden", help="Hidden entries are not exported."
    ):
        hidden = 0
    shown = [entry for entry in entries if not (hidden and entry.hidden)]
    editors.without_place(shown)
    for entry, before, after in _part(shown, editors.places()):
        editors.before(entry.id)
        if not editors.instead_of(entry):
            _card(notebook, entry, before, after)
    if not entries and not editors.any():
        show.empty("Nothing has happened yet", "Launch a run in this experiment, write a note or pin a chart.")


def _part(entries: Sequence[Entry], open: set[str]) -> list[tuple[Entry, str | None, str | None]]:
    """The entries of one part, and those where this tab writes; each with the id of the one before it, and with the id
    before which it goes to stand one further down."""
    parts = max(1, -(-len(entries) // ENTRIES_AT_ONCE))
    part = parts
    if parts > 1:
        st.caption(f"{len(entries):,} entries, the newest in the last part")
        part = st.pagination(parts, default=parts, key=f"notebook_part_{parts}")
    last = len(entries) - (parts - part) * ENTRIES_AT_ONCE  # counted from the end, so that the newest part is full
    first = last - ENTRIES_AT_ONCE
    ids = [entry.id for entry in entries]
    return [
        (entry, ids[index - 1] if index else None, _second_after(ids, index))
        for index, entry in enumerate(entries)
        if first <= index < last or entry.id in open
    ]


def _second_after(ids: Sequence[str], index: int) -> str | None:
    """Empty for the end; None for the last entry, which cannot go further."""
    if index == len(ids) - 1:
        return None
    return ids[index + 2] if index + 2 < len(ids) else ""


def _card(notebook: Notebook, entry: Entry, before: str | None, after: str | None) -> None:
    with st.container(border=True, gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center"):
            _head(notebook, entry)
            chosen = st.menu_button(
                "",
                _actions(entry, before, after),
                type="tertiary",
                key=f"notebook_menu_{entry.id}",
                help="Write a note above, move, hide",
            )
        _body(notebook, entry)
    if chosen:
        _act(notebook, entry, chosen, before, after)


def _head(notebook: Notebook, entry: Entry) -> None:
    look = LOOKS[entry.kind]
    st.badge(look.word, icon=look.icon, color=look.colour)
    title = reports.pin_title(notebook, entry) if entry.kind == "pin" else entry.title
    st.markdown(f"**{plain(title)}**" if title else "", width="stretch")
    hidden = ":material/visibility_off: hidden · " if entry.hidden else ""
    st.caption(f"{hidden}{moment(entry.time):%d %b %Y, %H:%M} UTC", width="content")


def _body(notebook: Notebook, entry: Entry) -> None:
    if entry.kind == "note":
        st.markdown(safe(entry.text))
    elif entry.kind == "pin":
        _chart(notebook, entry)
    elif entry.kind in _ON_ONE_LINE and len(entry.facts) <= _FEW:
        st.caption(" · ".join(f"{plain(name.lower())}: {plain(value)}" for name, value in entry.facts))
    else:
        if entry.table:
            header, *rows = entry.table
            st.dataframe(
                [dict(zip(header, row, strict=False)) for row in rows], hide_index=True, key=f"notebook_{entry.id}"
            )
        _facts(entry.facts)


def _facts(facts: Sequence[Fact]) -> None:
    """Labels beside their values; a table of Streamlit's reads Markdown."""
    lines = [{"": f":gray[{plain(name)}]", " ": plain(value)} for name, value in facts]
    st.table(lines, border=False, hide_index=True, hide_header=True, width="content")


def _chart(notebook: Notebook, entry: Entry) -> None:
    try:
        show.chart(charts.draw(notebook.workspace, entry.chart, entry.subjects), key=f"notebook_{entry.id}")
    except MixcptError as problem:
        st.info(f"This chart cannot be drawn any more: {plain(problem)}", icon=":material/broken_image:")
        st.button(
            _REMOVE,
            icon=":material/delete:",
            key=f"notebook_remove_{entry.id}",
            on_click=notebook.unpin,
            args=(entry.id.partition(":")[2],),
        )


def _actions(entry: Entry, before: str | None, after: str | None) -> list[str]:
    own = {"note": [_EDIT, _DELETE], "pin": [_REMOVE]}.get(entry.kind, [])
    links = [_RUN] * bool(entry.run) + [_CORPUS] * bool(entry.corpus)
    moves = [_UP] * (before is not None) + [_DOWN] * (after is not None)
    return [*links, *own[:1], _ABOVE, *moves, _UNHIDE if entry.hidden else _HIDE, *own[1:]]


def _act(notebook: Notebook, entry: Entry, action: str, before: str | None, after: str | None) -> None:
    id = entry.id.partition(":")[2]
    match action:
        case "Open the run":
            st.switch_page("../pages/runs.py", query_params={"run": entry.run})
        case "Open the corpus":
            st.switch_page("../pages/corpora.py", query_params={"corpus": entry.corpus})
        case "Edit":
            notebook_editor.begin(notebook, note=id)
        case "Write a note above":
            notebook_editor.begin(notebook, before=entry.id)
        case "Delete":
            _confirm(notebook, id)
            return
        case "Remove the chart":
            notebook.unpin(id)
        case "Move up" if before is not None:
            notebook.move(entry.id, before)
        case "Move down" if after is not None:
            notebook.move(entry.id, after)
        case _:
            notebook.hide(entry.id, hidden=action == _HIDE)
    st.rerun()


@st.dialog("Delete this note?")
def _confirm(notebook: Notebook, id: str) -> None:
    st.markdown("It cannot be brought back. **Hide** keeps it out of sight and out of exports.")
    with st.container(horizontal=True):
        deleted = st.button(
            "Delete the note",
            type="primary",
            icon=":material/delete:",
            key="notebook_delete",
            on_click=notebook.delete_note,
            args=(id,),
        )
        if st.button("Keep it", key="notebook_keep") or deleted:
            st.rerun()
