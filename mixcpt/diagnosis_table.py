"""The diagnoses of many runs in short: a sentence about those that show no sign of failure, a line for every sign that
was found. For pages to take along; `mixcpt.diagnosis` tells all of one run.

What this gives up: signs that could not be judged are counted and named, and not told run by run.
"""

from collections import defaultdict
from collections.abc import Sequence

from mixcpt.compare import Row
from mixcpt.curves import title_of
from mixcpt.diagnosis import Diagnosis, diagnose
from mixcpt.figures import listed
from mixcpt.plotting import Table
from mixcpt.runs import Run
from mixcpt.workspace import Workspace

_HEADS = ("Arm", "Seed", "Run", "Found", "Evidence", "One change to try")


def in_short(workspace: Workspace, rows: Sequence[Row]) -> tuple[str, Table]:
    """A sentence or two about all runs of these rows (`compare.titled`), and a table with a line for each sign that was
    found, which has no lines where none was. A run that stands there at several strengths is told once.

    Raises:
        Damaged: a file of a run is not what it should be.
    """
    trained = {row["run"]: row for row in rows if "strength" not in row}
    told = {id: diagnose(workspace, Run(workspace.runs / id)) for id in trained}
    lines = [
        [title_of(trained[id]), str(trained[id]["seed"]), id, sign.title, "; ".join(sign.seen),
         sign.change.words if sign.change else "–"]
        for id, one in told.items()
        for sign in one.found
    ]  # fmt: skip
    return _sentence(list(told.values())), Table(_HEADS, lines)


def _sentence(told: Sequence[Diagnosis]) -> str:
    healthy, every = sum(not one.found for one in told), len(told)
    if every == 1:
        words = f"This run shows {'no' if healthy else 'a'} sign of failure."
    elif healthy == every:
        words = f"None of these {every} runs shows a sign of failure."
    else:
        words = f"{healthy} of {every} runs show no sign of failure."
    unknown: dict[str, int] = defaultdict(int)
    for one in told:
        for sign in one.unknown:
            unknown[sign.title[0].lower() + sign.title[1:]] += 1
    if not unknown:
        return words
    open = listed([f"{title} ({count} of {every} runs)" if every > 1 else title for title, count in unknown.items()])
    return f"{words} Could not be judged: {open}; `mixcpt diagnose RUN` says what would tell."
