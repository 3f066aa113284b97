"""Launch: the form of a run on the left, what it will need and the button on the right."""

from functools import partial

import streamlit as st

from app import launch_recipe, launch_start, launch_summary, launch_view, run_form

draft = launch_view.current()
st.title("Launch")
st.markdown(
    "Choose what is trained, how long and at what. Everything has a default that works; hover over **?** to learn more."
)

form, side = st.columns([8, 5], gap="medium")
with form:
    launch_view.basics(draft)
    run_form.prediction(draft, key="launch")
with side:
    launch_summary.summary(draft, partial(launch_summary.mixture, draft.stage), launch_start.parent_of(draft))
launch_view.advanced(draft)
launch_recipe.recipe(draft)
