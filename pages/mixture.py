import streamlit as st

st.title("Mixture")
