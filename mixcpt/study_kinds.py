"""The shipped studies: each a question, and how it becomes the arms of a recipe on the user's own corpus.

Where arms read different mixtures, the budget counts the field alone, so all of them learn from equally many tokens of
the field and mixtures read the general text on top; only *ratios* and *joint* compare at equal tokens in all. Learning
rates are tuned per objective unless that is switched off, by `mixcpt.tuning`. What this gives up: every other setting
is the same for all arms, be it the best for them or not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mixcpt.drafts import default_stage
from mixcpt.further import with_field
from mixcpt.measured import TOKENS
from mixcpt.recipe import Arm, Tuning
from mixcpt.settings import Config, override, setting
from mixcpt.stages import Stage

CE: dict[str, Any] = {"objective.retention": "none"}
LSSD: dict[str, Any] = {"objective.retention": "lssd"}
KL: dict[str, Any] = {"objective.retention": "kl"}
MOL: dict[str, Any] = {"objective.retention": "mol"}
BOTH_MODELS = ("smollm2-135m", "gemma-3-270m")
"""Those that come with the studio."""
RATES = (1e-3, 2e-3)
TEMPLATE = "alpaca"
"""Of stage two: one that the built-in model has not seen, so that the format has to be learned."""


class Choice(Config):
    """What the user says of a study."""

    corpus: str = setting("builtin/atlas", label="Corpus", help="The field that is learned.")
    then: list[str] = setting(
        [], label="Then", help="Corpora that are learned after it, one after the other; for the study `chain`."
    )
    models: list[str] = setting(["smollm2-135m"], label="Models", help="Bases; all but one study take one.")
    tokens: int = setting(
        12_000,
        label="Tokens of a run",
        unit="tokens",
        ge=128,
        help="How much each run reads; see the study's own words.",
    )
    seeds: list[int] = setting([0, 1, 2], label="Seeds", min_length=1, help="Every arm is run once per seed.")
    tune: bool = setting(True, label="Tune learning rates", help="Short runs choose a rate for each objective first.")
    measured: int = setting(
        TOKENS,
        label="Measured at the end",
        unit="tokens",
        ge=0,
        help="Of each held-out text, read with every finished run, and never more than a run reads; 0: nothing is.",
    )

    @property
    def corpora(self) -> list[str]:
        """All that are learned, in their order."""
        return [self.corpus, *self.then]


@dataclass(frozen=True)
class Parts:
    """What a study makes of a choice. `pairs` are the names of arms that claims are about, each with the one that it is
    held against; `then` are further knowledge stages, as in a recipe; `strengths` are those at which finished runs of
    an arm are measured beside 1; `noise` are shares of the training documents that are spoiled in copies of the
    corpus."""

    arms: list[Arm]
    pairs: list[tuple[str, str]]
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    cpt: dict[str, Any] = field(default_factory=dict)
    sft: dict[str, Any] | None = None
    dpo: dict[str, Any] | None = None
    strengths: dict[str, list[float]] = field(default_factory=dict)
    noise: list[float] = field(default_factory=list)
    then: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """A shipped study: its question in plain words, what its budget counts, and its arms for a choice and the number of
    training documents of the corpus."""

    id: str
    title: str
    question: str
    budget: str
    parts: Callable[[Choice, int], Parts]
    several_models: bool = False
    several_corpora: bool = False


_FIELD = "tokens of the field that every arm reads; mixtures read general text on top"
_ALL = "tokens that every arm reads in all"
_ALONE: dict[str, Any] = {f"mixture.sources.{number}.share": 0 for number in (1, 2, 3)}
"""The documents of the field alone."""
_EQUAL_FIELD = {"mixture.domain_tokens_only": True}


def _arm(name: str, *changes: dict[str, Any], tuned: str | None = None, **more: Any) -> Arm:
    return Arm(name=name, set={path: value for one in changes for path, value in one.items()}, tuned=tuned, **more)


def _mix_cpt(choice: Choice, documents: int) -> Parts:
    arms = [
        _arm("documents, CE", _ALONE, CE, tuned="ce"),
        _arm("documents, CE + LSSD", _ALONE, LSSD, tuned="ce-lssd"),
        _arm("mixture, CE", CE, tuned="ce"),
        _arm("mixture, CE + LSSD", LSSD, tuned="ce-lssd"),
    ]
    plain, held, mixed, both = (arm.name for arm in arms)
    pairs = [(both, plain), (held, plain), (mixed, plain), (both, mixed)]
    return Parts(arms, pairs, {"ce": CE, "ce-lssd": LSSD}, _EQUAL_FIELD)


def _lssd(choice: Choice, documents: int) -> Parts:
    arms = [_arm("LSSD off", CE, tuned="ce"), _arm("LSSD on", LSSD, tuned="ce-lssd")]
    return Parts(arms, [("LSSD on", "LSSD off")], {"ce": CE, "ce-lssd": LSSD})


def _retention(choice: Choice, documents: int) -> Parts:
    arms = [
        _arm("plain", _ALONE, CE, tuned="ce"),
        _arm("replay", CE, tuned="ce"),
        _arm("KL", _ALONE, KL, tuned="kl"),
        _arm("LSSD", _ALONE, LSSD, tuned="ce-lssd"),
        _arm("MoL", MOL, tuned="mol"),
        _arm("replay + LSSD", LSSD, tuned="ce-lssd"),
    ]
    pairs = [(arm.name, "plain") for arm in arms[1:]]
    weaker = [at_strength("plain", strength) for strength in (0.75, 0.5)]
    pairs += [(name, "plain") for name in weaker] + [("LSSD", weaker[1])]
    groups = {"ce": CE, "kl": KL, "ce-lssd": LSSD, "mol": MOL}
    return Parts(arms, pairs, groups, _EQUAL_FIELD, strengths={"plain": [0.25, 0.5, 0.75]})


def _joint(choice: Choice, documents: int) -> Parts:
    """The same text of each source for both: decoupled, the fifth part of it that is answers in a template comes after
    the rest, as SFT; joint, it stands among the rest."""
    later = max(64, choice.tokens // 5)
    first = choice.tokens - later
    shares = {f"mixture.sources.{number}.share": share * first / 100 for number, share in enumerate((60, 20, 0, 8))}
    answers = {"mixture.sources.2.share": later + 12 * first / 100}
    arms = [
        _arm("decoupled", {"mixture.budget_tokens": first}, tuned="ce-lssd", ends="sft"),
        _arm("joint", shares, answers, {"mixture.template": TEMPLATE}, tuned="ce-lssd", ends="cpt"),
    ]
    sft: dict[str, Any] = {
        "template": TEMPLATE,
        "samples": {
            "source": "builtin/instructions",
            "max_tokens": 256,
            "rule": {"strategy": "random", "tokens": later},
        },
        "training": {"learning_rate": 5e-4},
    }
    asked = {"evaluation.format_items": 8, "evaluation.format_tokens": 40, "evaluation.format_templates": [TEMPLATE]}
    return Parts(arms, [("decoupled", "joint")], {"ce-lssd": LSSD}, asked, sft)


def _selection(choice: Choice, documents: int) -> Parts:
    def rules(strategy: str, **ends: Any) -> dict[str, Any]:
        by = {"score": "perplexity_template"}, {"score": "margin"}
        scored = strategy in ("easiest", "hardest")
        return {
            f"{stage}.samples.rule": {"strategy": strategy, **(score if scored else {}), **ends.get(stage, {})}
            for stage, score in zip(("sft", "dpo"), by, strict=True)
        }

    few = {"sft": {"count": 16}, "dpo": {"count": 8}}
    arms = [
        _arm("random", rules("random", **few)),
        _arm("easiest", rules("easiest", **few)),
        _arm("hardest", rules("hardest", **few)),
        _arm("all", rules("all")),
    ]
    sft: dict[str, Any] = {
        "template": TEMPLATE,
        "samples": {"source": "builtin/instructions", "candidates": 48, "max_tokens": 256, "rule": {"strategy": "all"}},
        "training": {"learning_rate": 5e-4, "epochs": 2},
    }
    dpo: dict[str, Any] = {
        "samples": {"source": "builtin/preferences", "candidates": 24, "max_tokens": 256, "rule": {"strategy": "all"}},
        "training": {"learning_rate": 1e-4},
    }
    asked = {"evaluation.format_items": 8, "evaluation.format_tokens": 40, "evaluation.format_templates": [TEMPLATE]}
    return Parts(arms, [(arm.name, "random") for arm in arms[1:]], {}, asked, sft, dpo)


def _ratios(choice: Choice, documents: int) -> Parts:
    arms = []
    for share in (100, 80, 60, 40, 20):
        rest = {f"mixture.sources.{n}.share": part * (100 - share) / 40 for n, part in ((1, 20), (2, 12), (3, 8))}
        arms.append(_arm(f"{share} % field", {"mixture.sources.0.share": share}, rest, tuned="ce-lssd"))
    return Parts(arms, [(arm.name, "100 % field") for arm in arms[1:]], {"ce-lssd": LSSD})


def _size(choice: Choice, documents: int) -> Parts:
    whole = f"all {documents:,} documents"
    sizes = [size for size in dict.fromkeys((documents // 8, documents // 4, documents // 2)) if size > 1]
    arms = [_arm(f"{size:,} documents", {"mixture.domain_documents": size}, tuned="ce-lssd") for size in sizes]
    arms.append(_arm(whole, tuned="ce-lssd"))
    noise = [0.25, 0.5]
    for share in noise:
        name = noisy_name(choice.corpus, share)
        arms.append(_arm(f"{share:.0%} noise", {"mixture.sources.0.source": name}, tuned="ce-lssd"))
    pairs = [(arm.name, whole) for arm in arms if arm.name != whole]
    # The copies with noise are asked about the corpus itself, or their probes could not be held against the others.
    asked = {"evaluation.tasks": _questions_about([choice.corpus])}
    return Parts(arms, pairs, {"ce-lssd": LSSD}, asked, noise=noise)


def _models(choice: Choice, documents: int) -> Parts:
    arms, pairs = [], []
    for model in choice.models:
        plain, held = f"{short(model)}, CE", f"{short(model)}, CE + LSSD"
        arms += [_arm(plain, {"model.name": model}, CE), _arm(held, {"model.name": model}, LSSD)]
        pairs.append((held, plain))
    return Parts(arms, pairs)


def _chain(choice: Choice, documents: int) -> Parts:
    """Each corpus takes the place of the one before in the mixture, under the same settings; what is asked about all of
    them is asked at the end."""
    arms = [_arm("CE", CE, tuned="ce"), _arm("CE + LSSD", LSSD, tuned="ce-lssd")]
    first = stage_of(choice, _EQUAL_FIELD)
    later = [with_field(first, corpus).model_dump()["mixture"]["sources"] for corpus in choice.then]
    then: list[dict[str, Any]] = [{"mixture.sources": sources} for sources in later]
    then[-1]["evaluation.tasks"] = _questions_about(choice.corpora)
    own: dict[str, Any] = _EQUAL_FIELD | {"evaluation.tasks": []}
    return Parts(arms, [("CE + LSSD", "CE")], {"ce": CE, "ce-lssd": LSSD}, own, then=then)


def _questions_about(corpora: Sequence[str]) -> list[str]:
    """Question sets about these corpora, whatever a run's own field is."""
    atlas = ["atlas"] if "builtin/atlas" in corpora else []
    return ["general", *atlas, *(f"probes:{corpus}" for corpus in dict.fromkeys(corpora))]


KINDS = {
    kind.id: kind
    for kind in (
        Kind(
            "mix-cpt", "Plain CPT against Mix-CPT",
            "Does mixing in general text, and does LSSD, keep the model from forgetting while it learns the field?",
            _FIELD, _mix_cpt,
        ),
        Kind("lssd", "LSSD on and off", "What does LSSD do to my mixture?", _ALL, _lssd),
        Kind(
            "retention", "Ways to remember",
            "Which way of holding the model is best: replaying general text, KL, LSSD, MoL, or just a weaker adapter?",
            _FIELD, _retention,
        ),
        Kind(
            "joint", "Decoupled against joint training",
            "Is it better to learn knowledge first and the format of answers after it, or both at once?",
            _ALL, _joint,
        ),
        Kind(
            "selection", "Which samples for stage two",
            "Should SFT and DPO learn from easy samples, hard ones, random ones, or all?",
            "tokens of the knowledge stage, which all arms share", _selection,
        ),
        Kind("ratios", "How much general text", "How much of the mixture should be my field?", _ALL, _ratios),
        Kind(
            "size", "Corpus size and noise",
            "How many documents are enough, and what do spoiled ones cost?", _ALL, _size,
        ),
        Kind(
            "models", "Several base models", "Does LSSD help other models too?", _ALL, _models, several_models=True,
        ),
        Kind(
            "chain", "Several adaptations",
            "What does a model still know of the first field after it learned a second and third, and does LSSD help?",
            "tokens of the field that every stage reads; the mixture reads general text on top", _chain,
            several_corpora=True,
        ),
    )
}  # fmt: skip


def stage_of(choice: Choice, changes: dict[str, Any]) -> Stage:
    """The knowledge stage that the arms of a study vary: the default one on the chosen field, with a constant rate, so
    that curves can be compared on the way."""
    stage = default_stage()
    field = ["atlas", "probes"] if choice.corpus == "builtin/atlas" else ["probes"]
    steps = max(1, choice.tokens // (stage.mixture.row_tokens * stage.training.rows_per_step))
    own = {
        "model.name": choice.models[0],
        "mixture.sources.0.source": choice.corpus,
        "mixture.budget_tokens": choice.tokens,
        "training.schedule": "constant",
        "training.checkpoint_steps": 50,
        "measures.every_steps": -(-steps // 8),
        "measures.prompt_tokens": 300,
        "evaluation.tasks": ["general", *field],
        "evaluation.items": 48,
    }
    return override(stage, own | changes)


def tuning_of(choice: Choice, groups: dict[str, dict[str, Any]]) -> Tuning | None:
    """Short runs of two fifths of the budget; None where there is nothing to tune, or nobody wants it."""
    if not choice.tune or not groups:
        return None
    return Tuning(values=list(RATES), budget_tokens=max(64, choice.tokens * 2 // 5), groups=groups)


def at_strength(arm: str, strength: float) -> str:
    """What an arm is called at a strength of its adapter below 1."""
    return f"{arm}, strength {strength:g}"


def noisy_name(corpus: str, share: float) -> str:
    """The name of the copy of a corpus in which a share of the training documents is spoiled."""
    return f"{corpus.replace('/', '-').removeprefix('builtin-')}-noise-{100 * share:.0f}"


def short(model: str) -> str:
    """The last part of a model's name."""
    return model.rstrip("/").rsplit("/", 1)[-1]


def untuned_arms(arms: Sequence[Arm]) -> list[Arm]:
    """The arms as they are where nothing is tuned."""
    return [arm.model_copy(update={"tuned": None}) for arm in arms]
