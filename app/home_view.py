"""The cards of the home page."""

import psutil
import streamlit as st

from app import show, state
from app.words import ago, count, plain, signed
from mixcpt import charts, compare, machine, recorded
from mixcpt.config import Recipe, from_yaml
from mixcpt.drafts import Drafts
from mixcpt.errors import MixcptError
from mixcpt.estimate import minutes
from mixcpt.launching import launch_draft
from mixcpt.overview import RunSummary, overview
from mixcpt.presets import QUICK
from mixcpt.recipes import estimate_stage
from mixcpt.runs import Runs

RUNS_PAGE, COMPARE_PAGE = "../pages/runs.py", "../pages/compare.py"
