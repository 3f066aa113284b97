"""The Questions tab of a run: its scores beside those of the base and of the runs before it, the format of its answers,
asking more, and how to ask the same without the studio."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app import answers_view, asking_view, probed_view, state
from app.words import ago, plain, printable
from mixcpt import evaluated
from mixcpt.evaluated import CHECKS, MEASURES, FormatLine, Line
from mixcpt.palette import STAGE_NAMES
from mixcpt.probed import seen_words
from mixcpt.runs import Run
from mixcpt.tasks import NF4_NOTE, lm_eval_commands

_SURE = {True: "hardly chance", False: "may be chance"}


def page(run: Run) -> None:
    """The whole tab."""
    before = evaluated.ancestors(run)
    lines, formats = evaluated.lines(run, before), evaluated.format_lines(run)
    if not lines and not formats:
        asks = run.config.evaluation.asks
        st.caption("They are asked once the training is done." if asks else "This run asks no questions at its end.")
    if lines:
        _scores(lines, before)
        probed_view.probed(run)
    if formats:
        _formats(formats)
    for why in evaluated.section(run).get("unavailable", {}).values():
        st.warning(plain(why), icon=":material/cloud_off:")
    asking_view.asking([run])
    if lines or formats:
        answers_view.answers(run, [line.task for line in lines], [one.template for one in formats])
    if lines:
        _plain_command(run)


def _scores(lines: Sequence[Line], before: Sequence[Run]) -> None:
    st.subheader("Answered right", anchor=False)
    others = _titles(before)
    table: dict[str, list[Any]] = {
        "Question set": [printable(line.task) for line in lines],
        "Base": [100 * line.base for line in lines],
        **{name: [_percent(line.before[place]) for line in lines] for place, name in enumerate(others)},
        "This run": [100 * line.final for line in lines],
        "Gain": [100 * line.difference for line in lines],
        "95 % interval": [_points(line.difference_interval) for line in lines],
        "So it is": [_SURE[line.is_sure] for line in lines],
        "Guessing": [100 * line.chance for line in lines],
        "Always the same": [100 * line.majority for line in lines],
        "Questions": [line.items for line in lines],
        "Counts as right": [MEASURES.get(line.measure, line.measure) for line in lines],
        "Asked": [_asked(line) for line in lines],
    }
    percent = st.column_config.NumberColumn
    st.dataframe(
        table,
        hide_index=True,
        key="asked_scores",
        column_config={
            "Base": percent(format="%.1f %%", help="The base model, asked the same in the same precision."),
            **{
                name: percent(format="%.1f %%", help="Empty where it was not asked the same questions alike.")
                for name in others
            },
            "This run": percent(format="%.1f %%", help="The run's adapter on that base."),
            "Gain": percent(format="%+.1f", help="This run minus base, in percentage points."),
            "95 % interval": st.column_config.TextColumn(
                help="Where the gain would lie with other questions of the kind: drawn again and again from these "
                "(bootstrap), questions about one fact together."
            ),
            "So it is": st.column_config.TextColumn(help="Whether that interval leaves out zero."),
            "Guessing": percent(format="%.0f %%", help="What choosing blindly would score."),
            "Always the same": percent(
                format="%.0f %%", help="What always giving the most frequent answer would score (majority baseline)."
            ),
            "Counts as right": st.column_config.TextColumn(
                help="Choices are compared by their likelihood after the question; open answers are written, at most "
                "32 tokens on one line, and compared without case, punctuation and articles."
            ),
            "Asked": st.column_config.TextColumn(help="When, and in which numbers the base was held."),
        },
    )
    for line in lines:
        if not line.task.endswith(" (exact)"):
            st.caption(_sentence(line))
            _seen(line)


def _titles(runs: Sequence[Run]) -> list[str]:
    """The runs before this one, as heads of columns."""
    return [f"{STAGE_NAMES[run.info.stage]}: {printable(run.title)}" for run in runs]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _points(interval: Sequence[float]) -> str:
    low, high = (f"{100 * bound:+.0f}".replace("-", "\N{MINUS SIGN}") for bound in interval)
    return f"{low} to {high}"


def _asked(line: Line) -> str:
    if not line.asked:
        return "at the end of the run"
    return f"{ago(line.asked['finished'])}, {line.asked['precision']}"


def _sentence(line: Line) -> str:
    low, high = (100 * bound for bound in line.difference_interval)
    return (
        f"**{plain(line.task)}**: {line.items} questions. The difference lies between {low:+.0f} and {high:+.0f} "
        f"percentage points (95 % interval), so this {'is ' if line.is_sure else ''}{_SURE[line.is_sure]}."
    )


def _seen(line: Line) -> None:
    """Which of its questions the run has read."""
    words = plain(seen_words(line.seen, line.items))
    if line.seen.get("items") and not line.seen["by_construction"]:
        st.warning(words, icon=":material/content_copy:")
    elif words:
        st.caption(words)


def _formats(formats: Sequence[FormatLine]) -> None:
    st.subheader("Format of its answers", anchor=False)
    rows = [(one, check) for one in formats for check in CHECKS]
    percent = st.column_config.NumberColumn
    st.dataframe(
        {
            "Template": [printable(one.template) for one, _ in rows],
            "Answers": [CHECKS[check] for _, check in rows],
            "Base": [100 * one.shares[check][0] for one, check in rows],
            "This run": [100 * one.shares[check][1] for one, check in rows],
            "Gain": [100 * one.differences[check][0] for one, check in rows],
            "95 % interval": [_points(one.differences[check][1]) for one, check in rows],
            "Prompts": [one.items for one, _ in rows],
        },
        hide_index=True,
        key="asked_formats",
        column_config={
            "Template": st.column_config.TextColumn(help="own is the run's; another one it may never have seen."),
            "Answers": st.column_config.TextColumn(
                help="Ends by itself: the end token came before the limit. Keeps to the template: it says something, "
                "and writes no turn marks or role headers. Right length: it ended, with half to twice the tokens of "
                "the reference answer. Well formed: all three."
            ),
            "Base": percent(format="%.0f %%"),
            "This run": percent(format="%.0f %%"),
            "Gain": percent(format="%+.0f", help="This run minus base, in percentage points."),
            "Prompts": percent(help="Held-out prompts that were answered greedily."),
        },
    )
    for one in formats:
        st.caption(
            f"**{plain(one.template)}**: {one.items} held-out prompts of {plain(one.source)}, answers of at most "
            f"{one.tokens} tokens. Length as a multiple of the reference answer (median): {one.ratio[0]:.2f} → "
            f"{one.ratio[1]:.2f}. Loss of the reference answers: {one.loss[0]:.3f} → {one.loss[1]:.3f} nats per token."
        )


def _plain_command(run: Run) -> None:
    with st.expander("Ask the same without the studio", icon=":material/terminal:"):
        st.markdown(
            "The plain `lm_eval` command gives the same numbers, wherever lm-eval is installed. **Export** takes the "
            "questions along as a folder."
        )
        for line in lm_eval_commands(state.workspace(), run):
            st.code(printable(line), language="bash", wrap_lines=True)
        asked = evaluated.section(run).get("asked", {})
        if any(how["precision"] == "nf4" for how in asked.values()):
            st.caption(NF4_NOTE)
        if not asked:
            st.caption("How this run was asked was not kept: ask once more, and the command stands here.")
