"""What a comparison needs of a finished run, kept in its folder: figures and thinned curve, instead of all its records.

    runs/ID/.compared.json     the row, and the stamps of all that it was made from

So hundreds of runs of thousands of points are overlaid at once, also after a restart. A row is made anew as soon as a
file of the run or of its chain changes, or the library that made it. What this gives up: a copied folder is read whole
once more.
"""

import contextlib
import json
from collections.abc import Callable
from typing import Any

from mixcpt import chains, compare
from mixcpt.errors import Damaged
from mixcpt.runs import Run
from mixcpt.stamps import stamp
from mixcpt.workspace import read_json, write_atomic

NAME = ".compared.json"
FILES = ("config.yaml", "run.json", "labels.json", "metrics.jsonl", "results.json", "samples.json")
_LIBRARY = [str(module.__file__) for module in (compare, chains)]


def kept(run: Run, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` gives, from the run's folder where it lies there and still holds. Values are those of JSON, so a pair
    comes back as a list. Raises as `make`, and NotFound when a run of its chain was deleted."""
    path = run.folder / NAME
    files = [*_LIBRARY, *(str(one.folder / name) for one in run.chain() for name in FILES)]
    made_of = [list(found) if (found := stamp(file)) else None for file in files]
    if path.is_file():
        with contextlib.suppress(Damaged, ValueError, KeyError, TypeError):  # not ours, or half: it is made anew
            there = read_json(path)
            if there["made_of"] == made_of:
                row: dict[str, Any] = there["row"]
                return row
    row = make()
    if run.is_trained:
        with contextlib.suppress(OSError):  # a folder that cannot be written is read whole each time
            write_atomic(path, json.dumps({"made_of": made_of, "row": row}, separators=(",", ":")))
    return row
