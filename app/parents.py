"""The runs that can be continued, as a list to choose from says them."""

from collections import Counter
from collections.abc import Sequence

from app.words import printable
from mixcpt.overview import RunSummary
from mixcpt.palette import STAGE_NAMES

BASE = ""
"""The option that stands for no run at all."""
BASE_WORDS = "The base model itself"


def labels(runs: Sequence[RunSummary]) -> dict[str, str]:
    """Run id to what the list says, unlike any other; the base comes first."""
    words = {run.id: " · ".join(_about(run)) for run in runs}
    often = Counter(words.values())
    return {BASE: BASE_WORDS} | {id: f"{text} · {id[-6:]}" if often[text] > 1 else text for id, text in words.items()}


def _about(run: RunSummary) -> list[str]:
    state_words = [] if run.state == "done" else [run.state]
    return [printable(run.title), STAGE_NAMES[run.stage], printable(run.experiment), *state_words]
