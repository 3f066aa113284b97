"""The run of the Align page as a command and a YAML file, and a YAML file as the run."""

from functools import partial

import streamlit as st

from app import drafting, state
from app.words import plain
from mixcpt.align_drafts import command, settings_of, stage_after
from mixcpt.drafts import AlignDraft, Drafts
from mixcpt.errors import MixcptError
from mixcpt.launching import check_files
from mixcpt.recipe import uploaded
from mixcpt.runs import Run, Runs
from mixcpt.settings import to_yaml

_UPLOAD_MB = 1
_NOTE, _PROBLEM = "align_uploaded_note", "align_upload_problem"


def recipe(draft: AlignDraft, parent: Run | None) -> None:
    """The same run for the command line, and the way back."""
    with st.expander("Command and YAML", icon=":material/terminal:"):
        if message := st.session_state.pop(_NOTE, ""):
            st.success(plain(message), icon=":material/check:")
        text, file = to_yaml(draft.stage), f"{draft.experiment}-{draft.stage.stage}.yaml"
        shown, upload = st.columns([3, 2], gap="large")
        with shown:
            st.caption("This command does the same as the button Launch.")
            st.code(command(draft, parent), language="bash", wrap_lines=True)
            st.caption("The same settings as a file: `mixcpt align PARENT --settings FILE.yaml` takes it.")
            st.code(text, language="yaml", height=320)
            st.download_button(
                "Download the YAML", text, file, "application/yaml", key="align_download", icon=":material/download:"
            )
        with upload:
            _upload(draft)


def _upload(draft: AlignDraft) -> None:
    key = f"align_upload_{draft.id}"
    st.file_uploader(
        "Take the settings from a YAML file",
        type=["yaml", "yml"],
        key=key,
        max_upload_size=_UPLOAD_MB,
        on_change=partial(_take, draft.id, key),
        help="The config.yaml of a run of SFT or DPO, or a recipe that has such a stage. It replaces the settings of "
        "this form; what follows from the run that is continued stays.",
    )
    if problem := st.session_state.pop(_PROBLEM, ""):
        st.error(plain(problem), icon=":material/error:")


def _take(draft_id: str, key: str) -> None:
    file, workspace = state.peek(key), state.workspace()
    if file is None:
        return
    draft = Drafts(workspace).get(draft_id)
    assert isinstance(draft, AlignDraft)  # this page has no other
    try:
        parent = Runs(workspace).get(draft.parent) if draft.parent else None
        kind, given = settings_of(uploaded(file.getvalue(), file.name), parent, draft.stage.stage)
        stage = stage_after(workspace, parent, kind, changes=given)
        check_files(workspace, stage)
    except MixcptError as problem:
        st.session_state[_PROBLEM] = str(problem)[:500]
        return
    drafting.replace(draft_id, lambda draft: draft.model_copy(update={"stage": stage}))
    st.session_state[_NOTE] = f"The settings are now those of {file.name}."
