"""The run store: a root folder and few verbs. Everything about a run lies in its folder, so it outlives any process.

    config.yaml     the resolved stage, enough to do the run again
    run.json        id, stage, experiment, arm, parent, recipe, seed, created, and the name it was given then
    labels.json     name and tags as they are now, once somebody changed them
    metrics.jsonl   append-only, one record a line
    results.json    one section per part of the work, for example training and evaluation
    checkpoints/    checkpoint-N, complete once complete.json lies in it
    adapter/        the finished adapter

A run has no state of its own: how it stands is told by its jobs. What this gives up: queries; `mixcpt.overview` lists
hundreds of runs quickly.
"""

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mixcpt import metrics
from mixcpt.errors import BadInput, Damaged, NotFound
from mixcpt.jobs import LIVE, MOVING, Job, Jobs, find_id
from mixcpt.lineage import continuing
from mixcpt.settings import to_yaml
from mixcpt.stages import AnyStage, Stage, stage_from_yaml
from mixcpt.stamps import Kept
from mixcpt.workspace import Workspace, building, check_name, locked, new_id, now, read_json, write_atomic, write_json

Record = metrics.Record

NAME_LENGTH, TAG_LENGTH, TAGS = 80, 30, 12
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class RunInfo:
    """Where a run comes from. `parent` is a run id, or None when it starts from the base model; `name` is the one it
    began with, `Run.labels` has the present one."""

    id: str
    stage: str
    experiment: str
    arm: str
    parent: str | None
    recipe: str
    seed: int
    created: str
    name: str


@dataclass(frozen=True)
class Labels:
    """What a user calls a run; it may change at any time and does nothing."""

    name: str = ""
    tags: tuple[str, ...] = ()


def check_labels(name: str, tags: Iterable[str]) -> Labels:
    """The labels without outer spaces, empty tags and repetitions; markup and any script are fine.

    Raises:
        BadInput: too long, too many, or a character that cannot be seen.
    """
    name, tags = name.strip(), tuple(dict.fromkeys(tag.strip() for tag in tags if tag.strip()))
    if len(name) > NAME_LENGTH:
        raise BadInput(f"The name has {len(name)} characters: use at most {NAME_LENGTH}.")
    if len(tags) > TAGS:
        raise BadInput(f"These are {len(tags)} tags: use at most {TAGS}.")
    for tag in tags:
        if len(tag) > TAG_LENGTH:
            raise BadInput(f"The tag {tag!r} has {len(tag)} characters: use at most {TAG_LENGTH}.")
    for text in (name, *tags):
        if _INVISIBLE.search(text):
            raise BadInput(f"{text!r} holds a line end or another character that cannot be seen: remove it.")
    return Labels(name, tags)


_CONFIGS: Kept[AnyStage] = Kept()


class Run:
    """A view of a run's folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.id = folder.name

    @cached_property
    def info(self) -> RunInfo:
        path = self.folder / "run.json"
        try:
            return RunInfo(**read_json(path))
        except TypeError as error:  # other keys than a run's
            raise _damaged(path, error) from None

    @property
    def config(self) -> AnyStage:
        path = self.folder / "config.yaml"
        return _CONFIGS.get(path, [str(path)], lambda: stage_from_yaml(path))

    @property
    def total_tokens(self) -> int | None:
        """Tokens that it reads in all, repetitions counted; None of stage two before its samples are chosen."""
        stage = self.config
        if isinstance(stage, Stage):
            return stage.mixture.total_tokens()
        started = self.folder / "started.json"
        return int(read_json(started)["tokens"]) if started.exists() else None

    @property
    def labels(self) -> Labels:
        path = self.folder / "labels.json"
        if not path.exists():
            return Labels(self.info.name)
        kept = read_json(path)
        try:
            return Labels(kept["name"], tuple(kept["tags"]))
        except (KeyError, TypeError) as error:
            raise _damaged(path, error) from None

    def relabel(self, name: str | None = None, tags: Iterable[str] | None = None) -> Labels:
        """Change the name, the tags or both; what is None stays.

        Raises:
            BadInput: a label cannot be used. NotFound: the run was deleted meanwhile.
        """
        if not self.folder.exists():
            raise NotFound(f"Run {self.id} was deleted meanwhile, so it keeps its old name.")
        with locked(self.folder / ".lock"):
            before = self.labels
            labels = check_labels(before.name if name is None else name, before.tags if tags is None else tags)
            if labels != before:
                write_json(self.folder / "labels.json", asdict(labels))
        return labels

    @property
    def title(self) -> str:
        """What to call it on a page: its name, else its arm, else its id."""
        return self.labels.name or self.info.arm or self.id

    @property
    def parent(self) -> "Run | None":
        """The run that this one continues; None when it starts from the base.

        Raises:
            NotFound: it was deleted.
        """
        if not (id := self.info.parent):
            return None
        folder = self.folder.parent / id
        if not (folder / "run.json").is_file():
            raise NotFound(f"Run {self.id} continues {id}, which is gone, so what was read before it is not known.")
        return Run(folder)

    def chain(self) -> list["Run"]:
        """The runs that led to this one, from the first stage on, this one last. Raises NotFound as `parent`."""
        parent = self.parent
        return [*(parent.chain() if parent else ()), self]

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    def require_adapter(self) -> Path:
        """The folder of the finished adapter.

        Raises:
            BadInput: there is none yet.
        """
        if not all((self.adapter / name).is_file() for name in ("adapter_model.safetensors", "adapter_config.json")):
            raise BadInput(f"Run {self.id} has no finished adapter: wait for its end or resume it (`mixcpt resume`).")
        return self.adapter

    @property
    def is_trained(self) -> bool:
        """Whether its training came to its end."""
        return (self.folder / "results.json").exists() and "training" in self.results()

    def append(self, record: Record) -> None:
        """Add one record to the metrics. A line that a killed worker left half-written is cut off first."""
        metrics.append(self.metrics, record)

    def read_metrics(self) -> list[Record]:
        """The records that count: those that a resume cancelled are left out. Cheap to ask again and again, for only
        what is new is read; so the records are shared and must not be changed.

        Raises:
            BadFile: a line is damaged.
        """
        return metrics.read(self.metrics)

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
        if not isinstance(results, dict) or not all(isinstance(section, dict) for section in results.values()):
            raise _damaged(path, "it holds no sections")
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
        """The state of the job that tells how this run stands. Without a job it is "done" when it has been trained (it
        was recorded, or copied here), else "new"."""
        job = jobs.for_run(self.id)
        return job.state if job else state_without_jobs(self.results())


def state_without_jobs(results: dict[str, Any]) -> str:
    return "done" if "training" in results else "new"


def _damaged(path: Path, why: object) -> Damaged:
    return Damaged(f"{path} is damaged ({why}): mend it, or move it away.")


def _parent(run: Run) -> str | None:
    """The run that this one continues; a damaged run continues none, so that it keeps no other from being deleted."""
    try:
        return run.info.parent
    except Damaged:
        return None


class Runs:
    """The runs of a workspace."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace

    def create(
        self,
        stage: AnyStage,
        *,
        experiment: str,
        arm: str = "",
        parent: str | None = None,
        recipe: str = "",
        name: str = "",
        tags: Iterable[str] = (),
    ) -> Run:
        """A new run of `stage` that continues `parent`; nothing is started. Its config.yaml names the reference of DPO:
        the parent's id, or "base".

        Raises:
            BadInput: the experiment's name cannot be a folder, a label cannot be used, or the stage cannot continue
                that parent.
            NotFound: there is no such parent.
        """
        check_name(experiment, "experiment name")
        labels = check_labels(name, tags)
        before = self.get(parent) if parent is not None else None
        stage = continuing(stage, before)
        info = RunInfo(
            id=new_id(stage.stage),
            stage=stage.stage,
            experiment=experiment,
            arm=arm,
            parent=before.id if before else None,
            recipe=recipe,
            seed=stage.training.seed,
            created=now(),
            name=labels.name,
        )
        folder = self.workspace.runs / info.id
        with building(folder) as unfinished:
            write_atomic(unfinished / "config.yaml", to_yaml(stage))
            write_json(unfinished / "run.json", asdict(info))
            if labels.tags:
                write_json(unfinished / "labels.json", asdict(labels))
        return Run(folder)

    def get(self, id: str) -> Run:
        """The run of this id or unique beginning of one; NotFound with near ids."""
        return Run(self.workspace.runs / find_id(id, self._ids(), "run"))

    def lineage(self, run: Run) -> list[Run]:
        """The chain that ends with `run`, from the first stage on; a run that continues none is alone.

        Raises:
            NotFound: a run of the chain was deleted.
        """
        return run.chain()

    def all(self) -> list[Run]:
        """Every run, oldest first."""
        return [Run(self.workspace.runs / id) for id in self._ids()]

    def delete(self, run: Run) -> None:
        """Remove a run, all that was trained in it, and its jobs.

        Raises:
            BadInput: it is being worked at, or another run continues from it.
        """
        jobs = Jobs(self.workspace)
        with locked(jobs.lock):  # so that no supervisor starts one of its jobs meanwhile
            mine = [job for job in jobs.all() if job.run == run.id]
            state = "running" if any(job.state == "running" for job in mine) else run.state(jobs)
            if state in MOVING:
                raise BadInput(f"Run {run.id} is {state}: cancel it with mixcpt cancel {run.id} before it is deleted.")
            children = [other.id for other in self.all() if _parent(other) == run.id]
            if children:
                raise BadInput(f"Run {run.id} is the parent of {', '.join(children)}: delete that first.")
            hidden = [_hide(folder) for folder in (*(job.folder for job in mine), run.folder)]
        for folder in hidden:
            shutil.rmtree(folder)

    def cancel(self, run: Run) -> list[Job]:
        """Ask every job of the run that has not ended to end; returns them, the last to start first.

        Raises:
            BadInput: there is nothing to cancel.
        """
        jobs = Jobs(self.workspace)
        active = [job for job in jobs.all() if job.run == run.id and job.state in LIVE]
        if not active:
            raise BadInput(f"Run {run.id} is {run.state(jobs)}, so there is nothing to cancel.")
        for job in reversed(active):  # those that wait first, so that none starts meanwhile
            jobs.request_cancel(job)
        return active[::-1]

    def pause(self, run: Run) -> Job:
        """Ask the job at which the run stands to stop after its present step; `mixcpt.submission.resume` goes on.

        Raises:
            BadInput: it is neither running nor waiting.
        """
        jobs = Jobs(self.workspace)
        job = jobs.for_run(run.id)
        if job is None or job.state not in MOVING:
            raise BadInput(f"Run {run.id} is {run.state(jobs)}, so there is nothing to pause.")
        jobs.request_pause(job)
        return job

    def _ids(self) -> list[str]:
        """Folders that hold a run. Ids carry the stage first, so they are sorted by what follows: the time."""
        names = [
            folder.name
            for folder in self.workspace.runs.iterdir()
            if not folder.name.startswith(".") and (folder / "run.json").is_file()
        ]
        return sorted(names, key=lambda name: name.partition("-")[2])


def _hide(folder: Path) -> Path:
    """Gone at once for every reader, however long the removal takes."""
    hidden = folder.with_name(f".deleted-{folder.name}")
    os.replace(folder, hidden)
    return hidden
