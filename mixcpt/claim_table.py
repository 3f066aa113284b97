"""Many claims at a glance: a line for each pair of arms, a column for each measure.

What this gives up: how sure a claim is beyond its interval; that is told by its sentence (`Claim.sentence`).
"""

from collections.abc import Sequence

from mixcpt.claims import Claim
from mixcpt.comparison import columns
from mixcpt.figures import signed
from mixcpt.plotting import Table

NOTE = (
    "First arm minus second. In brackets the 95 % interval over seeds. Better, worse: a difference after Holm's "
    "correction for all pairs. Same: within noise."
)


def glance(told: Sequence[Sequence[Claim]]) -> Table:
    """The claims of each pair (`claims.claims`) as a table; a measure that a pair does not have is a dash."""
    keys = list(dict.fromkeys(claim.measure.key for own in told for claim in own))
    titles = {column.key: column.title for column in columns([dict.fromkeys(keys)])}
    units = {claim.measure.key: claim.measure.unit for own in told for claim in own}
    heads = ["Arms", *(f"{titles.get(key, key)} ({units[key]})" for key in keys)]
    lines = []
    for own in filter(None, told):
        cells = {claim.measure.key: cell(claim) for claim in own}
        lines.append([f"{own[0].one} − {own[0].other}", *(cells.get(key, "–") for key in keys)])
    return Table(heads, lines, note=NOTE)


def cell(claim: Claim) -> str:
    """As in "better: +0.123 (0.080 to 0.170)"."""
    digits = 1 if claim.measure.scale == 100 else 3
    value, *bounds = (
        signed(claim.measure.scale * figure, digits)
        for figure in (claim.difference, *(claim.found.interval if claim.found else ()))
    )
    interval = f" ({bounds[0].removeprefix('+')} to {bounds[1].removeprefix('+')})" if bounds else ""
    return f"{_word(claim)}: {value}{interval}"


def _word(claim: Claim) -> str:
    return claim.verdict if claim.good is None else "better" if claim.good else "worse"
