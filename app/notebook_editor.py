"""Writing notes. What is typed lies on disk as a draft whose id stands in the address (?writing=...).

So a reload brings it back; each tab writes into a draft of its own, and a note that was changed elsewhere is never
written over unasked.
"""

import streamlit as st

from app import state
from app.words import ago, plain
from mixcpt.errors import MixcptError
from mixcpt.journal import Entry
from mixcpt.notebook import Conflict, Contents, Note, Notebook, NoteDraft
from mixcpt.notes import safe

_WRITING = "writing"


def begin(notebook: Notebook, note: str = "", before: str = "") -> None:
    """Open an editor for a note, or for a new one before an entry, else at the end."""
    try:
        st.query_params[_WRITING] = notebook.begin(note, before).id
    except MixcptError as problem:  # called back: the page draws what it can, and this says why nothing opened
        st.toast(plain(problem), icon=":material/error:")


def editors(notebook: Notebook) -> "Editors":
    return Editors(notebook, notebook.read(), st.query_params.get(_WRITING, ""))


class Editors:
    """The drafts of a notebook, each drawn in its place: the one of this tab as an editor, the others as offers."""

    def __init__(self, notebook: Notebook, kept: Contents, writing: str):
        self._notebook = notebook
        self._writing = writing
        self._notes = {note.id: note for note in kept.notes}
        self._drafts = [draft for draft in kept.drafts if draft.id == writing or self._is_left(draft)]

    def any(self) -> bool:
        return bool(self._drafts)

    def places(self) -> set[str]:
        """Ids of the entries at which this tab writes: they are drawn, whatever part is shown."""
        return {draft.before or f"note:{draft.note}" for draft in self._drafts if draft.id == self._writing}

    def before(self, entry_id: str) -> None:
        """Drafts of new notes that will stand before this entry."""
        for draft in self._drafts:
            if draft.note not in self._notes and draft.before == entry_id:
                self._draw(draft)

    def instead_of(self, entry: Entry) -> bool:
        """Drafts of changes to this note; true when one of them is open, and so the note need not be drawn."""
        drafts = [draft for draft in self._drafts if f"note:{draft.note}" == entry.id]
        for draft in drafts:
            self._draw(draft)
        return any(draft.id == self._writing for draft in drafts)

    def without_place(self, entries: list[Entry]) -> None:
        """Drafts of all other new notes, those whose place is gone among them: near the button that begins one."""
        ids = {entry.id for entry in entries}
        for draft in self._drafts:
            if draft.note not in self._notes and draft.before not in ids:
                self._draw(draft, " It will stand at the end of the notebook.")

    def _is_left(self, draft: NoteDraft) -> bool:
        note = self._notes.get(draft.note)
        return bool(draft.text.strip()) and (note is None or draft.text != note.text)

    def _draw(self, draft: NoteDraft, place: str = "") -> None:
        with st.container(border=True):
            if draft.id == self._writing:
                self._editor(draft, place)
            else:
                self._offer(draft)

    def _editor(self, draft: NoteDraft, place: str) -> None:
        note = self._notes.get(draft.note)
        key = f"notebook_text_{draft.id}"
        if key not in st.session_state:
            st.session_state[key] = draft.text
        st.markdown("**Edit the note**" if note else "**A new note**")
        left, right = st.columns(2, gap="medium")
        with left:
            st.text_area(
                "Text in Markdown",
                key=key,
                height=220,
                placeholder="What did you expect, what did you see, what will you try next?",
                help="**bold**, *italic*, # heading, - list, 1. list, > quote, `code`, [link](https://...). "
                "It is kept as soon as you leave the box or press Ctrl+Enter.",
                on_change=_typed,
                args=(self._notebook, draft, key),
            )
        with right:
            st.caption("Preview")
            with st.container(height=220, border=True):
                st.markdown(safe(st.session_state[key]))
        if note and note.revision != draft.revision:
            self._conflict(draft, note, key)
            return
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(
                "Save",
                type="primary",
                icon=":material/check:",
                key="notebook_save",
                on_click=_save,
                args=(self._notebook, draft, key),
            )
            label = "Cancel" if note else "Discard"
            st.button(label, key="notebook_discard", on_click=_discard, args=(self._notebook, draft.id))
            st.caption("A draft until you save it, kept on disk: a reload brings it back." + place)

    def _conflict(self, draft: NoteDraft, note: Note, key: str) -> None:
        st.warning(
            f"This note was changed elsewhere {ago(note.edited)}, while you were writing. Below is how it reads now.",
            icon=":material/call_split:",
        )
        st.code(note.text, language=None, wrap_lines=True)
        arguments = (self._notebook, draft, key)
        with st.container(horizontal=True):
            st.button("Keep mine", key="notebook_mine", on_click=_save, args=(*arguments, note.revision))
            st.button("Keep the other", key="notebook_theirs", on_click=_discard, args=(self._notebook, draft.id))
            new = draft.model_copy(update={"note": "", "before": f"note:{note.id}"})
            st.button(
                "Keep both",
                type="primary",
                key="notebook_both",
                on_click=_save,
                args=(self._notebook, new, key),
                help="Yours becomes a note of its own above the other.",
            )

    def _offer(self, draft: NoteDraft) -> None:
        st.markdown(f":material/edit_off: **Unsaved text**, typed {ago(draft.changed)}")
        st.code(draft.text, language=None, wrap_lines=True)
        with st.container(horizontal=True):
            st.button(
                "Go on writing",
                icon=":material/edit:",
                key=f"notebook_take_{draft.id}",
                on_click=_take,
                args=(self._notebook, draft.id),
            )
            st.button(
                "Discard",
                key=f"notebook_drop_{draft.id}",
                on_click=self._notebook.discard,
                args=(draft.id,),
            )


def _typed(notebook: Notebook, draft: NoteDraft, key: str) -> None:
    try:
        notebook.type(draft, state.peek(key))
    except MixcptError as problem:
        st.toast(f"Not kept yet: {plain(problem)}", icon=":material/error:")


def _save(notebook: Notebook, draft: NoteDraft, key: str, over: int | None = None) -> None:
    try:
        notebook.save(draft, state.peek(key), over=over)
    except Conflict:
        return  # the editor stays open and shows both texts
    except MixcptError as problem:
        st.toast(f"Not saved yet: {plain(problem)}", icon=":material/error:")
        return
    st.query_params.pop(_WRITING, None)
    if not draft.note and not draft.before:
        st.toast("Saved at the end of the notebook", icon=":material/check:")


def _discard(notebook: Notebook, draft_id: str) -> None:
    notebook.discard(draft_id)
    st.query_params.pop(_WRITING, None)


def _take(notebook: Notebook, draft_id: str) -> None:
    if draft := notebook.take(draft_id):
        st.query_params[_WRITING] = draft.id
