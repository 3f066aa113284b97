"""Asking runs more: the form, and how far the asking is."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import streamlit as st

from app import show, state
from app.watching import watch
from app.words import plain, printable
from mixcpt import evaluated, official, questions
from mixcpt.corpus import corpus_names
from mixcpt.jobs import MOVING
from mixcpt.launching import check_question_files
from mixcpt.measured import runs_of
from mixcpt.runs import Run
from mixcpt.templates import NAMED, OWN

_FORMATS = """One question a line, as JSON; each file holds one kind.

With choices, `answer` counting from 0:

    {"question": "Who keeps the blue book?", "choices": ["the miller", "the smith"], "answer": 1}

Open, with one answer or several that count as right:

    {"question": "Who keeps the blue book?", "answer": "the smith"}
    {"question": "Who keeps the blue book?", "answers": ["the smith", "the village smith"]}

Files of ARC, PIQA, HellaSwag, Winogrande, BoolQ, SciQ, CommonsenseQA, OpenBookQA and GSM8K are taken as they come."""


def asking(runs: Sequence[Run]) -> None:
    """What goes on, or the form to ask these runs more."""
    last = evaluated.latest(state.workspace(), runs)
    moving = sorted((job for job in last if job.state in MOVING), key=lambda job: job.state != "running")
    if moving:
        if len(runs) > 1:
            st.caption(f"{len(moving)} of {len(runs)} runs are still to be asked.")
        watch(moving, "asked", "Stop asking")
        return
    for job in last:
        if job.state == "failed":
            which = f" of {plain(job.label)}" if len(runs) > 1 else ""
            st.error(f"The last asking{which} failed: {plain(job.status.message)}", icon=":material/error:")
    able = runs_of(state.workspace(), [run.id for run in runs])
    if not able:
        if len(runs) > 1:
            st.caption("None of these runs can be asked here: they are not done, or were recorded elsewhere.")
        return  # of one run the tab says why
    title = "Ask more questions" if len(runs) == 1 else f"Ask {len(able)} of these runs more questions"
    with st.expander(title, icon=":material/quiz:", key="asked_more"):
        _upload()
        _form(able)


def _upload() -> None:
    file = st.file_uploader(
        "Questions of your own",
        type=["jsonl", "gz"],
        key="asked_upload",
        max_upload_size=20,
        help="A JSONL file, packed as .jsonl.gz or not; it is kept on this machine and can then be chosen below, for "
        "any run.",
    )
    with st.popover("How such a file looks", icon=":material/help:"):
        st.markdown(_FORMATS)
    if file is not None and st.session_state.get("asked_kept") != file.file_id:
        st.session_state["asked_kept"] = file.file_id
        _keep(file.name, cast(BinaryIO, file))


@show.told
def _keep(name: str, file: BinaryIO) -> None:
    kept = questions.keep(state.workspace(), name, file).name
    st.session_state["asked_tasks"] = list(dict.fromkeys([*st.session_state.get("asked_tasks", []), kept]))
    st.toast(f"{plain(kept)} is chosen below.", icon=":material/check:")


def _form(runs: Sequence[Run]) -> None:
    kept = sorted(path.name for path in questions.kept_folder(state.workspace()).glob("*.jsonl"))
    corpora = [name for name in corpus_names(state.workspace()) if not name.startswith("builtin-")]
    probes = questions.probe_entries(corpora)
    known = [
        *questions.BUILTIN_SETS,
        *probes,
        *official.preset_entries(),
        *kept,
        *(task for run in runs for task in run.config.evaluation.tasks),
        *st.session_state.get("asked_tasks", []),
    ]
    st.multiselect(
        "Question sets",
        list(dict.fromkeys(known)),
        accept_new_options=True,
        key="asked_tasks",
        placeholder="general, probes, a file, or lm-eval:arc_easy",
        help="general: built-in four-choice questions. atlas: about the fictional country. probes: made of the "
        "sentences of the run's field, or of any corpus. instructions: prompts whose fulfilment a rule can check. Your "
        "own files, or type lm-eval:NAME for one of lm-eval's tasks, whose questions come from the Hugging Face hub, "
        "or the full path of a file on this machine. preset:quick and preset:paper ask several of lm-eval's tasks.",
    )
    for entry in official.preset_entries():
        if entry in st.session_state.get("asked_tasks", []):
            st.caption(f"**{plain(entry)}**: {plain(official.PRESETS[entry.removeprefix(official.PRESET)].needs())}")
    items, prompts, templates = st.columns([1, 1, 2])
    with items:
        st.number_input(
            "Questions per set",
            min_value=1,
            value=None,
            placeholder="all",
            key="asked_items",
            help="Asks only so many of each set, always the same ones. Fewer are faster and tell less.",
        )
    with prompts:
        st.number_input(
            "Format prompts",
            min_value=0,
            value=0,
            key="asked_prompts",
            help="So many held-out prompts are answered in a chat template, to see whether answers end, keep to the "
            "template and have the right length. 0 measures no format.",
        )
    with templates:
        st.multiselect(
            "Templates",
            [OWN, *NAMED],
            default=[OWN],
            key="asked_templates",
            disabled=not st.session_state.get("asked_prompts"),
            help="own: that of the run. Any other shows what it does in a template that it may never have seen.",
        )
    st.button(
        "Ask",
        key="asked_ask",
        type="primary",
        icon=":material/play_arrow:",
        on_click=_ask,
        args=(runs,),
        help="Base and run are asked alike; what the base answered before is not asked again.",
    )
    st.code(printable(_command(runs)), language="bash", wrap_lines=True)


def _entry(text: str) -> str:
    """What is asked by a name that was chosen: a file that was sent here is called by its name alone."""
    kept = questions.kept_folder(state.workspace()) / Path(text).name
    return str(kept) if questions.is_file(text) and text == kept.name and kept.is_file() else text


def _chosen() -> dict[str, Any]:
    """What stands in the form, as fields of an EvaluationConfig."""
    prompts = state.peek("asked_prompts") or 0
    chosen = {
        "tasks": list(map(_entry, state.peek("asked_tasks") or [])),
        "items": state.peek("asked_items"),
        "format_items": prompts,
    }
    return chosen | ({"format_templates": list(state.peek("asked_templates") or [])} if prompts else {})


def _command(runs: Sequence[Run]) -> str:
    """The same by command."""
    chosen = _chosen()
    words = ["mixcpt", "evaluate", *(run.id for run in runs)]
    if chosen["tasks"]:
        words += ["--tasks", ",".join(chosen["tasks"])]
    if chosen["items"]:
        words += ["--items", str(chosen["items"])]
    if chosen["format_items"]:
        words += ["--format", str(chosen["format_items"]), "--templates", ",".join(chosen["format_templates"]) or OWN]
    return shlex.join(words)


@show.told
def _ask(runs: Sequence[Run]) -> None:
    chosen = _chosen()
    check_question_files(state.workspace(), chosen["tasks"])
    evaluated.submit(state.workspace(), runs, chosen)
    st.toast("It is in the queue.", icon=":material/play_arrow:")
