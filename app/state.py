"""What all sessions share, and the one draft that is each session's own.

Streamlit runs a page anew at every click; what must live longer than a click lies on disk (`mixcpt`), and the handles
to it are kept here.
"""

import streamlit as st

from mixcpt.drafts import Draft, Drafts
from mixcpt.errors import MixcptError
from mixcpt.jobs import Jobs
from mixcpt.launching import prepare, preparing
from mixcpt.machine import Machine, read
from mixcpt.supervisor import Supervisor
from mixcpt.workspace import Workspace

_DRAFT = "draft"


@st.cache_resource(show_spinner=False)
def _workspace(root: str) -> Workspace:
    return Workspace(root)


def workspace() -> Workspace:
    """The workspace of this server ($MIXCPT_HOME)."""
    return _workspace(str(Workspace().root))


@st.cache_resource(show_spinner=False)
def _supervisor(root: str) -> Supervisor:
    return Supervisor(Workspace(root))


def supervisor() -> Supervisor:
    """The one that works off the queue, in a background thread of this server; started when it does not run."""
    one = _supervisor(str(workspace().root))
    one.start_thread()
    return one


def queue_error() -> Exception | None:
    """What ended the background thread that works off the queue; None while it lives."""
    return _supervisor(str(workspace().root)).error


def jobs() -> Jobs:
    return Jobs(workspace())


def machine() -> Machine | None:
    """What this machine can do; None until a job, queued here once, has measured it. One that failed is not tried
    again by itself."""
    facts = read(workspace())
    if facts is None and preparing(workspace(), "doctor") is None:
        prepare(workspace(), "doctor")
    return facts


def draft() -> Draft:
    """The run that this session is putting together. Its id stands in the address (?draft=...), so a reload and a
    copied address find it again; without one a new draft begins."""
    drafts = Drafts(workspace())
    id = st.query_params.get(_DRAFT) or st.session_state.get(_DRAFT)
    found = None
    if id:
        try:
            found = drafts.get(id)
        except MixcptError:
            st.session_state.pop(_DRAFT, None)  # deleted, launched, or an address that was never a draft's
    found = found or drafts.create()
    use_draft(found)
    return found


def use_draft(draft: Draft) -> None:
    """Make `draft` this session's own, as cloning a run does."""
    st.session_state[_DRAFT] = draft.id
    if st.query_params.get(_DRAFT) != draft.id:
        st.query_params[_DRAFT] = draft.id


def save_draft(draft: Draft) -> None:
    Drafts(workspace()).save(draft)
