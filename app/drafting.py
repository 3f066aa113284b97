"""The runs that are being put together: one draft of each kind a session, kept on disk, launched once.

Launch and Mixture work at a `Draft`, Align at an `AlignDraft`; all of them by what stands here. A draft's id stands in
the address (?draft=...), so a reload, a second tab and a restarted server find it again. What is typed but does not fit
together yet lies in the session beside the draft (`Typed`), so nothing is lost and the draft on disk can always be
launched.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import streamlit as st

from app import forms, show, state
from mixcpt.align_drafts import named
from mixcpt.drafts import AlignDraft, AnyDraft, Draft, Drafts
from mixcpt.errors import MixcptError
from mixcpt.launching import check_files, launch_draft, successor
from mixcpt.settings import override

RUNS = "../pages/runs.py"
D = TypeVar("D", Draft, AlignDraft)
_PAGES: dict[type[Draft] | type[AlignDraft], str] = {Draft: "../pages/launch.py", AlignDraft: "../pages/align.py"}
_KEYS: dict[type[Draft] | type[AlignDraft], str] = {Draft: "draft", AlignDraft: "align_draft"}
_ADDRESS, _TYPED, _LAUNCHED, _PROBLEM = "draft", "draft_typed", "draft_launched", "draft_problem"
_FILES = {"model.name", "evaluation.tasks"}
"""Settings that can name files of this machine."""


@dataclass
class Typed:
    """What stands in the form but not in the draft, and why it does not fit. other: where a model that is not built in
    is to come from, before it is named."""

    draft: str
    changes: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    other: str = "folder"


def current(kind: type[D], begin: Callable[[], D]) -> D:
    """The draft of this kind that the address or the session names, else one that is begun now. One that was launched
    already is left alone, and a copy of it begun.

    After a click on Launch it leaves for the run's page instead.
    """
    launched: list[str] = st.session_state.setdefault(_LAUNCHED, [])
    if launched:  # more than one after a double click, of the same run
        run = launched[-1]
        launched.clear()
        st.switch_page(RUNS, query_params={"run": run})
    draft = _found(kind) or begin()
    if draft.launched:
        draft = successor(state.workspace(), draft)
    use(draft)
    return draft


def _found(kind: type[D]) -> D | None:
    """None for a draft that was deleted, and for an address that was never a draft's."""
    id = st.query_params.get(_ADDRESS) or st.session_state.get(_KEYS[kind])
    if not id:
        return None
    try:
        draft = Drafts(state.workspace()).get(id)
    except MixcptError:
        st.session_state.pop(_KEYS[kind], None)
        return None
    if not isinstance(draft, kind):  # an address of the other page
        st.switch_page(_PAGES[type(draft)], query_params={_ADDRESS: id})
    return draft


def use(draft: AnyDraft) -> None:
    """Make `draft` this session's own, as cloning a run does."""
    st.session_state[_KEYS[type(draft)]] = draft.id
    if st.query_params.get(_ADDRESS) != draft.id:
        st.query_params[_ADDRESS] = draft.id


def typed(draft: AnyDraft) -> Typed:
    key = f"{_TYPED}_{_KEYS[type(draft)]}"
    kept = state.peek(key)
    if not isinstance(kept, Typed) or kept.draft != draft.id:
        kept = st.session_state[key] = Typed(draft.id)
    return kept


Parts = dict[str, Any] | Callable[[AnyDraft], dict[str, Any]]
"""What changes in a draft, or what makes it of the draft as it is now."""


def _of(parts: Parts, draft: AnyDraft) -> dict[str, Any]:
    return parts(draft) if callable(parts) else parts


@show.told
def change(draft_id: str, changes: Parts) -> None:
    """Lay changes of the stage, by dotted names, into the draft; where they do not fit together they stay typed, with
    the reason."""
    drafts = Drafts(state.workspace())
    waiting = typed(kept := drafts.get(draft_id))
    given: dict[str, Any] = {}

    def laid(draft: AnyDraft) -> AnyDraft:
        given.update(waiting.changes | _of(changes, draft))
        stage = override(draft.stage, given)
        if _FILES & given.keys():
            check_files(state.workspace(), stage)
        return draft.model_copy(update={"stage": stage})

    try:
        drafts.change(draft_id, laid)
    except MixcptError as problem:
        waiting.changes |= given
        waiting.problem = forms.in_words(type(kept.stage), str(problem).removeprefix("In these changes: "))
    except OSError:
        waiting.changes |= given
        raise
    else:
        waiting.changes, waiting.problem = {}, ""


def change_one(draft_id: str, path: str, value: Any) -> None:
    """As `change`, as a form tells it."""
    change(draft_id, {path: value})


def replace(draft_id: str, how: Callable[[Any], AnyDraft]) -> AnyDraft:
    """Replace the draft as a whole by what `how` makes of it as it is now; what was typed counts no more."""
    draft = Drafts(state.workspace()).change(draft_id, how)
    waiting = typed(draft)
    waiting.changes, waiting.problem = {}, ""
    return draft


@show.told
def update(draft_id: str, parts: Parts) -> None:
    """Replace parts of the draft other than its stage."""
    Drafts(state.workspace()).change(draft_id, lambda draft: draft.model_copy(update=_of(parts, draft)))


def launch(draft_id: str) -> None:
    """Answer a click on Launch. Asks nothing of Streamlit before the run is noted, for it may stop a script there when
    somebody clicks again; a second click on Launch comes here too, with the same draft, for which there is one run."""
    draft = Drafts(state.workspace()).get(draft_id)
    try:
        run = launch_draft(state.workspace(), named(state.workspace(), draft))
    except MixcptError as problem:
        st.session_state[_PROBLEM] = str(problem)
        return
    launched = state.peek(_LAUNCHED)  # from when the page was drawn
    if launched is None:
        launched = st.session_state[_LAUNCHED] = []
    launched.append(run.id)
    if st.session_state.get(_KEYS[type(draft)]) == draft_id:
        use(successor(state.workspace(), draft))


def problem() -> str:
    """The sentence of the launch that failed just now."""
    return str(st.session_state.pop(_PROBLEM, ""))
