"""One training run as a whole, as its folder keeps it: `Stage` (continual pre-training), `Sft` and `Dpo`, made of the
parts in `config` and `optimisation`. A chain of stages is a `mixcpt.recipe.Recipe`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import model_validator

from mixcpt.config import (
    AdapterConfig,
    EvaluationConfig,
    MeasureConfig,
    MixtureConfig,
    ModelConfig,
    SampleConfig,
    TemplateName,
)
from mixcpt.errors import BadConfig
from mixcpt.optimisation import ObjectiveConfig, PreferenceConfig, SampleTraining, TrainingConfig
from mixcpt.selection import Rule
from mixcpt.settings import Config, load_yaml, override, setting, validate


class SourceFactors(NamedTuple):
    """What the weights of cross-entropy and of retention are multiplied by on the tokens of one source."""

    ce: float
    retention: float


class Stage(Config):
    """One training run as a whole: what its folder keeps as config.yaml, and all that is needed to do it again."""

    stage: Literal["cpt"] = setting("cpt", label="Stage", help="cpt: continual pre-training.")
    model: ModelConfig = setting(ModelConfig(), label="Model", help="The frozen base.")
    mixture: MixtureConfig = setting(label="Mixture", help="What is read.")
    objective: ObjectiveConfig = setting(ObjectiveConfig(), label="Objective", help="What is minimised.")
    adapter: AdapterConfig = setting(AdapterConfig(), label="Adapter", help="What is trained.")
    training: TrainingConfig = setting(TrainingConfig(), label="Training", help="How it is trained.")
    measures: MeasureConfig = setting(MeasureConfig(), label="Measures", help="What is measured on the way.")
    evaluation: EvaluationConfig = setting(EvaluationConfig(), label="Evaluation", help="What is asked at the end.")

    @model_validator(mode="after")
    def _learnable(self) -> Self:
        objective, mixture = self.objective, self.mixture
        if objective.retention == "mol":
            kinds = {source.domain for source in mixture.sources if source.share > 0}
            if True not in kinds:
                raise ValueError(
                    "objective.retention is 'mol', but no source with a share is marked domain: true: mark the field, "
                    "which it learns by cross-entropy, or choose lssd"
                )
            if False not in kinds:
                raise ValueError(
                    "objective.retention is 'mol', but every source with a share is marked domain: true: add a general "
                    "source, on which it holds the model, or choose lssd"
                )
        held = objective.retention_weight if objective.needs_teacher else 0.0
        if not any(objective.ce_weight * ce or held * retention for ce, retention in self.factors().values()):
            raise ValueError(
                "the weights of the sources leave nothing to train on: give one a weight above 0 in mixture.sources"
            )
        return self

    def factors(self) -> dict[str, SourceFactors]:
        """By name of a source with a share; MoL learns the field without holding it and holds the others."""
        mol = self.objective.retention == "mol"
        return {
            source.source: SourceFactors(
                0.0 if mol and not source.domain else source.weight,
                0.0 if mol and source.domain else source.weight * source.retention_weight,
            )
            for source in self.mixture.sources
            if source.share > 0
        }

    @property
    def uses_teacher_cache(self) -> bool:
        """What the run before says is not kept: nobody else would ask it the same."""
        return self.training.teacher_cache and self.objective.needs_teacher and not self.objective.needs_run

    def with_seed(self, seed: int | None) -> "Stage":
        """The same stage under another seed, of both the mixture and the training; None changes nothing."""
        if seed is None:
            return self
        return override(self, {"mixture.seed": seed, "training.seed": seed})


class Sft(Config):
    """Supervised fine-tuning on chosen answers: one run as a whole, as its folder keeps it."""

    stage: Literal["sft"] = setting("sft", label="Stage", help="sft: supervised fine-tuning.")
    model: ModelConfig = setting(ModelConfig(), label="Model", help="The frozen base: that of the parent.")
    samples: SampleConfig = setting(
        SampleConfig(rule=Rule(strategy="easiest", score="perplexity_template", count=64)),
        label="Samples",
        help="What is learned from.",
    )
    template: TemplateName = setting(
        "auto",
        label="Chat template",
        level="basic",
        help="How questions and answers are set out. auto: the one saved with the parent, else the model's own. A base "
        "model brings none: choose one by name; it is saved with the adapter.",
    )
    mixture: MixtureConfig = setting(
        label="Mixture of the knowledge stage", help="Nothing of it is read here: it names the field that is measured."
    )
    adapter: AdapterConfig = setting(
        AdapterConfig(), label="Adapter", help="The parent's, which is trained on; made anew without a parent."
    )
    training: SampleTraining = setting(SampleTraining(), label="Training", help="How it is trained.")
    measures: MeasureConfig = setting(MeasureConfig(), label="Measures", help="What is measured on the way.")
    evaluation: EvaluationConfig = setting(EvaluationConfig(), label="Evaluation", help="What is asked at the end.")

    def with_seed(self, seed: int | None) -> Self:
        """The same stage under another seed: of the choice by chance, the mixture and the training."""
        if seed is None:
            return self
        return override(self, {"samples.rule.seed": seed, "mixture.seed": seed, "training.seed": seed})


class Dpo(Sft):
    """Direct preference optimisation on chosen pairs: one run as a whole."""

    stage: Literal["dpo"] = setting("dpo", label="Stage", help="dpo: direct preference optimisation.")  # type: ignore[assignment]
    samples: SampleConfig = setting(
        SampleConfig(source="builtin/preferences", rule=Rule(strategy="easiest", score="margin", count=64)),
        label="Samples",
        help="The pairs that are learned from.",
    )
    training: SampleTraining = setting(SampleTraining(learning_rate=5e-5), label="Training", help="How it is trained.")
    preference: PreferenceConfig = setting(
        PreferenceConfig(), label="Preference", help="What is told besides the pairs."
    )


AnyStage = Stage | Sft | Dpo
STAGES: dict[str, type[Stage] | type[Sft] | type[Dpo]] = {"cpt": Stage, "sft": Sft, "dpo": Dpo}


def read_stage(data: Any, origin: str) -> AnyStage:
    """Settings as the stage that they say they are; without a word of it, continual pre-training.

    Raises:
        BadConfig: another stage, an unknown key or a contradiction.
    """
    name = data.get("stage", "cpt") if isinstance(data, dict) else "cpt"
    if name not in STAGES:
        raise BadConfig(f"In {origin}: 'stage' is {name!r}, but there are {', '.join(STAGES)}.")
    return validate(STAGES[name], data, origin)


def stage_from_yaml(path: Path) -> AnyStage:
    """The stage that `to_yaml` wrote. Raises as `from_yaml`."""
    return read_stage(load_yaml(path), str(path))


def follow(before: AnyStage, stage: Literal["sft", "dpo"], changes: dict[str, Any] | None = None) -> Sft:
    """The stage that comes after `before`: same model, adapter, measures and questions, and what `changes` says
    (nested or dotted settings).

    Raises:
        BadConfig: an unknown setting or a contradiction.
    """
    kept = {"model", "mixture", "adapter", "measures", "evaluation"}
    plain = {name: value for name, value in before.model_dump().items() if name in kept}
    if isinstance(before, Sft):
        plain["template"] = before.template
    return amend(validate(Dpo if stage == "dpo" else Sft, plain | {"stage": stage}, "the stage before"), changes or {})


def amend(stage: Sft, changes: dict[str, Any]) -> Sft:
    """The stage with what `changes` say (nested or dotted settings). A rule has one end: where a budget or a threshold
    is given, or all are taken, the number of samples that ended it goes.

    Raises:
        BadConfig: an unknown setting or a contradiction.
    """
    flat = dict(dotted(changes, stage.model_dump()))
    others = any(flat.get(f"samples.rule.{end}") is not None for end in ("tokens", "threshold"))
    if others or flat.get("samples.rule.strategy") == "all":
        flat = {"samples.rule.count": None} | flat
    return override(stage, flat)


def dotted(changes: dict[str, Any], known: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as dotted ones, as deep as the config goes."""
    for name, value in changes.items():
        below = known
        for part in name.split("."):
            below = below.get(part) if isinstance(below, dict) else None
        if isinstance(value, dict) and isinstance(below, dict):
            yield from dotted(value, below, f"{prefix}{name}.")
        else:
            yield prefix + name, value
