"""Recorded experiments: real runs, shipped as small files, to explore at once.

    builtin/recorded/<experiment>/<run>/     what a run's folder holds, without its adapter, which is 40 MB
    builtin/recorded/<experiment>/*.json     what the experiment's folder holds, such as study.json

They were trained as docs/first-results.md and docs/experiments.md tell and copied here by `scripts/record.py`. In a
workspace they are runs like any others: listed, compared, cloned, deleted.
"""

import shutil
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

from mixcpt.runs import Run
from mixcpt.workspace import Workspace, building, locked, now, write_json

EXPERIMENT = "recorded-first-experiment"
"""Six ways of training, one seed each (recipes/first-experiment.yaml)."""
STUDY = "recorded-ways-to-remember"
"""The study `retention` on the fictional atlas, three seeds."""
EXPERIMENTS = (EXPERIMENT, STUDY)
FILES = ("config.yaml", "run.json", "metrics.jsonl", "results.json", "measured")
"""Of a run's folder; `measured` is a folder that not every run has, of which the losses token by token stay behind."""


def add(workspace: Workspace, experiment: str = EXPERIMENT) -> list[Run]:
    """Put the runs of a recorded experiment into the workspace, those that are not there yet; returns all of them,
    oldest first."""
    home = workspace.experiments / experiment
    with (
        locked(workspace.experiments / f".{experiment}.lock"),
        as_file(files("mixcpt.builtin") / "recorded" / experiment) as shipped,
    ):
        home.mkdir(exist_ok=True)
        names = sorted(folder.name for folder in shipped.iterdir() if folder.is_dir())
        for name in names:
            if not (workspace.runs / name).exists():
                with building(workspace.runs / name) as folder:
                    copy(shipped / name, folder, FILES)
        copy(shipped, home, [path.name for path in shipped.glob("*.json")])
        write_json(home / "recorded.json", {"added": now()})
    return [Run(workspace.runs / name) for name in names]


def copy(origin: Path, target: Path, names: Sequence[str]) -> None:
    """Copy those of these files and folders that are there."""
    for name in names:
        if (origin / name).is_dir():
            shutil.copytree(origin / name, target / name, ignore=shutil.ignore_patterns("*.npz"), dirs_exist_ok=True)
        elif (origin / name).exists():
            shutil.copy(origin / name, target / name)


def add_once(workspace: Workspace) -> None:
    """`add` all of them, at the first start only: whoever deleted recorded runs does not get them back unasked."""
    for experiment in EXPERIMENTS:
        if not (workspace.experiments / experiment / "recorded.json").exists():
            add(workspace, experiment)
