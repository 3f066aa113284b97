"""What all sessions share.

Streamlit runs a page anew at every click; what must live longer than a click lies on disk (`mixcpt`), and the handles
to it are kept here.
"""

from typing import Any

import streamlit as st

from mixcpt.jobs import Jobs
from mixcpt.launching import prepare, preparing
from mixcpt.machine import Machine, read
from mixcpt.supervisor import Supervisor
from mixcpt.workspace import Workspace


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


def peek(key: str) -> Any:
    """A value of the session, None without one: for callbacks, which have to end what they began.

    Reading or writing st.session_state or st.query_params, and whatever is drawn, are places at which Streamlit stops a
    script for a newer click, callbacks not spared, and a callback that was stopped is not called again.
    """
    return st.session_state.to_dict().get(key)


def machine() -> Machine | None:
    """What this machine can do; None until a job, queued here, has measured it: at first, and once more where what was
    measured is no longer so, as after an update. One that failed is not tried again by itself."""
    facts = read(workspace())
    if facts is None:
        job = preparing(workspace(), "doctor")
        if job is None:
            prepare(workspace(), "doctor")
        elif job.state == "done":
            _measure_again(str(workspace().root))
    return facts


@st.cache_resource(show_spinner=False)
def _measure_again(root: str) -> None:
    """Once as long as this server lives, whatever comes of it."""
    prepare(Workspace(root), "doctor")
