"""Runs and corpora made without any training, for what only reads them: lists, charts, comparison and pages."""

import math
from pathlib import Path
from typing import Any

from streamlit.testing.v1 import AppTest

from mixcpt.config import Stage, override
from mixcpt.drafts import default_stage
from mixcpt.jobs import Job, Jobs
from mixcpt.runs import Run, Runs
from mixcpt.workspace import Workspace, now

MAIN = Path(__file__).parents[1] / "app" / "main.py"


def open_page(page: str, **query: str) -> AppTest:
    """The page of this name (home, corpora, mixture, launch, runs, compare, notebook), run once, with these
    query parameters in its address. Needs the fixture `studio`."""
    app = AppTest.from_file(MAIN, default_timeout=30).run()
    for name, value in query.items():
        app.query_params[name] = value
    return app if page == "home" and not query else app.switch_page(f"../pages/{page}.py").run()


def texts(app: AppTest) -> str:
    """All that a page says in words, joined: for looking for a sentence wherever it stands."""
    kinds = "title header subheader markdown caption text code error warning info success"
    elements: list[Any] = [element for kind in kinds.split() for element in app.get(kind)]
    return "\n".join(str(element.value) for element in elements)


def stage_of(**changes: Any) -> Stage:
    """The default stage with dotted changes, written with "__" for the dot."""
    return override(default_stage(), {name.replace("__", "."): value for name, value in changes.items()})


def made_run(
    workspace: Workspace,
    *,
    experiment: str = "trial",
    arm: str = "mixture, CE + LSSD",
    name: str = "",
    seed: int = 0,
    state: str = "done",
    steps: int = 10,
    gain: float = 0.4,
    forgetting: float = 0.1,
    stage: Stage | None = None,
    message: str = "",
) -> Run:
    """A run whose curve falls by `gain` and rises by `forgetting` bits per byte, with its jobs in `state`.

    A queued run has no metrics; any other that is not done stopped half-way.
    """
    run = Runs(workspace).create((stage or default_stage()).with_seed(seed), experiment=experiment, arm=arm, name=name)
    done = {"queued": 0, "done": steps}.get(state, steps // 2)
    if state != "queued":
        _write_metrics(run, done, steps, gain, forgetting)
    if state == "done":
        _write_results(run, steps)
    train = made_job(workspace, "train", state, run=run.id, message=message, progress=done / steps)
    made_job(workspace, "evaluate", "done" if state == "done" else "queued", run=run.id, after=[train.id])
    return run


def made_job(
    workspace: Workspace,
    kind: str,
    state: str,
    *,
    run: str | None = None,
    after: list[str] | None = None,
    payload: dict[str, Any] | None = None,
    label: str = "",
    message: str = "",
    progress: float | None = None,
) -> Job:
    job = Jobs(workspace).submit(kind, payload or {}, run=run, after=after or [], label=label)
    if state != "queued":
        ended = None if state == "running" else now()
        job.update(state=state, message=message, progress=progress, started=now(), ended=ended)
        job.log.write_text(f"{kind} began\n{message}\n", encoding="utf-8")
    return job


def _write_metrics(run: Run, done: int, steps: int, gain: float, forgetting: float) -> None:
    for step in range(done + 1):
        share = 1 - math.exp(-3 * step / steps)
        if step:
            run.append(
                {
                    "step": step,
                    "tokens": 1024 * step,
                    "loss": 3.0 - share,
                    "ce": 2.6 - share,
                    "retention": 0.4 * share,
                    "learning_rate": 1e-3 * (1 - step / (steps + 1)),
                    "seconds": 8.0,
                    "tokens_per_second": 128.0,
                    "memory_bytes": 2_000_000_000,
                }
            )
        if step % 2 == 0 or step == steps:
            measure = {
                "domain_bits_per_byte": 1.6 - gain * share,
                "general_bits_per_byte": 1.25 + forgetting * share,
                "prompt_kl": 0.5 * share,
            }
            run.append({"step": step, "tokens": 1024 * step, "seconds": 2.0, "measure": measure})


def _write_results(run: Run, steps: int) -> None:
    curve, losses = run.curve(), run.losses()
    sources = [
        {
            "source": source.source,
            "kind": "documents",
            "domain": source.domain,
            "requested_share": source.share / 100,
            "realised_share": source.share / 100,
            "tokens": round(10.24 * source.share * steps),
            "available_tokens": 3000,
            "documents": 20,
            "available_documents": 40,
            "epochs": 10.24 * source.share * steps / 3000,
        }
        for source in run.config.mixture.sources
    ]
    training = {
        "finished": now(),
        "steps": steps,
        "tokens": losses[-1]["tokens"],
        "seconds": 100.0,
        "tokens_per_second": 128.0,
        "measure_share": 0.2,
        "peak_memory_bytes": 2_000_000_000,
        "base": curve[0]["measure"],
        "final": curve[-1]["measure"],
        "mixture": {
            "rows": 2 * steps,
            "tokens": losses[-1]["tokens"],
            "fullness": 0.98,
            "sources": sources,
            "fingerprint": "0123456789abcdef",
        },
        "trainable_parameters": 4_884_480,
        "total_parameters": 139_400_000,
        "device": "cpu",
        "precision": "fp32",
    }
    run.write_results("training", training)
    score = {"items": 48, "chance": 0.25, "majority": 0.3}
    evaluation = {
        "base": {"general": score | {"accuracy": 0.9, "interval": [0.8, 0.96]}},
        "final": {"general": score | {"accuracy": 0.85, "interval": [0.74, 0.92]}},
        "gain": {"general": {"difference": -0.05, "interval": [-0.12, 0.02]}},
    }
    run.write_results("evaluation", evaluation)
    run.adapter.mkdir()
    (run.adapter / "adapter_model.safetensors").write_bytes(b"\0" * 8)
