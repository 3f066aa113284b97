"""How long many runs take to be listed, overlaid and claimed about: made-up runs with long curves, read by the library.

    python bench/overlay.py [--runs 300] [--points 2000]

First is a look at runs that no worker has summarised, copied ones say, when every file is read whole; restarted is the
first look of a new process, which finds the summaries that workers leave at a run's end; again is every later one, as
pages do it at each click. Seconds of this process on the processor, so that other work on the machine counts little.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mixcpt import charts
from mixcpt.claims import claims, pairs_against
from mixcpt.compare import summarise
from mixcpt.comparison import _ROWS, rows_of
from mixcpt.drafts import default_stage
from mixcpt.findings import findings, leaders
from mixcpt.overview import _CONFIGS, _RUNS, overview
from mixcpt.runs import Run, Runs
from mixcpt.settings import override
from mixcpt.workspace import Workspace

SEEDS = 3


def made(workspace: Workspace, number: int, points: int) -> Run:
    """A finished run with so many measured points, arms of three seeds each."""
    arm, seed = divmod(number, SEEDS)
    stage = override(default_stage(), {"adapter.rank": arm + 1}).with_seed(seed)
    run = Runs(workspace).create(stage, experiment=f"experiment-{arm // 10}", arm=f"arm {arm}")
    lines = []
    for step in range(points):
        share = 1 - math.exp(-3 * step / points)
        measure = {
            "domain_bits_per_byte": 1.6 - (0.3 + 0.001 * arm + 0.01 * seed) * share,
            "general_bits_per_byte": 1.25 + 0.002 * arm * share,
            "prompt_kl": 0.5 * share,
        }
        lines.append({"step": step, "tokens": 256 * step, "seconds": 1.0, "measure": measure})
        lines.append({"step": step + 1, "tokens": 256 * step + 256, "loss": 3 - share, "ce": 2.6, "seconds": 2.0})
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    training = {"tokens": 256 * points, "base": lines[0]["measure"], "final": lines[-2]["measure"], "seconds": 100.0}
    run.write_results("training", training)
    return run


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--points", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        runs = [made(workspace, number, options.points) for number in range(options.runs)]
        ids = [run.id for run in runs]

        def rows() -> list[dict[str, object]]:
            return rows_of(workspace, ids)[0]

        work: dict[str, Callable[[], object]] = {
            "list (overview)": lambda: overview(workspace),
            "rows with thinned curves": rows,
            "arms, findings, leaders": lambda: (findings(summarise(rows())), leaders(summarise(rows()))),
            "claims against one arm": lambda: claims(pairs_against(summarise(rows()))),
            "plane": lambda: charts.plane(rows()),
            "curves overlaid": lambda: charts.forgetting_curves(rows()),
        }
        print(f"{options.runs} runs, {options.points:,} measured points each; seconds of processor time")
        print(f"{'':28} {'first':>8} {'restarted':>9} {'again':>8}")
        for name, one in work.items():
            first = seconds(one)
            for kept in (_ROWS, _RUNS, _CONFIGS):
                kept._answers.clear()
            print(f"{name:28} {first:8.2f} {seconds(one):9.2f} {seconds(one):8.2f}", flush=True)


if __name__ == "__main__":
    main()
