"""The format of a model's answers: do they end, keep to the template, and have the right length?

Held-out prompts are set out in a chat template and answered greedily. Of each answer, four yes-or-no questions (ours):

    ended          its end token came before the limit;
    follows        it says something, and nothing in it is the template's own: no turn mark, no role header;
    right_length   it ended, and has between half and twice as many tokens as the reference answer;
    well_formed    all three.

Beside them the median of the lengths' ratio (an answer that was cut off counts as long as the limit, so it is a lower
bound then) and the loss of the reference answers, end token included, in nats per token. Prompts whose reference answer
is longer than the limit are left out, so every answer could have ended. What this gives up: whether answers are right,
and chance: nothing is drawn.

In fp32 prompts are answered several at once, padded on the left, which changes nothing but rounding; in 16 and in 4
bits one at a time.
"""

import hashlib
import json
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import GenerationConfig

from mixcpt.corpus import Corpus
from mixcpt.errors import BadInput
from mixcpt.lssd import Head
from mixcpt.prompts import ends_of
from mixcpt.questions import drawn
from mixcpt.readings import Text, require_answers
from mixcpt.records import Message, Record
from mixcpt.scoring import BATCH_TOKENS, losses_of
from mixcpt.statistics import paired_interval, share_interval
from mixcpt.templates import ChatTemplate

Heard = Callable[[float], None]
"""Told the share of the answers that is written; whatever it raises ends it."""
CHECKS = ("ended", "follows", "right_length", "well_formed")
_LONGEST = 2.0
"""Right length: at most so many times as long as the reference answer, or as many times shorter."""
_MARK = re.compile(r"<\|[^<>|\s]*\|>|</?[^<>\s]+>|\[/?[A-Z_]+\]")


@dataclass(frozen=True)
class Prompt:
    """A held-out conversation, set out: what is asked (`ids`), and the reference answer."""

    id: str
    question: str
    reference: str
    ids: np.ndarray
    reference_tokens: int
    whole: Text


@dataclass(frozen=True)
class Written:
    """What a model wrote for a prompt: its ids without the end token, and whether that came."""

    ids: list[int]
    ended: bool


@dataclass(frozen=True)
class Judged:
    """An answer as text, what `CHECKS` say of it, and its length as a multiple of the reference answer's."""

    text: str
    ended: bool
    follows: bool
    right_length: bool
    ratio: float

    @property
    def well_formed(self) -> bool:
        return self.ended and self.follows and self.right_length


@dataclass(frozen=True)
class Side:
    """All answers of one model, and the mean loss of the reference answers (nats per token)."""

    answers: list[Judged]
    loss: float

    def summary(self) -> dict[str, Any]:
        """Per check `share` and its 95 % `interval` (Wilson), then `length_ratio` (median), `loss` and `items`."""
        items = len(self.answers)
        counts = {check: sum(getattr(one, check) for one in self.answers) for check in CHECKS}
        shares = {check: {"share": n / items, "interval": share_interval(n, items)} for check, n in counts.items()}
        ratio = statistics.median(one.ratio for one in self.answers)
        return {**shares, "length_ratio": ratio, "loss": self.loss, "items": items}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> "Side":
        return cls([Judged(**one) for one in kept["answers"]], kept["loss"])


class Exam:
    """Prompts in one template, ready to be put to any number of models.

    Args:
        folder: of the model, for the tokens that end its answers. items: so many prompts, drawn by a fixed seed from
            those that fit. tokens: the limit of an answer.

    Raises:
        BadInput: the source has no held-out prompt that fits, or the template takes no second question.
    """

    def __init__(self, corpus: Corpus, template: ChatTemplate, folder: Path, items: int, tokens: int):
        self.template, self.tokens, self.ends = template, tokens, ends_of(template, folder)
        self._marks = _marks_of(template)
        fitting = _prompts(corpus, template, tokens)
        if not fitting:
            raise BadInput(
                f"The source {corpus.manifest.name!r} holds out no prompt whose answer has at most {tokens} tokens in "
                f"the template {template.name!r}: allow longer answers, or take another source."
            )
        self.prompts = [fitting[index] for index in drawn(len(fitting), items)]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with prompts, template and limit."""
        asked = [[prompt.whole.ids.tolist() for prompt in self.prompts], self.template.fingerprint, self.tokens]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]

    def put_to(self, model: nn.Module, head: Head, at_once: int, heard: Heard = lambda share: None) -> Side:
        """Let a model answer; its mode, adapter on or off, is the caller's. `at_once`: prompts in a batch; where that
        is 1, the losses are taken one at a time too."""
        written = answer(model, [prompt.ids for prompt in self.prompts], self.ends, self.tokens, at_once, heard)
        judged = [self._judge(prompt, one) for prompt, one in zip(self.prompts, written, strict=True)]
        texts = [prompt.whole for prompt in self.prompts]
        total = 0.0
        for batch in losses_of(model, head, texts, batch_tokens=BATCH_TOKENS if at_once > 1 else 1):
            total += sum(float(losses[texts[n].span.start : texts[n].span.end].sum()) for n, losses in batch)
        return Side(judged, total / sum(text.span.end - text.span.start for text in texts))

    def _judge(self, prompt: Prompt, written: Written) -> Judged:
        text = self.template.tokenizer.decode(written.ids)
        ratio = len(written.ids) / prompt.reference_tokens
        special = set(self.template.special_ids)
        return Judged(
            text=text.strip(),
            ended=written.ended,
            follows=bool(text.strip()) and not special.intersection(written.ids) and not self._has_marks(text),
            right_length=written.ended and 1 / _LONGEST <= ratio <= _LONGEST,
            ratio=ratio,
        )

    def _has_marks(self, text: str) -> bool:
        marks, headers = self._marks
        return any(mark in text for mark in marks) or any(
            line.strip().startswith(header) for line in text.splitlines() for header in headers
        )


def _marks_of(template: ChatTemplate) -> tuple[frozenset[str], frozenset[str]]:
    """What no answer should hold anywhere (`<|im_start|>`), and what no line of it should begin with (`### Response:`).
    A bare word, such as a role's name, may stand in any answer."""
    scaffold = template.between_turns()
    marks = {mark for part in scaffold for mark in _MARK.findall(part)}
    lines = {line.strip() for part in scaffold for line in _MARK.sub("\n", part).splitlines()}
    return frozenset(marks), frozenset(line for line in lines if line and not line.isalnum())


def _prompts(corpus: Corpus, template: ChatTemplate, tokens: int) -> list[Prompt]:
    """The held-out samples that fit, in their order. A sample that the template does not take is none."""
    require_answers(corpus.manifest.name, corpus.manifest.kind)
    found = []
    for document in corpus.documents("heldout"):
        record = Record.from_json(document.record, document.file, document.line)
        answered = record.messages
        if record.kind == "preferences":
            answered = (*record.messages, Message("assistant", record.chosen))
        try:
            rendered = template.render(answered)
        except BadInput:
            continue
        span = rendered.response
        length = span.text_end - span.start
        if 0 < length <= tokens:
            whole = Text(document.id, "template", rendered.ids, span, span.start)
            question, reference = answered[-2].content, answered[-1].content
            found.append(Prompt(document.id, question, reference, rendered.prompt, length, whole))
    return found


@torch.no_grad()
def answer(
    model: nn.Module,
    prompts: Sequence[np.ndarray],
    ends: frozenset[int],
    tokens: int,
    at_once: int,
    heard: Heard = lambda share: None,
) -> list[Written]:
    """Greedy answers of at most `tokens` tokens, in the order of the prompts; the longest prompts go first."""
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    written: dict[int, Written] = {}
    for start in range(0, len(order), at_once):
        batch = order[start : start + at_once]
        heard(start / len(order))
        rows = _generated(model, [prompts[index] for index in batch], ends, tokens)
        written |= {index: _until_end(row, ends) for index, row in zip(batch, rows, strict=True)}
    heard(1.0)
    return [written[index] for index in range(len(prompts))]


def _generated(model: Any, prompts: Sequence[np.ndarray], ends: frozenset[int], tokens: int) -> list[list[int]]:
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), min(ends), dtype=torch.long)
    seen = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.from_numpy(prompt)
        seen[row, width - len(prompt) :] = 1
    device = next(model.parameters()).device
    greedy = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=tokens,
        do_sample=False,
        repetition_penalty=1.0,
        eos_token_id=sorted(ends),
        pad_token_id=min(ends),
        use_cache=True,
    )
    output = model.generate(input_ids=ids.to(device), attention_mask=seen.to(device), generation_config=greedy)
    return [row[width:] for row in output.tolist()]


def _until_end(ids: list[int], ends: frozenset[int]) -> Written:
    for place, token in enumerate(ids):
        if token in ends:
            return Written(ids[:place], True)
    return Written(ids, False)


def compared(base: Side, final: Side) -> dict[str, Any]:
    """Per check what the run gained over the base: `difference` and its 95 % `interval` over the prompts."""
    gains = {}
    for check in CHECKS:
        before, after = ([float(getattr(one, check)) for one in side.answers] for side in (base, final))
        difference = (sum(after) - sum(before)) / len(after)
        gains[check] = {"difference": difference, "interval": paired_interval(before, after)}
    return gains
