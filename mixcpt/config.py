"""The parts of a stage that say what is read, what is trained and what is looked at: one pydantic model each. How it is
trained is `optimisation`; the stages that hold the parts are `stages`.

The form in the app, the command line's YAML and the run folder's `config.yaml` are all made from these models. Every
field says what it is for, its unit, its group and its level; unknown keys are refused by name. Derived numbers are
methods here, so nobody computes them twice.
"""

from typing import Literal, Self, get_args

from pydantic import field_validator, model_validator

from mixcpt.selection import Rule
from mixcpt.settings import Config, setting

TemplateName = Literal["auto", "own", "chatml", "llama3", "zephyr", "alpaca", "question-answer"]
MixtureTemplate = Literal["none", "own", "chatml", "llama3", "zephyr", "alpaca", "question-answer"]


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
    weight: float = setting(
        1.0,
        label="Weight in the loss",
        ge=0,
        le=1000,
        help="How much its tokens count beside those of the other sources: 2 counts double, 0 is read but not learned "
        "from.",
    )
    retention_weight: float = setting(
        1.0,
        label="Weight of retention",
        ge=0,
        le=1000,
        help="On its tokens the objective's weight of retention is multiplied by this: 0 lets the model move freely "
        "there, 2 holds it twice as firmly.",
    )

    @property
    def marks(self) -> list[str]:
        """What is told of it besides its share, in words."""
        marks = ["the field"] if self.domain else []
        marks += [f"loss times {self.weight:g}"] if self.weight != 1 else []
        return marks + ([f"retention times {self.retention_weight:g}"] if self.retention_weight != 1 else [])


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
    template: MixtureTemplate = setting(
        "none",
        label="Chat template in the mixture",
        help="none: instructions and preference pairs are read as plain text, templates removed, as in the paper. Any "
        "other: their chosen answers stand in this template, so that knowledge and format are trained jointly; samples "
        "that it cannot take are left out.",
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
    """The low-rank adapter (LoRA): the only weights that are trained, but for embeddings and head when asked."""

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
    vocabulary: bool = setting(
        False,
        label="Train embeddings and head",
        help="In the knowledge stage also trains the table of the tokens and the output layer, as whole matrices of "
        "their own; later stages keep them as they are then. It needs 16 bytes and more of memory for each of their "
        "numbers, and makes adapters as large as they are: worth it when the field's language or notation is far from "
        "what the model has read, seldom otherwise. Such a run has no strength between 0 and 1.",
    )


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
        help="general (built-in four-choice questions), atlas (the fictional domain: recall and two-step), "
        "instructions (prompts whose fulfilment a rule can check), probes (made of the sentences of your field, or of "
        "any corpus as probes:CORPUS), the path of a JSONL file with your own questions, lm-eval:NAME for one of "
        "lm-eval's tasks, such as lm-eval:arc_easy, or preset:quick and preset:paper for several of them; their "
        "questions come from the Hugging Face hub.",
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
