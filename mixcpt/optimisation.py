"""The parts of a stage that say how it is trained: what is minimised, and how steps are made. One pydantic model each,
as in `config`.
"""

from typing import Literal, Self

from pydantic import model_validator

from mixcpt.settings import Config, setting


class ObjectiveConfig(Config):
    """What is minimised: ce_weight * cross-entropy + retention_weight * the retention term."""

    retention: Literal["none", "kl", "lssd", "mol"] = setting(
        "lssd",
        label="Retention",
        level="basic",
        help="What holds the model near its old self. lssd: Logit Swap Self-Distillation, the frozen original teaches, "
        "with its top logit swapped for the right token's; kl: the same without the swap; mol: the field is learned by "
        "cross-entropy alone, and only on the other sources is the model held, by the reverse divergence; none: plain "
        "training.",
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
    against: Literal["base", "parent"] = setting(
        "base",
        label="Retention against",
        help="Whose teaching holds the model. base: the frozen original, against which forgetting is measured; what it "
        "says is kept in the teacher cache. parent: the run that this one continues, which also holds what was learned "
        "since; it is asked anew at every step.",
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

    @property
    def needs_run(self) -> bool:
        """Whether the teacher is the run that is continued, and not the base."""
        return self.needs_teacher and self.against == "parent"


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
        256,
        label="Loss chunk",
        unit="tokens",
        ge=1,
        help="Tokens whose logits are held at once while the loss is computed.",
    )
    vocabulary_learning_rate: float = setting(
        1e-4,
        label="Learning rate of embeddings and head",
        gt=0,
        le=1,
        help="Their own size of steps, with the same warm-up and schedule, never pulled towards zero; counts only when "
        "adapter.vocabulary is on. Whole matrices want smaller steps than an adapter; 1e-4 is our choice.",
    )
    teacher_cache: bool = setting(
        True,
        label="Teacher cache",
        help="Keeps on disk what the frozen original says of each piece of text, so that it is asked once: later "
        "epochs, other shares and other seeds then cost no teacher pass. How much of the disk it may take is set on "
        "the Home page, or by `mixcpt cache limit`.",
    )
    compile_layers: bool = setting(
        False,
        label="Compile layers",
        help="Compiles the model's layers at the start, which takes about half a minute and needs a C++ compiler. Try "
        "it before a long run: whether a step is then faster depends on the machine (docs/engine.md). A resumed run "
        "equals an uninterrupted one to rounding only.",
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


def require_divisor(part: str, at_once: int, whole: str, per_step: int) -> None:
    """Raises ValueError where a step cannot be made of whole parts."""
    if per_step % at_once:
        raise ValueError(
            f"{part} {at_once} does not divide {whole} {per_step}: take {part} from 1 to {whole} so that it does, "
            "for example 1"
        )
