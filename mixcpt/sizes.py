"""How many samples a run of stage two will read and how long they are, as far as that is known before they are chosen:
by the saved selection, or by the rule and the manifest of the source. Nothing is tokenised, so it is a guess.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from mixcpt.builtin import SOURCES, find_source
from mixcpt.config import SampleConfig
from mixcpt.errors import NotFound
from mixcpt.estimate import SampleSizes
from mixcpt.manifest import Manifest
from mixcpt.requirements import selection_facts
from mixcpt.runs import Run
from mixcpt.samples import forms_of, kept_samples, needs_scores
from mixcpt.stages import Dpo, Sft
from mixcpt.unify import unify
from mixcpt.workspace import Workspace

TEMPLATE_TOKENS = 30
"""What a chat template adds to a text: turn marks, and a system turn as some models have it."""
_CHARACTERS_PER_TOKEN = 4.5


@dataclass(frozen=True)
class _Texts:
    """Texts of a source without a template: how many there are, the mean of their tokens, and the longest."""

    count: int
    mean: float
    longest: int


_UNKNOWN = _Texts(count=10_000, mean=300, longest=4096)
"""Of a source that is made only when the recipe is carried out."""


def sample_sizes(workspace: Workspace, stage: Sft) -> SampleSizes:
    """What is known of the samples of a stage.

    Raises:
        NotFound: the selection is gone.
    """
    config = stage.samples
    answers = 2 if isinstance(stage, Dpo) else 1
    if config.selection is not None:
        kept = selection_facts(workspace, config.selection)
        mean = kept["tokens"] / kept["chosen"]
        longest = min(config.max_tokens, kept["scores"].get("max_tokens", config.max_tokens))
        return SampleSizes(kept["chosen"], kept["chosen"], mean, longest)
    texts = _texts(workspace, config.source)
    mean = answers * min(texts.mean + TEMPLATE_TOKENS, config.max_tokens)
    candidates = min(config.candidates or texts.count, texts.count)
    return SampleSizes(
        candidates=candidates,
        count=_chosen(config, candidates, mean),
        mean_tokens=mean,
        longest_tokens=min(config.max_tokens, texts.longest + TEMPLATE_TOKENS),
        scored_tokens=candidates * mean * _readings(stage),
    )


def pinned_sizes(run: Run) -> SampleSizes | None:
    """Those of the samples that a run has chosen, which are scored by then; None before its first start."""
    stage, kept = run.config, kept_samples(run)
    if not isinstance(stage, Sft) or not kept:
        return None
    tokens = [sample.tokens for sample in kept]
    answers = 2 if isinstance(stage, Dpo) else 1
    longest = min(stage.samples.max_tokens, max(tokens) // answers + TEMPLATE_TOKENS)
    return SampleSizes(len(tokens), len(tokens), sum(tokens) / len(tokens), longest)


def _readings(stage: Sft) -> int:
    """How often a candidate is read for its score: a pair under the run and under its base."""
    if not needs_scores(stage):
        return 0
    return 2 if isinstance(stage, Dpo) else len(forms_of(str(stage.samples.rule.score)))


def _chosen(config: SampleConfig, candidates: int, mean: float) -> int:
    """How many a rule takes at most; where a threshold ends it, all of them may lie before it."""
    rule = config.rule
    wanted = rule.count if rule.tokens is None else int(rule.tokens / mean)
    return candidates if wanted is None else max(1, min(wanted, candidates))


def _texts(workspace: Workspace, source: str) -> _Texts:
    try:
        found = find_source(workspace, source)
    except NotFound:
        return _UNKNOWN
    return _counted(found.manifest) if found else _shipped(source)


def _counted(manifest: Manifest) -> _Texts:
    train, lengths = manifest.split.train, manifest.lengths
    filled = [edge for edge, count in zip(lengths.edges[1:], lengths.counts, strict=True) if count]
    return _Texts(train.documents, train.tokens / max(1, train.documents), max(filled, default=0))


@cache
def _shipped(source: str) -> _Texts:
    """Of a built-in source that this workspace has not made yet."""
    lengths: Sequence[float] = [len(unify(record)) / _CHARACTERS_PER_TOKEN for record in SOURCES[source]()]
    return _Texts(len(lengths), sum(lengths) / len(lengths), round(max(lengths)))
