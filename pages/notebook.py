"""Notebook: the story of one experiment (?experiment=NAME), written by itself, with notes and charts in between."""

import streamlit as st

from app import notebook_view

st.title("Notebook")
notebook = notebook_view.choose()
if notebook:
    notebook_view.timeline(notebook)
