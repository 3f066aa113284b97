"""Copy the finished runs of an experiment into the library as a recorded experiment (see mixcpt/recorded.py).

python scripts/record.py first-experiment
python scripts/record.py retention-atlas --to recorded-ways-to-remember
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from mixcpt.jobs import Jobs
from mixcpt.recorded import EXPERIMENT, EXPERIMENTS, FILES, copy
from mixcpt.runs import Runs
from mixcpt.workspace import Workspace, read_json

SHIPPED = Path(__file__).parents[1] / "mixcpt" / "builtin" / "recorded"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("--to", choices=EXPERIMENTS, default=EXPERIMENT)
    options = parser.parse_args()
    workspace, target = Workspace(), SHIPPED / options.to
    jobs = Jobs(workspace)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for run in Runs(workspace).all():
        info = run.info
        if info.experiment != options.experiment or info.arm.startswith("tune ") or run.state(jobs) != "done":
            continue
        folder = target / run.id
        folder.mkdir()
        copy(run.folder, folder, FILES)
        write(folder / "run.json", read_json(folder / "run.json") | {"experiment": options.to})
        print(run.id, info.arm)
    study = workspace.experiments / options.experiment / "study.json"
    if study.exists():
        told = read_json(study)
        write(target / "study.json", told | {"recipe": told["recipe"] | {"name": options.to}})


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
