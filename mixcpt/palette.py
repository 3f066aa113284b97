"""One colour per kind of source, per stage and per measure, the same on every page, chart and export.

From Okabe and Ito's and Paul Tol's sets, told apart with any kind of colour vision; every chart also tells them apart
by a label, a dash or a shape. They are readable on the light and on the dark background.
"""

DOMAIN = "#0072B2"
"""The documents of the field, and what is measured on them."""
FIELDS = (DOMAIN, "#009E73", "#56B4E9", "#882255", "#44AA99", "#332288")
"""The fields of a chain of several corpora, in the order in which they are learned; then from the first on again."""
GENERAL = "#D55E00"
"""General ability: what may be forgotten."""
DISTANCE = "#CC79A7"
"""KL, the distance to the base."""
NEUTRAL = "#8A8F98"

KINDS = {"documents": "#56B4E9", "instructions": "#009E73", "preferences": "#E69F00"}
"""Colour of a source by its kind; documents of the field have DOMAIN."""
KIND_WORDS = {"documents": "documents", "instructions": "instructions", "preferences": "preference pairs"}

STAGES = {"base": NEUTRAL, "cpt": "#AA3377", "sft": "#EE6677", "dpo": "#CCBB44"}
STAGE_WORDS = {"cpt": "continual pre-training", "sft": "fine-tuning", "dpo": "preference training"}
STAGE_NAMES = {"base": "base", "cpt": "knowledge", "sft": "SFT", "dpo": "DPO"}
"""The stages where there is little room, as in a chain."""

RUNS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#767676", "#882255")
"""Runs that are overlaid, in turn; from the ninth on they come again with another dash."""
DASHES = ("solid", "dash", "dot", "dashdot")


def source_colour(kind: str, domain: bool) -> str:
    return DOMAIN if domain else KINDS[kind]


def run_colour(number: int) -> str:
    return RUNS[number % len(RUNS)]


def run_dash(number: int) -> str:
    return DASHES[number // len(RUNS) % len(DASHES)]
