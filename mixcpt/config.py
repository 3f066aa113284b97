"""What a user can set: one pydantic model per part, and one per stage that holds them: `Stage` (continual
pre-training), `Sft` and `Dpo`. A chain of stages is a `mixcpt.recipe.Recipe`.

The form in the app, the command line's YAML and the run folder's `config.yaml` are all made from these models. Every
field says what it is for, its unit, its group and its level; unknown keys are refused by name. Derived numbers are
methods here, so nobody computes them twice.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import field_validator, model_validator

from mixcpt.errors import BadConfig
from mixcpt.selection import Rule
from mixcpt.settings import Config as Config
from mixcpt.settings import load_yaml, setting
from mixcpt.settings import override as override
from mixcpt.settings import parse_change as parse_change
from mixcpt.settings import to_yaml as to_yaml
from mixcpt.settings import validate as validate


class SourceShare(Config):
    """One source of a mixture and how much of it."""

    source: str = setting(
        label="Source",
        level="basic",
        help="A corpus by name, or a built-in one: builtin/atlas, builtin/replay, builtin/instructions, "
        "builtin/preferences.",
    )
    share: float = setting(
        label="Share",
        unit="of the tokens",
        level="basic",
        ge=0,
        help="How much of the mixture's tokens comes from this source. Shares are relative: 3 and 1 mean 75 % and "
        "25 %.",
    )
    domain: bool = setting(
        False,
        label="This is my field",
        level="basic",
        help="Marks the documents of the field to be learned: their held-out part is the domain measure.",
    )


class MixtureConfig(Config):
    """What the model reads: sources, their shares in tokens, and how rows are packed."""

    sources: list[SourceShare] = setting(label="Sources", level="basic", help="What is mixed.", min_length=1)
    budget_tokens: int = setting(
        16_000,
        label="Training tokens",
        unit="tokens",
        level="basic",
        ge=64,
        help="How many tokens the model reads in all, repetitions counted. More learns more and takes longer.",
    )
    row_tokens: int = setting(
        512,
        label="Row length",
        unit="tokens",
        ge=16,
        le=131_072,
        help="Documents are packed into rows of this length; longer documents are cut into pieces.",
    )
    domain_tokens_only: bool = setting(
        False,
        label="Budget counts the domain only",
        help="When on, the token budget counts only the sources marked as the field, and the other sources are added "
        "on top in proportion: for comparing mixtures at equal domain tokens.",
    )
    preference_text: Literal["chosen", "both"] = setting(
        "chosen",
        label="Text of a preference pair",
        help="A pair becomes plain text as its chosen answer only (our reading of the paper), or as both answers.",
    )
    joiner: str = setting(
        "\n\n",
        label="Between question and answer",
        help="What stands between query and answer once chat templates are removed.",
    )
    domain_documents: int | None = setting(
        None,
        label="Use only so many domain documents",
        unit="documents",
        ge=1,
        help="Takes the first N documents of each domain source (in seeded order): a narrow corpus on purpose.",
    )
    seed: int = setting(0, label="Mixture seed", ge=0, help="Same seed and sources give the same rows, in order.")

    @model_validator(mode="after")
    def _shares(self) -> Self:
        total = sum(source.share for source in self.sources)
        if total <= 0:
            raise ValueError("the shares of sources sum to 0: give at least one source a share above 0")
        names = [source.source for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"sources names {twice[0]!r} twice: give it one entry with the summed share")
        if self.domain_tokens_only and not any(s.domain and s.share > 0 for s in self.sources):
            raise ValueError("domain_tokens_only is on, but no source with a share is marked domain: true")
        return self

    def total_tokens(self) -> int:
        """Tokens the model reads in all; more than the budget when the budget counts the domain only."""
        if not self.domain_tokens_only:
            return self.budget_tokens
        domain = sum(source.share for source in self.sources if source.domain)
        return round(self.budget_tokens * sum(source.share for source in self.sources) / domain)

    def target_tokens(self) -> dict[str, int]:
        """Requested tokens of each source with a share above zero."""
        total = sum(source.share for source in self.sources)
        return {s.source: round(self.total_tokens() * s.share / total) for s in self.sources if s.share > 0}

    def domain_sources(self) -> list[str]:
        return [source.source for source in self.sources if source.domain]


class ModelConfig(Config):
    """Which model, and in which numbers it is held."""

    name: str = setting(
        "smollm2-135m",
        label="Model",
        level="basic",
        min_length=1,
        help="smollm2-135m (built in), gemma-3-270m (fetched after its terms are accepted), a local folder, or the id "
        "of a causal language model on the Hugging Face hub.",
    )
    precision: Literal["auto", "nf4", "bf16", "fp32"] = setting(
        "auto",
        label="Precision",
        level="basic",
        help="How the frozen base is held. nf4: 4 bits (QLoRA); auto: nf4 on a GPU, on a CPU whichever of bf16 and "
        "fp32 this machine computes faster (`mixcpt doctor` times them).",
    )
    device: Literal["auto", "cuda", "cpu"] = setting(
        "auto", label="Device", help="auto takes the GPU when there is one."
    )


class AdapterConfig(Config):
    """The low-rank adapter (LoRA): the only weights that are trained."""

    rank: int = setting(
        16, label="LoRA rank", ge=1, le=1024, help="Width of the adapter: more can learn more and needs more memory."
    )
    alpha: float = setting(
        32.0,
        label="LoRA alpha",
        gt=0,
        help="Scale of the adapter: its effect is alpha / rank (alpha / sqrt(rank) with rsLoRA).",
    )
    dropout: float = setting(0.0, label="LoRA dropout", ge=0, lt=1, help="Share of adapter inputs dropped in training.")
    rslora: bool = setting(
        False,
        label="Rank-stabilised scaling",
        help="Scale by 1/sqrt(rank) instead of 1/rank (rsLoRA); steadier at high ranks.",
    )
    layers: Literal["all-linear", "attention", "feed-forward"] = setting(
        "all-linear", label="Adapted layers", help="Which linear layers carry the adapter. The head never does."
    )


class ObjectiveConfig(Config):
    """What is minimised: ce_weight * cross-entropy + retention_weight * the retention term."""

    retention: Literal["none", "kl", "lssd"] = setting(
        "lssd",
        label="Retention",
        level="basic",
        help="What holds the model near its old self. lssd: Logit Swap Self-Distillation, the frozen original teaches, "
        "with its top logit swapped for the right token's; kl: the same without the swap; none: plain training.",
    )
    ce_weight: float = setting(
        1.0,
        label="Weight of cross-entropy",
        ge=0,
        help="Weight of learning the text itself. 0 trains on retention alone.",
    )
    retention_weight: float = setting(
        1.0,
        label="Weight of retention",
        ge=0,
        help="Weight of staying close to the teacher. The paper does not print it; 1 is ours.",
    )
    temperature: float = setting(
        1.0,
        label="Temperature",
        gt=0,
        le=100,
        help="Softens teacher and student alike before they are compared; the term is scaled by its square.",
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.ce_weight == 0 and (self.retention == "none" or self.retention_weight == 0):
            raise ValueError(
                f"ce_weight is 0 and retention is {self.retention!r} with weight {self.retention_weight:g}, so there "
                "is nothing to train on: raise ce_weight, or choose retention lssd with a weight above 0"
            )
        return self

    @property
    def needs_teacher(self) -> bool:
        return self.retention != "none" and self.retention_weight > 0


class OptimiserConfig(Config):
    """How steps are made, in every stage."""

    learning_rate: float = setting(
        1e-3,
        label="Learning rate",
        level="basic",
        gt=0,
        le=1,
        help="Size of each step. Higher learns faster and forgets more; 1e-4 to 2e-3 is usual for small adapters.",
    )
    schedule: Literal["constant", "linear", "cosine"] = setting(
        "cosine", label="Learning-rate schedule", help="How the learning rate falls after warm-up."
    )
    warmup: float = setting(
        0.05, label="Warm-up", unit="of the steps", ge=0, le=0.9, help="Share of steps in which the rate rises."
    )
    weight_decay: float = setting(0.0, label="Weight decay", ge=0, le=1, help="Pull of the adapter towards zero.")
    max_gradient_norm: float = setting(
        1.0, label="Gradient clipping", gt=0, help="Longer gradients are shortened to this length."
    )
    checkpoint_activations: bool = setting(
        False,
        label="Save memory",
        help="Recompute activations instead of keeping them: about a third slower, far less memory.",
    )
    checkpoint_steps: int = setting(
        20,
        label="Checkpoint every",
        unit="steps",
        ge=1,
        help="How often the state is saved, so that a stopped run can go on.",
    )
    seed: int = setting(0, label="Training seed", ge=0, help="Seed of the adapter's initial weights and of dropout.")


class TrainingConfig(OptimiserConfig):
    """How the adapter is trained on the mixture."""

    rows_per_step: int = setting(
        2, label="Rows per step", unit="rows", ge=1, le=4096, help="Rows whose gradient makes one step."
    )
    rows_at_once: int = setting(
        2,
        label="Rows at once",
        unit="rows",
        ge=1,
        help="Rows held in memory together; the rest of a step is accumulated. Must divide rows per step.",
    )
    loss_chunk: int = setting(
        128,
        label="Loss chunk",
        unit="tokens",
        ge=1,
        help="Tokens whose logits are held at once while the loss is computed.",
    )

    @model_validator(mode="after")
    def _accumulation(self) -> Self:
        require_divisor("rows_at_once", self.rows_at_once, "rows_per_step", self.rows_per_step)
        return self

    @property
    def accumulation(self) -> int:
        return self.rows_per_step // self.rows_at_once


class SampleTraining(OptimiserConfig):
    """How the adapter is trained on samples."""

    learning_rate: float = setting(
        2e-4,
        label="Learning rate",
        level="basic",
        gt=0,
        le=1,
        help="Size of each step. The format is learned by small steps; DPO wants smaller ones than SFT.",
    )
    warmup: float = setting(
        0.1, label="Warm-up", unit="of the steps", ge=0, le=0.9, help="Share of steps in which the rate rises."
    )
    epochs: int = setting(
        1, label="Times through", level="basic", ge=1, le=1000, help="How often every sample is read, in a new order."
    )
    samples_per_step: int = setting(
        4, label="Samples per step", unit="samples", ge=1, le=4096, help="Samples whose gradient makes one step."
    )
    samples_at_once: int = setting(
        1,
        label="Samples at once",
        unit="samples",
        ge=1,
        help="Samples held in memory together; the rest of a step is accumulated. Must divide samples per step.",
    )

    @model_validator(mode="after")
    def _accumulation(self) -> Self:
        require_divisor("samples_at_once", self.samples_at_once, "samples_per_step", self.samples_per_step)
        return self

    @property
    def accumulation(self) -> int:
        return self.samples_per_step // self.samples_at_once


def require_divisor(part: str, at_once: int, whole: str, per_step: int) -> None:
    """Raises ValueError where a step cannot be made of whole parts."""
    if per_step % at_once:
        raise ValueError(
            f"{part} {at_once} does not divide {whole} {per_step}: take {part} from 1 to {whole} so that it does, "
            "for example 1"
        )


class MeasureConfig(Config):
    """The measures taken during training: the forgetting curve."""

    every_steps: int = setting(
        10,
        label="Measure every",
        unit="steps",
        ge=0,
        help="How often the curve gets a point; 0 measures only at start and end.",
    )
    domain_tokens: int = setting(
        1500,
        label="Domain text per measure",
        unit="tokens",
        ge=0,
        help="Held-out text of the field that is read each time.",
    )
    general_tokens: int = setting(
        1500,
        label="General text per measure",
        unit="tokens",
        ge=0,
        help="Held-out general text that is read each time.",
    )
    prompt_tokens: int = setting(
        1000,
        label="General prompts per measure",
        unit="tokens",
        ge=0,
        help="General instructions on which the distance to the base (KL) is taken.",
    )
    general: str = setting(
        "builtin/general", label="General text", help="The corpus whose held-out part stands for general ability."
    )
    on: Literal["heldout", "validation"] = setting(
        "heldout",
        label="Domain measured on",
        help="heldout: the held-out part. validation: a tenth of the training documents, kept out of this run, for "
        "tuning settings without looking at the held-out part.",
    )


class EvaluationConfig(Config):
    """What is asked of the base and of the finished run, by lm-eval."""

    tasks: list[str] = setting(
        ["general"],
        label="Question sets",
        help="general (built-in four-choice questions), atlas (the fictional domain: recall and two-step), the path of "
        "a JSONL file with your own questions, or lm-eval:NAME for one of lm-eval's tasks, such as lm-eval:arc_easy, "
        "whose questions come from the Hugging Face hub.",
    )
    items: int | None = setting(
        None,
        label="Items per set",
        unit="questions",
        ge=1,
        help="Asks only N of each set, drawn by a fixed seed; empty asks all.",
    )
    batch_size: int = setting(
        8,
        label="Batch size",
        unit="questions",
        ge=1,
        help="Questions at once, in fp32. In 16 and in 4 bits they are asked one at a time whatever stands here, for "
        "there the neighbours in a batch move the last digits of a score.",
    )
    format_items: int = setting(
        0,
        label="Format prompts",
        unit="prompts",
        ge=0,
        help="So many held-out prompts are answered in a chat template, to see whether answers end, keep to the "
        "template and have the right length. 0 measures no format.",
    )
    format_tokens: int = setting(
        128,
        label="Length of a format answer",
        unit="tokens",
        ge=8,
        le=4096,
        help="An answer that has not ended by then is cut off. Prompts whose own answer is longer are left out.",
    )
    format_source: str = setting(
        "builtin/instructions",
        label="Format prompts from",
        help="The instructions whose held-out part gives the prompts.",
    )
    format_templates: list[str] = setting(
        [],
        label="Format templates",
        help="Chat templates in which the format is measured, each on its own: own (the run's) or a name such as "
        "alpaca or chatml, also one that the model has never seen. Empty: own.",
    )

    @field_validator("format_templates")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        known = [name for name in get_args(TemplateName) if name != "auto"]
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"there is no chat template {unknown[0]!r}: choose from {', '.join(known)}")
        return list(dict.fromkeys(names))

    @property
    def asks(self) -> bool:
        """Whether there is anything to ask once a run is done."""
        return bool(self.tasks or self.format_items)


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

    def with_seed(self, seed: int | None) -> "Stage":
        """The same stage under another seed, of both the mixture and the training; None changes nothing."""
        if seed is None:
            return self
        return override(self, {"mixture.seed": seed, "training.seed": seed})


TemplateName = Literal["auto", "own", "chatml", "llama3", "zephyr", "alpaca", "question-answer"]


class SampleConfig(Config):
    """What a stage learns from: a saved selection, or a rule by which samples are scored and chosen at its start."""

    selection: str | None = setting(
        None,
        label="Saved selection",
        level="basic",
        help="A selection saved on the Selection page, with what was changed by hand. Empty: the samples are scored "
        "under the parent run and chosen by the rule below when the run starts.",
    )
    source: str = setting(
        "builtin/instructions",
        label="Source",
        level="basic",
        help="Where samples come from when no selection is named: built-in instructions or preferences, or a corpus of "
        "that kind.",
    )
    candidates: int | None = setting(
        None,
        label="Candidates",
        unit="samples",
        ge=1,
        help="Scores only so many samples of the source, drawn by a fixed seed. Empty scores all.",
    )
    max_tokens: int = setting(
        1024,
        label="Longest sample",
        unit="tokens",
        ge=16,
        le=131_072,
        help="Longer samples are left out: half an answer would teach a model to stop in the middle.",
    )
    rule: Rule = setting(label="Rule", help="How samples are chosen when no selection is named.")

    @model_validator(mode="after")
    def _choosable(self) -> Self:
        if self.selection is None and self.rule.strategy == "by-hand":
            raise ValueError(
                "rule.strategy is 'by-hand', but no selection is named: name a saved selection, or choose by a score"
            )
        return self


class PreferenceConfig(Config):
    """What DPO is told besides the pairs."""

    beta: float = setting(
        0.1,
        label="Beta",
        level="basic",
        gt=0,
        le=10,
        help="How dear it is to move away from the reference: low moves far, high stays near.",
    )
    reference: str = setting(
        "parent",
        label="Reference",
        help="The frozen model against which preferences are measured: the result of the run that this one continues. "
        "Named by its id once the run is there; 'base' where there is no such run.",
    )


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
    flat = dict(_dotted(changes, stage.model_dump()))
    others = any(flat.get(f"samples.rule.{end}") is not None for end in ("tokens", "threshold"))
    if others or flat.get("samples.rule.strategy") == "all":
        flat = {"samples.rule.count": None} | flat
    return override(stage, flat)


def _dotted(changes: dict[str, Any], known: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as dotted ones, as deep as the config goes."""
    for name, value in changes.items():
        below = known
        for part in name.split("."):
            below = below.get(part) if isinstance(below, dict) else None
        if isinstance(value, dict) and isinstance(below, dict):
            yield from _dotted(value, below, f"{prefix}{name}.")
        else:
            yield prefix + name, value
