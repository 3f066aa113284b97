"""Samples token by token, with what of them is learned: the label mask, as the trainer of stage two will use it.

It shows what `mixcpt.samples` hands to the trainer, so nothing here can differ from training.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mixcpt.preview import shown
from mixcpt.samples import Batch, Sample, mask_of
from mixcpt.tokens import TextTokenizer


@dataclass(frozen=True, slots=True)
class MaskedToken:
    """`is_learned`: a label counts here. `is_end`: it ends the turn of an answer that is learned."""

    text: str
    id: int
    is_learned: bool
    is_end: bool


def masked(sample: Sample, number: int, tokenizer: TextTokenizer) -> list[MaskedToken]:
    """The tokens of answer `number` of a sample with what comes before it: 0 for SFT; of a pair 0 is the chosen answer,
    1 the rejected one."""
    rendered, mask = sample.answers[number], mask_of(sample, number)
    ends = {place for span in rendered.spans for place in range(span.text_end, span.end)}
    ids = rendered.ids.tolist()
    return [
        MaskedToken(text, id, bool(mask[place]), bool(mask[place]) and place in ends)
        for place, (text, id) in enumerate(zip(shown(tokenizer, ids), ids, strict=True))
    ]


def as_text(tokens: Iterable[MaskedToken]) -> str:
    """For a terminal: what is only read stands in ⟦…⟧."""
    parts: list[str] = []
    learned = True
    for token in tokens:
        if token.is_learned != learned:
            parts.append("⟧" if token.is_learned else "⟦")
            learned = token.is_learned
        parts.append(token.text)
    return "".join(parts) + ("" if learned else "⟧")


def words(batch: Batch) -> str:
    """How many tokens of a first step are learned, in a sentence."""
    read, learned = _tokens(batch.samples), sum(sample.learned_tokens for sample in batch.samples)
    if len(batch.samples[0].answers) == 1:
        return (
            f"Of the {read:,} tokens of this step {learned:,} are learned ({learned / read:.0%}): the answers, with "
            "the token that ends them. The rest is read, for an answer follows from it."
        )
    return (
        f"Of the {read:,} tokens of this step {learned:,} are compared ({learned / read:.0%}): the chosen and the "
        "rejected answers, with the token that ends them. The question before each is read, not learned."
    )


def _tokens(samples: Sequence[Sample]) -> int:
    return sum(sample.tokens for sample in samples)
