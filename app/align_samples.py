"""Which samples a run of stage two learns from, and under which chat template: a part of the Align page's form."""

from functools import partial
from typing import Any

import streamlit as st

from app import forms, run_form, state
from app.drafting import change, typed
from app.words import plain, printable
from mixcpt.builtin import KINDS
from mixcpt.corpus import list_corpora
from mixcpt.drafts import AlignDraft, AnyDraft
from mixcpt.palette import KIND_WORDS
from mixcpt.presets import OPTIONS
from mixcpt.runs import Run
from mixcpt.samples import kind_of
from mixcpt.scores import SCORES, default_score
from mixcpt.selection import Rule, list_selections
from mixcpt.stage_words import run_words

KEY = "align"
SELECTION = "../pages/selection.py"
_BY_SCORE = ("easiest", "hardest")
_NEED_A_RUN = ("implicit_margin", "dpo_loss")
"""Scores against the base: under the base itself they say nothing."""
_WAYS = {"selection": "A saved selection", "rule": "Source and rule"}
_NAME_IT = "Choose a saved selection, or a source and a rule."
_STRATEGIES = {
    "easiest": "The samples that the model finds easiest by the score: the paper's way. It can follow them already, so "
    "it learns the form and forgets little.",
    "hardest": "The samples that it finds hardest by the score: for comparison.",
    "random": "Drawn by chance, whatever the score: what every choice has to beat.",
    "all": "Every sample that can be trained on.",
}


def samples(draft: AlignDraft, parent: Run | None) -> None:
    waiting = typed(draft).changes
    named: str | None = waiting.get("samples.selection", draft.stage.samples.selection)
    way = "rule" if named is None else "selection"
    st.segmented_control(
        "Samples",
        list(_WAYS),
        format_func=_WAYS.__getitem__,
        **forms.bound(f"{KEY}_way", way, lambda chosen: _go(draft, chosen)),
        required=True,
        help="A few well-chosen samples do: they teach the form of answers, not knowledge. A selection was made on the "
        "Selection page, by scores and by hand. Source and rule choose when the run starts.",
    )
    if way == "selection":
        _selection(draft, named or "")
    else:
        _rule(draft, parent)
    _template(draft)


def _go(draft: AlignDraft, way: str) -> None:
    """To the other way of choosing; a selection that is not named yet waits in the form."""
    if way == "rule":
        return change(draft.id, {"samples.selection": None})
    fitting = _fitting(draft)
    if fitting:
        return change(draft.id, {"samples.selection": fitting[0]["name"]})
    waiting = typed(draft)
    waiting.changes["samples.selection"], waiting.problem = "", _NAME_IT


def _fitting(draft: AlignDraft) -> list[dict[str, Any]]:
    """Saved selections of the kind that this stage learns from, newest first."""
    found = [one for one in list_selections(state.workspace()) if one["scores"]["kind"] == kind_of(draft.stage)]
    return sorted(found, key=lambda one: str(one["created"]), reverse=True)


def _selection(draft: AlignDraft, named: str) -> None:
    found, kind = {one["name"]: one for one in _fitting(draft)}, KIND_WORDS[kind_of(draft.stage)]
    if not found and not named:
        st.markdown(f"There is no saved selection of {kind} yet: score a source, look at the samples, and save some.")
        st.page_link(SELECTION, label="Make a selection", icon=":material/filter_alt:")
        return
    st.selectbox(
        "Saved selection",
        list(dict.fromkeys([*found, *([named] if named else [])])),
        index=None,
        **forms.bound(f"{KEY}_selection", named or None, lambda one: change(draft.id, {"samples.selection": one})),
        format_func=printable,
        placeholder="choose one",
        help=f"Selections of {kind}: what {draft.stage.stage.upper()} learns from.",
    )
    if one := found.get(named):
        hand = len(one["keep"]) + len(one["discard"])
        by_hand = f", {hand} changed by hand" if hand else ""
        under = run_words(state.workspace(), one["scores"].get("run"))
        what = f"{one['chosen']:,} samples, {one['tokens']:,} tokens of {one['scores']['source']}"
        st.caption(plain(f"{what}, {Rule.model_validate(one['rule']).words()}{by_hand}; scored under {under}."))
        st.page_link(SELECTION, label="Look at it", icon=":material/filter_alt:", query_params={"selection": named})


# By a rule


def _rule(draft: AlignDraft, parent: Run | None) -> None:
    rule = draft.stage.samples.rule
    source, strategy = st.columns(2)
    with source:
        _source(draft)
    with strategy:
        _strategy(draft, parent)
    by_score = rule.strategy in _BY_SCORE
    score, count = st.columns(2)
    with score:
        if by_score:
            _score(draft, parent)
    with count if by_score else score:
        run_form.setting(draft, "samples.rule.count", key=KEY)
    st.caption(_STRATEGIES[rule.strategy])
    if by_score and rule.score:
        kind = SCORES[rule.score]
        end = "lowest" if (kind.easy == "low") == (rule.strategy == "easiest") else "highest"
        st.caption(f"{plain(kind.help)} The {end} are taken; they are scored under what is continued, before the run.")


def _source(draft: AlignDraft) -> None:
    wanted = kind_of(draft.stage)
    own = [one.name for one in list_corpora(state.workspace()) if one.kind == wanted and "builtin-" not in one.name]
    known = [*(name for name, kind in KINDS.items() if kind == wanted), *own]
    shown = draft.stage.samples.source
    st.selectbox(
        "Source",
        list(dict.fromkeys([*known, shown])),
        **forms.bound(f"{KEY}_source", shown, lambda source: change(draft.id, {"samples.source": source})),
        format_func=printable,
        help=f"{KIND_WORDS[wanted].capitalize()}: built in, or a corpus of yours of that kind.",
    )


def _strategy(draft: AlignDraft, parent: Run | None) -> None:
    rule = draft.stage.samples.rule

    def chosen(strategy: str, now: AnyDraft) -> dict[str, Any]:
        assert isinstance(now, AlignDraft)
        known, score = _scores(now, parent), now.stage.samples.rule.score
        by_score = {"samples.rule.score": score if score in known else default_score(known)}
        rest: dict[str, Any] = by_score if strategy in _BY_SCORE else {"samples.rule.threshold": None}
        return {"samples.rule.strategy": strategy} | rest

    def choose(strategy: str) -> None:
        change(draft.id, partial(chosen, strategy))

    words = OPTIONS["samples.rule.strategy"]
    st.selectbox(
        "Choose",
        [*_STRATEGIES],
        **forms.bound(f"{KEY}_strategy", rule.strategy, choose),
        format_func=words.__getitem__,
        help="Which samples are taken from the source.",
    )


def _scores(draft: AlignDraft, parent: Run | None) -> list[str]:
    wanted = kind_of(draft.stage)
    return [name for name, one in SCORES.items() if one.kind == wanted and (parent or name not in _NEED_A_RUN)]


def _score(draft: AlignDraft, parent: Run | None) -> None:
    shown = draft.stage.samples.rule.score
    st.selectbox(
        "By score",
        list(dict.fromkeys([*_scores(draft, parent), *([shown] if shown else [])])),
        **forms.bound(f"{KEY}_score", shown, lambda score: change(draft.id, {"samples.rule.score": score})),
        format_func=lambda name: SCORES[name].label,
        help="What is called easy. The Selection page shows how the scores of your samples are spread.",
    )


# The chat template


def _template(draft: AlignDraft) -> None:
    run_form.setting(draft, "template", key=KEY)
    if draft.stage.template == "auto":
        st.caption(
            "How question and answer are set out. Automatic keeps to the template under which the chain has learned to "
            "answer, else the one that the model brings along; a base model brings none: choose one by name."
        )
    else:
        st.caption("It is saved with the adapter, so whoever asks the model later uses it too.")
