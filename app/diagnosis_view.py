"""What a run suffers from, on its page and for each arm of a comparison: the evidence, and one change to try."""

from collections.abc import Sequence

import streamlit as st

from app import drafting, show, state
from app.words import plain, printable
from mixcpt import diagnosis
from mixcpt.compare import Row
from mixcpt.drafts import AnyDraft, Draft
from mixcpt.errors import MixcptError
from mixcpt.evidence import Sign
from mixcpt.overview import RunSummary
from mixcpt.runs import Run

LAUNCH, ALIGN = "../pages/launch.py", "../pages/align.py"
_HELP = (
    "Six failure signatures, each a rule over the numbers that this run left behind. A sign is told only where the "
    "numbers carry it, and one change is suggested against it: another run shows whether that was the reason."
)
_AT_ONCE = 30


def of_run(now: RunSummary, run: Run) -> None:
    """In short: what was found, with the way to try a change; what could not be told is folded away."""
    try:
        found = diagnosis.diagnose(state.workspace(), run)
    except MixcptError as problem:
        show.error(problem)
        return
    with st.container(border=True, gap="small", key="runs_diagnosis"):
        icon = "error" if found.found else "check_circle" if found.is_healthy else "help"
        st.markdown(f":material/{icon}: **Diagnosis.** {plain(found.sentence())}", help=_HELP)
        for sign in found.found:
            _found(run, sign)
        rest = [sign for sign in found.signs if sign.state in ("unknown", "absent")]
        with st.expander("What was looked at", icon=":material/stethoscope:", key="runs_diagnosis_more"):
            for sign in sorted(rest, key=lambda sign: sign.state != "unknown"):
                _other(sign)


def _found(run: Run, sign: Sign) -> None:
    with st.expander(plain(sign.title), icon=":material/warning:", key=f"runs_sign_{sign.rule}"):
        st.markdown("\n".join(f"- {plain(words)}" for words in sign.seen))
        st.markdown(plain(sign.why))
        surer = f"To be surer: {sign.measure}" if sign.measure else ""
        st.caption(plain(" ".join(filter(None, [sign.unless, surer]))))
    if sign.change and st.button(
        f"Try it: {plain(sign.change.words)}",
        key=f"runs_try_{sign.rule}",
        icon=":material/experiment:",
        help=f"Against {plain(sign.title)}: a new draft with the settings of this run and this one change. Nothing "
        "starts before you launch it.",
    ):
        _try(run, sign)


def _other(sign: Sign) -> None:
    word = "cannot tell" if sign.state == "unknown" else "no sign"
    st.markdown(f"**{plain(sign.title)}**: {word}.")
    lines = [*sign.seen, *([sign.measure] if sign.state == "unknown" else [])]
    if lines:
        st.caption("  \n".join(map(plain, lines)))


def _try(run: Run, sign: Sign) -> None:
    try:
        draft: AnyDraft = diagnosis.draft_with(state.workspace(), run, sign.rule)
    except MixcptError as problem:
        show.error(problem)
        return
    drafting.use(draft)
    st.toast("A draft with this change: look it over, then launch.", icon=":material/experiment:")
    st.switch_page(LAUNCH if isinstance(draft, Draft) else ALIGN, query_params={"draft": draft.id})


def of_arms(arms: Sequence[Row]) -> None:
    """A line for each arm: which signs, in how many of its seeds."""
    with st.container(border=True, gap="small", key="compare_diagnosis"):
        st.subheader("Diagnosis", anchor=False, help=_HELP)
        runs = sum(len(arm["runs"]) for arm in arms)
        if runs > _AT_ONCE and not st.toggle(f"Diagnose all {runs} runs", key="compare_diagnose"):
            return  # it reads every step of every run
        try:
            found = diagnosis.of_arms(state.workspace(), arms)
        except MixcptError as problem:
            show.error(problem)
            return
        st.dataframe(
            {
                "Arm": [printable(one.title) for one in found],
                "Found": [printable(one.words(found=True)) or "no sign of failure" for one in found],
                "Cannot tell": [printable(one.words(found=False)) or "–" for one in found],
            },
            hide_index=True,
            key="compare_diagnosis_table",
            column_config={
                "Found": st.column_config.TextColumn(width="large"),
                "Cannot tell": st.column_config.TextColumn(help="A run's page says what would tell."),
            },
        )
