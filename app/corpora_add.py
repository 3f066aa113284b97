"""The form that adds a corpus, and how far the corpora are that are being made."""

from typing import Any

import streamlit as st

from app import show, state
from app.words import plain, printable
from mixcpt import shelf, uploads
from mixcpt.corpus import corpus_names, list_corpora
from mixcpt.errors import BadInput, MixcptError
from mixcpt.jobs import LIVE, Job, Status
from mixcpt.modelstore import BUILTIN_MODELS, is_there
from mixcpt.roots import allowed_roots, check_path, suggestions

DEFAULT_MODEL = "smollm2-135m"
TYPES = ["txt", "md", "json", "jsonl", "ndjson", "csv", "tsv", "parquet", "gz", "zip"]
UPLOAD, FOLDER, HUB = "Upload files", "Folder on this server", "Hub data set"
KINDS = {
    "guess": "Find out from the files",
    "documents": "Documents",
    "instructions": "Instructions",
    "preferences": "Preference pairs",
}
KIND_HELP = (
    "Documents are plain text of your field. Instructions are questions with answers, or conversations. "
    "Preference pairs are questions with a better and a worse answer. Usually the columns of the files tell."
)
_FORM, _ERROR, _AUTO = "corpora_form", "corpora_error", "corpora_auto_name"
_BLANK = {
    **dict.fromkeys(("name", "hub", "hub_config", "hub_dir", "text_column", "where"), ""),
    **{"path": None, "hub_split": "train", "kind": "guess", "limit": None},
}


def form() -> None:
    """Three ways in, and one button."""
    first = not [name for name in corpus_names(state.workspace()) if not name.startswith("builtin-")]
    with st.expander("Add a corpus", expanded=first, icon=":material/add:", key="corpora_add_box"):
        if first:
            st.markdown(
                "Nothing of yours is here yet. Bring the **documents of your field**: text or Markdown files, a table "
                "with a column `text` (CSV, Parquet, JSON lines), or a zip of them."
            )
        way = st.segmented_control(
            "Where the documents are",
            [UPLOAD, FOLDER, HUB],
            default=UPLOAD,
            required=True,
            key="corpora_way",
            persist_state="session",
        )
        {UPLOAD: _upload, FOLDER: _folder, HUB: _hub}[way or UPLOAD]()
        _common()
        with st.expander("More options", key="corpora_more"):
            _more(way or UPLOAD)
        if problem := _problem():
            show.error(problem)
        st.button(
            "Add corpus", type="primary", icon=":material/add:", key="corpora_add", on_click=_submit, args=(_number(),)
        )


def _problem() -> MixcptError | None:
    """Why the last attempt failed, as long as the form is as it was then."""
    problem, filled_in = st.session_state.get(_ERROR) or (None, None)
    return problem if filled_in == _filled_in() else None


def _filled_in() -> dict[str, Any]:
    fields = [f"corpora_{field}" for field in (*_BLANK, "way", "replace", "model")] + [_files_key()]
    return {field: st.session_state.get(field) for field in fields}


def _number() -> int:
    """Which form this is: the first, or the next after each corpus that was added."""
    return int(state.peek(_FORM) or 0)


def _files_key() -> str:
    return f"corpora_files_{_number()}"


def _upload() -> None:
    st.file_uploader(
        "Files",
        type=TYPES,
        accept_multiple_files=True,
        key=_files_key(),
        on_change=_suggest,
        help="As many as you like. They stay on this machine. PDF and Word files are not read: save them as text.",
    )


def _folder() -> None:
    roots = ", ".join(f"`{root}`" if "`" not in str(root) else plain(root) for root in allowed_roots(state.workspace()))
    st.selectbox(
        "Folder or file on this server",
        [str(path) for path in suggestions(state.workspace())],
        index=None,
        format_func=printable,
        accept_new_options=True,
        placeholder="Choose one, or type a path",
        key="corpora_path",
        persist_state="session",
        on_change=_suggest,
        help="All files in the folder are read, those in its folders as well. Hidden files and links that lead out of "
        "it are left out.",
    )
    st.caption(f"Allowed: what lies under {roots}. The owner of this server adds folders by `MIXCPT_ROOTS`.")


def _hub() -> None:
    left, right = st.columns([3, 1])
    left.text_input(
        "Data set",
        placeholder="owner/name",
        key="corpora_hub",
        persist_state="session",
        on_change=_suggest,
        help="The id of a data set on the Hugging Face hub. It is read from there, which needs the network.",
    )
    right.text_input("Split", value="train", key="corpora_hub_split", persist_state="session", help="Which part of it.")


def _common() -> None:
    left, right = st.columns(2)
    name = left.text_input(
        "Name",
        key="corpora_name",
        max_chars=64,
        persist_state="session",
        help="Mixtures call the corpus by it: small letters, digits, dots, _ and -.",
    )
    right.selectbox(
        "Kind",
        list(KINDS),
        format_func=KINDS.__getitem__,
        key="corpora_kind",
        persist_state="session",
        help=KIND_HELP,
    )
    if name in corpus_names(state.workspace()):
        st.checkbox(
            f"Replace the corpus {plain(name)} that is there",
            key="corpora_replace",
            help="The old one stays until the new one is whole.",
        )


def _more(way: str) -> None:
    left, right = st.columns(2)
    left.text_input(
        "Text column",
        key="corpora_text_column",
        persist_state="session",
        placeholder="found by itself",
        help="Of a table: which column holds the text.",
    )
    right.number_input(
        "Records at most",
        min_value=1,
        value=None,
        step=1,
        key="corpora_limit",
        persist_state="session",
        placeholder="all",
        help="Reads only the first so many.",
    )
    left.text_area(
        "Only records where",
        key="corpora_where",
        persist_state="session",
        placeholder="split = train",
        height=80,
        help="One `field = value` a line; a record must fit all of them.",
    )
    right.selectbox(
        "Count tokens as",
        [name for name in BUILTIN_MODELS if name == DEFAULT_MODEL or is_there(state.workspace(), name)],
        key="corpora_model",
        persist_state="session",
        help="The model whose tokenizer counts the tokens of this corpus.",
    )
    if way == HUB:
        left.text_input("Hub configuration", key="corpora_hub_config", persist_state="session", help="If it has any.")
        right.text_input("Hub folder", key="corpora_hub_dir", persist_state="session", help="Reads this folder only.")


def _suggest() -> None:
    """Name the corpus after what was chosen, unless somebody named it."""
    typed = state.peek("corpora_name") or ""
    if typed and typed != state.peek(_AUTO):
        return
    way = state.peek("corpora_way")
    files = state.peek(_files_key()) or []
    title = {UPLOAD: files[0].name if files else "", FOLDER: _field("path"), HUB: _field("hub")}[way or UPLOAD]
    name = shelf.suggest_name(title, corpus_names(state.workspace()))
    st.session_state["corpora_name"] = st.session_state[_AUTO] = name


def _field(name: str) -> str:
    return str(state.peek(f"corpora_{name}") or "").strip()


def _submit(number: int) -> None:
    """Runs before the page is drawn. The second of two clicks finds a new form and does nothing."""
    if number != _number():
        return
    try:
        job = _queue(state.peek("corpora_way") or UPLOAD)
    except MixcptError as problem:
        st.session_state[_ERROR] = problem, _filled_in()
        return
    st.session_state[_ERROR] = None
    st.session_state[_FORM] = number + 1
    st.toast(f"{plain(job.label)} is being made", icon=":material/library_add:")
    for field, blank in _BLANK.items():
        st.session_state[f"corpora_{field}"] = blank
    st.session_state.pop("corpora_replace", None)


def _queue(way: str) -> Job:
    workspace, model = state.workspace(), _field("model") or DEFAULT_MODEL
    replace = bool(state.peek("corpora_replace")) and _field("name") in corpus_names(workspace)
    options = _options()
    if way == UPLOAD:
        files = state.peek(_files_key()) or []
        if not files:
            raise BadInput("No file is chosen: drag files into the box, or look for them with its button.")
        _check_named()
        return shelf.add_uploads(workspace, options, [(file.name, file) for file in files], model, replace)
    if way == FOLDER:
        if not _field("path"):
            raise BadInput("Choose a folder or file first.")
        options["files"] = [str(check_path(workspace, _field("path")))]
    else:
        if not _field("hub"):
            raise BadInput("No data set is named: type its id, for example owner/name.")
        options |= {"hub": _field("hub"), "split": _field("hub_split") or "train"}
        options |= {"hub_config": _field("hub_config") or None, "hub_dir": _field("hub_dir") or None}
    _check_named()
    return shelf.add(workspace, shelf.spec_of(options), model, replace)


def _check_named() -> None:
    if not _field("name"):
        raise BadInput("Give the corpus a name.")


def _options() -> dict[str, Any]:
    return {
        "name": _field("name"),
        "kind": None if _field("kind") in ("", "guess") else _field("kind"),
        "text_column": _field("text_column") or None,
        "limit": state.peek("corpora_limit"),
        "where": shelf.parse_where(_field("where")),
    }


def progress() -> None:
    """Corpora that are being made, redrawn by itself; when the list of corpora changes, the page is drawn anew."""
    busy = any(status.state in LIVE for _, status in shelf.under_way(state.workspace()))
    drawn = _shelf_now()

    @st.fragment(run_every=1.0 if busy else 4.0)
    def corpora_progress() -> None:
        if _shelf_now() != drawn:
            st.rerun()
        for job, status in shelf.under_way(state.workspace()):
            _one(job, status)

    corpora_progress()


def _shelf_now() -> list[tuple[str, str, str]]:
    return [(one.name, one.created, one.fingerprint) for one in list_corpora(state.workspace())]


def _one(job: Job, status: Status) -> None:
    with st.container(border=True):
        words, first, second = st.columns([6, 1, 1], vertical_alignment="center")
        if status.state in LIVE:
            message = plain(status.message) or "Waiting for its turn"
            words.progress(status.progress or 0.0, text=f"**{plain(job.label)}** · {message}")
            second.button(
                "Cancel", key=f"corpora_cancel_{job.id}", on_click=state.jobs().request_cancel, args=(job,),
                width="stretch",
            )  # fmt: skip
            return
        icon = ":material/error:" if status.state == "failed" else ":material/cancel:"
        words.markdown(f"{icon} **{plain(job.label)}** was not made. {plain(status.message)}")
        kept = any(uploads.is_upload(state.workspace(), path) for path in job.payload.get("files", []))
        first.button("Try again", key=f"corpora_again_{job.id}", on_click=_again, args=(job,), width="stretch")
        second.button(
            "Discard",
            key=f"corpora_discard_{job.id}",
            on_click=_discard,
            args=(job,),
            width="stretch",
            help="Deletes the uploaded files too." if kept else "Takes this message away.",
        )


def _again(job: Job) -> None:
    try:
        shelf.again(state.workspace(), job)
    except MixcptError as problem:
        st.toast(plain(problem), icon=":material/error:")


def _discard(job: Job) -> None:
    try:
        shelf.put_aside(state.workspace(), job)
    except MixcptError as problem:  # another tab tried it again meanwhile
        st.toast(plain(problem), icon=":material/error:")
