"""The right-hand side of Launch and of Align: what the run needs, what there is to say about it, and the button."""

from collections.abc import Callable
from functools import partial

import streamlit as st

from app import drafting, forms, state
from app.prepared import prepared, start
from app.words import count, plain
from mixcpt.coverage import Coverage
from mixcpt.drafts import AnyDraft
from mixcpt.errors import MixcptError
from mixcpt.jobs import MOVING
from mixcpt.launching import preparing
from mixcpt.machine import Machine
from mixcpt.modelstore import BUILTIN_MODELS, is_there, terms_to_accept
from mixcpt.outlook import Outlook, outlook
from mixcpt.preflight import Finding, preflight
from mixcpt.presets import value_words
from mixcpt.runs import Run
from mixcpt.stages import AnyStage, Stage

MIXTURE = "../pages/mixture.py"
_PARTS = {
    "process": "Python and libraries",
    "model": "the frozen model",
    "adapter": "adapter and optimizer",
    "activations": "activations",
    "logits": "logits",
}
_CACHE_HELP = (
    "What the frozen original says of a piece of text is kept on disk and shared by all runs on the same texts, "
    "whatever their shares and seeds. A piece that comes again in a run is asked about once. Home shows how large the "
    "cache is."
)
_ICONS = {"stop": ":red[:material/block:]", "warning": ":orange[:material/warning:]", "note": ":material/info:"}


def summary(draft: AnyDraft, about: Callable[[], None], parent: Run | None = None) -> None:
    """`about` draws what the run reads or learns from; `parent` is the run that it continues."""
    facts = state.machine()
    findings = preflight(state.workspace(), draft.stage, facts, parent)
    with st.container(border=True):
        st.subheader("This run", anchor=False)
        _needs(draft, facts)
        _model(draft.stage.model.name)
        about()
        _button(draft, findings)
    if findings:
        with st.container(border=True):
            st.markdown("**Before you launch**")
            for number, finding in enumerate(findings):
                _finding(draft, number, finding)
    else:
        st.caption(":green[:material/check_circle:] Nothing speaks against it.")


def _needs(draft: AnyDraft, facts: Machine | None) -> None:
    if facts is None:
        if job := preparing(state.workspace(), "doctor"):
            prepared(job, "doctor", "Looking at this machine (about 10 s)", "Measure this machine again")
        return
    try:
        here = outlook(state.workspace(), draft.stage, facts)
    except MixcptError:  # a finding says why
        here = None
    if here is None:
        st.caption("Time and memory are known once the model is here.")
        return
    time, memory = st.columns(2)
    time.metric("Training", f"≈ {_clock(here.needed.seconds)}", help=_time_help(here))
    memory.metric("Memory", f"≈ {here.needed.memory_bytes / 1e9:.1f} GB", help=_memory_help(here))
    if draft.stage.evaluation.tasks:
        st.caption("The questions at the end take some time more.")
    share = min(1.0, here.needed.memory_bytes / max(here.free_bytes, 1))
    st.progress(share, text=f"{share:.0%} of the {here.free_bytes / 1e9:.1f} GB that are free")
    if here.cover:
        st.caption(f":material/cached: {_cover_words(here.cover)}", help=_CACHE_HELP)


def _cover_words(cover: Coverage) -> str:
    if not cover.to_compute:
        return "Teacher cache: all tokens are at hand, so the frozen original need not be asked."
    asked = f"the frozen original reads {count(cover.to_compute)} of {count(cover.tokens)}"
    return f"Teacher cache: {cover.share:.0%} of the tokens are at hand; {asked}."


def _clock(seconds: float) -> str:
    """Short enough for a large figure in a narrow column."""
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def _time_help(here: Outlook) -> str:
    where = "a GPU" if here.device == "cuda" else "the processor"
    return f"On {where}, in {here.precision}, measures included. The questions at the end are not counted."


def _memory_help(here: Outlook) -> str:
    parts = [f"{words}: {here.needed.parts[part] / 1e9:.2f} GB" for part, words in _PARTS.items()]
    return "  \n".join(plain(part) for part in parts)


def _model(name: str) -> None:
    """Whether the model is here; else the way to fetch it."""
    workspace = state.workspace()
    if is_there(workspace, name):
        return
    job = preparing(workspace, "fetch", model=name)
    terms = terms_to_accept(workspace, name)
    if job and (job.state in MOVING or not terms):
        return prepared(job, "fetch", f"Fetching {name}", "Fetch again", model=name, accept_terms=bool(terms))
    accepted = True
    if terms:
        st.markdown(f"**{plain(name)}** comes under {plain(terms)}.")
        accepted = st.checkbox("I accept these terms", key="launch_terms", help="Kept for this workspace; asked once.")
    where = "" if name in BUILTIN_MODELS else " from the hub"
    st.button(
        f"Fetch the model{where}",
        key="launch_fetch",
        icon=":material/download:",
        disabled=not accepted,
        on_click=partial(start, "fetch", model=name, accept_terms=bool(terms)),
        width="stretch",
    )


def mixture(stage: Stage) -> None:
    """What a run of the knowledge stage reads, in a line, and the way to it."""
    tokens = stage.mixture.target_tokens()
    total = sum(tokens.values())
    shares = [f"{plain(name)} {number / total:.0%}" for name, number in tokens.items()]
    st.markdown(f"**Mixture** · {total:,} tokens · " + " · ".join(shares))
    st.page_link(MIXTURE, label="See and change the mixture", icon=":material/blender:")


def _button(draft: AnyDraft, findings: list[Finding]) -> None:
    waiting = drafting.typed(draft).problem
    stopped = any(finding.level == "stop" for finding in findings)
    st.button(
        "Launch",
        key=f"launch_go_{draft.id}",
        type="primary",
        icon=":material/rocket_launch:",
        width="stretch",
        disabled=bool(waiting or stopped),
        on_click=drafting.launch,
        args=(draft.id,),
        help="Puts the run into the queue and opens its page.",
    )
    if waiting:
        st.caption("Something in the form does not fit yet.")
    elif stopped:
        st.caption("Something below has to be settled first.")
    if problem := drafting.problem():
        st.error(plain(problem), icon=":material/error:")


def _finding(draft: AnyDraft, number: int, finding: Finding) -> None:
    st.markdown(f"{_ICONS[finding.level]} {plain(finding.sentence)}")
    if finding.fix:
        st.button(
            _fix_words(draft.stage, finding.fix),
            key=f"launch_fix_{number}",
            icon=":material/auto_fix_high:",
            on_click=drafting.change,
            args=(draft.id, finding.fix),
        )


def _fix_words(stage: AnyStage, fix: dict[str, object]) -> str:
    """What a click will set, in the words of the form."""
    labels = {one.path: one.label for one in forms.fields(type(stage))}
    path, value = next(iter(fix.items()))
    if path == "evaluation.tasks":
        return "Leave these questions out"
    more = " and more" if len(fix) > 1 else ""
    if path not in labels or isinstance(value, list):
        return "Do that"
    if isinstance(value, bool):
        return plain(f"Turn on {labels[path].lower()}{more}")
    return plain(f"Set {labels[path].lower()} to {value_words(path, value)}{more}")
