"""How far a training is, from its records: the newest figures, and about how long it still takes."""

from collections.abc import Sequence
from dataclasses import dataclass

from mixcpt.metrics import Record
from mixcpt.stages import AnyStage

RECENT = 20
"""Steps over which speed and loss are averaged: one step alone jumps about."""


@dataclass(frozen=True)
class Progress:
    """Losses are means per token over the recent steps. `seconds_left` is that of the training with its measures; the
    questions after it are not in it. `peak_share` is as `peak_share` tells of the recent steps, `cached_share` as
    `cached_share` of all."""

    step: int
    tokens: int
    total_tokens: int
    loss: float
    tokens_per_second: float
    memory_bytes: int
    learning_rate: float
    seconds_left: float
    peak_share: float | None
    cached_share: float | None

    @property
    def share(self) -> float:
        return min(1.0, self.tokens / self.total_tokens)


def progress(
    stage: AnyStage, total_tokens: int | None, losses: Sequence[Record], curve: Sequence[Record]
) -> Progress | None:
    """None before the first step. `total_tokens`, `losses` and `curve` are those of the run."""
    if not losses:
        return None
    last, recent = losses[-1], losses[-RECENT:]
    read = recent[-1]["tokens"] - (losses[-RECENT - 1]["tokens"] if len(losses) > RECENT else 0)
    seconds = sum(record["seconds"] for record in recent)
    total = max(total_tokens or 0, last["tokens"])
    steps = (total - last["tokens"]) * len(recent) / read
    return Progress(
        step=last["step"],
        tokens=last["tokens"],
        total_tokens=total,
        loss=sum(record["loss"] for record in recent) / len(recent),
        tokens_per_second=read / seconds,
        memory_bytes=max(record["memory_bytes"] for record in recent),
        learning_rate=last["learning_rate"],
        seconds_left=steps * seconds / len(recent) + _measuring(stage, last["step"], steps, curve),
        peak_share=peak_share(recent),
        cached_share=cached_share(losses),
    )


def peak_share(losses: Sequence[Record]) -> float | None:
    """What these steps reached of the measured speed of matrix products, 0 to 1; None where that was not known."""
    if not losses or not all("peak_share" in record for record in losses):
        return None
    seconds = sum(record["seconds"] for record in losses)
    return float(sum(record["peak_share"] * record["seconds"] for record in losses) / seconds)


def cached_share(losses: Sequence[Record]) -> float | None:
    """Of the tokens of a whole run, how many the teacher need not read, 0 to 1; None where no cache was used."""
    if not losses or not all("cached_tokens" in record for record in losses):
        return None
    return float(sum(record["cached_tokens"] for record in losses) / losses[-1]["tokens"])


def _measuring(stage: AnyStage, step: int, steps_left: float, curve: Sequence[Record]) -> float:
    """Seconds for the measures that are still to come: every so many steps, and at the end."""
    times = [record["seconds"] for record in curve if "seconds" in record]
    if not times or steps_left <= 0:
        return 0.0
    every, end = stage.measures.every_steps, step + steps_left
    due = int((end - 1e-9) // every) - step // every if every else 0
    return float((due + 1) * sum(times) / len(times))
