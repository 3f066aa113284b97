"""What a run of stage two learned from: its samples with their scores, where they come from, and against what."""

from typing import Any

import streamlit as st

from app import state
from app.words import plain, printable
from mixcpt.palette import KIND_WORDS
from mixcpt.readings import some_reasons
from mixcpt.records import Record
from mixcpt.runs import Run
from mixcpt.samples import kept_facts, kept_samples
from mixcpt.scores import SCORES, ScoredSample
from mixcpt.selection import selection_names
from mixcpt.stage_words import reference_words, run_words, samples_words, template_words
from mixcpt.stages import Dpo, Sft

SELECTION = "../pages/selection.py"
_EXCERPT = 300


def learned(run: Run, stage: Sft) -> None:
    """The samples, once they are chosen; before that, which will be."""
    facts = kept_facts(run)
    st.subheader("Samples", anchor=False)
    if facts is None:
        st.caption("They are chosen and kept when the run starts. It was asked for:")
        st.markdown(plain(samples_words(stage)))
        _beside(run, stage, stage.template)
        return
    st.markdown(plain(samples_words(stage, run)) + ".")
    if facts["left_out"]:
        reasons = plain(some_reasons(facts["left_out"].values()))
        st.caption(f"{len(facts['left_out']):,} more were chosen and left out: {reasons}.")
    _beside(run, stage, facts["template"])
    if name := facts["selection"]:
        if name in selection_names(state.workspace()):
            label, query = f"Selection {plain(name)}", {"selection": name}
            st.page_link(SELECTION, label=label, icon=":material/checklist:", query_params=query)
        else:
            st.caption(f"The selection {plain(name)} was deleted since; its samples are kept here.")
    _table(kept_samples(run), facts["kind"])


def _beside(run: Run, stage: Sft, template: str) -> None:
    lines = [("Template", template_words(template)), ("Continues", run_words(state.workspace(), run.info.parent))]
    if isinstance(stage, Dpo):
        lines.append(("Reference", reference_words(state.workspace(), stage, run.info.parent)))
    st.markdown("  \n".join(f"**{name}**  {plain(words)}" for name, words in lines))


def _table(samples: list[ScoredSample], kind: str) -> None:
    scores = [name for name in SCORES if any(name in sample.scores for sample in samples)]
    records = [sample.parsed for sample in samples]
    data: dict[str, list[Any]] = {"Question": [_excerpt(_question(record)) for record in records]}
    if kind == "preferences":
        data["Chosen answer"] = [_excerpt(record.chosen) for record in records]
        data["Rejected answer"] = [_excerpt(record.rejected) for record in records]
    else:
        data["Answer"] = [_excerpt(record.messages[-1].content) for record in records]
    config: dict[str, Any] = {name: st.column_config.TextColumn(width="medium") for name in data}
    data["Tokens"] = [sample.tokens for sample in samples]
    config["Tokens"] = st.column_config.NumberColumn(format="localized", help="That training reads.")
    for name in scores:
        label = SCORES[name].short
        data[label] = [sample.scores.get(name) for sample in samples]
        config[label] = st.column_config.NumberColumn(format="%.3f", help=plain(SCORES[name].help))
    st.dataframe(data, hide_index=True, column_config=config, key="runs_samples", placeholder="–")
    st.caption(f"{len(samples):,} {KIND_WORDS[kind]}, in the order in which they were chosen.")


def _question(record: Record) -> str:
    turns = record.messages if record.kind == "preferences" else record.messages[:-1]
    return turns[-1].content if turns else ""


def _excerpt(text: str) -> str:
    line = " ".join(printable(text).split())
    return line if len(line) <= _EXCERPT else f"{line[: _EXCERPT - 1]}…"
