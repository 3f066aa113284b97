"""What each token of a sample costs, under the base and under the run: token strips, coloured by loss.

The inference process answers (`mixcpt.client`); what it said of a sample is kept, so going back costs nothing.
"""

import math
from collections.abc import Sequence
from typing import Any

import streamlit as st

from app import state
from app.selection_opened import run_of, under
from app.strip import Chip, token_strip
from app.words import count, plain, signed
from mixcpt.client import Client
from mixcpt.errors import MixcptError
from mixcpt.palette import DOMAIN, GENERAL
from mixcpt.records import Message, Record
from mixcpt.score_jobs import NO_TEMPLATE
from mixcpt.scores import sample_fingerprint
from mixcpt.stamps import Stamp, stamp

_FULL_LOSS, _FULL_DIFFERENCE = 6.0, 2.0
"""Nats from which a token has its full colour."""
_TALL = 320
_BEFORE = 60
"""Tokens of the question that are shown before the answer, unless all are asked for."""
_VIEWS = {"both": "Side by side", "adapted": "After training", "base": "Base", "difference": "Difference"}
Losses = dict[str, Any]


def losses(info: dict[str, Any], record: Record) -> None:
    """A switch, and the strips of a sample when it is on."""
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        on = st.toggle(
            "Show what each token costs",
            key="selection_losses",
            persist_state="session",
            help="Asks the model for its loss at every token: how surprised it is, in nats. 0 means it was certain, "
            "0.7 that it gave one half, 2.3 a tenth, 4.6 a hundredth. The first time the model is loaded, which takes "
            "some seconds.",
        )
        run = run_of(info)
        view, whole = _view(run is not None) if on else ("both", False)
    if not on:
        return
    if info.get("run") and run is None:
        st.caption(f"The run {plain(info['run'])} was deleted: only the base can still be asked.")
    found = _ask(info, record)
    if found is None:
        return
    adapted = under(info) if run else ""
    # A pair's answers stand side by side, unless each of them is shown twice.
    places = st.columns(len(found), gap="medium") if view != "both" else [st.container() for _ in found]
    for place, (label, one) in zip(places, found.items(), strict=True):
        first = 0 if whole else _first(one)
        with place:
            _draw(one, first, view, label, adapted)


def _view(has_run: bool) -> tuple[str, bool]:
    """Which strips are shown, and whether with the whole question."""
    with st.container(horizontal=True, vertical_alignment="center", width="content"):
        whole = st.toggle(
            "Whole question",
            key="selection_losses_whole",
            persist_state="session",
            help=f"Else the last {_BEFORE} tokens before the answer.",
        )
        if not has_run:
            return "base", whole
        view = st.segmented_control(
            "View",
            list(_VIEWS),
            default="both",
            required=True,
            format_func=_VIEWS.__getitem__,
            key="selection_losses_view",
            persist_state="session",
            label_visibility="collapsed",
        )
    return view or "both", whole


def _ask(info: dict[str, Any], record: Record) -> dict[str, Losses] | None:
    """The losses of each answer under its label; None, with the reason on the page, where they cannot be had now."""
    pairs = record.kind == "preferences"
    answers = {"Chosen answer": record.chosen, "Rejected answer": record.rejected} if pairs else {"": ""}
    found = {}
    try:
        with st.spinner("Asking the model …", show_time=True):
            for label, answer in answers.items():
                turns = [*record.messages, Message("assistant", answer)] if pairs else record.messages
                found[label] = _of(info, record, tuple(turns))
    except MixcptError as problem:
        st.warning(plain(problem), icon=":material/hourglass_empty:")
        st.button("Ask again", key="selection_losses_again", icon=":material/refresh:")
        return None
    return found


def _of(info: dict[str, Any], record: Record, turns: Sequence[Message]) -> Losses:
    run = run_of(info)
    template = info["template"]["name"] if info.get("template") else NO_TEMPLATE
    weights = state.workspace().runs / run.id / "adapter" / "adapter_model.safetensors" if run else None
    asked = (run.id if run else None, template, str(info.get("model")), stamp(str(weights)) if weights else None)
    return _kept(str(state.workspace().root), asked, sample_fingerprint(record), turns[-1].content, turns)


@st.cache_data(max_entries=400, show_spinner=False)
def _kept(
    root: str, asked: tuple[str | None, str, str, Stamp], sample: str, answer: str, _turns: Sequence[Message]
) -> Losses:
    run, template, model, _ = asked
    return Client(state.workspace()).losses(run, _turns, template, model)


# ---- strips ----------------------------------------------------------------------------------------------------------


def _first(found: Losses) -> int:
    """The first token that is shown when the question is cut short."""
    learned = found["mask"].index(True) if True in found["mask"] else 0
    return max(learned - _BEFORE, 0)


def _draw(found: Losses, first: int, view: str, label: str, run: str) -> None:
    cut = f":small[:gray[The first {count(first)} tokens of the question are not shown.]]" if first else ""
    if label or cut:
        st.markdown(f"**{label}** {cut}" if label else cut)
    key = "_".join(filter(None, ("selection_strip", label.split(" ")[0].lower(), view)))
    shown = {"both": ["base", "adapted"]}.get(view, [view])
    for place, which in zip(st.columns(len(shown), gap="medium"), shown, strict=True):
        with place:
            _strip(found, first, which, run, f"{key}_{which}")


def _strip(found: Losses, first: int, which: str, run: str, key: str) -> None:
    name, legend = {
        "base": ("The base", [("the stronger, the more surprising", GENERAL)]),
        "adapted": (run, [("the stronger, the more surprising", GENERAL)]),
        "difference": (run, [("cheaper after training", DOMAIN), ("dearer after training", GENERAL)]),
    }[which]
    st.markdown(f"{plain(name)} · {_sum(found, which)}")
    options = {"legend": legend, "headings": ["question", "answer"], "masked": "read, not learned", "height": _TALL}
    token_strip(_chips(found, which)[first:], key=key, **options)  # type: ignore[arg-type]


def _chips(found: Losses, which: str) -> list[Chip]:
    base, adapted = found["base"], found["adapted"]
    moved = [after - before for before, after in zip(base, adapted, strict=True)] if which == "difference" else []
    full = _FULL_DIFFERENCE if moved else _FULL_LOSS
    return [
        Chip(
            text=text,
            group=int(moved[place] > 0) if moved else 0,
            block=int(found["mask"][place]),
            detail=_detail(found, place),
            value=min(abs(moved[place] if moved else found[which][place]) / full, 1.0),
            is_masked=not found["mask"][place],
        )
        for place, text in enumerate(found["texts"])
    ]


def _detail(found: Losses, place: int) -> str:
    """What hovering over a token tells."""
    if place == 0:
        return "the first token: nothing before it could predict it"
    words = {"base": "base", "adapted": "after training"}
    values = {words[which]: found[which][place] for which in words if found[which] is not None}
    said = [f"{name} {value:.2f} nats ({100 * math.exp(-value):.3g} %)" for name, value in values.items()]
    learned = "" if found["mask"][place] else "; part of the question, not learned"
    return f"{', '.join(said)}{learned}"


def _sum(found: Losses, which: str) -> str:
    """The mean over the tokens that are learned."""
    learned = [place for place, counts in enumerate(found["mask"]) if counts]
    if not learned:
        return "nothing of it is learned"
    means = {
        name: sum(found[name][place] for place in learned) / len(learned)
        for name in ("base", "adapted")
        if found[name] is not None
    }
    if which == "difference":
        return f"moved the answer by {signed(means['adapted'] - means['base'])} nats per token"
    return f"{means[which]:.3f} nats per token of the answer"
