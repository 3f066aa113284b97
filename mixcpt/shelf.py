"""The shelf of corpora: put one on it by a job, see what is on its way, who names one, and take one off.

At most one ingest job for a name waits or runs at a time, whoever asks. What it gives up: a failed ingest that was put
aside is marked so in its job's folder (file `aside`), not deleted.
"""

import json
import re
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mixcpt import uploads
from mixcpt.corpus import Corpus, corpus_names
from mixcpt.errors import BadCorpus, BadInput
from mixcpt.jobs import LIVE, Job, Jobs, Status
from mixcpt.recipe import CorpusSpec
from mixcpt.recipes import submit_ingest
from mixcpt.settings import validate
from mixcpt.workspace import Workspace, check_name, locked

STOPPED = ("failed", "cancelled")


def add(workspace: Workspace, spec: CorpusSpec, model: str, replace: bool = False) -> Job:
    """Queue the making of a corpus, counted by the tokenizer of `model`; files are absolute paths.

    Raises:
        BadCorpus: a corpus of that name is there and not to be replaced, or one is being made.
    """
    with locked(workspace.corpora / ".shelf.lock"):
        check_free(workspace, spec.name, replace)
        return submit_ingest(workspace, spec, workspace.root, model, replace)


def add_uploads(
    workspace: Workspace, options: dict[str, object], files: Iterable[tuple[str, BinaryIO]], model: str, replace: bool
) -> Job:
    """Keep uploaded files on disk, then `add` the corpus made of them; `options` are a CorpusSpec without files.

    Raises:
        MixcptError: as `uploads.keep` and `add`; no file stays behind then.
    """
    name = check_name(str(options["name"]), "corpus name")
    validate(CorpusSpec, options | {"files": ["uploads"]}, "the form")
    check_free(workspace, name, replace)
    folder = uploads.keep(workspace, name, files)
    try:
        return add(workspace, spec_of(options | {"files": [str(folder)]}), model, replace)
    except BaseException:
        shutil.rmtree(folder)
        raise


def spec_of(options: dict[str, object]) -> CorpusSpec:
    """Raises BadConfig with one sentence when the options contradict each other."""
    return validate(CorpusSpec, options, "the form")


def check_free(workspace: Workspace, name: str, replace: bool) -> None:
    """Raises BadCorpus when `name` is taken (and not to be replaced) or being made; BadInput when it is no name."""
    if check_name(name, "corpus name") in corpus_names(workspace) and not replace:
        raise BadCorpus(f"There is a corpus {name!r} already: choose another name, or replace it.")
    if any(job.label == name and status.state in LIVE for job, status in _ingests(workspace)):
        raise BadCorpus(f"The corpus {name!r} is being made already: wait for it, or cancel it first.")


def under_way(workspace: Workspace) -> list[tuple[Job, Status]]:
    """Ingest jobs, oldest first, that wait or run, and those that stopped since and were neither tried again nor put
    aside."""
    latest = {job.label: (job, status) for job, status in _ingests(workspace)}
    return [
        (job, status)
        for job, status in latest.values()
        if status.state in LIVE or (status.state in STOPPED and not _aside(job).exists())
    ]


def again(workspace: Workspace, job: Job) -> Job:
    """Try a stopped ingest again. Raises BadInput when it is not stopped, or another for its name is on its way."""
    with locked(workspace.corpora / ".shelf.lock"):
        if _aside(job).exists():
            raise BadInput(f"The making of {job.name} was discarded meanwhile: add the corpus again.")
        check_free(workspace, job.label, bool(job.payload.get("replace")))
        return Jobs(workspace).requeue(job)


def put_aside(workspace: Workspace, job: Job) -> None:
    """Do not show a stopped ingest any more, and delete what was uploaded for it. Raises BadInput when it goes on."""
    with locked(workspace.corpora / ".shelf.lock"):
        if job.state not in STOPPED:
            raise BadInput(f"{job.name} is {job.state}: cancel it first.")
        uploads.discard(workspace, job.payload.get("files", []))
        _aside(job).touch()


def suggest_name(title: str, taken: Collection[str] = ()) -> str:
    """A corpus name made of a file's, folder's or data set's, numbered when it is taken; empty for an empty title."""
    stem = re.split(r"[/\\]", title.rstrip("/\\"))[-1]
    stem = re.sub(r"(?<=.)(\.[a-z0-9]{1,7}){1,2}$", "", stem.lower())
    name = re.sub(r"[^a-z0-9._-]+", "-", stem).strip("._-")[:56].rstrip("._-")
    if not name:
        return "corpus" if title.strip() else ""
    number = 1
    while (found := f"{name}-{number}" if number > 1 else name) in taken:
        number += 1
    return found


def parse_where(text: str) -> dict[str, str]:
    """Lines of `field = value` as a filter. Raises BadInput for a line that is something else."""
    where = {}
    for line in filter(str.strip, text.splitlines()):
        field, equals, value = line.partition("=")
        if not equals or not field.strip():
            raise BadInput(f"The filter line {line.strip()!r} cannot be read: write field = value, say split = train.")
        where[field.strip()] = value.strip()
    return where


@dataclass(frozen=True)
class Users:
    """Ids of the runs and drafts that name a corpus, and of those runs that wait or are at work."""

    runs: list[str]
    drafts: list[str]
    busy: list[str]


def users(workspace: Workspace, name: str) -> Users:
    """Who names a corpus. Files are looked through as text, for 200 runs are many to parse."""
    in_yaml = re.compile(rf"(?:source|general): ['\"]?{re.escape(name)}['\"]?\s*$", re.MULTILINE)
    in_json = re.compile(rf'"(?:source|general)": {re.escape(json.dumps(name))}')
    runs = [path.parent.name for path in workspace.runs.glob("[!.]*/config.yaml") if in_yaml.search(_text(path))]
    drafts = [path.stem for path in (workspace.root / "drafts").glob("[!.]*.json") if in_json.search(_text(path))]
    working = {job.run for job, status in Jobs(workspace).snapshot() if status.state in LIVE}
    return Users(sorted(runs), sorted(drafts), sorted(set(runs) & working))


def delete(workspace: Workspace, name: str) -> None:
    """Delete a corpus and what was uploaded for it.

    Raises:
        BadCorpus: it is being made anew, or a run that waits or works needs it. NotFound: it is not there.
    """
    with locked(workspace.corpora / ".shelf.lock"):
        folder = Corpus.open(workspace, name).folder
        check_free(workspace, name, replace=True)
        if busy := users(workspace, name).busy:
            raise BadCorpus(
                f"The corpus {name!r} is needed by the run {busy[0]}: wait for its end, or cancel it first."
            )
        shutil.rmtree(folder)
        uploads.remove(workspace, name)


def _ingests(workspace: Workspace) -> list[tuple[Job, Status]]:
    return [(job, status) for job, status in Jobs(workspace).snapshot() if job.kind == "ingest"]


def _aside(job: Job) -> Path:
    return job.folder / "aside"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
