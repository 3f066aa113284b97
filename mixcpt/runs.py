"""The run store: a root folder and few verbs. Everything about a run lies in its folder, so it outlives any process.

    config.yaml     the resolved stage, enough to do the run again
    run.json        id, stage, experiment, arm, parent, recipe, seed, created, name
    metrics.jsonl   append-only, one record a line
    results.json    one section per part of the work, for example training and evaluation
    checkpoints/    checkpoint-N, complete once complete.json lies in it
    adapter/        the finished adapter

A run has no state of its own: how it stands is told by its jobs. What this gives up: queries. The whole of a run's
metrics is read each time, which is right for thousands of records and would be wrong for millions.
"""

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mixcpt import config
from mixcpt.errors import BadFile, BadInput
from mixcpt.jobs import Jobs, find_id
from mixcpt.workspace import Workspace, building, check_name, locked, new_id, now, read_json, write_atomic, write_json

Record = dict[str, Any]


@dataclass(frozen=True)
class RunInfo:
    """Where a run comes from. `parent` is a run id, or None when it starts from the base model."""

    id: str
    stage: str
    experiment: str
    arm: str
    parent: str | None
    recipe: str
    seed: int
    created: str
    name: str


class Run:
    """A view of a run's folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.id = folder.name

    @cached_property
    def info(self) -> RunInfo:
        return RunInfo(**read_json(self.folder / "run.json"))

    @cached_property
    def config(self) -> config.Stage:
        return config.from_yaml(config.Stage, self.folder / "config.yaml")

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    def append(self, record: Record) -> None:
        """Add one record to the metrics. A line that a killed worker left half-written is cut off first."""
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        with open(self.metrics, "ab+") as file:
            _cut_torn_line(file.fileno())
            file.write(line.encode())

    def read_metrics(self) -> list[Record]:
        """The records that count. A line counts once its newline is there, and {"event": "resume", "step": k} cancels
        the earlier records beyond step k, which the resumed run does again; with step -1, all of them."""
        records: list[Record] = []
        for record in self._lines():
            if record.get("event") == "resume":
                records = [earlier for earlier in records if earlier.get("step", 0) <= record["step"]]
            records.append(record)
        return records

    def curve(self) -> list[Record]:
        """The forgetting curve: the records that hold a "measure"."""
        return [record for record in self.read_metrics() if "measure" in record]

    def losses(self) -> list[Record]:
        """The training records: those that hold a "loss" and are no measure."""
        return [record for record in self.read_metrics() if "loss" in record and "measure" not in record]

    def write_results(self, section: str, values: dict[str, Any]) -> None:
        """Replace one section of results.json and leave the others."""
        with locked(self.folder / ".lock"):
            write_json(self.folder / "results.json", {**self.results(), section: values})

    def results(self) -> dict[str, Any]:
        """Section to values; empty before the first."""
        path = self.folder / "results.json"
        results: dict[str, Any] = read_json(path) if path.exists() else {}
        return results

    def checkpoints(self) -> list[Path]:
        """The complete checkpoints, first to last."""
        steps = {
            int(number[1]): folder
            for folder in (self.folder / "checkpoints").glob("checkpoint-*")
            if (number := re.fullmatch(r"checkpoint-(\d+)", folder.name)) and (folder / "complete.json").is_file()
        }
        return [steps[step] for step in sorted(steps)]

    def state(self, jobs: Jobs) -> str:
        """The state of the job that tells how this run stands; "new" before it has one."""
        job = jobs.for_run(self.id)
        return job.state if job else "new"

    def _lines(self) -> list[Record]:
        if not self.metrics.exists():
            return []
        *lines, _torn = self.metrics.read_bytes().split(b"\n")
        return [self._record(number, line) for number, line in enumerate(lines, 1)]

    def _record(self, number: int, line: bytes) -> Record:
        try:
            record: Record = json.loads(line)
        except ValueError:
            raise BadFile(f"Line {number} of {self.metrics} is not JSON: remove that line, it was damaged.") from None
        return record


class Runs:
    """The runs of a workspace."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace

    def create(
        self,
        stage: config.Stage,
        *,
        experiment: str,
        arm: str = "",
        parent: str | None = None,
        recipe: str = "",
        name: str = "",
    ) -> Run:
        """A new run of `stage`; nothing is started.

        Raises:
            BadInput: the experiment's name cannot be a folder.
            NotFound: there is no such parent.
        """
        check_name(experiment, "experiment name")
        info = RunInfo(
            id=new_id(stage.stage),
            stage=stage.stage,
            experiment=experiment,
            arm=arm,
            parent=self.get(parent).id if parent is not None else None,
            recipe=recipe,
            seed=stage.training.seed,
            created=now(),
            name=name,
        )
        folder = self.workspace.runs / info.id
        with building(folder) as unfinished:
            write_atomic(unfinished / "config.yaml", config.to_yaml(stage))
            write_json(unfinished / "run.json", asdict(info))
        return Run(folder)

    def get(self, id: str) -> Run:
        """The run of this id or unique beginning of one; NotFound with near ids."""
        return Run(self.workspace.runs / find_id(id, self._ids(), "run"))

    def all(self) -> list[Run]:
        """Every run, oldest first."""
        return [Run(self.workspace.runs / id) for id in self._ids()]

    def delete(self, run: Run) -> None:
        """Remove a run and all that was trained in it.

        Raises:
            BadInput: it is being worked at, or another run continues from it.
        """
        state = run.state(Jobs(self.workspace))
        if state in ("queued", "running"):
            raise BadInput(f"Run {run.id} is {state}: cancel it with mixcpt cancel {run.id} before it is deleted.")
        children = [other.id for other in self.all() if other.info.parent == run.id]
        if children:
            raise BadInput(f"Run {run.id} is the parent of {', '.join(children)}: delete that first.")
        hidden = run.folder.with_name(f".deleted-{run.id}")
        os.replace(run.folder, hidden)  # gone at once for every reader, however long the removal takes
        shutil.rmtree(hidden)

    def _ids(self) -> list[str]:
        """Folders that hold a run. Ids carry the stage first, so they are sorted by what follows: the time."""
        names = [
            folder.name
            for folder in self.workspace.runs.iterdir()
            if not folder.name.startswith(".") and (folder / "run.json").is_file()
        ]
        return sorted(names, key=lambda name: name.partition("-")[2])


def _cut_torn_line(file: int) -> None:
    size = os.fstat(file).st_size
    if size == 0 or os.pread(file, 1, size - 1) == b"\n":
        return
    whole = os.pread(file, size, 0).rfind(b"\n") + 1
    os.ftruncate(file, whole)
