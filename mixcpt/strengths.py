"""A comparison by the measures that were taken anew: each run at every strength at which it was measured.

The measures at the end of training read little text, the same for every point of a curve; those taken anew
(`mixcpt.measured`) read more, of several kinds, document by document. The two are never mixed in one picture.
"""

from collections.abc import Sequence
from dataclasses import asdict

from mixcpt import measured
from mixcpt.compare import Row
from mixcpt.measured import Point
from mixcpt.runs import Run


def anew(rows: Sequence[Row], runs: Sequence[Run], kind: str = "") -> tuple[list[Row], list[Row]]:
    """Rows of `compare` with their figures replaced by those taken anew, and the rows of runs that have none.

    A row's `domain_gain`, `forgetting` and `prompt_kl` are those of the whole adapter, with `_interval` over documents;
    `strengths` are all points (`measured.Point` as dicts), without the base's; a curve it has no more. Runs that were
    measured at other strengths only stand at the highest.

    Args:
        kind: of general text, see `builtin.GENERAL`; all kinds together when not given.
    """
    found, without = [], []
    for row, run in zip(rows, runs, strict=True):
        points = [point for point in measured.points(run, kind) if point.strength > 0]
        if points:
            found.append(_row(row, points))
        else:
            without.append(row)
    return found, without


_OF_TRAINING = ("curve", "prompt_kl", "domain_bits_per_byte", "general_bits_per_byte")


def _row(row: Row, points: Sequence[Point]) -> Row:
    end = points[-1]
    kept = {key: value for key, value in row.items() if not key.startswith(_OF_TRAINING)}
    return {
        **kept,
        "domain_gain": end.gain,
        "domain_gain_interval": end.gain_interval,
        "forgetting": end.forgetting,
        "forgetting_interval": end.forgetting_interval,
        **({} if end.kl is None else {"prompt_kl": end.kl}),
        "strengths": [asdict(point) for point in points],
    }
