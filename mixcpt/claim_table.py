"""Many claims at a glance: a line for each pair of arms, a column for each measure.

What this gives up: how sure a claim is beyond its interval; that is told by its sentence (`Claim.sentence`).
"""

from collections.abc import Callable, Sequence

from mixcpt.claims import Claim
from mixcpt.columns import columns, format_columns
from mixcpt.figures import signed
from mixcpt.plotting import Table

NOTE = (
    "First arm minus second. In brackets the 95 % interval over seeds; with one seed in common, over documents or "
    "questions. Better, worse: a difference after Holm's correction for all pairs. Same: within noise. Hint: one seed."
)
FEW = 2
"""Pairs: of more, the table comes before the sentences, which would be too many to read."""
_WORDS = {True: "better", False: "worse"}


def in_words(told: Sequence[Sequence[Claim]]) -> list[str | Table]:
    """The claims of each pair (`claims.claims`) as sentences; of more than a few pairs only the differences in gain and
    forgetting, and a table of all claims."""
    every = [claim for own in told for claim in own]
    if not every or len(told) <= FEW:
        return [f"{claim.sentence()}." for claim in every]
    sure = [claim for claim in every if claim.good is not None and claim.measure.key in ("domain_gain", "forgetting")]
    sentences = [f"{claim.sentence()}." for claim in sure] or ["No two arms differ in gain or forgetting beyond noise."]
    return [*sentences, glance(told)]


def glance(told: Sequence[Sequence[Claim]], cell: Callable[[Claim], str] | None = None) -> Table:
    """The claims of each pair (`claims.claims`) as a table; what a pair was not measured in is a dash. `cell` writes a
    claim, as in "better: +0.12 (0.08 to 0.17)" when not given."""
    write = cell or (lambda claim: f"{word(claim)}: {figures(claim)}")
    keys = list(dict.fromkeys(claim.measure.key for own in told for claim in own))
    arms = [dict.fromkeys(keys)]
    titles = {column.key: column.title for column in [*columns(arms), *format_columns(arms)]}
    units = {claim.measure.key: claim.measure.unit.replace(" per ", "/") for own in told for claim in own}
    heads = ["Arms", *(f"{titles.get(key, key)} ({units[key]})" for key in keys)]
    lines = []
    for own in filter(None, told):
        cells = {claim.measure.key: write(claim) for claim in own}
        lines.append([f"{own[0].one} − {own[0].other}", *(cells.get(key, "–") for key in keys)])
    return Table(heads, lines, note=NOTE)


def figures(claim: Claim) -> str:
    """The difference and its interval, as in "+0.12 (0.08 to 0.17)"."""
    digits = 0 if claim.measure.scale == 100 else 2
    told = claim.found or claim.over_items
    value, *bounds = (
        signed(claim.measure.scale * figure, digits) for figure in (claim.difference, *(told.interval if told else ()))
    )
    return f"{value} ({bounds[0].removeprefix('+')} to {bounds[1].removeprefix('+')})" if bounds else value


def word(claim: Claim) -> str:
    """better, worse, same or hint."""
    return claim.verdict if claim.good is None else _WORDS[claim.good]
