"""Mixture: how much of what, and exactly what the model will read."""

import streamlit as st

from app import launch_view, mixture_form, mixture_view

draft = launch_view.current()
st.title("Mixture")
st.markdown(
    "Choose how much of each source goes in. To the right you see at once what that comes to; below, every row."
)

form, outcome = st.columns([2, 3], gap="medium")
with form:
    mixture_form.form(draft)
draft = launch_view.current()
with outcome:
    found = mixture_view.realised(draft)
    if found:
        mixture_view.outcome(found[0])
if found:
    mixture_view.rows(*found)
