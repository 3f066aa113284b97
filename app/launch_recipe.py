"""The run of the Launch page as a command and a YAML file, and a YAML file as the run."""

from functools import partial

import streamlit as st

from app import drafting, state
from app.words import plain
from mixcpt.drafts import Draft, Drafts
from mixcpt.errors import BadConfig, MixcptError
from mixcpt.further import adapted
from mixcpt.launching import check_files, recipe_of
from mixcpt.recipe import Recipe, uploaded
from mixcpt.runs import Runs
from mixcpt.settings import to_yaml
from mixcpt.stages import Sft, Stage

_UPLOAD_MB = 1


def recipe(draft: Draft) -> None:
    """The same run for the command line, and the way back."""
    with st.expander("Command and YAML", icon=":material/terminal:"):
        if message := st.session_state.pop("launch_uploaded_note", ""):
            st.success(plain(message), icon=":material/check:")
        text, file = to_yaml(recipe_of(draft)), f"{draft.experiment}.yaml"
        shown, upload = st.columns([3, 2], gap="large")
        with shown:
            st.caption("This file and this command do the same as the button Launch.")
            st.code(f"mixcpt run {file}", language="bash")
            st.code(text, language="yaml", height=320)
            st.download_button(
                "Download the YAML", text, file, "application/yaml", key="launch_download", icon=":material/download:"
            )
        with upload:
            _upload(draft)


def _upload(draft: Draft) -> None:
    key = f"launch_upload_{draft.id}"
    st.file_uploader(
        "Take the settings from a YAML file",
        type=["yaml", "yml"],
        key=key,
        max_upload_size=_UPLOAD_MB,
        on_change=partial(_take, draft.id, key),
        help="A recipe, or the config.yaml of a run. It replaces all settings of this form; its corpora must be here "
        "already.",
    )
    if problem := st.session_state.pop("launch_upload_problem", ""):
        st.error(plain(problem), icon=":material/error:")


def _take(draft_id: str, key: str) -> None:
    file = state.peek(key)
    if file is None:
        return
    draft = Drafts(state.workspace()).get(draft_id)
    try:
        found = uploaded(file.getvalue(), file.name)
        if isinstance(found, Sft):
            raise BadConfig(f"{file.name} is a run of stage two ({found.stage}): take it on the page Align.")
        stage = found if isinstance(found, Stage) else found.cpt
        id = draft.parent if isinstance(found, Stage) else found.parent or draft.parent
        if id:
            stage = adapted(stage, Runs(state.workspace()).get(id))
        check_files(state.workspace(), stage)
    except MixcptError as problem:
        st.session_state["launch_upload_problem"] = str(problem)[:500]
        return
    name = draft.experiment if isinstance(found, Stage) else found.name
    taken = {"stage": stage, "experiment": name, "parent": id}
    drafting.replace(draft_id, lambda draft: draft.model_copy(update=taken))
    variants = "" if isinstance(found, Stage) else _left_out(found)
    st.session_state["launch_uploaded_note"] = f"The settings are now those of {file.name}.{variants}"


def _left_out(recipe: Recipe) -> str:
    """A form is one run; what else a recipe says is done by `mixcpt run`."""
    parts = [
        ("further corpora", recipe.then),
        ("variants", recipe.arms),
        ("tuning", recipe.tune),
        ("seeds", recipe.seeds),
        ("corpora", recipe.corpora),
    ]
    named = ", ".join(name for name, value in parts if value)
    return f" What it says of {named} was left out: `mixcpt run` does that." if named else ""
