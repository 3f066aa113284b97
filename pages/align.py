"""Align: stage two, SFT or DPO after a run (?parent=RUN, ?selection=NAME, ?stage=sft|dpo)."""

import streamlit as st

from app import align_batch, align_recipe, align_view, run_form

draft = align_view.current()
parent = align_view.parent_of(draft)
st.title("Align")
st.markdown(
    "The second stage teaches **how to answer**, after the knowledge stage taught what to know: from a few easy "
    "samples, while field and general text are measured on."
)

form, side = st.columns([8, 5], gap="medium")
with form:
    align_view.basics(draft, parent)
    run_form.prediction(draft, key=align_view.KEY)
with side:
    align_view.summary(draft, parent)
align_view.advanced(draft)
align_batch.first_batch(draft, parent)
align_recipe.recipe(draft, parent)
