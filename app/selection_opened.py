"""What the Selection page has open: scores or a saved selection, and the choice that this session makes among them.

The address names both (?scores=ID or ?selection=NAME, and ?choice=ID), so a reload, a second tab and a restarted server
find them again. A choice lies on disk from its first change on (`mixcpt.choices`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import streamlit as st

from app import show, state
from app.words import plain, printable
from mixcpt.choices import Choice, Choices, begin, ending
from mixcpt.errors import MixcptError, NotFound
from mixcpt.overview import RunSummary, summary
from mixcpt.scores import ScoredSample, default_score, names_of
from mixcpt.selection import Rule, Selection, list_selections
from mixcpt.settings import validate
from mixcpt.stamps import Stamp, stamp
from mixcpt.templates import OWN

SCORES, SELECTION, CHOICE, SAMPLE = "scores", "selection", "choice", "sample"
"""What the address names."""
_CHOICES = "selection_choices"
EXCERPT = 160
"""Characters of a question or an answer that a table shows."""


@dataclass(frozen=True)
class Texts:
    """Questions and answers of the samples, cut short, and each sample's whole text for searching, in their order."""

    questions: list[str]
    answers: list[str]
    whole: list[str]


@dataclass(frozen=True)
class Opened:
    """`begun` is what lies in the workspace, `selection` what is chosen of it now. They are shared between sessions: do
    not alter them."""

    begun: Selection
    names: list[str]
    texts: Texts
    choice: Choice
    selection: Selection

    @property
    def info(self) -> dict[str, Any]:
        return self.begun.info

    @property
    def score(self) -> str | None:
        """The score that is looked at, whether or not the rule asks for one."""
        return self.choice.rule.score if self.choice.rule.score in self.names else default_score(self.names)

    @cached_property
    def chosen(self) -> set[str]:
        return set(self.selection.ids)

    def sample(self, id: str | None) -> ScoredSample | None:
        return next((sample for sample in self.begun.samples if sample.id == id), None)


@dataclass(frozen=True)
class _Begun:
    selection: Selection
    names: list[str]
    texts: Texts


@st.cache_resource(max_entries=6, show_spinner=False)
def _begun(root: str, scores: str | None, selection: str | None, stamps: tuple[Stamp, ...]) -> _Begun:
    begun = begin(state.workspace(), scores, selection)
    return _Begun(begun, names_of(begun.samples), _texts(begun.samples))


def _texts(samples: Sequence[ScoredSample]) -> Texts:
    questions, answers, whole = [], [], []
    for sample in samples:
        record = sample.parsed
        questions.append(_excerpt(sample.question))
        answers.append(_excerpt(sample.answer))
        parts = [*(message.content for message in record.messages), record.chosen, record.rejected, sample.id]
        whole.append("\n".join(parts).casefold())
    return Texts(questions, answers, whole)


def _excerpt(text: str) -> str:
    start = " ".join(printable(text[: 2 * EXCERPT]).split())
    return start if len(start) <= EXCERPT and len(text) <= 2 * EXCERPT else start[:EXCERPT].rstrip() + "…"


def opened() -> Opened | None:
    """What the address names; None for nothing, or, told on the page, for what is gone or damaged."""
    scores, name = st.query_params.get(SCORES), st.query_params.get(SELECTION)
    if scores is None and name is None:
        return None
    scores = None if name is not None else scores
    try:
        begun = _begun(str(state.workspace().root), scores, name, _stamps(scores, name))
        choice = _choice(scores, name, begun.selection)
        of = choice.of(begun.selection)
    except MixcptError as problem:
        show.error(problem)
        return None
    if lost := choice.lost(begun.selection):
        st.warning(
            f"{len(lost)} of the samples that were kept or discarded by hand are not there any more: the source was "
            "scored again since.",
            icon=":material/rule:",
        )
    return Opened(begun.selection, begun.names, begun.texts, choice, of)


def _stamps(scores: str | None, name: str | None) -> tuple[Stamp, ...]:
    root = state.workspace().root
    folder = root / "selections" / str(name) if name is not None else root / "scores" / "tables" / str(scores)
    return tuple(stamp(str(folder / file)) for file in ("table.json", "selection.json", "scores.jsonl"))


def _choice(scores: str | None, name: str | None, begun: Selection) -> Choice:
    """The choice of this session, from the disk, or new and not yet on it."""
    kept: dict[tuple[str | None, str | None], str] = st.session_state.setdefault(_CHOICES, {})
    id = st.query_params.get(CHOICE) or kept.get((scores, name)) or Choices.new_id()
    choice = None
    try:
        choice = Choices(state.workspace()).get(id)
    except NotFound:  # not on the disk before its first change
        pass
    except MixcptError:  # never the address of a choice, or one of another version
        id = Choices.new_id()
    if choice is None or (choice.scores, choice.selection) != (scores, name):
        id = Choices.new_id() if choice else id
        choice = Choice(id=id, scores=scores, selection=name, rule=begun.rule).by(begun)
    kept[scores, name] = choice.id
    if st.query_params.get(CHOICE) != choice.id:
        st.query_params[CHOICE] = choice.id
    return choice


def saved_as(now: Opened) -> list[str]:
    """Names under which just this choice lies on disk."""
    rule = now.choice.rule.model_dump(mode="json")

    def same(value: dict[str, Any]) -> bool:
        hands = set(value["keep"]) == set(now.selection.keep) and set(value["discard"]) == set(now.selection.discard)
        return hands and value["rule"] == rule and value["scores"] == now.info

    return [value["name"] for value in list_selections(state.workspace()) if same(value)]


def open_scores(id: str) -> None:
    _go(SCORES, id)


def open_selection(name: str) -> None:
    _go(SELECTION, name)


def close() -> None:
    """Back to the lists."""
    _go(None, "")


def _go(what: str | None, name: str) -> None:
    for key in (SCORES, SELECTION, CHOICE, SAMPLE):
        st.query_params.pop(key, None)
    if what:
        st.query_params[what] = name


# ---- changes ---------------------------------------------------------------------------------------------------------


@show.told
def change_rule(choice: Choice, **changes: Any) -> None:
    def changed(now: Choice) -> Choice:
        return now.model_copy(update={"rule": validate(Rule, now.rule.model_dump() | changes, "this rule")})

    Choices(state.workspace()).change(choice, changed)


@show.told
def end_by(now: Opened, end: str) -> None:
    """Another end for the rule, that takes what it takes now."""
    change_rule(now.choice, **ending(now.selection, end))


@show.told
def by_hand(now: Opened, id: str, hand: str) -> None:
    """Keep or discard a sample, or (`leave`) leave it to the rule."""

    def changed(choice: Choice) -> Choice:
        hands = {"keep": {"keep": [id]}, "discard": {"discard": [id]}, "leave": {"reset": [id]}}[hand]
        return choice.by(choice.of(now.begun).by_hand(**hands))

    Choices(state.workspace()).change(now.choice, changed)


@show.told
def take(choice: Choice, selection: Selection) -> None:
    """Put another selection of the same samples in the place of the choice."""
    Choices(state.workspace()).change(choice, lambda now: now.by(selection))


# ---- words -----------------------------------------------------------------------------------------------------------


def under(info: dict[str, Any]) -> str:
    """The model under which samples were scored, as text: a run by its title, also one that is gone."""
    run = run_of(info)
    if run:
        return printable(run.title)
    return printable(str(info["run"]) if info.get("run") else f"{info.get('model', 'a model')} (base)")


def run_of(info: dict[str, Any]) -> RunSummary | None:
    """The run under which samples were scored; None for the base, and for a run that was deleted."""
    return summary(state.workspace(), str(info["run"])) if info.get("run") else None


def state_of(now: Opened, sample: ScoredSample) -> str:
    """One of the keys of `STATES`."""
    if sample.reason:
        return "left out"
    if sample.id in now.choice.keep:
        return "kept"
    if sample.id in now.choice.discard:
        return "discarded"
    return "chosen" if sample.id in now.chosen else "not chosen"


STATES = {"chosen": "green", "kept": "blue", "discarded": "orange", "not chosen": "gray", "left out": "gray"}
"""How a sample stands, with a colour of Streamlit's badges."""


def template_words(info: dict[str, Any]) -> str:
    template = info.get("template")
    if template is None:
        return "plain text, no chat template"
    return "the model's own chat template" if template["name"] == OWN else f"chat template {plain(template['name'])}"
