"""What a comparison needs of a finished run, kept in its folder: figures and thinned curve, instead of all its records.

    runs/ID/.compared.json     the row, and the stamps of all that it was made from

So hundreds of runs of thousands of points are overlaid at once, also at the first look: the worker writes it when it
has trained or asked a run. A row is made anew as soon as a file of the run or of its chain changes, or the library that
made it. What this gives up: a copied folder is read whole once more.
"""

import contextlib
import json

from mixcpt import chains, compare
from mixcpt.compare import Row, with_curves
from mixcpt.errors import BadInput, Damaged
from mixcpt.plotting import thinned
from mixcpt.runs import Run
from mixcpt.stamps import stamp
from mixcpt.workspace import read_json, write_atomic

NAME = ".compared.json"
FILES = ("config.yaml", "run.json", "labels.json", "metrics.jsonl", "results.json", "samples.json")
_LIBRARY = [str(module.__file__) for module in (compare, chains)]
_POINTS = 200
"""Of a curve so many are kept."""


def read(run: Run, domain_tokens: int | None = None) -> Row:
    """The run's row of `compare.with_curves` with a thinned curve, from all its records.

    Raises:
        BadInput: it has no measures of its own yet, or none near so many tokens of the field. NotFound: a run of its
            chain was deleted.
    """
    (row,) = with_curves([run], domain_tokens)
    if row["tokens"] == 0:
        raise BadInput(f"Run {run.id} was measured only before its training: wait for the next measure.")
    return {**row, "curve": thinned(row["curve"], _POINTS)}


def kept(run: Run) -> Row:
    """What `read` gives at the run's end, from its folder where it lies there and still holds, else made, and kept once
    the run is trained. Values are those of JSON, so a pair comes back as a list. Raises as `read`."""
    path = run.folder / NAME
    files = [*_LIBRARY, *(str(one.folder / name) for one in run.chain() for name in FILES)]
    made_of = [list(found) if (found := stamp(file)) else None for file in files]
    if path.is_file():
        with contextlib.suppress(Damaged, ValueError, KeyError, TypeError):  # not ours, or half: it is made anew
            there = read_json(path)
            if there["made_of"] == made_of:
                row: Row = there["row"]
                return row
    row = read(run)
    if run.is_trained:
        with contextlib.suppress(OSError):  # a folder that cannot be written is read whole each time
            write_atomic(path, json.dumps({"made_of": made_of, "row": row}, separators=(",", ":")))
    return row
