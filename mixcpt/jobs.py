"""Jobs on disk: what is to be done, and how it stands.

A job is a folder, jobs/<id>/:

    job.json      written once: kind, payload, run, what it waits for
    status.json   replaced atomically: state, message, progress, process
    log.txt       all that the worker prints (a file, never a pipe, so nobody has to drain it)
    heartbeat     touched by the worker every second
    request       "cancel" or "pause", the flag that the worker polls
    worker.lock   locked by the one worker of this job as long as it lives

Who may write status.json: a living worker its own, and else whoever holds jobs/.lock. Nothing more is needed for app
and command line to work side by side. `mixcpt.supervisor` starts the workers. What this gives up: priorities, and a
quick answer over tens of thousands of jobs.
"""

import contextlib
import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mixcpt.errors import BadInput, Damaged, NotFound
from mixcpt.stamps import Kept
from mixcpt.workspace import Workspace, building, locked, new_id, now, read_json, write_atomic, write_json

KINDS = ("doctor", "fetch", "prepare", "ingest", "probes", "train", "evaluate", "measure", "score", "export", "study")
ACCELERATOR_KINDS = {"train", "evaluate", "measure", "score"}
FINAL = {"done", "failed", "cancelled"}
MOVING = ("queued", "running")
"""States of a job, or of a run, that goes on by itself."""
LIVE = (*MOVING, "paused")
"""States from which it can still come to its end."""


@dataclass(frozen=True)
class Status:
    """How a job stands. `started` and `ended` belong to the present attempt; pid and process_started name a process."""

    state: str = "queued"  # queued running paused done failed cancelled
    message: str = ""
    pid: int | None = None
    process_started: float | None = None
    started: str | None = None
    ended: str | None = None
    progress: float | None = None
    attempt: int = 1
    bad_input: bool = False  # it failed by what the user gave, so trying again alone will not help


@dataclass(frozen=True)
class Job:
    """A view of a job's folder: the order as it was given, and the status as it is on disk at this moment."""

    id: str
    kind: str
    folder: Path
    run: str | None = None
    payload: dict[str, Any] = field(default_factory=dict)
    after: list[str] = field(default_factory=list)
    label: str = ""
    created: str = ""

    @classmethod
    def open(cls, folder: Path) -> "Job":
        """Raises Damaged when job.json does not hold an order."""
        return cls(**_known(cls, folder / "job.json"), folder=folder)

    @property
    def status(self) -> Status:
        """A status that cannot be read counts as failed and says why; `Jobs.requeue` then writes a new one."""
        try:
            return Status(**_known(Status, self.folder / "status.json"))
        except Damaged as problem:
            return Status(state="failed", message=str(problem))

    @property
    def state(self) -> str:
        return self.status.state

    @property
    def name(self) -> str:
        return self.label or self.id

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def heartbeat(self) -> Path:
        return self.folder / "heartbeat"

    @property
    def worker_lock(self) -> Path:
        return self.folder / "worker.lock"

    @property
    def request(self) -> Path:
        return self.folder / "request"

    def requested(self) -> str | None:
        """What the worker is asked for: "cancel", "pause" or None. Costs one failed `open` while nobody asks."""
        try:
            return self.request.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def update(self, **changes: Any) -> None:
        """Replace parts of the status; see the top of this file for who may."""
        write_json(self.folder / "status.json", asdict(replace(self.status, **changes)))

    def tail(self, lines: int = 100) -> list[str]:
        """The last non-empty lines of the log, at most 64 KB of it."""
        if not self.log.exists():
            return []
        with open(self.log, "rb") as file:
            file.seek(max(0, self.log.stat().st_size - 65_536))
            text = file.read().decode("utf-8", errors="replace")
        return [line for line in text.splitlines() if line.strip()][-lines:]


def _known(view: type[Job] | type[Status], path: Path) -> dict[str, Any]:
    """What this version knows of the values in a file: another version of mixcpt may have written more.

    Raises:
        Damaged: it holds no such values.
    """
    values = read_json(path)
    known = {field.name: field for field in fields(view)}
    needed = {"id", "kind"} if view is Job else {"state"}
    texts = {name for name, one in known.items() if one.type is str}
    if not isinstance(values, dict) or not needed <= values.keys():
        raise Damaged(f"{path} is damaged (it lacks what it should say): mend it, or move it away.")
    if wrong := sorted(name for name in texts & values.keys() if not isinstance(values[name], str)):
        raise Damaged(f"{path} is damaged ({wrong[0]} is no text): mend it, or move it away.")
    return {name: value for name, value in values.items() if name in known}


def find_id(wanted: str, ids: Sequence[str], what: str) -> str:
    """The one of `ids` that is `wanted` or begins with it.

    Raises:
        NotFound: none does, or several do; the message names the nearest.
    """
    if wanted in ids:
        return wanted
    fitting = [id for id in ids if wanted and id.startswith(wanted)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        some = ", ".join(fitting[:3]) + (", ..." if len(fitting) > 3 else "")
        raise NotFound(f"{wanted!r} fits {len(fitting)} {what}s ({some}): write more of the id.")
    near = difflib.get_close_matches(wanted, ids, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"`mixcpt {what}s` lists what is there."
    raise NotFound(f"There is no {what} {wanted!r}: {hint}")


def is_part_of_run(job: Job) -> bool:
    """Whether a run is not done without this job. Exports, measures that are taken anew, and questions that are asked
    later on (their payload says what to `ask`), only read a run that is done."""
    reads = job.kind in ("export", "measure") or (job.kind == "evaluate" and "ask" in job.payload)
    return job.run is not None and not reads


def telling(jobs: Iterable[tuple[Job, Status]]) -> tuple[Job, Status] | None:
    """Of the jobs of one run, oldest first, the one that tells how the run stands: the first, of the latest of each
    kind, that is not done; else the last. What is no part of the run does not count."""
    latest = {job.kind: (job, status) for job, status in jobs if is_part_of_run(job)}
    ordered = sorted(latest.values(), key=lambda look: look[0].created)
    return next((look for look in ordered if look[1].state != "done"), ordered[-1] if ordered else None)


_LOOKS: Kept[tuple[Job, Status]] = Kept()


def _look(folder: str) -> tuple[Job, Status] | None:
    def read() -> tuple[Job, Status]:
        job = Job.open(Path(folder))
        return job, job.status

    try:
        return _LOOKS.get(folder, [f"{folder}/status.json"], read)
    except (FileNotFoundError, NotADirectoryError, Damaged):  # no job, half copied, or deleted at this very moment
        return None


class Jobs:
    """The jobs of a workspace: submit, look up, and ask for an end."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.lock = workspace.jobs / ".lock"
        self._opened: dict[str, Job] = {}  # the orders never change, so each is read once

    def submit(
        self, kind: str, payload: dict[str, Any], *, run: str | None = None, after: Iterable[str] = (), label: str = ""
    ) -> Job:
        """Put a job into the queue; it starts when all jobs of `after` are done.

        Raises:
            BadInput: an unknown kind.
            NotFound: `after` names a job that is not there.
        """
        if kind not in KINDS:
            raise BadInput(f"The job kind {kind!r} is unknown: take one of {', '.join(KINDS)}.")
        order = {
            "id": new_id("job"),
            "kind": kind,
            "run": run,
            "payload": payload,
            "after": [self.get(id).id for id in after],
            "label": label,
            "created": datetime.now(UTC).isoformat(timespec="microseconds"),  # orders jobs of the same second too
        }
        folder = self.workspace.jobs / str(order["id"])
        with building(folder) as unfinished:
            write_json(unfinished / "job.json", order)
            write_json(unfinished / "status.json", asdict(Status()))
        return self.get(folder.name)

    def get(self, id: str) -> Job:
        """The job of this id or unique beginning of one; NotFound with near ids."""
        return self._open(find_id(id, self._ids(), "job"))

    def all(self) -> list[Job]:
        """Every job, oldest first."""
        found = []
        for id in self._ids():
            with contextlib.suppress(Damaged):  # one order that cannot be read must not stop the others
                found.append(self._open(id))
        return sorted(found, key=lambda job: job.created)

    def for_run(self, run_id: str) -> Job | None:
        """The job that tells how a run stands; see `telling`."""
        found = telling([(job, job.status) for job in self.all() if job.run == run_id])
        return found[0] if found else None

    def snapshot(self) -> list[tuple[Job, Status]]:
        """Every job and how it stands, oldest first, in one look at the disk that reads only what changed since the
        last one. A job that is deleted at this very moment is left out."""
        with os.scandir(self.workspace.jobs) as entries:
            looks = [_look(entry.path) for entry in entries if not entry.name.startswith(".")]
        return sorted((look for look in looks if look), key=lambda look: look[0].created)

    def request_cancel(self, job: Job) -> None:
        """A waiting job is cancelled at once, a running one is asked to end; a job that has ended stays as it is."""
        self._request(job, "cancel", "cancelled", "Cancelled before it started.")

    def request_pause(self, job: Job) -> None:
        """As `request_cancel`, but the job can go on from there with `requeue`."""
        self._request(job, "pause", "paused", "Paused before it started.")

    def requeue(self, job: Job) -> Job:
        """Put a failed, cancelled or paused job back into the queue, and those that failed only by waiting for it.

        Raises:
            BadInput: the job is in any other state.
        """
        with locked(self.lock):
            state = job.state
            if state not in ("failed", "cancelled", "paused"):
                raise BadInput(
                    f"{job.name} is {state}, and only a failed, cancelled or paused job can go on: "
                    + ("start a new one." if state == "done" else "wait for its end or cancel it.")
                )
            self._requeue(job)
        return job

    def rests(self, job: Job) -> bool:
        """Nothing will happen to this job by itself: it is final, paused, or waits for one that is paused."""
        state = job.state
        if state == "queued":
            return any(self.rests(self.get(id)) and self.get(id).state != "done" for id in job.after)
        return state != "running"

    def _ids(self) -> list[str]:
        """Folders that hold a job; whatever else lies there, such as a half-copied one, is passed over."""
        return [
            folder.name
            for folder in self.workspace.jobs.iterdir()
            if not folder.name.startswith(".")
            and all((folder / name).is_file() for name in ("job.json", "status.json"))
        ]

    def _open(self, id: str) -> Job:
        if id not in self._opened:
            self._opened[id] = Job.open(self.workspace.jobs / id)
        return self._opened[id]

    def _request(self, job: Job, request: str, state: str, message: str) -> None:
        with locked(self.lock):
            current = job.state
            if current == "running":
                write_atomic(job.request, request)
            elif current not in FINAL:
                job.update(state=state, message=message, ended=now())

    def _requeue(self, job: Job) -> None:
        job.request.unlink(missing_ok=True)
        status = Status(attempt=job.status.attempt + 1)
        write_json(job.folder / "status.json", asdict(status))
        for other in self.all():
            if job.id in other.after and other.state == "failed" and other.status.started is None:
                self._requeue(other)
