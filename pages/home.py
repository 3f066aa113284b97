"""Home: what this is, what the machine can do, an experiment to explore, one to start, and the way on."""

import streamlit as st

from app import cache_card, home_view, state
from mixcpt.overview import overview

runs = overview(state.workspace())

st.title("Mix-CPT Studio")
st.markdown(
    "Adapt a language model to **your own field**, and see what it **forgets** while it learns. You bring documents; "
    "the studio mixes them with general text, trains a small adapter on the mixture and measures gain and loss side by "
    "side. Everything happens on this machine."
)

story, side = st.columns([2, 1], gap="medium")
with story:
    home_view.recorded_experiment(runs)
with side:
    home_view.quick_run()
    home_view.machine_card()
    cache_card.cache_card()
home_view.next_steps(runs)
home_view.recent_runs(runs)
