"""The figures at the head of a run: what was reached, then what it took. Pure: values in, words out."""

from app.words import count, duration, signed, size
from mixcpt.estimate import minutes
from mixcpt.overview import RunSummary
from mixcpt.progress import Progress, progress
from mixcpt.runs import Record, Run

Tile = tuple[str, str, str]
"""Label, value, and explanation."""

_RECENT = 20
"""Steps over which figures that jump about are averaged, as those of `mixcpt.progress`."""


def tiles(now: RunSummary, run: Run) -> list[Tile]:
    how_far = progress(run.config, run.total_tokens, run.losses(), run.curve())
    third = _margin(run.losses()) if now.stage == "dpo" else _distance(now)
    reached = [_gain(now), _forgetting(now), third, _loss(now, how_far), _read(now)]
    return [*reached, *_costs(now, run, how_far)]


def _gain(now: RunSummary) -> Tile:
    whole = _whole_chain(now)
    return (
        "Gain in the field",
        signed(now.domain_gain),
        f"Bits per byte that were saved on held-out text of the field: higher is better.{whole}",
    )


def _forgetting(now: RunSummary) -> Tile:
    whole = _whole_chain(now)
    return (
        "Forgetting",
        signed(now.forgetting),
        f"Bits per byte that general text costs more than before: lower is better.{whole}",
    )


def _whole_chain(now: RunSummary) -> str:
    return " Against the base, so it is that of the whole chain." if now.parent else ""


def _distance(now: RunSummary) -> Tile:
    return (
        "Distance to the base",
        "–" if now.prompt_kl is None else f"{now.prompt_kl:.3f}",
        "KL on general prompts, in nats per token: 0 is the base model itself.",
    )


def _margin(losses: list[Record]) -> Tile:
    """Of DPO: how far chosen and rejected answers are apart, and how often in the right order."""
    recent = [record for record in losses[-_RECENT:] if "margin" in record]
    help = (
        "Reward margin: how much more likely than under the reference the chosen answer became, less the same for the "
        "rejected one (nats times beta); and the share of pairs whose chosen answer has the higher reward. 0 and half "
        "of them where nothing was learned yet; means of the last 20 steps."
    )
    if not recent:
        return "Margin", "–", help
    margin, right = (sum(record[key] for record in recent) / len(recent) for key in ("margin", "accuracy"))
    return "Margin", f"{signed(margin, 2)} · {right:.0%}", help


def _loss(now: RunSummary, how_far: Progress | None) -> Tile:
    label, help = {
        "sft": ("Loss on answers", "Cross-entropy of the answers, in nats per learned token"),
        "dpo": ("DPO loss", "In nats per pair: 0.693 (log 2) prefers nothing, lower prefers the chosen answers"),
    }.get(now.stage, ("Loss", "What is minimised, in nats per token"))
    return label, f"{how_far.loss:.3f}" if how_far else "–", f"{help}; the mean of the last 20 steps."


def _read(now: RunSummary) -> Tile:
    most = max(now.budget_tokens, now.tokens)
    of_about = f"Of about {count(most)}; " if most else ""
    return "Tokens read", count(now.tokens), f"{of_about}A text that is repeated counts each time."


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _costs(now: RunSummary, run: Run, how_far: Progress | None) -> list[Tile]:
    training = run.results().get("training", {})
    left = f"~ {minutes(how_far.seconds_left)}" if how_far and now.state == "running" and now.kind == "train" else "–"
    peak = training.get("peak_memory_bytes") or (how_far.memory_bytes if how_far else None)
    return [
        (
            "Speed",
            f"{how_far.tokens_per_second:,.0f} tokens/s" if how_far else "–",
            "Tokens per second in the last steps, measuring left out.",
        ),
        (
            "Of this machine's peak",
            _percent(how_far.peak_share if how_far else None),
            "How much of the speed of large matrix products, as this machine was measured, the last steps reached. The "
            "rest goes into everything that is no large product.",
        ),
        (
            "From the teacher cache",
            _percent(how_far.cached_share if how_far else None),
            "Of the tokens read, those for which the frozen original did not have to be asked again: its answers lay "
            "on disk. A dash where no cache is used, as in stage two.",
        ),
        ("Took", duration(training["seconds"]), "Time of training, measures on the way included.")
        if training
        else ("Time left", left, "From the last steps, with the measures to come; the questions are not in it."),
        ("Memory", "–" if peak is None else size(peak), "The most that was used so far."),
    ]
