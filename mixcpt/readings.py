"""Samples as they are scored and trained on: rendered, with the answer's place, or refused with the reason."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mixcpt.corpus import Corpus
from mixcpt.errors import BadInput
from mixcpt.records import Kind, Message, Record
from mixcpt.scores import sample_fingerprint
from mixcpt.templates import ChatTemplate, PlainForm, Rendered, Span
from mixcpt.tokens import TextTokenizer

FORMS = ("template", "plain", "alone")
"""Ways an instruction sample is read; a pair is read under the template, in plain text where there is none."""
MAX_TOKENS = 2048
_NAMED_REASONS = 3
_CHARACTERS_PER_TOKEN = 40  # beyond this many for each token allowed, a text is not even tokenized


@dataclass(frozen=True)
class Text:
    """One rendered text to be scored. `form` names what it is; `first` is the first token whose loss is wanted."""

    sample: str
    form: str
    ids: np.ndarray
    span: Span
    first: int = 1


def candidates(corpus: Corpus, limit: int | None = None) -> list[tuple[str, Record]]:
    """Id and record of every sample that may be chosen: the training side, for what is held out is never trained on.
    With `limit` so many of them, drawn by a fixed seed, in their order.

    Raises:
        BadInput: the source holds documents.
    """
    require_answers(corpus.manifest.name, corpus.manifest.kind)
    found = [
        (document.id, Record.from_json(document.record, document.file, document.line))
        for document in corpus.documents("train")
        if document.record
    ]
    return found if limit is None else [found[index] for index in sorted(_drawn(len(found), limit)[:limit])]


def _drawn(count: int, limit: int) -> list[int]:
    """All indices below `count` in the order in which a draw of `limit` takes them, and others after it."""
    first = random.Random(0).sample(range(count), min(limit, count))
    rest = sorted(set(range(count)) - set(first))
    return [*first, *random.Random(1).sample(rest, len(rest))]


def require_answers(source: str, kind: Kind) -> None:
    """Raises BadInput when the source holds documents."""
    if kind == "documents":
        raise BadInput(
            f"The source {source!r} holds documents, which have no answers to score: take a source of instructions or "
            "preferences."
        )


@dataclass(frozen=True)
class Reading:
    """A candidate and its texts; none where it cannot be used, for `reason`."""

    id: str
    record: Record
    texts: list[Text]
    reason: str = ""


class Reader:
    """Renders samples into the texts that are scored, and says which samples cannot be.

    Args:
        template: None where there is none. forms: of `FORMS`, which of them are wanted.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        template: ChatTemplate | None,
        max_tokens: int = MAX_TOKENS,
        forms: Sequence[str] = FORMS,
    ):
        self.tokenizer, self.template, self.max_tokens = tokenizer, template, max_tokens
        self.forms = [form for form in FORMS if form in forms and (form != "template" or template is not None)]
        self.plain = PlainForm(tokenizer)

    def texts(self, record: Record) -> list[Text]:
        """The texts of one sample, the one that training would read first.

        Raises:
            BadInput: it cannot be scored, and why.
        """
        self._require_sound(record)
        sample = sample_fingerprint(record)
        if record.kind == "preferences":
            answers = {"chosen": record.chosen, "rejected": record.rejected}
            rendered = {form: self._trained(_answered(record, answer)) for form, answer in answers.items()}
            texts = [Text(sample, form, r.ids, r.response, r.response.start) for form, r in rendered.items()]
        else:
            texts = [self._text(sample, form, record) for form in self.forms]
        self._require_fit(texts)
        return texts

    def read(self, corpus: Corpus, limit: int | None = None, check: Callable[[], None] = lambda: None) -> list[Reading]:
        """Every candidate of a source, in its order. With `limit` so many that can be used, drawn by a fixed seed: one
        that cannot is drawn again, and stands among them with its reason.

        Raises:
            BadInput: the source holds documents.
        """
        found = candidates(corpus)
        readings: dict[int, Reading] = {}
        usable = 0
        for index in range(len(found)) if limit is None else _drawn(len(found), limit):
            if usable == limit:
                break
            check()
            readings[index] = self._reading(*found[index])
            usable += not readings[index].reason
        return [readings[index] for index in sorted(readings)]

    def _reading(self, id: str, record: Record) -> Reading:
        try:
            return Reading(id, record, self.texts(record))
        except BadInput as problem:
            return Reading(id, record, [], str(problem))

    def trained_tokens(self, record: Record, texts: Sequence[Text]) -> int:
        """How many tokens training would read of an instruction sample, whose `texts` are at hand: under the template,
        in plain text where there is none."""
        form = "plain" if self.template is None else "template"
        read = next((text.ids for text in texts if text.form == form), None)
        return len(self._trained(record.messages).ids if read is None else read)

    def _trained(self, messages: Sequence[Message]) -> Rendered:
        return (self.template or self.plain).render(messages)

    def _text(self, sample: str, form: str, record: Record) -> Text:
        if form == "alone":
            rendered = self.plain.render([Message("assistant", record.messages[-1].content)])
        else:
            rendered = (self.plain if form == "plain" else self._trained_template()).render(record.messages)
        return Text(sample, form, rendered.ids, rendered.response)

    def _trained_template(self) -> ChatTemplate:
        assert self.template is not None  # `forms` has no "template" without one
        return self.template

    def _require_sound(self, record: Record) -> None:
        answers = (
            {"chosen answer": record.chosen, "rejected answer": record.rejected}
            if record.kind == "preferences"
            else {"answer": record.messages[-1].content if record.messages else ""}
        )
        for name, answer in answers.items():
            if not answer.strip():
                raise BadInput(f"the {name} is empty")
        if record.kind == "preferences" and record.chosen.strip() == record.rejected.strip():
            raise BadInput("chosen and rejected are the same")
        characters = sum(len(m.content) for m in record.messages) + len(record.chosen) + len(record.rejected)
        if characters > 2 * self.max_tokens * _CHARACTERS_PER_TOKEN:
            raise BadInput(f"it has {characters:,} characters, far more than fit {self.max_tokens:,} tokens")

    def _require_fit(self, texts: Sequence[Text]) -> None:
        longest = max(texts, key=lambda text: len(text.ids))
        if len(longest.ids) > self.max_tokens:
            answer = longest.span.end - longest.span.start
            raise BadInput(
                f"it has {len(longest.ids):,} tokens ({answer:,} of them the answer), more than the "
                f"{self.max_tokens:,} allowed"
            )
        if any(text.span.text_end == text.span.start for text in texts):
            raise BadInput("the answer has no tokens")


def _answered(record: Record, answer: str) -> list[Message]:
    return [*record.messages, Message("assistant", answer)]


def some_reasons(reasons: Iterable[str]) -> str:
    """The reasons, each once, the first few of them."""
    each = list(dict.fromkeys(reasons))
    more = f"; and {len(each) - _NAMED_REASONS} more reasons" if len(each) > _NAMED_REASONS else ""
    return "; ".join(each[:_NAMED_REASONS]) + more
