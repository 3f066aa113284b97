"""Runs and corpora made without any training, for what only reads them: lists, charts, comparison and pages."""

import math
from pathlib import Path
from typing import Any, Literal

from streamlit.testing.v1 import AppTest

from mixcpt.drafts import default_stage
from mixcpt.jobs import Job, Jobs
from mixcpt.records import Message, Record
from mixcpt.runs import Run, Runs
from mixcpt.scores import ScoredSample, write_samples
from mixcpt.settings import override
from mixcpt.stages import Dpo, Sft, Stage, follow
from mixcpt.workspace import Workspace, now, write_json

MAIN = Path(__file__).parents[1] / "app" / "main.py"


def open_page(page: str, **query: str) -> AppTest:
    """The page of this name (home, corpora, mixture, launch, runs, compare, notebook), run once, with these
    query parameters in its address. Needs the fixture `studio`."""
    app = AppTest.from_file(MAIN, default_timeout=30).run()
    for name, value in query.items():
        app.query_params[name] = value
    return app if page == "home" and not query else app.switch_page(f"../pages/{page}.py").run()


def widget_of(app: AppTest, kind: str, key: str) -> Any:
    """The widget of this key, or the newest that took its place (`app.forms.bound`)."""
    return next(widget for widget in app.get(kind) if str(widget.key).partition("~")[0] == key)


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
    _make_jobs(workspace, run, state, message, done / steps)
    return run


def made_child(
    workspace: Workspace,
    parent: Run | None,
    kind: Literal["sft", "dpo"] = "sft",
    *,
    arm: str = "",
    name: str = "",
    state: str = "done",
    steps: int = 6,
    gain: float = -0.05,
    forgetting: float = 0.03,
    changes: dict[str, Any] | None = None,
    message: str = "",
) -> Run:
    """A run of stage two after `parent` (None: after the base), with its samples, in the parent's experiment and under
    its arm unless `arm` names another. Its curve begins with the base and the parent's end, and goes on from there by
    `gain` and `forgetting` bits per byte."""
    stage = follow(parent.config if parent else default_stage(), kind, changes)
    run = Runs(workspace).create(
        stage,
        experiment=parent.info.experiment if parent else "trial",
        arm=arm or (parent.info.arm if parent else ""),
        name=name,
        parent=parent.id if parent else None,
    )
    done = {"queued": 0, "done": steps}.get(state, steps // 2)
    if state != "queued":
        _write_samples(run, stage)
        before = parent.curve() if parent else []
        base = before[0]["measure"] if before else _BASE
        _write_child_metrics(run, done, steps, base, before[-1]["measure"] if before else base, gain, forgetting)
    if state == "done":
        _write_results(run, steps)
    _make_jobs(workspace, run, state, message, done / steps)
    return run


def made_chain(workspace: Workspace, **first: Any) -> tuple[Run, Run, Run]:
    """A finished run of the knowledge stage, SFT after it, and DPO after that."""
    cpt = made_run(workspace, **first)
    sft = made_child(workspace, cpt, "sft")
    return cpt, sft, made_child(workspace, sft, "dpo", gain=-0.02, forgetting=0.01)


def _make_jobs(workspace: Workspace, run: Run, state: str, message: str, progress: float) -> None:
    train = made_job(workspace, "train", state, run=run.id, message=message, progress=progress)
    made_job(workspace, "evaluate", "done" if state == "done" else "queued", run=run.id, after=[train.id])


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


_BASE = {"domain_bits_per_byte": 1.6, "general_bits_per_byte": 1.25, "prompt_kl": 0.0}
CHILD_STEP_TOKENS = 256


def _write_child_metrics(
    run: Run,
    done: int,
    steps: int,
    base: dict[str, float],
    start: dict[str, float],
    gain: float,
    forgetting: float,
) -> None:
    if run.info.parent:
        run.append({"step": 0, "tokens": 0, "seconds": 2.0, "measure": base | {"prompt_kl": 0.0}, "under": "base"})
    pair = run.info.stage == "dpo"
    for step in range(done + 1):
        share = step / steps
        tokens = CHILD_STEP_TOKENS * step
        if step:
            figures = {"margin": share, "accuracy": 0.5 + share / 2, "chosen_reward": share / 2,
                       "rejected_reward": -share / 2}  # fmt: skip
            run.append(
                {
                    "step": step,
                    "tokens": tokens,
                    "loss": 0.693 - 0.3 * share if pair else 2.0 - share,
                    **(figures if pair else {}),
                    "learning_rate": 2e-4 * (1 - share),
                    "seconds": 4.0,
                    "tokens_per_second": 64.0,
                    "memory_bytes": 2_100_000_000,
                }
            )
        if step % 2 == 0 or step == steps:
            measure = {
                "domain_bits_per_byte": start["domain_bits_per_byte"] - gain * share,
                "general_bits_per_byte": start["general_bits_per_byte"] + forgetting * share,
                "prompt_kl": start["prompt_kl"] + 0.05 * share,
            }
            run.append({"step": step, "tokens": tokens, "seconds": 2.0, "measure": measure})
    write_json(run.folder / "started.json", {"tokens": CHILD_STEP_TOKENS * steps})


def _write_samples(run: Run, stage: Sft) -> None:
    """Three samples, as `mixcpt.samples.keep` leaves them."""
    pairs = isinstance(stage, Dpo)
    records = [_pair(number) if pairs else _answer(number) for number in range(3)]
    write_samples(
        run.folder / "samples.jsonl",
        [
            ScoredSample(f"sample-{number}", record.to_json(), 40 + number, 12, {_score(stage): 1.5 + number})
            for number, record in enumerate(records)
        ],
    )
    facts: dict[str, Any] = {
        "selection": stage.samples.selection,
        "source": stage.samples.source,
        "kind": "preferences" if pairs else "instructions",
        "scored_under": run.info.parent,
        "rule": stage.samples.rule.words(),
        "candidates": 24,
        "kept_by_hand": 0,
        "discarded_by_hand": 0,
        "samples": 3,
        "tokens": 123,
        "learned_tokens": 36,
        "left_out": {},
        "template": "chatml",
        "fingerprint": "fedcba9876543210",
    }
    write_json(run.folder / "samples.json", facts)


def _score(stage: Sft) -> str:
    return stage.samples.rule.score or "loss_template"


def _answer(number: int) -> Record:
    turns = (Message("user", f"What is {number} and {number}?"), Message("assistant", f"It is {2 * number}."))
    return Record(kind="instructions", messages=turns, file="test", line=number)


def _pair(number: int) -> Record:
    question = (Message("user", f"What is {number} and {number}?"),)
    return Record(
        kind="preferences", messages=question, chosen=f"It is {2 * number}.", rejected="Who knows?", file="test"
    )


def _write_results(run: Run, steps: int) -> None:
    curve, losses = run.curve(), run.losses()
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
        "trainable_parameters": 4_884_480,
        "total_parameters": 139_400_000,
        "device": "cpu",
        "precision": "fp32",
    }
    if isinstance(run.config, Stage):
        training["mixture"] = _mixture(run, steps)
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


def _mixture(run: Run, steps: int) -> dict[str, Any]:
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
    return {
        "rows": 2 * steps,
        "tokens": run.losses()[-1]["tokens"],
        "fullness": 0.98,
        "sources": sources,
        "fingerprint": "0123456789abcdef",
    }
