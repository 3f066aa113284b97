"""The Export tab of a run: what can be taken along, its size, how far it is, where it lies, and the model card."""

from pathlib import Path

import streamlit as st

from app import show, state
from app.watching import watch
from app.words import plain, printable, size
from mixcpt import exports, snippets
from mixcpt.card import card_to_show
from mixcpt.errors import MixcptError
from mixcpt.exports import Export
from mixcpt.jobs import MOVING
from mixcpt.machine import disk_free_gb
from mixcpt.origins import origin
from mixcpt.runs import Run

_NAMES = {"adapter": "Adapter", "merged": "Merged model", "tasks": "Questions for lm-eval"}
_WHAT = {
    "adapter": "What was trained, and nothing else: small, for PEFT, to be loaded on top of the base model.",
    "merged": "An ordinary model in 16 bits (bf16), adapter and base in one: for any program that loads models.",
    "tasks": "What it was asked, as a folder of tasks: for asking any other model the same.",
}


def export(run: Run) -> None:
    """The whole tab."""
    to = st.radio(
        "What to take along",
        exports.KINDS,
        format_func=_NAMES.__getitem__,
        captions=[_WHAT[kind] for kind in exports.KINDS],
        key="export_to",
    )
    there = exports.find(run, to)
    strength = _strength(run, to, there) if to != "tasks" else 1.0
    with st.container(border=True):
        _state(run, to, strength, there)
    if to != "tasks":
        _card(run, to, strength)


def _strength(run: Run, to: str, there: Export | None) -> float:
    """How much of the adapter goes along; at first what was exported before."""
    if run.config.adapter.vocabulary:
        st.caption("It goes along whole: embeddings and head were trained too, and cannot count in part.")
        return 1.0
    chosen = st.slider(
        "Adapter strength",
        0.0,
        1.0,
        there.strength if there else 1.0,
        0.05,
        key=f"export_strength_{to}",
        help="How much of what the run has learned goes along. 1: the run as it was trained. 0: the base model. "
        "Between, every layer adds that share of it. The page Talk lets you try a strength before you export it.",
        width=420,
    )
    return round(chosen, 6)  # 0.15 comes as 0.15000000000000002


def _state(run: Run, to: str, strength: float, there: Export | None) -> None:
    """Where this export stands, and the one thing to do next."""
    job = exports.latest_job(state.workspace(), run, to)
    if job and job.state in MOVING:
        watch([job], "export", "Cancel")
        return
    try:
        needed = exports.estimate_bytes(state.workspace(), run, to, strength)
        current = there is not None and exports.is_current(state.workspace(), there)
    except MixcptError as problem:
        st.info(plain(problem), icon=":material/info:")
        if there:
            st.caption("What was exported before is still there:")
            _finished(there)
        return
    if there and current and there.strength == strength:
        _finished(there)
        return
    if job and job.state == "failed":
        show.error(MixcptError(job.status.message))
    if there and not current:
        st.caption("The run, its name or its base changed since this was exported last, so it is out of date.")
    elif there:
        st.caption(f"It was exported at strength {there.strength:g} last; another export takes its place.")
    _offer(run, to, strength, needed)


def _offer(run: Run, to: str, strength: float, needed: int) -> None:
    free = disk_free_gb(state.workspace()) * 1e9
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            f"{exports.at_strength('Export', strength, ' at strength ')}, about {size(needed)}",
            key="export_start",
            type="primary",
            icon=":material/upload_file:",
            disabled=needed > free,
            on_click=_start,
            args=(run, to, strength),
            help="It works on the processor, beside whatever is training.",
        )
        if needed > free:
            st.caption(f":material/error: Only {size(free)} of disk are free: free some space first.", width="content")
        else:
            st.caption(f"{size(free)} of disk are free.", width="content")


@show.told
def _start(run: Run, to: str, strength: float) -> None:
    exports.submit(state.workspace(), run, to, zipped=True, strength=strength)


# ---- what was exported -----------------------------------------------------------------------------------------------


def _finished(export: Export) -> None:
    exported = exports.at_strength("Exported", export.strength, " at strength ")
    st.markdown(f":material/check_circle: **{exported}, {size(export.bytes)}.** It lies on this machine in")
    st.code(printable(str(export.folder)), language=None)
    with st.container(horizontal=True, vertical_alignment="center"):
        _download(export)
        with st.popover("Remove", icon=":material/delete:", key="export_remove"):
            st.markdown("Remove this export? The run stays as it is, and it can be exported again.")
            st.button("Yes, remove", key="export_remove_yes", type="primary", on_click=_remove, args=(export,))
    st.markdown("How to ask them:" if export.to == "tasks" else "How to load it:")
    code, language = _how_to_load(export)
    st.code(printable(code), language=language, wrap_lines=True)


def _download(export: Export) -> None:
    """The zip is opened when somebody clicks, not whenever the page is drawn."""
    if export.zip:
        path: Path = export.zip
        st.download_button(
            f"Download, {size(path.stat().st_size)}",
            lambda: open(path, "rb"),
            file_name=f"{export.name}.zip",
            mime="application/zip",
            key="export_download",
            type="primary",
            icon=":material/download:",
            on_click="ignore",
        )
    elif export.bytes <= exports.ZIP_BYTES:
        st.button(
            "Make a zip to download",
            key="export_zip",
            icon=":material/folder_zip:",
            on_click=_start,
            args=(export.run, export.to, export.strength),
        )
    else:
        st.caption(
            f"Too large to download here (more than {size(exports.ZIP_BYTES)}): copy the folder.", width="content"
        )


@show.told
def _remove(export: Export) -> None:
    exports.remove(export.run, export.to)


def _how_to_load(export: Export) -> tuple[str, str]:
    """Code, and the language it is in."""
    if export.to == "tasks":
        return (export.folder / "README.md").read_text(encoding="utf-8"), "markdown"
    if export.to == "merged":
        return snippets.load_merged(str(export.folder)), "python"
    return snippets.load_adapter(_base(export.run), str(export.folder)), "python"


def _base(run: Run) -> str:
    """The very weights that were trained on where they lie here, else their name on the hub."""
    try:
        return str(exports.base_folder(state.workspace(), run))
    except MixcptError:
        return origin(state.workspace(), run.config.model.name).name


def _card(run: Run, to: str, strength: float) -> None:
    with st.expander("Model card: what its README.md will say", icon=":material/description:"):
        try:
            st.markdown(card_to_show(state.workspace(), run, to, plain, strength))
        except MixcptError as problem:
            show.error(problem)
