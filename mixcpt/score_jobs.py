"""Orders for the `score` job: what may be scored under what, checked before it waits in the queue, and how they stand.

An order that waits or runs already is not queued twice, whoever asks. What it gives up: a failed order that was put
aside is marked so in its job's folder (file `aside`), not deleted.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from mixcpt.builtin import KINDS, require_source
from mixcpt.config import ModelConfig
from mixcpt.corpus import Corpus, list_corpora
from mixcpt.errors import BadInput, Damaged
from mixcpt.jobs import LIVE, Job, Jobs, Status
from mixcpt.modelstore import BUILTIN_MODELS, find_folder, is_there
from mixcpt.overview import RunSummary, overview
from mixcpt.readings import FORMS, MAX_TOKENS, require_answers
from mixcpt.records import Kind
from mixcpt.runs import Run, Runs
from mixcpt.settings import Config, setting
from mixcpt.templates import NAMED, OWN, choose_template, template_of
from mixcpt.workspace import Workspace, locked, read_json

Form = Literal["template", "plain", "alone"]
STOPPED = ("failed", "cancelled")
NO_TEMPLATE = "none"
"""The name that asks for plain text only."""


class ScoreOrder(Config):
    """The payload of a `score` job: a source, and a run or (`run` is None) a base under which it is scored."""

    source: str = setting(
        "builtin/instructions",
        label="Source",
        level="basic",
        help="Whose samples are scored: instructions or preference pairs.",
    )
    run: str | None = setting(
        None, label="Run", level="basic", help="The run whose adapter is asked; empty asks the base."
    )
    model: ModelConfig | None = setting(None, label="Base", help="The base where no run is named.")
    template: str | None = setting(
        None,
        label="Chat template",
        level="basic",
        help="own, the name of a template, or none for plain text only; empty takes the adapter's or the model's own.",
    )
    what: list[Form] = setting(
        list(FORMS), label="Readings", help="In which forms an instruction sample is read; fewer are faster."
    )
    limit: int | None = setting(
        None,
        label="Samples at most",
        unit="samples",
        ge=1,
        help="Scores only so many, drawn by a fixed seed. Empty scores all.",
    )
    max_tokens: int = setting(
        MAX_TOKENS,
        label="Longest sample",
        unit="tokens",
        ge=16,
        le=131_072,
        help="Longer samples are left out and reported: half an answer has another score.",
    )
    beta: float = setting(0.1, label="Beta", gt=0, le=10, help="DPO's, for the held-out DPO loss of pairs under a run.")

    @model_validator(mode="after")
    def _gives_scores(self) -> Self:
        if not {"template", "plain"} & set(self.what):
            raise ValueError(
                f"what is {', '.join(self.what) or 'empty'}, which gives no score: add template, plain or both"
            )
        if self.run and self.model:
            raise ValueError("run and model are both given, but a run names its base already: leave model out")
        return self

    @property
    def under(self) -> str:
        """The run or the base model that is asked."""
        return self.run or (self.model or ModelConfig()).name


def sources(workspace: Workspace) -> dict[str, Kind]:
    """Every source that can be named, the built-in ones first, with its kind; documents cannot be scored."""
    own = {one.name: one.kind for one in list_corpora(workspace) if not one.name.startswith("builtin-")}
    return {**KINDS, **own}


def scorers(workspace: Workspace) -> list[RunSummary]:
    """The runs that can be asked, newest first: those with a finished adapter."""
    return [run for run in overview(workspace) if has_adapter(Run(workspace.runs / run.id))]


def bases(workspace: Workspace, local: Iterable[str] = ()) -> list[str]:
    """The base models that are here, the built-in ones first."""
    return [name for name in (*BUILTIN_MODELS, *local) if is_there(workspace, name)]


def has_adapter(run: Run) -> bool:
    return all((run.adapter / name).is_file() for name in ("adapter_model.safetensors", "adapter_config.json"))


def require_adapter(run: Run) -> None:
    """Raises BadInput when the run has no finished adapter."""
    if not has_adapter(run):
        raise BadInput(f"Run {run.id} has no finished adapter: wait for its end or resume it (`mixcpt resume`).")


def own_template(workspace: Workspace, order: ScoreOrder) -> str | None:
    """The Jinja that came with the adapter or the model; None where there is none, or the model is not here yet.

    Raises:
        NotFound: the run is gone.
    """
    folder, adapter = _folders(workspace, order)
    return None if folder is None else (template_of(adapter) if adapter else None) or template_of(folder)


def check(workspace: Workspace, order: ScoreOrder) -> None:
    """See that an order could be carried out.

    Raises:
        NotFound: the source or the run is not there. BadInput: the source holds documents, the run has no adapter, the
            template is unknown, or the model has none and no other was chosen.
    """
    require_answers(order.source, _kind(workspace, order.source))
    folder, adapter = _folders(workspace, order)
    if order.template not in (None, OWN, NO_TEMPLATE, *NAMED):
        raise BadInput(
            f"There is no chat template {order.template!r}: choose from {', '.join((OWN, *NAMED, NO_TEMPLATE))}."
        )
    if folder and order.template != NO_TEMPLATE and choose_template(folder, order.template, adapter) is None:
        raise BadInput(
            f"{order.under} has no chat template of its own: choose one of {', '.join(NAMED)}, or {NO_TEMPLATE} for "
            "plain text only."
        )


def submit(workspace: Workspace, order: ScoreOrder) -> Job:
    """Queue an order, unless the same one waits or runs already.

    Raises:
        BadInput: as `check`.
    """
    check(workspace, order)
    payload = order.model_dump(mode="json")
    with locked(_lock(workspace)):
        live = [job for job, status in _orders(workspace) if status.state in LIVE and job.payload == payload]
        return live[0] if live else Jobs(workspace).submit("score", payload, label=_label(workspace, order))


def under_way(workspace: Workspace) -> list[tuple[Job, Status]]:
    """Orders, oldest first, that wait or run, and those that stopped since and were neither given again nor put
    aside."""
    latest = {json.dumps(job.payload, sort_keys=True): (job, status) for job, status in _orders(workspace)}
    return [
        (job, status)
        for job, status in latest.values()
        if status.state in LIVE or (status.state in STOPPED and not _aside(job).exists())
    ]


def again(workspace: Workspace, job: Job) -> Job:
    """Try a stopped order again; what was scored is not scored twice. Raises BadInput when it is not stopped."""
    with locked(_lock(workspace)):
        if _aside(job).exists():
            raise BadInput(f"The scoring of {job.name} was discarded meanwhile: start it anew.")
        return Jobs(workspace).requeue(job)


def put_aside(workspace: Workspace, job: Job) -> None:
    """Do not show a stopped order any more. Raises BadInput when it goes on."""
    with locked(_lock(workspace)):
        if job.state not in STOPPED:
            raise BadInput(f"{job.name} is {job.state}: cancel it first.")
        _aside(job).touch()


def table_of(job: Job) -> str:
    """The id of the table that a finished order made. Raises Damaged where the job's folder does not tell it."""
    path = job.folder / "result.json"
    found: Any = read_json(path) if path.is_file() else None
    if not isinstance(found, dict) or not isinstance(found.get("scores"), str):
        raise Damaged(f"{path} does not say which scores were made: look for them with `mixcpt scores`.")
    return str(found["scores"])


def _folders(workspace: Workspace, order: ScoreOrder) -> tuple[Path | None, Path | None]:
    """Of the model, as far as it is here, and of the run's adapter."""
    if order.run is None:
        return find_folder(workspace, order.under), None
    run = Runs(workspace).get(order.run)
    require_adapter(run)
    return find_folder(workspace, run.config.model.name), run.adapter


def _kind(workspace: Workspace, source: str) -> Kind:
    require_source(workspace, source)
    return KINDS[source] if source in KINDS else Corpus.open(workspace, source).manifest.kind


def _label(workspace: Workspace, order: ScoreOrder) -> str:
    return f"{order.source} under {Runs(workspace).get(order.run).title if order.run else order.under}"


def _orders(workspace: Workspace) -> list[tuple[Job, Status]]:
    """A score job of a run belongs to that run's own story, and is none of these."""
    return [(job, status) for job, status in Jobs(workspace).snapshot() if job.kind == "score" and not job.run]


def _aside(job: Job) -> Path:
    return job.folder / "aside"


def _lock(workspace: Workspace) -> Path:
    return workspace.jobs / ".score.lock"
