"""Copy the finished runs of an experiment into the library as the recorded experiment (see mixcpt/recorded.py).

python scripts/record.py first-experiment
"""

import argparse
import json
import shutil
from pathlib import Path

from mixcpt.jobs import Jobs
from mixcpt.recorded import EXPERIMENT, FILES
from mixcpt.runs import Runs
from mixcpt.workspace import Workspace, read_json

SHIPPED = Path(__file__).parents[1] / "mixcpt" / "builtin" / "recorded"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment")
    experiment = parser.parse_args().experiment
    workspace = Workspace()
    jobs = Jobs(workspace)
    runs = [run for run in Runs(workspace).all() if run.info.experiment == experiment and run.state(jobs) == "done"]
    shutil.rmtree(SHIPPED, ignore_errors=True)
    for run in [run for run in runs if not run.info.arm.startswith("tune ")]:
        folder = SHIPPED / run.id
        folder.mkdir(parents=True)
        for file in FILES:
            shutil.copy(run.folder / file, folder / file)
        info = read_json(folder / "run.json") | {"experiment": EXPERIMENT}
        (folder / "run.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
        print(run.id, run.info.arm)


if __name__ == "__main__":
    main()
