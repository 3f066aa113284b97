"""Which model is adapted: a built-in one, a folder, or one of the hub."""

import streamlit as st

from app import forms, state
from app.drafting import change, typed
from app.words import printable
from mixcpt.drafts import AnyDraft
from mixcpt.launching import local_models

_BUILTIN = {"smollm2-135m": "SmolLM2 135M (built in)", "gemma-3-270m": "Gemma 3 270M (built in, has terms)"}
_OTHER = {"folder": "A folder on this machine", "hub": "From the Hugging Face hub"}
_NAME_IT = {"folder": "Name the folder of your model.", "hub": "Name a model of the hub, as org/name."}


def model(draft: AnyDraft, *, key: str) -> None:
    """Draws the choice; the widgets' keys begin with KEY_model."""
    name = typed(draft).changes.get("model.name", draft.stage.model.name)
    kind = _kind(draft, name, key)

    def choose(chosen: str) -> None:
        if chosen in _BUILTIN:
            change(draft.id, {"model.name": chosen})
        else:
            waiting = typed(draft)
            waiting.other = chosen
            waiting.changes["model.name"], waiting.problem = "", _NAME_IT[chosen]

    words = _BUILTIN | _OTHER
    st.selectbox(
        "Model",
        list(words),
        format_func=lambda option: words[option],
        **forms.bound(f"{key}_model", kind, choose),
        help="The language model that is adapted. Its own weights stay as they are; what is learned lies in a small "
        "adapter beside them.",
    )
    if kind == "folder":
        _folder(draft, name, f"{key}_model_folder")
    elif kind == "hub":
        _hub(draft, name, f"{key}_model_hub")


def _kind(draft: AnyDraft, name: str, key: str) -> str:
    if name in _BUILTIN:
        return name
    if "model.name" in typed(draft).changes:
        return typed(draft).other
    return "folder" if name.startswith("/") else "hub"


def _folder(draft: AnyDraft, name: str, key: str) -> None:
    known = local_models(state.workspace())
    st.selectbox(
        "Folder of the model",
        list(dict.fromkeys([*known, *([name] if name else [])])),
        **forms.bound(key, name or None, lambda folder: change(draft.id, {"model.name": folder or ""})),
        index=None,
        format_func=printable,
        accept_new_options=True,
        placeholder="choose one, or write its full path",
        help="A folder made by save_pretrained: config.json, *.safetensors and a tokenizer. It must lie in the "
        "workspace's models/ or inbox/, or where the owner of this server allows it.",
    )


def _hub(draft: AnyDraft, name: str, key: str) -> None:
    st.text_input(
        "Hub id",
        **forms.bound(key, name, lambda id: change(draft.id, {"model.name": id.strip()})),
        placeholder="org/name",
        help="Any causal language model with safetensors weights, for example HuggingFaceTB/SmolLM2-360M. No code of "
        "the model is ever run.",
    )
