"""Runs: what goes on now and what was, or with ?run=ID one run."""

import streamlit as st

from app import run_view, runs_list

if run := st.query_params.get("run"):
    run_view.page(run)
else:
    st.title("Runs")
    runs_list.now()
    runs_list.history()
