"""Which questions stand in the text that a run was trained on: found by runs of words that both share
(`mixcpt.overlap`).

A question counts with its right answer after it. Only what the run really read is looked through: the pieces of
documents in its mixture and the samples of stage two, of all runs of its chain. What it gives up: text that the base
model had read before.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from mixcpt import answers
from mixcpt.answers import Answered
from mixcpt.errors import BadInput, NotFound, Unavailable
from mixcpt.grading import interval_over
from mixcpt.mixture import Mixture, realise
from mixcpt.modelstore import find_folder
from mixcpt.overlap import LEAST, Finder, N, Overlap
from mixcpt.runs import Run
from mixcpt.samples import kept_facts, kept_samples
from mixcpt.stages import Dpo, Sft, Stage
from mixcpt.statistics import paired_interval
from mixcpt.token_table import text_of
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace


def item_text(answered: Answered) -> str:
    """A question with its right answer after it, the first where several are right."""
    return f"{answered.question} {answered.right[0]}" if answered.right else answered.question


def look(
    workspace: Workspace,
    run: Run,
    tasks: Iterable[str],
    by_construction: Collection[str] = (),
    *,
    n: int = N,
    least: int = LEAST,
    should_stop: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, Any]]:
    """Look for the questions of these sets, whose answers the run keeps, in all that it and those before it read. Each
    answer is marked in its file, and what comes back goes into the section `contamination` of the evaluation: per set

        items       indices of the questions that were found
        sources     how many of them stand in each source's text, each counted where it was met first
        too_short   how many questions have fewer than `least` words, so that nothing can be said of them
        without     the scores without those that were found, `only` on those alone; None where that is no question
        by_construction  whether they are meant to stand there, as memorised probes are
        n, least    words in a row that must be the same

    or, where what was read is no longer there, `unknown`, the reason.

    Raises:
        Damaged: the answers of a set are. Whatever `should_stop` raises.
    """
    kept = {task: rows for task in tasks if (rows := answers.read(run, task))}
    finder = Finder([item_text(row) for rows in kept.values() for row in rows], n, least)
    try:
        for id, source, text in read_by(workspace, run, should_stop):
            finder.read(text, source, id)
    except Unavailable as problem:
        return {task: {"unknown": str(problem), "by_construction": task in by_construction} for task in kept}
    found: dict[str, dict[str, Any]] = {}
    first = 0
    for task, rows in kept.items():
        places = range(first, first + len(rows))
        first += len(rows)
        overlaps = [finder.found.get(place) for place in places]
        answers.write(run, task, map(_marked, rows, overlaps))
        found[task] = {
            **_counted(rows, overlaps),
            "too_short": sum(place in places for place in finder.too_short),
            "by_construction": task in by_construction,
            "n": n,
            "least": least,
        }
    return found


def _marked(row: Answered, overlap: Overlap | None) -> Answered:
    return replace(row, found_in=overlap.source if overlap else "", found=overlap.words if overlap else "")


def _counted(rows: Sequence[Answered], overlaps: Sequence[Overlap | None]) -> dict[str, Any]:
    """What was found, and the scores without it and on it alone."""
    here = [number for number, overlap in enumerate(overlaps) if overlap]
    others = [row for row, overlap in zip(rows, overlaps, strict=True) if not overlap]
    return {
        "items": here,
        "sources": dict(Counter(overlap.source for overlap in overlaps if overlap)),
        "without": scores_on(others) if here and others else None,
        "only": scores_on([rows[number] for number in here]) if here and others else None,
    }


def scores_on(rows: Sequence[Answered]) -> dict[str, Any]:
    """Shares right of base and run with their intervals, and the gain with its own, on some of the questions."""
    subjects = [row.about or str(number) for number, row in enumerate(rows)]
    base, final = [row.base_right for row in rows], [row.final_right for row in rows]

    def share(right: list[float]) -> dict[str, Any]:
        return {"accuracy": sum(right) / len(right), "interval": interval_over(right, subjects)}

    difference = (sum(final) - sum(base)) / len(rows)
    gain = {"difference": difference, "interval": paired_interval(base, final, subjects)}
    return {"items": len(rows), "base": share(base), "final": share(final), "gain": gain}


def again(workspace: Workspace, run: Run, n: int = N, least: int = LEAST) -> dict[str, dict[str, Any]]:
    """Look once more for all that a run was asked, and put what is found in the place of what was.

    Raises:
        BadInput: the run was asked nothing, or its answers were not kept.
    """
    section: dict[str, Any] = run.results().get("evaluation", {})
    asked: dict[str, Any] = section.get("asked", {})
    memorised = [task for task, how in asked.items() if how.get("probes", {}).get("side") == "memorised"]
    found = look(workspace, run, section.get("final", {}), memorised, n=n, least=least)
    if not found:
        raise BadInput(f"Run {run.id} keeps no answers to look for: ask it with `mixcpt evaluate {run.id}`.")
    run.write_results("evaluation", {**section, "contamination": {**section.get("contamination", {}), **found}})
    return found


# ---- what a run read -------------------------------------------------------------------------------------------------


def read_by(
    workspace: Workspace, run: Run, should_stop: Callable[[], None] = lambda: None
) -> Iterator[tuple[str, str, str]]:
    """All text that a run and its ancestors trained on: run, source and text, each document once a run.

    Raises:
        Unavailable: one of the runs or a source is gone, or a source was replaced since.
    """
    try:
        for one in run.chain():
            read = _samples(one, one.config) if isinstance(one.config, Sft) else _rows(workspace, one, should_stop)
            for source, text in read:
                yield one.id, source, text
    except NotFound as problem:
        raise Unavailable(f"What run {run.id} read cannot be looked through: {problem}") from None


def _samples(run: Run, stage: Sft) -> Iterator[tuple[str, str]]:
    """The samples of a run of stage two: prompts and answers, of pairs under DPO both answers."""
    source = (kept_facts(run) or {}).get("source", "")
    for sample in kept_samples(run):
        record = sample.parsed
        parts = [*(message.content for message in record.messages), record.chosen]
        yield source, "\n".join([*parts, record.rejected] if isinstance(stage, Dpo) else parts)


def _rows(workspace: Workspace, run: Run, should_stop: Callable[[], None]) -> Iterator[tuple[str, str]]:
    """The documents of a knowledge stage, or of each the pieces that were read."""
    config, folder = run.config, find_folder(workspace, run.config.model.name)
    assert isinstance(config, Stage)
    if folder is None:
        raise NotFound(f"the model {config.model.name} is no longer here, and its tokenizer says where documents end.")
    tokenizer = TextTokenizer.from_folder(folder)
    validation = config.measures.on == "validation"
    mixture = realise(workspace, config.mixture, tokenizer, validation=validation, should_stop=should_stop)
    kept: dict[str, Any] = run.results().get("training", {}).get("mixture", {})
    if kept and kept["fingerprint"] != mixture.fingerprint():
        raise NotFound(f"a source of {run.id} was replaced since, so the text it read is not there any more.")
    yield from pieces(mixture, tokenizer)


def pieces(mixture: Mixture, tokenizer: TextTokenizer) -> Iterator[tuple[str, str]]:
    """Source and text of all that stands in a mixture's rows, each stretch of a document once."""
    opening = len(mixture.opening)
    spans = np.unique(mixture.segments[:, :4], axis=0).tolist()
    documents = {name: corpus.documents("train") for name, corpus in mixture.corpora.items()}
    for (number, index), stretches in groupby(spans, key=lambda span: (span[0], span[1])):
        name = mixture.sources[number]
        ids = mixture.tables[name][index]
        joined = _joined([(start, start + length - opening) for _, _, start, length in stretches])
        if joined == [(0, len(ids))]:
            yield name, text_of(documents[name][index], mixture.config)
        else:
            for start, end in joined:
                yield name, tokenizer.decode(ids[start:end].tolist())


def _joined(stretches: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Stretches [start, end) in order, those that touch as one."""
    joined: list[tuple[int, int]] = []
    for start, end in stretches:
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined
