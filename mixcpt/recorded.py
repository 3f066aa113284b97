"""The recorded experiment: real runs of recipes/first-experiment.yaml, shipped as small files, to explore at once.

They were trained as docs/first-results.md tells and copied here by `scripts/record.py`, without their adapters, which
are 40 MB each. In a workspace they are runs like any others: listed, compared, cloned, deleted.
"""

import shutil
from importlib.resources import as_file, files

from mixcpt.runs import Run
from mixcpt.workspace import Workspace, building, locked, now, write_json

EXPERIMENT = "recorded-first-experiment"
FILES = ("config.yaml", "run.json", "metrics.jsonl", "results.json")


def add(workspace: Workspace) -> list[Run]:
    """Put the recorded runs into the workspace, those that are not there yet; returns all of them, oldest first."""
    with (
        locked(workspace.experiments / f".{EXPERIMENT}.lock"),
        as_file(files("mixcpt.builtin") / "recorded") as shipped,
    ):
        names = sorted(folder.name for folder in shipped.iterdir() if folder.is_dir())
        for name in names:
            if not (workspace.runs / name).exists():
                with building(workspace.runs / name) as folder:
                    for file in FILES:
                        shutil.copy(shipped / name / file, folder / file)
        (workspace.experiments / EXPERIMENT).mkdir(exist_ok=True)
        write_json(workspace.experiments / EXPERIMENT / "recorded.json", {"added": now()})
    return [Run(workspace.runs / name) for name in names]


def add_once(workspace: Workspace) -> None:
    """`add` at the first start only: whoever deleted the recorded runs does not get them back unasked."""
    if not (workspace.experiments / EXPERIMENT / "recorded.json").exists():
        add(workspace)
