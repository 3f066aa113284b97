"""Every run in one line: how it stands and what it reached, in one pass over the workspace.

Made for lists that are drawn again and again: of a run that did not change since the last look, only the stamps of its
files are read, and of a run at work only the end of its metrics. One damaged folder does not hide the others.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from mixcpt import metrics, recorded
from mixcpt.config import MixtureConfig
from mixcpt.errors import MixcptError
from mixcpt.jobs import Job, Jobs, Status, telling
from mixcpt.palette import STAGE_NAMES, STAGE_WORDS
from mixcpt.runs import Run, state_without_jobs
from mixcpt.stamps import Kept
from mixcpt.workspace import Workspace

DAMAGED = "damaged"
"""State of a run whose files cannot be read."""
_FILES = ("run.json", "labels.json", "results.json", "metrics.jsonl", "started.json")


@dataclass(frozen=True)
class RunSummary:
    """Tokens are those read so far and those it may read, 0 where that is not known yet. Gain and forgetting are in
    bits per byte (see `mixcpt.compare`), the KL on general prompts in nats per token, all of them to the base; None
    before anything was measured. `retention` is empty for the stages after the first, which have none.

    `kind`, `message` and `progress` (0 to 1) are those of the job that tells how the run stands.
    """

    id: str
    name: str = ""
    title: str = ""
    experiment: str = ""
    arm: str = ""
    stage: str = ""
    parent: str | None = None
    seed: int = 0
    created: str = ""
    tags: tuple[str, ...] = ()
    model: str = ""
    retention: str = ""
    state: str = "new"
    kind: str = ""
    message: str = ""
    progress: float | None = None
    tokens: int = 0
    budget_tokens: int = 0
    domain_gain: float | None = None
    forgetting: float | None = None
    prompt_kl: float | None = None
    recorded: bool = False


_RUNS: Kept[RunSummary] = Kept()
_CONFIGS: Kept[dict[str, Any]] = Kept()


def overview(workspace: Workspace) -> list[RunSummary]:
    """Every run of the workspace, newest first."""
    jobs = _jobs_by_run(workspace)
    with os.scandir(workspace.runs) as entries:
        folders = [entry.path for entry in entries if not entry.name.startswith(".")]
    found = [_with_job(summary, jobs[summary.id]) for folder in folders if (summary := _look(folder))]
    return sorted(found, key=lambda run: run.id.partition("-")[2], reverse=True)  # after the stage comes the time


def summary(workspace: Workspace, id: str) -> RunSummary | None:
    """The one run of this very id; None when there is none."""
    found = _look(str(workspace.runs / Path(id).name))
    return _with_job(found, _jobs_by_run(workspace)[id]) if found else None


def _jobs_by_run(workspace: Workspace) -> dict[str, list[tuple[Job, Status]]]:
    jobs: dict[str, list[tuple[Job, Status]]] = defaultdict(list)
    for job, status in Jobs(workspace).snapshot():
        if job.run:
            jobs[job.run].append((job, status))
    return jobs


def _with_job(run: RunSummary, jobs: Sequence[tuple[Job, Status]]) -> RunSummary:
    found = telling(jobs)
    if not found or run.state == DAMAGED:
        return run
    job, status = found
    return replace(run, state=status.state, kind=job.kind, message=status.message, progress=status.progress)


def _look(folder: str) -> RunSummary | None:
    """None where there is no run, or none any more."""
    if not os.path.isfile(f"{folder}/run.json"):
        return None
    try:
        return _RUNS.get(folder, [f"{folder}/{name}" for name in _FILES], lambda: _read(Run(Path(folder))))
    except FileNotFoundError:  # deleted at this very moment
        return None
    except (MixcptError, yaml.YAMLError, ValueError, KeyError, TypeError) as problem:
        id = Path(folder).name
        return RunSummary(id=id, title=id, state=DAMAGED, message=f"Its files cannot be read: {problem}")


def _read(run: Run) -> RunSummary:
    info, labels, settings, results = run.info, run.labels, _settings(run), run.results()
    figures = _final_figures(results["training"]) if "training" in results else _figures_so_far(run)
    return RunSummary(
        id=run.id,
        name=labels.name,
        title=run.title,
        tags=labels.tags,
        state=state_without_jobs(results),
        experiment=info.experiment,
        arm=info.arm,
        stage=info.stage,
        parent=info.parent,
        seed=info.seed,
        created=info.created,
        recorded=info.experiment in recorded.EXPERIMENTS,
        **settings,
        **figures,
    )


def _settings(run: Run) -> dict[str, Any]:
    """The few settings that a list shows. They never change, and libyaml reads them forty times as fast as Python."""
    path = run.folder / "config.yaml"

    def read() -> dict[str, Any]:
        stage = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        model = stage["model"]["name"]
        if stage.get("stage", "cpt") != "cpt":
            return {"model": model}
        budget = MixtureConfig.model_validate(stage["mixture"]).total_tokens()
        return {"model": model, "retention": stage["objective"]["retention"], "budget_tokens": budget}

    settings = _CONFIGS.get(path, [str(path)], read)
    return settings if "budget_tokens" in settings else settings | {"budget_tokens": run.total_tokens or 0}


def _final_figures(training: dict[str, Any]) -> dict[str, Any]:
    return {"tokens": training["tokens"]} | _change(training["base"], training["final"])


def _figures_so_far(run: Run) -> dict[str, Any]:
    step = metrics.last(run.metrics, "loss")
    base, reached = metrics.first(run.metrics, "measure"), metrics.last(run.metrics, "measure")
    figures = _change(base["measure"], reached["measure"]) if base and reached else {}
    return {"tokens": step["tokens"] if step else 0} | figures


def _change(base: dict[str, float], reached: dict[str, float]) -> dict[str, float]:
    change = {}
    if "domain_bits_per_byte" in base:
        change["domain_gain"] = base["domain_bits_per_byte"] - reached["domain_bits_per_byte"]
    if "general_bits_per_byte" in base:
        change["forgetting"] = reached["general_bits_per_byte"] - base["general_bits_per_byte"]
    if "prompt_kl" in reached:
        change["prompt_kl"] = reached["prompt_kl"]
    return change


def matching(
    runs: Sequence[RunSummary],
    *,
    text: str = "",
    experiments: Sequence[str] = (),
    states: Sequence[str] = (),
    tags: Sequence[str] = (),
) -> list[RunSummary]:
    """The runs in whose words every word of `text` is found, whatever its case, and that are of one of `experiments`,
    in one of `states` and have all of `tags`; what is empty asks for nothing."""
    words = text.casefold().split()
    return [
        run
        for run in runs
        if all(word in _words(run) for word in words)
        and (not experiments or run.experiment in experiments)
        and (not states or run.state in states)
        and set(tags) <= set(run.tags)
    ]


def _words(run: RunSummary) -> str:
    stage = (run.stage, STAGE_NAMES.get(run.stage, ""), STAGE_WORDS.get(run.stage, ""))
    spoken = (run.id, run.title, run.experiment, run.arm, *stage, run.model, run.retention, run.state, *run.tags)
    return "\n".join(spoken).casefold()


def _figure(name: str, sign: int) -> Callable[[RunSummary], tuple[bool, float]]:
    """Runs without the figure come last."""

    def key(run: RunSummary) -> tuple[bool, float]:
        value = {"gain": run.domain_gain, "forgetting": run.forgetting, "kl": run.prompt_kl}[name]
        return value is None, sign * (value or 0.0)

    return key


ORDERS: dict[str, Callable[[RunSummary], Any] | None] = {
    "newest first": None,
    "largest gain first": _figure("gain", -1),
    "least forgotten first": _figure("forgetting", 1),
    "nearest to the base first": _figure("kl", 1),
    "most tokens first": lambda run: -run.tokens,
    "by name": lambda run: run.title.casefold(),
    "by experiment": lambda run: run.experiment,
}


def ordered(runs: Sequence[RunSummary], order: str) -> list[RunSummary]:
    """The runs, which come newest first, in one of `ORDERS`; an unknown order is the first."""
    key = ORDERS.get(order)
    return sorted(runs, key=key) if key else list(runs)
