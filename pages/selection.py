"""Selection: score samples, choose the few that stage two learns from, look at them one by one, and save the choice."""

import streamlit as st

from app import (
    selection_heading,
    selection_lists,
    selection_opened,
    selection_rule,
    selection_sample,
    selection_save,
    selection_scores,
    selection_start,
)

now = selection_opened.opened()
if now is None:
    st.title("Selection")
    selection_start.introduction()
    selection_start.form()
    selection_start.progress()
    selection_lists.scores()
    selection_lists.saved()
else:
    st.title("Selection")
    selection_heading.heading(now)
    form, spread = st.columns([2, 3], gap="medium")
    with form:
        selection_rule.rule(now)
    with spread:
        selection_rule.spread(now)
    selection_rule.figures(now)
    selection_save.keep(now)
    if selection_scores.view() == selection_scores.SAMPLES:
        selection_sample.samples(now)
    else:
        selection_scores.disagreement(now)
