"""Corpora: bring documents in, see what became of them, and read what the model will read."""

import streamlit as st

from app import corpora_add, corpora_reader, corpora_view, probes_view

st.title("Corpora")
corpus = corpora_view.opened()
if corpus is None:
    corpora_add.form()
    corpora_add.progress()
    corpora_view.all_corpora()
else:
    corpora_view.heading(corpus)
    views = {
        "Report": corpora_view.report,
        "Read": corpora_reader.reader,
        "Lengths": corpora_view.lengths,
        "Probes": probes_view.probes,
    }
    views[corpora_view.chosen_view()](corpus)
