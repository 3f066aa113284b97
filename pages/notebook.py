import streamlit as st

st.title("Notebook")
