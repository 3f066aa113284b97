"""Studies: choose a question and see what it takes, or with ?study=NAME one study: how it stands and what it claims."""

import streamlit as st

from app import study_form, study_view

if name := st.query_params.get("study"):
    study_view.page(name)
else:
    st.title("Studies")
    study_form.begun()
    study_form.choose()
