"""Runs that were measured on figures worked out by hand, as `mixcpt.measuring` leaves them on disk."""

from collections.abc import Mapping, Sequence
from typing import Any

from made import made_child, made_run

from mixcpt.further import further_stage
from mixcpt.measured import PROMPTS, folder_of
from mixcpt.runs import Run, Runs
from mixcpt.workspace import Workspace, now, write_json

SIZES = (100.0, 300.0)
"""Bytes of the two documents of every text."""
BASE = {"a": 2.0, "b": 3.0, "c": 4.0, "builtin/general": 1.25}
AFTER = (
    {"a": 1.0, "b": 2.5, "c": 4.5, "builtin/general": 1.25},
    {"a": 0.5, "b": 1.0, "c": 3.5, "builtin/general": 1.5},
    {"a": 1.75, "b": 1.5, "c": 2.0, "builtin/general": 1.75},
)
"""Bits per byte after each of three corpora; every document has the same, so intervals have no width."""


def measured_run(
    run: Run, figures: Mapping[str, float], base: Mapping[str, float] = BASE, finished: str = "", **how: Any
) -> None:
    """Keeps bits per byte of each text as a measure of `run`."""
    for text, figure in figures.items():
        _keep(run, text, "bits", base[text], figure, finished, how)


def moved_run(run: Run, kl: float, finished: str = "", **how: Any) -> None:
    """Keeps a KL to the base on prompts as a measure of `run`, nats per token."""
    _keep(run, PROMPTS, "kl", 0.0, kl, finished, how)


def _keep(run: Run, text: str, measure: str, base: float, figure: float, finished: str, how: dict[str, Any]) -> None:
    folder_of(run).mkdir(exist_ok=True)
    name = text.replace("/", "-") if measure == "bits" else measure
    write_json(
        folder_of(run) / f"{name}.json",
        {
            "text": text,
            "measure": measure,
            "strength": 1.0,
            "tokens": 80,
            "documents": ["one", "two"],
            "sizes": list(SIZES),
            "base_values": [base * size for size in SIZES],
            "values": [figure * size for size in SIZES],
            "how": {"text": text, "limit": 5000} | how,
            "finished": finished or now(),
        },
    )


def chain_of(workspace: Workspace, fields: Sequence[str] = ("a", "b", "c"), then: str = "") -> list[Run]:
    """A chain of finished runs, one a corpus, and where `then` says so one of SFT; nothing is measured."""
    first = made_run(workspace, name=f"on {fields[0]}")
    chain = [_run(workspace, None, first, fields[0])]
    for field in fields[1:]:
        chain.append(_run(workspace, chain[-1].id, first, field))
    if then:
        chain.append(made_child(workspace, chain[-1], "sft", name="answers"))
    Runs(workspace).delete(first)
    return chain


def _run(workspace: Workspace, parent: str | None, like: Run, field: str) -> Run:
    made = further_stage(like, field)
    run = Runs(workspace).create(made, experiment="trial", name=f"on {field}", parent=parent)
    measure = {"domain_bits_per_byte": 1.0, "general_bits_per_byte": 1.0, "prompt_kl": 0.0}
    run.append({"step": 0, "tokens": 0, "measure": measure, "under": "base"})
    run.append({"step": 0, "tokens": 0, "measure": measure})
    run.write_results("training", {"tokens": 0, "base": measure, "final": measure, "finished": now(), "seconds": 1.0})
    run.adapter.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (run.adapter / name).write_bytes(b"{}")
    return run
