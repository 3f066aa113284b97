"""A comparison without the questions that stand in what its runs read: scores taken anew on those that none of them has
seen. No torch.

What was found in the training text of one run (`mixcpt.contamination`) is left out for all that were asked the same in
the same precision, so that they stay comparable. Probes that are meant to stand there are left alone. What this gives
up: sets of which the single answers were not kept, and of open sets the line where only an accepted answer may be
written; where anything has to be left out of them, they have no score.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mixcpt import answers
from mixcpt.answers import Answered
from mixcpt.compare import Row, arm_of, scores, tasks
from mixcpt.contamination import scores_on
from mixcpt.evaluated import how_asked, section
from mixcpt.runs import Run
from mixcpt.stamps import Kept

Seen = Mapping[tuple[str, str], frozenset[int]]
"""By set and how it was asked: places of the questions that one of the runs read."""


def seen(rows: Sequence[Row], runs: Sequence[Run]) -> Seen:
    """The questions of each set that stand in what any of these runs read; sets without any are left out. Of several
    runs of one seed of an arm the last counts, as in `compare.summarise`."""
    counting = {(arm_of(row), row["seed"]): run for row, run in zip(rows, runs, strict=True)}
    found: dict[tuple[str, str], set[int]] = defaultdict(set)
    for run in counting.values():
        evaluation = section(run)
        for task, one in evaluation.get("contamination", {}).items():
            if one.get("items") and not one["by_construction"]:
                found[task, how_asked(evaluation.get("asked", {}).get(task, {}))].update(one["items"])
    return {key: frozenset(items) for key, items in found.items()}


def unseen(rows: Sequence[Row], runs: Sequence[Run], found: Seen | None = None) -> list[Row]:
    """The rows of these runs (`compare.compare`), with the scores of sets that hold seen questions taken on the others;
    `left_out` has the places of the seen ones by set. `found` is their `seen`, where that is known. Rows without
    scores, taken on the way of a run, stay as they are.

    Raises:
        Damaged: the answers of a set are.
    """
    found = seen(rows, runs) if found is None else found
    return [_row(row, run, found) for row, run in zip(rows, runs, strict=True)]


def _row(row: Row, run: Run, found: Seen) -> Row:
    touched = {task: found[key] for task in tasks([row]) if (key := (task, row[f"{task}_how"])) in found}
    if not touched:
        return row
    evaluation = section(run)
    old = scores({part: _only(evaluation.get(part, {}), touched) for part in _PARTS})
    kept = {key: value for key, value in row.items() if key not in old}
    left_out = {task: sorted(out) for task, out in touched.items()}
    return kept | _scores(run, evaluation, touched) | {"left_out": left_out}


_PARTS = ("base", "final", "gain", "asked", "contamination")
_FOUND: Kept[Row] = Kept()


def _only(part: Mapping[str, Any], tasks: Collection[str]) -> dict[str, Any]:
    return {task: one for task, one in part.items() if task in tasks}


def _scores(run: Run, evaluation: Row, left_out: Mapping[str, frozenset[int]]) -> Row:
    """The figures of sets without those questions; of pages that are drawn again and again taken once."""
    files = [str(run.folder / "results.json"), *(str(answers.path_of(run, task)) for task in left_out)]
    key = str(run.folder), frozenset(left_out.items())

    def take() -> Row:
        anew: Row = {part: {} for part in _PARTS}
        for task, out in left_out.items():
            for part, one in _taken(run, evaluation, task, out).items():
                anew[part][task] = one
        return scores(anew)

    return _FOUND.get(key, files, take)


def _taken(run: Run, evaluation: Row, task: str, out: frozenset[int]) -> dict[str, Any]:
    """What an evaluation would have kept of the other questions of a set; nothing where their answers were not kept one
    by one, or there are none. Guessing and the most frequent answer are of these where there are choices, else of the
    whole set."""
    rows = answers.read(run, task)
    others = [row for number, row in enumerate(rows) if number not in out]
    if len(rows) != evaluation["final"][task]["items"] or not others:
        return {}
    anew, guessing = scores_on(others), _guessing(others)

    def side(part: str) -> dict[str, Any]:
        whole = {key: value for key, value in evaluation[part][task].items() if key not in ("exact", "correct")}
        return {**whole, **anew[part], "items": len(others), **guessing}

    asked = evaluation.get("asked", {}).get(task, {})
    digest = hashlib.sha256(repr(sorted(out)).encode()).hexdigest()[:8]
    how = {**asked, "fingerprint": f"{asked.get('fingerprint', '')}-{digest}"}
    return {"base": side("base"), "final": side("final"), "gain": anew["gain"], "asked": how}


def _guessing(rows: Sequence[Answered]) -> dict[str, float]:
    if not all(row.choices and row.right for row in rows):
        return {}
    places = Counter(row.choices.index(row.right[0]) for row in rows)
    return {
        "chance": sum(1 / len(row.choices) for row in rows) / len(rows),
        "majority": places.most_common(1)[0][1] / len(rows),
    }
