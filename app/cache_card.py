"""The teacher cache on the home page: how much of the disk it takes, its limit, and emptying it."""

import streamlit as st

from app import forms, show, state
from app.words import count, plain, size
from mixcpt import teachercache
from mixcpt.errors import MixcptError
from mixcpt.teachercache import CacheSize

_HELP = (
    "LSSD and the other retention objectives ask the frozen original about every piece of text. Its answers are kept "
    "on disk, so that it is asked once: later epochs, other shares and other seeds of the same texts then train "
    "faster. What was not used for longest is dropped first."
)


def cache_card() -> None:
    with st.container(border=True):
        st.subheader("Teacher cache", anchor=False, help=_HELP)
        try:
            found = teachercache.size(state.workspace())
        except MixcptError as problem:
            return show.error(problem)
        _fullness(found)
        with st.container(horizontal=True):
            with st.popover("Limit", icon=":material/tune:", key="home_cache_settings"):
                _limit(found)
            st.button(
                "Empty it",
                key="home_cache_clear",
                icon=":material/delete_sweep:",
                disabled=not found.bytes,
                on_click=_clear,
                help="Frees the disk. Nothing is lost but time: what is needed again is computed again.",
            )


def _fullness(found: CacheSize) -> None:
    if not found.limit_bytes:
        st.caption("Turned off: the frozen original is asked anew every time.")
        return
    share = min(1.0, found.bytes / found.limit_bytes)
    st.progress(share, text=f"{size(found.bytes)} of at most {size(found.limit_bytes)}")
    if not found.bytes:
        st.caption("Empty. It fills by itself while a run with a retention objective trains.")
    for one in found.origins:
        where = "GPU" if one.device == "cuda" else "processor"
        st.caption(plain(f"{one.name}, {one.precision} on the {where}: {count(one.tokens)} tokens, {size(one.bytes)}"))


def _limit(found: CacheSize) -> None:
    st.number_input(
        "At most, GB",
        min_value=0.0,
        step=1.0,
        **forms.bound("home_cache_limit", found.limit_bytes / 1e9, _set_limit),
        help="Of the disk. 0 turns the cache off for runs that begin from now on.",
    )


@show.told
def _set_limit(gigabytes: float) -> None:
    _tell(teachercache.set_limit(state.workspace(), gigabytes))


@show.told
def _clear() -> None:
    _tell(teachercache.clear(state.workspace()))


def _tell(dropped: int) -> None:
    if dropped:
        st.toast(f"{size(dropped)} of the teacher cache dropped.", icon=":material/delete_sweep:")
