"""Failure signatures that are read off the curves of a training: diverged, and over-trained on a tiny corpus.

The limits are ours. What this gives up: a loss is taken as it was recorded, step by step, whatever its rows held.
"""

import re
import statistics
from collections.abc import Sequence
from dataclasses import replace

from mixcpt import remedies
from mixcpt.chains import own
from mixcpt.evidence import LEAST_STEPS, LEAST_TOKENS, TOLERANCE, Case, Change, Sign, about
from mixcpt.figures import signed
from mixcpt.stages import Stage

READINGS = 2.0
"""Times through the field beyond which a rise of its held-out loss is laid to repetition. Ours."""
_SPIKE, _WINDOW = 2.0, 10
_DIVERGED = re.compile(r"The (loss|gradient) became ")

# ---- over-trained on a tiny corpus -----------------------------------------------------------------------------------

_OVERTRAINED = Sign(
    "overtrained",
    "Over-trained on a tiny corpus",
    "absent",
    why="The loss of what it reads goes on falling while held-out text of the same field gets harder again: it learns "
    "these very documents by heart.",
    unless="It does not count where the documents themselves are all that you will ever ask for.",
)


@about(_OVERTRAINED, Stage)
def overtrained(case: Case, stage: Stage) -> Sign:
    """Training loss falls, held-out loss of the field rises from its best point, after many times through the text."""
    points = [
        (point["tokens"], point["measure"]["domain_bits_per_byte"])
        for point in own(case.curve)
        if "domain_bits_per_byte" in point["measure"]
    ]
    if len(points) < 3 or stage.measures.domain_tokens < LEAST_TOKENS:
        return replace(
            _OVERTRAINED,
            state="unknown",
            measure="Measure on the way: the curve comes of measures.every_steps and measures.domain_tokens above 0.",
        )
    best, lowest = min(points, key=lambda point: point[1])
    risen = points[-1][1] - lowest
    readings = max((source["epochs"] for source in case.mixture() if source["domain"]), default=None)
    fell = _fell_since(case, best)
    seen = [f"Held-out text of the field was best at {best:,} tokens and rose by {risen:.3f} bits per byte since then"]
    seen += [f"The training loss changed by {signed(fell)} nats per token meanwhile"] if fell is not None else []
    seen += [f"Its field was read {readings:.1f} times"] if readings is not None else []
    if risen <= TOLERANCE or (fell is not None and fell >= 0) or (readings is not None and readings <= READINGS):
        return replace(_OVERTRAINED, seen=tuple(seen))
    if fell is None or readings is None:
        return replace(_OVERTRAINED, state="unknown", seen=tuple(seen), measure="Wait for the end of the training.")
    change = remedies.smaller_steps(stage, 4)
    if best >= 64:
        budget = round(stage.mixture.budget_tokens * best / points[-1][0])
        change = Change(f"stop where it was best: {budget:,} tokens", {"mixture.budget_tokens": max(64, budget)})
    return replace(_OVERTRAINED, state="found", seen=tuple(seen), change=change)


def _fell_since(case: Case, tokens: int) -> float | None:
    """Change of the cross-entropy from around `tokens` to the end, by means of a tenth of the steps, three at least."""
    records = [(record["tokens"], float(record["ce" if "ce" in record else "loss"])) for record in case.losses]
    width = max(3, len(records) // 10)
    place = next((number for number, (read, _) in enumerate(records) if read >= tokens), len(records))
    around = [loss for _, loss in records[max(0, place - width // 2) :][:width]]
    if len(records) - place < 2 * width:
        return None if len(records) < 3 * width else 0.0
    return statistics.fmean(loss for _, loss in records[-width:]) - statistics.fmean(around)


# ---- diverged --------------------------------------------------------------------------------------------------------

_BROKEN = Sign(
    "diverged",
    "Diverged",
    "absent",
    why="The loss left its course: a step was so large that it undid what the steps before had learned.",
    unless="It does not count where a single source of the mixture is that much harder than the others, so that its "
    "rows stand out of a loss that goes on falling.",
)


def diverged(case: Case) -> Sign:
    """The loss or the gradient is no number, the loss ends above its beginning, or it spikes again and again."""
    if _DIVERGED.match(case.failure):
        return replace(
            _BROKEN, state="found", seen=(case.failure.split(":")[0],), change=remedies.smaller_steps(case.stage, 3)
        )
    losses = [float(record["loss"]) for record in case.losses]
    if len(losses) < LEAST_STEPS:
        measure = f"Train for at least {LEAST_STEPS} steps: these are {len(losses)}."
        return replace(_BROKEN, state="unknown", measure=measure)
    width = max(3, len(losses) // 10)
    first, last = statistics.fmean(losses[:width]), statistics.fmean(losses[-width:])
    spikes = _spikes(losses, first)
    norms = [float(record["gradient_norm"]) for record in case.losses if "gradient_norm" in record]
    seen = [f"Loss {first:.2f} in the first {width} steps, {last:.2f} in the last {width}"]
    seen += [f"{len(spikes)} of {len(losses)} steps spiked: {_SPIKE:g} times the {_WINDOW} before, and above the start"]
    if norms:
        seen += [f"Gradient norm {statistics.median(norms):.2g} (median), {max(norms):.2g} at most"]
    rose = last > 1.1 * first and last - first > 0.1
    unsteady = len(spikes) >= max(3, len(losses) // 20)
    if rose or unsteady:
        return replace(_BROKEN, state="found", seen=tuple(seen), change=remedies.smaller_steps(case.stage, 3))
    return replace(_BROKEN, seen=tuple(seen))


def _spikes(losses: Sequence[float], first: float) -> list[int]:
    """Steps whose loss is above twice the median of the ten before them, and well above the loss of the beginning:
    rows of a harder source stand out as well, but not that far."""
    usual = {step: statistics.median(losses[step - _WINDOW : step]) for step in range(_WINDOW, len(losses))}
    return [step for step, median in usual.items() if losses[step] > max(_SPIKE * median, 1.5 * first)]
