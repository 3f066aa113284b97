"""Talk: one question, answered by a run's whole chain side by side (?run=ID)."""

import streamlit as st

from app import talk_choice, talk_view

st.title("Talk")
st.markdown(
    "Ask once, and the base model and every stage of a run answer **side by side**, under the same seed and the same "
    "template: what differs between the answers is what was learned."
)
chosen = talk_choice.choose()
if chosen:
    talk_view.conversation(chosen)
