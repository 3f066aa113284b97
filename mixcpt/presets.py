"""Named choices for the form: how long to train, what to aim at, how to hold the model; and words for every option.

A preset is a handful of dotted changes. Which preset a stage has is seen from the stage itself, so nothing else has to
be kept.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mixcpt.scores import SCORES
from mixcpt.settings import Config
from mixcpt.stages import Stage

OWN = "Own"
"""What the form shows where no preset fits."""


@dataclass(frozen=True)
class Preset:
    """`changes` are dotted settings of a stage; `words` say in a sentence what they are good for."""

    name: str
    words: str
    changes: dict[str, Any]


def _budget(
    name: str, words: str, *, tokens: int, every: int, general: int, prompts: int, weight: float, items: int | None
) -> Preset:
    """Longer runs are measured less often but more exactly, and are asked more questions."""
    changes = {
        "mixture.budget_tokens": tokens,
        "objective.retention_weight": weight,
        "measures.every_steps": every,
        "measures.domain_tokens": 400,
        "measures.general_tokens": general,
        "measures.prompt_tokens": prompts,
        "evaluation.items": items,
    }
    return Preset(name, words, changes)


BUDGETS = (
    _budget(
        "Taste",
        "4,000 tokens: see once how everything works. Little is learned.",
        tokens=4_000,
        every=5,
        general=400,
        prompts=300,
        weight=1.0,
        items=24,
    ),
    _budget(
        "Quick",
        "12,000 tokens: the style of the field is learned, not its facts.",
        tokens=12_000,
        every=20,
        general=800,
        prompts=500,
        weight=1.0,
        items=100,
    ),
    _budget(
        "Standard",
        "48,000 tokens, retention at half weight: the facts of a small field are learned.",
        tokens=48_000,
        every=60,
        general=1500,
        prompts=1000,
        weight=0.5,
        items=None,
    ),
    _budget(
        "Long",
        "100,000 tokens, retention at half weight: for a larger corpus of your own.",
        tokens=100_000,
        every=100,
        general=1500,
        prompts=1000,
        weight=0.5,
        items=None,
    ),
)
"""Quick and Standard are those of recipes/."""

OBJECTIVES = (
    Preset(
        "Learn and remember",
        "CE + LSSD: learn the text (cross-entropy), while the frozen original, with its top guess swapped for the "
        "right token, holds the model near its old self. The method of the Mix-CPT paper; with our mixture it forgot "
        "nothing (docs/experiments.md).",
        {"objective.retention": "lssd", "objective.ce_weight": 1.0},
    ),
    Preset(
        "Plain training",
        "CE alone: learn the text, nothing holds the model back. The simplest, and it forgets the most.",
        {"objective.retention": "none", "objective.ce_weight": 1.0},
    ),
    Preset(
        "Learn, stay close",
        "CE + KL: learn the text, while every prediction is pulled towards the original's, wrong ones too.",
        {"objective.retention": "kl", "objective.ce_weight": 1.0},
    ),
    Preset(
        "Learn here, hold there",
        "MoL: the field is learned by cross-entropy alone; general text is not learned but holds the model, by the "
        "reverse KL to the original. It needs both in the mixture. On the atlas it learned nearly as much as plain "
        "training and forgot a sixth as much (docs/experiments.md).",
        {"objective.retention": "mol", "objective.ce_weight": 1.0},
    ),
    Preset(
        "LSSD alone",
        "No cross-entropy: learn only by the swapped original. The gentlest, and it learns the least.",
        {"objective.retention": "lssd", "objective.ce_weight": 0.0},
    ),
)

ADAPTERS = (
    Preset(
        "Automatic",
        "QLoRA on a GPU; on a processor LoRA in whichever numbers this machine computes faster.",
        {"model.precision": "auto"},
    ),
    Preset("QLoRA, 4 bits", "The frozen base in 4 bits (nf4): the least memory.", {"model.precision": "nf4"}),
    Preset("LoRA, 16 bits", "The frozen base in 16 bits (bf16): half the memory of fp32.", {"model.precision": "bf16"}),
    Preset("LoRA, 32 bits", "The frozen base in 32 bits (fp32): exact, the most memory.", {"model.precision": "fp32"}),
)

OPTIONS: dict[str, dict[str, str]] = {
    "stage": {
        "cpt": "continual pre-training",
        "sft": "fine-tuning on answers (SFT)",
        "dpo": "training on preferences (DPO)",
    },
    "model.precision": {
        "auto": "automatic",
        "nf4": "4 bits (QLoRA)",
        "bf16": "16 bits (LoRA)",
        "fp32": "32 bits (LoRA)",
    },
    "model.device": {"auto": "automatic", "cuda": "GPU", "cpu": "processor (CPU)"},
    "mixture.template": {
        "none": "none, plain text",
        "own": "the model's own",
        "chatml": "ChatML",
        "llama3": "Llama 3",
        "zephyr": "Zephyr",
        "alpaca": "Alpaca",
        "question-answer": "Question / Answer",
    },
    "mixture.preference_text": {"chosen": "the chosen answer", "both": "both answers"},
    "objective.retention": {
        "none": "nothing",
        "kl": "KL to the original",
        "lssd": "LSSD (logit swap)",
        "mol": "MoL (general text only)",
    },
    "objective.against": {"base": "the base", "parent": "the run it continues"},
    "adapter.layers": {"all-linear": "all linear layers", "attention": "attention only", "feed-forward": "MLP only"},
    "training.schedule": {"constant": "constant", "linear": "falls in a line", "cosine": "falls as a cosine"},
    "samples.rule.strategy": {
        "easiest": "the easiest",
        "hardest": "the hardest",
        "random": "by chance",
        "all": "all of them",
        "by-hand": "only by hand",
    },
    "samples.rule.score": {name: score.label for name, score in SCORES.items()},
    "template": {
        "auto": "the parent's, else the model's own",
        "own": "the model's own",
        "chatml": "ChatML",
        "llama3": "Llama 3",
        "zephyr": "Zephyr",
        "alpaca": "Alpaca",
        "question-answer": "Question / Answer",
    },
    "measures.on": {"heldout": "the held-out part", "validation": "a tenth of the training part"},
}
"""Readable words for the options of every choice, by dotted setting."""


def value_words(path: str, value: Any) -> str:
    """The value of a dotted setting in the words of the form."""
    if value is None or value == [] or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(_source_words(one) if isinstance(one, dict) else str(one) for one in value)
    text = str(value)
    return OPTIONS.get(path, {}).get(text, text if text.isprintable() and text.strip() == text else json.dumps(text))


def _source_words(source: dict[str, Any]) -> str:
    return f"{source['source']} {source['share']:g}{' (the field)' if source['domain'] else ''}"


def fitting(stage: Stage, presets: Sequence[Preset]) -> Preset | None:
    """The preset whose every change the stage has already; None when it is the user's own."""
    return next((preset for preset in presets if changed(stage, preset) == {}), None)


def changed(stage: Stage, preset: Preset) -> dict[str, Any]:
    """What a preset would change of the stage."""
    return {path: value for path, value in preset.changes.items() if value_at(stage, path) != value}


def value_at(config: Config, path: str) -> Any:
    """The value of a dotted setting; a list is entered by number, as in "mixture.sources.0.share"."""
    data: Any = config.model_dump()
    for name in path.split("."):
        data = data[int(name)] if isinstance(data, list) else data[name]
    return data
