"""The shelf of corpora, and one of them: what it holds, how it was made, how long its documents are."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app import show, state
from app.pins import pin_button
from app.words import count, moment, plain, printable, short, size
from mixcpt import charts, shelf
from mixcpt.builtin import GENERAL, SOURCES, WORDS
from mixcpt.corpus import Corpus, corpus_names, list_corpora
from mixcpt.errors import MixcptError
from mixcpt.intake import MAX_LISTED
from mixcpt.manifest import Manifest, RefusedItem, SplitInfo
from mixcpt.palette import KIND_WORDS, KINDS

_LINES_NAMED = 3
_LIST, _NAME, _PROBLEM = "corpora_list", "corpus", "corpora_delete_problem"
_READER = ("corpora_view", "corpora_split", "corpora_document", "corpora_find", "corpora_part")


def opened() -> Corpus | None:
    """The corpus that the address names (?corpus=name); one that is not there is said so, once."""
    name = st.query_params.get(_NAME)
    if name is None:
        return None
    if name in corpus_names(state.workspace()):
        return Corpus.open(state.workspace(), name)
    st.warning(f"There is no corpus {plain(name)} any more: choose another.", icon=":material/search_off:")
    return None


def open_corpus(name: str | None) -> None:
    """Go to a corpus, or with None back to all of them."""
    for key in _READER:
        st.session_state.pop(key, None)
    if name is None:
        st.query_params.pop(_NAME, None)
    else:
        st.query_params[_NAME] = name


# ---- all corpora -----------------------------------------------------------------------------------------------------


def _rows(manifests: list[Manifest]) -> list[dict[str, Any]]:
    return [
        {
            "Name": one.name,
            "Kind": [KIND_WORDS[one.kind]],
            "Documents": one.documents,
            "Tokens": one.tokens,
            "Held out": 100 * one.split.fraction,
            "Refused": one.refused_total,
            "Created": moment(one.created),
        }
        for one in manifests
    ]


def _list(manifests: list[Manifest]) -> None:
    names = [one.name for one in manifests]

    def choose() -> None:
        rows = st.session_state[_LIST]["selection"]["rows"]
        if rows:
            open_corpus(names[rows[0]])

    st.dataframe(
        _rows(manifests),
        key=_LIST,
        on_select=choose,
        selection_mode="single-row",
        hide_index=True,
        width="stretch",
        column_config={
            "Kind": st.column_config.MultiselectColumn(options=list(KIND_WORDS.values()), color=list(KINDS.values())),
            "Documents": st.column_config.NumberColumn(format="localized"),
            "Tokens": st.column_config.NumberColumn(format="localized", help="As the corpus' tokenizer counts them."),
            "Held out": st.column_config.NumberColumn(
                format="%.1f %%", help="Share of the tokens that is never trained on, to measure what was learned."
            ),
            "Refused": st.column_config.NumberColumn(format="localized", help="Items that could not be used."),
            "Created": st.column_config.DatetimeColumn(format="D MMM YYYY, HH:mm"),
        },
    )


def all_corpora() -> None:
    """Your corpora, then the built-in sources."""
    manifests = list_corpora(state.workspace())
    for name in sorted({*corpus_names(state.workspace())} - {one.name for one in manifests}):
        st.warning(
            f"The corpus {plain(name)} cannot be read: its manifest.json is damaged. Move its folder away, and add it "
            "again.",
            icon=":material/broken_image:",
        )
    own = [one for one in manifests if not one.name.startswith("builtin-")]
    st.subheader("Your corpora")
    if own:
        st.caption("Tick a row to open it: the report, the documents and their lengths.")
        _list(own)
    else:
        show.empty(
            "No corpus yet",
            "Add one above. It is cleaned, freed of exact duplicates and split: about 5 % is held out, to measure "
            "later what was learned.",
        )
    st.subheader("Built-in sources")
    made = {one.name: one for one in manifests}
    st.caption("Ready for every mixture. Each is made the first time a run or a preview uses it; then it opens here.")
    _builtins([source for source in SOURCES if source not in GENERAL], made)
    st.caption("General text of several kinds, to measure what a run forgets: all of it is held out.")
    _builtins(list(GENERAL), made)


def _builtins(sources: Sequence[str], made: dict[str, Manifest]) -> None:
    for column, source in zip(st.columns(len(sources)), sources, strict=True):
        with column.container(border=True, height="stretch"):
            _builtin(source, made.get(source.replace("/", "-")))


def _builtin(source: str, manifest: Manifest | None) -> None:
    st.markdown(f"**{plain(source)}**")
    st.caption(WORDS[source])
    if manifest:
        st.caption(f"{count(manifest.documents)} documents, {short(manifest.tokens)} tokens")
        st.button("Open", key=f"corpora_open_{manifest.name}", on_click=open_corpus, args=(manifest.name,))


# ---- one corpus ------------------------------------------------------------------------------------------------------


def heading(corpus: Corpus) -> None:
    manifest = corpus.manifest
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("All corpora", icon=":material/arrow_back:", key="corpora_back", on_click=open_corpus, args=(None,))
        st.markdown(f"### {plain(manifest.name)}", width="stretch")
        if not manifest.name.startswith("builtin-") and st.button(
            "Delete", icon=":material/delete:", key="corpora_delete"
        ):
            st.session_state.pop(_PROBLEM, None)
            _confirm_delete(manifest.name)
    facts = {
        "Kind": KIND_WORDS[manifest.kind],
        "Documents": count(manifest.documents),
        "Tokens": count(manifest.tokens),
        "Size": size(manifest.bytes),
        "Held out": f"{100 * manifest.split.fraction:.1f} % of tokens",
    }
    for column, (label, value) in zip(st.columns([1.3, 1, 1, 1, 1.4]), facts.items(), strict=True):
        column.metric(label, value)


def chosen_view() -> str:
    view = st.segmented_control(
        "View",
        ["Report", "Read", "Lengths", "Probes"],
        default="Report",
        required=True,
        key="corpora_view",
        label_visibility="collapsed",
        bind="query-params",
    )
    return view or "Report"


def report(corpus: Corpus) -> None:
    manifest = corpus.manifest
    st.markdown(held_out_words(manifest.split))
    if manifest.exact_duplicates:
        st.markdown(f"{_many(manifest.exact_duplicates, 'exact duplicate')} left out: the same text again.")
    if manifest.files:
        noted = any(file.note for file in manifest.files)
        st.subheader("Files")
        st.dataframe(
            [
                {
                    "File": printable(file.name),
                    "Size": size(file.bytes) if file.bytes else "–",
                    "Documents": file.documents,
                    "SHA-256": file.sha256[:12],
                }
                | ({"Note": printable(file.note)} if noted else {})
                for file in manifest.files
            ],
            hide_index=True,
            key="corpora_files_table",
            column_config={
                "SHA-256": st.column_config.TextColumn(
                    help="The beginning of the file's fingerprint: two files with the same one are the same file."
                )
            },
        )
    st.subheader("Left out")
    if not manifest.refused:
        st.markdown("Everything could be used.")
        return
    more = (
        f", the first {count(MAX_LISTED)} are counted below" if manifest.refused_total > len(manifest.refused) else ""
    )
    st.markdown(f"{_many(manifest.refused_total, 'item')} could not be used{more}.")
    st.dataframe(
        _refused_rows(manifest.refused),
        hide_index=True,
        key="corpora_refused",
        column_config={
            "Items": st.column_config.NumberColumn(format="localized", width=70),
            "Lines": st.column_config.TextColumn(width=150),
            "Reason": st.column_config.TextColumn(width=640),
        },
    )


def _refused_rows(refused: Sequence[RefusedItem]) -> list[dict[str, Any]]:
    """One row for each file and reason, with how often it occurs and in which lines first."""
    lines: dict[tuple[str, str], list[int]] = {}
    for item in refused:
        lines.setdefault((item.file, item.reason), []).append(item.line)
    return [
        {
            "File": printable(file),
            "Items": len(found),
            "Lines": _first_lines([line for line in found if line]),
            "Reason": printable(reason),
        }
        for (file, reason), found in lines.items()
    ]


def _first_lines(lines: Sequence[int]) -> str:
    """The first few line numbers; none are known of a file that was refused as a whole."""
    if not lines:
        return "whole file"
    return ", ".join(map(count, lines[:_LINES_NAMED])) + (", …" if len(lines) > _LINES_NAMED else "")


def held_out_words(split: SplitInfo) -> str:
    """How the held-out part was made, for a reader who has never heard of one."""
    how = {
        "documents": f"Whole documents were drawn at random (seed {split.seed}).",
        "sections": f"There are few documents, so they were cut into sections, and some of those were drawn at random "
        f"(seed {split.seed}).",
        "given": "Which ones was laid down in advance.",
    }[split.method]
    return (
        f"**{count(split.heldout.tokens)} tokens are held out** ({100 * split.fraction:.1f} %; "
        f"{_many(split.heldout.documents, 'piece')}), {count(split.train.tokens)} are for training. No training reads "
        f"the held-out part, so it shows what was really learned. {how}"
    )


def lengths(corpus: Corpus) -> None:
    show.chart(charts.lengths(corpus.manifest.lengths), key="corpora_lengths")
    pin_button("", "lengths", [corpus.manifest.name], key="corpora_pin")


@st.dialog("Delete this corpus?")
def _confirm_delete(name: str) -> None:
    st.markdown(f"**{plain(name)}** and the files that were uploaded for it will be gone for good.")
    st.markdown(_users(name))
    pressed = st.button("Delete it", type="primary", key="corpora_delete_yes", on_click=_delete, args=(name,))
    if problem := st.session_state.get(_PROBLEM):
        show.error(problem)
    elif pressed:
        st.rerun()


def _delete(name: str) -> None:
    try:
        shelf.delete(state.workspace(), name)
    except MixcptError as problem:
        st.session_state[_PROBLEM] = problem
    else:
        open_corpus(None)


def _users(name: str) -> str:
    found = shelf.users(state.workspace(), name)
    if not found.runs and not found.drafts:
        return "No run and no draft names it."
    some = ", ".join(plain(id) for id in found.runs[:5]) + (", …" if len(found.runs) > 5 else "")
    runs = f"Named by {_many(len(found.runs), 'run')} ({some}): the results stay, but none can be run again. "
    return (runs if found.runs else "") + (f"Named by {_many(len(found.drafts), 'draft')}." if found.drafts else "")


def _many(number: int, word: str) -> str:
    return f"{count(number)} {word}{'' if number == 1 else 's'}"
