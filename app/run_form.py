"""What a run that is being put together is asked on every page: where it belongs, its settings, and your guess.

Every change goes to the draft on disk at once (`app.drafting`). The widgets' keys begin with `key`, the page's name.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import streamlit as st

from app import drafting, forms, state
from app.drafting import typed
from app.words import plain, printable
from mixcpt.corpus import corpus_names
from mixcpt.drafts import AnyDraft, Guess, as_name
from mixcpt.official import preset_entries
from mixcpt.questions import BUILTIN_SETS, kept_folder, probe_entries
from mixcpt.runs import NAME_LENGTH
from mixcpt.templates import NAMED, OWN


def setting(draft: AnyDraft, path: str, *, key: str) -> None:
    """The widget of one setting."""
    changed = partial(drafting.change_one, draft.id)
    forms.field(draft.stage, path, key=key, on_change=changed, typed=typed(draft).changes)


def experiment(draft: AnyDraft, *, key: str) -> None:
    note = f"{key}_note"

    def rename(wanted: str) -> None:
        name = as_name(wanted)
        drafting.update(draft.id, {"experiment": name})
        st.session_state[note] = name if name != wanted else ""

    st.text_input(
        "Experiment",
        **forms.bound(f"{key}_experiment", draft.experiment, rename),
        max_chars=64,
        help="Runs that belong together share an experiment and its notebook.",
    )
    if st.session_state.get(note) == draft.experiment:
        st.caption(f"Kept as {plain(draft.experiment)}, for it is also the name of a folder.")


def name(draft: AnyDraft, *, key: str, suggested: str = "") -> None:
    """`suggested` is what the run is called when nobody names it."""
    st.text_input(
        "Name of this run (optional)",
        **forms.bound(f"{key}_name", draft.name, lambda entered: drafting.update(draft.id, {"name": entered})),
        max_chars=NAME_LENGTH,
        placeholder=printable(suggested) or "for example: half the learning rate",
        help="Shown in lists and charts. You can change it later.",
    )


def fault(draft: AnyDraft) -> None:
    """What was typed and does not fit, in words."""
    if problem := typed(draft).problem:
        st.error(f"{plain(problem)} The run keeps its last good settings until then.", icon=":material/error:")


def settings(
    draft: AnyDraft,
    *,
    key: str,
    skip: Collection[str],
    without: Collection[str] = (),
    choices: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Every setting that stands nowhere else on the page, a tab for each part. `skip` are dotted settings, `without`
    whole parts."""
    with st.expander("Advanced settings", icon=":material/tune:"):
        groups = {name: label for name, label in forms.groups(type(draft.stage)).items() if name not in without}
        corpora = [name for name in corpus_names(state.workspace()) if not name.startswith("builtin-")]
        known = {
            "measures.general": ["builtin/general", *corpora],
            "evaluation.tasks": [
                *BUILTIN_SETS,
                *probe_entries(corpora),
                *preset_entries(),
                *map(str, sorted(kept_folder(state.workspace()).glob("*.jsonl"))),
            ],
            "evaluation.format_source": ["builtin/instructions", *corpora],
            "evaluation.format_templates": [OWN, *NAMED],
        }
        for tab, group in zip(st.tabs(list(groups.values())), groups, strict=True):
            with tab:
                forms.draw(
                    draft.stage,
                    key=key,
                    on_change=partial(drafting.change_one, draft.id),
                    typed=typed(draft).changes,
                    only=group,
                    skip=skip,
                    choices={**known, **(choices or {})},
                    columns=3,
                )


def prediction(draft: AnyDraft, *, key: str) -> None:
    """Predict, then reveal: the guess is kept with the run, and its notebook scores it."""
    with st.expander("Predict, then reveal (optional)", icon=":material/psychology:", expanded=draft.guess is not None):
        key = f"{key}_guess"

        def guess(wanted: bool) -> None:
            drafting.update(draft.id, {"guess": _FIRST_GUESS if wanted else None})

        st.toggle(
            "Guess before you see",
            **forms.bound(key, draft.guess is not None, guess),
            help="Whoever guesses first learns more from the result. The notebook shows your guess beside what "
            "happened, with a score from 0 to 100.",
        )
        if draft.guess is None:
            st.caption("How well can you tell what will happen? Say it now; the notebook reveals it at the end.")
            return
        left, right = st.columns(2)
        with left:
            _guess(draft, key, "domain_gain", -20, 80, "How much better will it read your field?", _gain_words)
        with right:
            _guess(draft, key, "forgetting", -20, 100, "How much will it forget of general text?", _forgetting_words)


_FIRST_GUESS = Guess(domain_gain=20, forgetting=5)


def _guess(draft: AnyDraft, key: str, part: str, least: int, most: int, question: str, words: Any) -> None:
    assert draft.guess is not None
    value = round(draft.guess.model_dump()[part])

    def guessed(entered: float, now: AnyDraft) -> dict[str, Any]:
        return {"guess": (now.guess or _FIRST_GUESS).model_copy(update={part: float(entered)})}

    def keep(entered: float) -> None:
        drafting.update(draft.id, partial(guessed, entered))

    st.slider(
        f"{question} (% of the bits per byte)",
        least,
        most,
        **forms.bound(f"{key}_{part}", min(max(value, least), most), keep),
        help="Bits per byte: how many bits the model needs for a byte of text that it has not seen; lower is better.",
    )
    st.markdown(words(value))


def _gain_words(percent: int) -> str:
    return f"**{abs(percent)} % {'fewer' if percent >= 0 else 'more'}** bits per byte of your field."


def _forgetting_words(percent: int) -> str:
    return f"**{abs(percent)} % {'more' if percent >= 0 else 'fewer'}** bits per byte of general text."
