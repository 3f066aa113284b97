"""A comparison without the questions that stand in what its runs read: scores taken anew on those that none of them has
seen. No torch.

What was found in the training text of one run (`mixcpt.contamination`) is left out for all that were asked the same in
the same precision, so that they stay comparable. Probes that are meant to stand there are left alone. What this gives
up: sets of which the single answers were not kept, and of open sets the line where only an accepted answer may be
written; where anything would have to be left out of them, they have no score.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from mixcpt import answers
from mixcpt.answers import Answered
from mixcpt.compare import Row, scores
from mixcpt.contamination import scores_on
from mixcpt.evaluated import how_asked, section
from mixcpt.runs import Run

Seen = Mapping[tuple[str, str], frozenset[int]]
"""By set and how it was asked: places of the questions that one of the runs read."""


def seen(runs: Iterable[Run]) -> Seen:
    """The questions of each set that stand in what any of these runs read; sets without any are left out."""
    found: dict[tuple[str, str], set[int]] = defaultdict(set)
    for run in runs:
        evaluation = section(run)
        for task, one in evaluation.get("contamination", {}).items():
            if one.get("items") and not one["by_construction"]:
                found[task, _how(evaluation, task)].update(one["items"])
    return {key: frozenset(items) for key, items in found.items()}


def unseen(rows: Sequence[Row], runs: Sequence[Run]) -> list[Row]:
    """The rows of these runs (`compare.compare`), with the scores of sets that hold seen questions taken on the others;
    `left_out` says by set which those are.

    Raises:
        Damaged: the answers of a set are.
    """
    found = seen(runs)
    return [_row(row, run, found) for row, run in zip(rows, runs, strict=True)]


def _row(row: Row, run: Run, found: Seen) -> Row:
    evaluation = section(run)
    touched = {
        task: found[key] for task in evaluation.get("final", {}) if (key := (task, _how(evaluation, task))) in found
    }
    if not touched:
        return row
    old = scores({part: _only(evaluation.get(part, {}), touched) for part in (*_SCORES, "asked", "contamination")})
    rest = [(task, out, kept) for task, out in touched.items() if (kept := _others(run, evaluation, task, out))]
    anew: Row = {part: {task: _taken(evaluation, part, task, kept) for task, _, kept in rest} for part in _SCORES}
    anew["asked"] = {task: _asked(evaluation, task, out) for task, out, _ in rest}
    left_out = {task: sorted(out) for task, out, _ in rest}
    return {key: value for key, value in row.items() if key not in old} | scores(anew) | {"left_out": left_out}


_SCORES = ("base", "final", "gain")


def _only(part: Mapping[str, Any], tasks: Collection[str]) -> dict[str, Any]:
    return {task: one for task, one in part.items() if task in tasks}


def _others(run: Run, evaluation: Row, task: str, out: Collection[int]) -> list[Answered]:
    """The answers to the other questions; none where they were not kept one by one."""
    rows = answers.read(run, task)
    whole = len(rows) == evaluation["final"][task]["items"]
    return [row for number, row in enumerate(rows) if number not in out] if whole else []


def _taken(evaluation: Row, part: str, task: str, kept: Sequence[Answered]) -> dict[str, Any]:
    """Base, final or gain of the set on the questions that are kept; guessing and the most frequent answer are of these
    where there are choices, else of the whole set."""
    anew = scores_on(kept)
    if part == "gain":
        return dict(anew["gain"])
    whole = {key: value for key, value in evaluation[part][task].items() if key not in ("exact", "correct")}
    guessing = {}
    if all(row.choices and row.right for row in kept):
        places = Counter(row.choices.index(row.right[0]) for row in kept)
        guessing["chance"] = sum(1 / len(row.choices) for row in kept) / len(kept)
        guessing["majority"] = places.most_common(1)[0][1] / len(kept)
    return {**whole, **anew[part], "items": len(kept), **guessing}


def _asked(evaluation: Row, task: str, out: Collection[int]) -> dict[str, Any]:
    asked = evaluation.get("asked", {}).get(task, {})
    digest = hashlib.sha256(repr(sorted(out)).encode()).hexdigest()[:8]
    return {**asked, "fingerprint": f"{asked.get('fingerprint', '')}-{digest}"}


def _how(evaluation: Row, task: str) -> str:
    return how_asked(evaluation.get("asked", {}).get(task, {}))
