"""The tables of docs/stage-two.md, from the workspace's run folders.

    python bench/stage_two.py EXPERIMENT [EXPERIMENT ...]

Prints Markdown. Runs nothing: carry the recipes out first (`mixcpt run recipes/selection-strategies.yaml`).
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from first_results import table

from mixcpt.palette import STAGE_WORDS
from mixcpt.runs import Run, Runs
from mixcpt.samples import kept_facts
from mixcpt.workspace import Workspace

CHECKS = (("ended", "ended"), ("follows", "keeps to the template"), ("right_length", "right length"))


def finished(workspace: Workspace, experiment: str) -> list[Run]:
    """The runs of an experiment that were trained to their end, parents before children."""
    runs = [run for run in Runs(workspace).all() if run.info.experiment == experiment]
    return [run for run in runs if "training" in run.results()]


def chain_table(runs: Sequence[Run]) -> str:
    """What each stage learned from, and where field and general text stood at its end."""
    base = runs[0].results()["training"]["base"]
    lines = [["the base", "", "", *_figures(base)]]
    for run in runs:
        training, facts = run.results()["training"], kept_facts(run)
        read = f"{facts['samples']:,} / {facts['learned_tokens']:,}" if facts else f"– / {training['tokens']:,}"
        stage = STAGE_WORDS.get(run.info.stage, run.info.stage)
        lines.append([stage, run.info.arm, read, *_figures(training["final"])])
    return table(["after", "arm", "samples / tokens learned", "field", "general", "KL"], lines)


def _figures(measure: dict[str, float]) -> Iterator[str]:
    for name in ("domain_bits_per_byte", "general_bits_per_byte", "prompt_kl"):
        yield f"{measure[name]:.3f}" if name in measure else "–"


def questions_table(runs: Sequence[Run]) -> str:
    asked = [run for run in runs if run.results().get("evaluation", {}).get("final")]
    tasks = list(dict.fromkeys(task for run in asked for task in run.results()["evaluation"]["final"]))
    lines = []
    for run in asked:
        evaluation = run.results()["evaluation"]
        line = [STAGE_WORDS.get(run.info.stage, run.info.stage), run.info.arm]
        for task in tasks:
            line.append(_answered(evaluation, task) if task in evaluation["final"] else "–")
        lines.append(line)
    return table(["after", "arm", *(f"{task} (base → run)" for task in tasks)], lines) if lines else ""


def _answered(evaluation: dict[str, Any], task: str) -> str:
    base, final = evaluation["base"][task], evaluation["final"][task]
    low, high = (100 * bound for bound in evaluation["gain"][task]["interval"])
    return (
        f"{base['accuracy']:.0%} → {final['accuracy']:.0%} of {final['items']} ({low:+.0f} to {high:+.0f}); chance "
        f"{final['chance']:.0%}, majority {final['majority']:.0%}"
    )


def format_table(runs: Sequence[Run]) -> str:
    """The format of answers, template by template: the base first, then every run that was asked."""
    lines: list[list[str]] = []
    shown: set[str] = set()
    for run in runs:
        for template, found in run.results().get("evaluation", {}).get("format", {}).items():
            if template not in shown:
                lines.append([template, "the base", "", *_form(found["base"])])
                shown.add(template)
            stage = STAGE_WORDS.get(run.info.stage, run.info.stage)
            lines.append([template, stage, run.info.arm, *_form(found["final"])])
    titles = ["template", "after", "arm", *(title for _, title in CHECKS), "length ratio", "loss", "prompts"]
    return table(titles, sorted(lines, key=lambda line: line[0])) if lines else ""


def _form(side: dict[str, Any]) -> Iterator[str]:
    for check, _ in CHECKS:
        low, high = side[check]["interval"]
        yield f"{side[check]['share']:.0%} ({low:.0%} to {high:.0%})"
    yield f"{side['length_ratio']:.2f}"
    yield f"{side['loss']:.3f}"
    yield str(side["items"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", metavar="EXPERIMENT")
    workspace = Workspace()
    for experiment in parser.parse_args().experiments:
        runs = finished(workspace, experiment)
        started = {run.info.created[:10] for run in runs}
        print(f"## {experiment} ({runs[0].config.model.name}, {runs[0].results()['training']['precision']})\n")
        print(f"Runs of {', '.join(sorted(started))}, seed {runs[0].info.seed}.\n")
        for part in (chain_table(runs), questions_table(runs), format_table(runs)):
            if part:
                print(part)


if __name__ == "__main__":
    main()
