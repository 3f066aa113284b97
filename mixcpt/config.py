"""What a user can set: one pydantic model per part, a `Recipe` that holds them all, and how recipes are read.

The form in the app, the command line's YAML and the run folder's `config.yaml` are all made from these models. Every
field says what it is for, its unit, its group and its level; unknown keys are refused by name. Derived numbers are
methods here, so nobody computes them twice.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from mixcpt.errors import BadFile
from mixcpt.settings import Config as Config
from mixcpt.settings import from_yaml as from_yaml
from mixcpt.settings import override as override
from mixcpt.settings import parse_change as parse_change
from mixcpt.settings import read_yaml, setting
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


class TrainingConfig(Config):
    """How the adapter is trained."""

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
    weight_decay: float = setting(0.0, label="Weight decay", ge=0, le=1, help="Pull of the adapter towards zero.")
    max_gradient_norm: float = setting(
        1.0, label="Gradient clipping", gt=0, help="Longer gradients are shortened to this length."
    )
    checkpoint_activations: bool = setting(
        False,
        label="Save memory",
        help="Recompute activations instead of keeping them: about a third slower, far less memory.",
    )
    loss_chunk: int = setting(
        128,
        label="Loss chunk",
        unit="tokens",
        ge=1,
        help="Tokens whose logits are held at once while the loss is computed.",
    )
    checkpoint_steps: int = setting(
        20,
        label="Checkpoint every",
        unit="steps",
        ge=1,
        help="How often the state is saved, so that a stopped run can go on.",
    )
    seed: int = setting(0, label="Training seed", ge=0, help="Seed of the adapter's initial weights and of dropout.")

    @model_validator(mode="after")
    def _accumulation(self) -> Self:
        if self.rows_per_step % self.rows_at_once:
            raise ValueError(
                f"rows_at_once {self.rows_at_once} does not divide rows_per_step {self.rows_per_step}: "
                f"take rows_at_once from 1 to rows_per_step so that it does, for example 1"
            )
        return self

    @property
    def accumulation(self) -> int:
        return self.rows_per_step // self.rows_at_once


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
        help="general (built-in four-choice questions), atlas (the fictional domain: recall and two-step), or the path "
        "of a JSONL file with question, choices and answer.",
    )
    items: int | None = setting(
        None,
        label="Items per set",
        unit="questions",
        ge=1,
        help="Asks only N of each set, drawn by a fixed seed; empty asks all.",
    )
    batch_size: int = setting(
        8, label="Batch size", ge=1, help="Questions at once. Fixed, for scores can move with it."
    )


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


class CorpusSpec(Config):
    """A corpus that a recipe needs; ingested when the workspace does not have it."""

    name: str = setting(label="Corpus", level="basic", help="The name under which sources refer to it.")
    files: list[str] = setting([], label="Files", help="Files or folders, relative to the recipe.")
    hub: str | None = setting(
        None, label="Hub data set", help="Id of a data set on the Hugging Face hub, instead of files."
    )
    hub_config: str | None = setting(None, label="Hub configuration", help="Name of the data set's configuration.")
    hub_dir: str | None = setting(
        None, label="Hub folder", help="The folder of the data set that is read, for example python; empty reads all."
    )
    split: str = setting("train", label="Hub split", help="Which split of the hub data set.")
    limit: int | None = setting(
        None, label="Records at most", unit="records", ge=1, help="Reads only the first N records."
    )
    kind: Literal["documents", "instructions", "preferences"] | None = setting(
        None, label="Kind", help="Guessed from the columns when empty."
    )
    text_column: str | None = setting(None, label="Text column", help="Guessed when empty.")
    where: dict[str, str] = setting(
        {},
        label="Only records where",
        help="Keeps only records whose meta field has this value, for example split: train.",
    )

    @model_validator(mode="after")
    def _own_name(self) -> Self:
        if self.name.startswith("builtin-"):
            raise ValueError(
                f"corpus {self.name!r} has a name kept for built-in sources: choose one without 'builtin-'"
            )
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if bool(self.files) == bool(self.hub):
            raise ValueError(f"corpus {self.name!r} needs either files or hub, not {'both' if self.hub else 'neither'}")
        return self


class Arm(Config):
    """One variant of the recipe's stage."""

    name: str = setting(label="Arm", help="Name of the variant.")
    set: dict[str, Any] = setting(
        {}, label="Changes", help="Dotted settings of the stage and their values in this arm."
    )
    tuned: str | None = setting(
        None, label="Tuned like", help="Takes the value that tuning found for this tuning group; see `tune`."
    )
    times: float = setting(
        1.0, label="Times", gt=0, help="Multiplies the tuned value, for example 0.5 for half the rate."
    )


class Tuning(Config):
    """Short runs on a validation split that choose one setting before the arms start."""

    field: str = setting("training.learning_rate", label="Setting", help="The dotted setting that is chosen.")
    values: list[float] = setting(label="Values", help="What is tried.", min_length=2)
    budget_tokens: int = setting(
        8_000, label="Tokens per try", unit="tokens", ge=64, help="Training tokens of each short run."
    )
    groups: dict[str, dict[str, Any]] = setting(
        label="Groups", help="Per tuning group, the dotted changes under which it is tuned.", min_length=1
    )


class Recipe(Config):
    """A whole experiment: corpora, one stage, its arms and seeds."""

    name: str = setting(label="Recipe", help="Also the name of the experiment.", pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    description: str = setting("", label="Description", help="What it is for, in a sentence.")
    corpora: list[CorpusSpec] = setting([], label="Corpora", help="Ingested when missing.")
    cpt: Stage = setting(label="Continual pre-training", help="The knowledge stage.")
    arms: list[Arm] = setting([], label="Arms", help="Variants of the stage; none means the stage as it stands.")
    tune: Tuning | None = setting(None, label="Tuning", help="Chooses a setting for the arms beforehand.")
    seeds: list[Annotated[int, Field(ge=0)]] | None = setting(
        None, label="Seeds", help="Every arm is run once per seed. Empty: once, with the seeds that the stage names."
    )
    max_minutes: float | None = setting(
        None, label="Time limit", unit="minutes", gt=0, help="Refuses to start a run that is estimated to take longer."
    )

    def seeds_or_none(self) -> list[int | None]:
        """The seeds to run under; a single None stands for those that the stage names."""
        return [*self.seeds] if self.seeds else [None]

    @model_validator(mode="after")
    def _arms(self) -> Self:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError(f"two arms share a name in {names}: rename one")
        if self.seeds is not None and len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {self.seeds} name a seed twice")
        groups = self.tune.groups if self.tune else {}
        for arm in self.arms:
            if arm.tuned is not None and arm.tuned not in groups:
                raise ValueError(f"arm {arm.name!r} is tuned like {arm.tuned!r}, but tune.groups has {sorted(groups)}")
            override(self.cpt, arm.set)
        for name, changes in groups.items():
            stage = override(self.cpt, changes)
            if not stage.mixture.domain_sources():
                raise ValueError(
                    f"tuning group {name!r} has no field to be judged by: mark one of mixture.sources domain: true"
                )
            if stage.measures.domain_tokens == 0:
                raise ValueError(
                    f"tuning group {name!r} has no measure to be judged by: set measures.domain_tokens above 0"
                )
        return self


def load_recipe(path: Path, changes: dict[str, Any] | None = None) -> Recipe:
    """Read a recipe (YAML), apply dotted `changes` on top.

    Raises:
        BadFile: the file is missing, a folder, or not YAML.
        BadConfig: an unknown key or a contradiction.
    """
    if path.is_dir():
        raise BadFile(f"{path} is a folder, but a recipe file was expected: name the .yaml file.")
    if not path.is_file():
        raise BadFile(f"There is no recipe at {path}: check the path, or see the folder recipes/.")
    recipe = validate(Recipe, _settings(path.read_bytes(), str(path)), str(path))
    return override(recipe, changes) if changes else recipe


def uploaded(content: bytes, name: str) -> Recipe | Stage:
    """The recipe, or the one stage, in a YAML file that somebody sent. Aliases (*) are refused: a few lines of them can
    stand for gigabytes.

    Raises:
        BadFile: not YAML, or with aliases. BadConfig: an unknown key or a contradiction.
    """
    data = _settings(content, name, aliases=False)
    return validate(Stage, data, name) if "mixture" in data else validate(Recipe, data, name)


def _settings(content: bytes, origin: str, aliases: bool = True) -> dict[str, Any]:
    """The top-level keys of a YAML file."""
    try:
        text = content.decode("utf-8-sig")
        if not aliases and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise BadFile(f"{origin} uses YAML aliases (*name), which are not taken: write every value out.")
        data = read_yaml(text)
    except RecursionError:
        raise BadFile(f"{origin} is nested too deeply to be settings: write `key: value` lines.") from None
    except (yaml.YAMLError, ValueError) as error:  # bytes that are no UTF-8, or a number of thousands of digits
        reason = " ".join(str(error).replace(' in "<unicode string>",', " in").split())[:200].rstrip(" ^:")
        raise BadFile(f"{origin} is not valid YAML: {reason}; correct it there, and save it as UTF-8.") from None
    if not isinstance(data, dict):
        raise BadFile(f"{origin} holds {type(data).__name__} instead of settings: write `key: value` lines.")
    return data
