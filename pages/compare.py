"""Compare: runs side by side, chosen here or by ?runs=ID,ID (and ?at=N, the field tokens to compare at)."""

import streamlit as st

from app import compare_chooser, compare_view

st.title("Compare")
chosen = compare_chooser.choose()
if chosen:
    compare_view.comparison_of(chosen)
