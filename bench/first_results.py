"""The tables and curves of docs/first-results.md, from the workspace's run folders.

    python bench/first_results.py EXPERIMENT [--domain-tokens 7200] [--svg docs/first-results-EXPERIMENT.svg]

Prints Markdown. Runs nothing: carry the recipe out first (`mixcpt run recipes/first-experiment.yaml`).
"""

import argparse
from collections.abc import Sequence
from html import escape
from pathlib import Path

from mixcpt.compare import compare, domain_share, summarise
from mixcpt.jobs import Jobs
from mixcpt.runs import Run, Runs
from mixcpt.workspace import Workspace, read_json

# Okabe and Ito's colours, safe for the colour-blind.
COLOURS = ("#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73", "#CC79A7")


def table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [titles, ["---"] + ["---:"] * (len(titles) - 1), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def tuning(workspace: Workspace, experiment: str) -> str:
    path = workspace.experiments / experiment / "tuning.json"
    found = read_json(path)["validation_bits_per_byte"]
    values = list(next(iter(found.values())))
    lines = [[group, *(f"{scores[value]:.4f}" for value in values)] for group, scores in found.items()]
    return table(["validation bits per byte", *(f"rate {value}" for value in values)], lines)


def outcome(runs: Sequence[Run], domain_tokens: int | None) -> str:
    lines = []
    for row in summarise(compare(runs, domain_tokens)):
        lines.append(
            [
                row["arm"],
                f"{row['learning_rate']:g}",
                f"{row['domain_tokens']:,} / {row['tokens']:,}",
                f"{row['domain_bits_per_byte']:.3f}",
                f"{row['domain_gain']:+.3f}",
                f"{row['general_bits_per_byte']:.3f}",
                f"{row['forgetting']:+.3f}",
                f"{row['prompt_kl']:.3f}",
            ]
        )
    titles = ["arm", "rate", "tokens domain / all", "domain", "gain", "general", "forgetting", "KL"]
    return table(titles, lines)


def questions(runs: Sequence[Run]) -> str:
    rows = summarise(compare(runs))
    tasks = [key.removesuffix("_accuracy") for key in rows[0] if key.endswith("_accuracy")]
    lines = []
    for row in rows:
        line = [row["arm"]]
        for task in tasks:
            low, high = row[f"{task}_interval"]
            line.append(f"{row[f'{task}_base']:.0%} → {row[f'{task}_accuracy']:.0%} ({low:.0%} to {high:.0%})")
        lines.append(line)
    return table(["arm", *(f"{task}, {rows[0][f'{task}_items']} items" for task in tasks)], lines)


def times(runs: Sequence[Run]) -> str:
    lines = []
    for run in runs:
        training = run.results()["training"]
        sources = training["mixture"]["sources"]
        lines.append(
            [
                run.info.arm,
                f"{training['steps']}",
                ", ".join(f"{source['epochs']:.2f}" for source in sources),
                f"{training['tokens_per_second']:.0f}",
                f"{training['measure_share']:.0%}",
                f"{training['seconds'] / 60:.1f}",
                f"{training['peak_memory_bytes'] / 1e9:.1f}",
            ]
        )
    titles = ["arm", "steps", "epochs per source", "tokens/s", "share of measures", "minutes", "peak GB"]
    return table(titles, lines)


def drawing(runs: Sequence[Run]) -> str:
    """Two panels over all tokens read: domain and general bits per byte, one line an arm."""
    panels = [("domain_bits_per_byte", "field"), ("general_bits_per_byte", "general text")]
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="960" height="430" font-family="sans-serif" font-size="13">'
        '<rect width="960" height="430" fill="white"/>'
    ]
    for number, (key, title) in enumerate(panels):
        curves = [[(p["tokens"], p["measure"][key]) for p in run.curve()] for run in runs]
        parts.append(panel(curves, 60 + 470 * number, f"Held-out bits per byte, {title} (lower is better)"))
    for number, run in enumerate(runs):
        x, y = 60 + 300 * (number % 3), 385 + 22 * (number // 3)
        parts.append(f'<line x1="{x}" y1="{y}" x2="{x + 24}" y2="{y}" stroke="{COLOURS[number]}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 30}" y="{y + 4}">{escape(run.info.arm)}</text>')
    return "".join(parts) + "</svg>\n"


def panel(curves: Sequence[Sequence[tuple[int, float]]], left: int, title: str) -> str:
    width, height, top = 400, 270, 40
    points = [point for curve in curves for point in curve]
    most = max(tokens for tokens, _ in points)
    low, high = min(value for _, value in points), max(value for _, value in points)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)

    def place(tokens: float, value: float) -> tuple[float, float]:
        return left + width * tokens / most, top + height * (high - value) / (high - low)

    parts = [f'<text x="{left}" y="{top - 16}" font-weight="bold">{title}</text>']
    for step in range(5):
        value = low + (high - low) * step / 4
        y = place(0, value)[1]
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + width}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
        x = place(most * step / 4, low)[0]
        parts.append(f'<text x="{x:.1f}" y="{top + height + 18}" text-anchor="middle">{most * step // 4:,}</text>')
    parts.append(f'<text x="{left + width / 2}" y="{top + height + 36}" text-anchor="middle">tokens read in all</text>')
    for number, curve in enumerate(curves):
        line = " ".join("{:.1f},{:.1f}".format(*place(tokens, value)) for tokens, value in curve)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[number]}" stroke-width="2"/>')
    return "".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("--domain-tokens", type=int, default=7200)
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    workspace = Workspace()
    jobs = Jobs(workspace)
    runs = [
        run
        for run in Runs(workspace).all()
        if run.info.experiment == options.experiment
        and run.state(jobs) == "done"
        and not run.info.arm.startswith("tune ")
    ]
    runs.sort(key=lambda run: [job.created for job in jobs.all() if job.run == run.id])  # in the recipe's order
    share = {run.info.arm: f"{domain_share(run):.0%}" for run in runs}
    print(f"Domain share of what was read: {share}\n")
    print("Tuning\n\n" + tuning(workspace, options.experiment))
    print("Equal total tokens\n\n" + outcome(runs, None))
    print("Equal domain tokens\n\n" + outcome(runs, options.domain_tokens))
    print("Questions\n\n" + questions(runs))
    print("Sizes and times\n\n" + times(runs))
    if options.svg:
        options.svg.write_text(drawing(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
