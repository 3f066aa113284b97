"""The command `show`: one run, its settings, how it stands, how fast it was and what it reached."""

import argparse
from dataclasses import asdict
from typing import Any

from mixcpt.cli_show import print_json
from mixcpt.jobs import Jobs
from mixcpt.runs import Run, Runs
from mixcpt.stages import Dpo, Sft
from mixcpt.workspace import Workspace


def show(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt.cli_evaluate import print_scores

    one = Runs(workspace).get(options.run)
    jobs = [job for job in Jobs(workspace).all() if job.run == one.id]
    shown = {
        **asdict(one.info),
        **asdict(one.labels),
        "status": one.state(Jobs(workspace)),
        "jobs": [{"id": job.id, "kind": job.kind, "status": job.state, "message": job.status.message} for job in jobs],
        "config": one.config.model_dump(mode="json"),
        "curve": one.curve(),
        "results": one.results(),
        "pace": _pace(one),
        "guess": _guess(one),
        "folder": str(one.folder),
    }
    if options.json:
        return print_json(shown)
    print(f"run {one.id}  {shown['status']}  {one.info.experiment} {one.info.arm}  seed {one.info.seed}")
    for line in _later(workspace, one):
        print(f"  {line}")
    for job in shown["jobs"]:
        print(f"  {job['kind']:9} {job['status']:9} {job['message']}")
    for point in shown["curve"]:
        measures = ", ".join(f"{name} {value:.4f}" for name, value in point["measure"].items())
        under = "  under the base" if point.get("under") == "base" else ""
        print(f"  step {point['step']:>5}  {point['tokens']:>9,} tokens  {measures}{under}")
    print_scores(workspace, one)
    if shown["pace"]:
        print(f"  {_pace_words(shown['pace'])}")
    if training := shown["results"].get("training"):
        print(
            f"  {training['tokens']:,} tokens in {training['steps']} steps, {training['seconds'] / 60:.1f} minutes of "
            f"which {training['measure_share']:.0%} measuring; {training['trainable_parameters']:,} of "
            f"{training['total_parameters']:,} parameters trained, in {training['precision']} on {training['device']}"
        )
    if shown["guess"]:
        print(f"  guess: {shown['guess']['sentence']}")
    print(f"  folder {one.folder}")


def _pace(run: Run) -> dict[str, Any] | None:
    """How fast a run is or was, over all its steps so far; None before the first."""
    from mixcpt.progress import cached_share, peak_share

    losses = run.losses()
    if not losses:
        return None
    return {
        "tokens_per_second": round(losses[-1]["tokens"] / sum(record["seconds"] for record in losses), 1),
        "peak_share": peak_share(losses),
        "cached_share": cached_share(losses),
        "peak_memory_bytes": max(record["memory_bytes"] for record in losses),
    }


def _pace_words(pace: dict[str, Any]) -> str:
    parts = [f"{pace['tokens_per_second']:.0f} tokens/s"]
    if pace["peak_share"] is not None:
        parts.append(f"{pace['peak_share']:.0%} of this machine's measured peak")
    if pace["cached_share"] is not None:
        parts.append(f"{pace['cached_share']:.0%} of the tokens from the teacher cache")
    return ", ".join([*parts, f"{pace['peak_memory_bytes'] / 1e9:.1f} GB of memory at most"])


def _later(workspace: Workspace, run: Run) -> list[str]:
    """What a later run comes after, learns from and is measured against; nothing of a first one."""
    from mixcpt.further import fields_words
    from mixcpt.stage_words import chain_words, reference_words, samples_words, template_words

    stage = run.config
    if not isinstance(stage, Sft):
        return [chain_words(run), f"field: {fields_words(stage)}"] if run.info.parent else []
    lines = [chain_words(run), f"samples: {samples_words(stage, run)}", f"template: {template_words(stage.template)}"]
    if isinstance(stage, Dpo):
        lines.append(f"reference: {reference_words(workspace, stage, run.info.parent)}, beta {stage.preference.beta:g}")
        lines += [
            f"last step: loss {last['loss']:.3f}, margin {last['margin']:+.3f}, {last['accuracy']:.0%} of the pairs in "
            "the right order"
            for last in run.losses()[-1:]
        ]
    return lines


def _guess(run: Run) -> dict[str, Any] | None:
    """What was expected of a run beside what happened, in percent of the base's bits per byte."""
    from mixcpt import guesses

    guess, outcome = guesses.read(run), guesses.outcome(run)
    if guess is None:
        return None
    waiting = f"gain {guess.domain_gain:g} %, forgetting {guess.forgetting:g} %; the outcome is not known yet"
    return {
        **guess.model_dump(),
        "outcome": {"domain_gain": outcome.domain_gain, "forgetting": outcome.forgetting} if outcome else None,
        "score": outcome.score if outcome else None,
        "sentence": outcome.sentence if outcome else waiting,
    }
