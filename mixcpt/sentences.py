"""Running text into the sentences that a question can be made of, each with what stands before it.

By rules alone, for texts of European languages: paragraphs, then sentence ends. What it gives up: sentences in code,
tables, headings and lists, sentences that hold markup, and whatever a rule cannot tell for certain; a question needs
good sentences, not all of them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

FEWEST_WORDS, MOST_WORDS = 8, 45
CONTEXT_WORDS = 40
WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
"""A word, a number or a name: letters and digits, with hyphens and apostrophes inside."""

_FENCE = re.compile(r"^(```|~~~).*?^\1\s*$|<!--.*?-->", re.MULTILINE | re.DOTALL)
_LINE = re.compile(r"[^\n]*\n+|[^\n]+")
_PARAGRAPH = re.compile(r"\n\s*\n")
_NO_PROSE = re.compile(r"#|\||<|>|=|\+|\$|[-*•] |\d+[.)] |( {4}|\t)")
_END = re.compile(r"(?<=[.!?])[\"”’')]*\s+(?=[\"“‘'(]?[^\W\d_a-z])")
_SHORTENED = re.compile(
    r"(?:\b(?:[A-Z]|al|approx|cf|ca|Co|Corp|Dr|ed|eds|e\.g|eg|Eq|etc|Fig|Figs|i\.e|ie|Inc|Jr|Ltd|Mr|Mrs|Ms|No|no|nos|p|pp"
    r"|Prof|Sec|sp|spp|Sr|St|U\.S|vol|vs))\.$"
)
_MARKUP = re.compile(r"[\[\]{}<>|\\=~^@#]|https?:|www\.|``|\*\*|__|\.{3}|…")
_BRACKETS = ("()", "“”")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence on one line; `before` are up to `CONTEXT_WORDS` words of whole sentences of the same paragraph."""

    text: str
    before: str


def sentences(text: str) -> Iterator[Sentence]:
    """The usable sentences of a document, in order."""
    for paragraph in _PARAGRAPH.split(_FENCE.sub("\n\n", text)):
        if _NO_PROSE.match(paragraph.lstrip("\n")):
            continue
        before: list[str] = []
        for sentence in _cut(" ".join(paragraph.split())):
            if _is_usable(sentence):
                yield Sentence(sentence, _last_words(before))
            before = [*before, sentence] if not _MARKUP.search(sentence) else []


def stretches(text: str) -> Iterator[tuple[int, int]]:
    """Where the lines of any text, and the sentences in them, begin and end: [start, end) in characters, in order and
    without a gap, each with the white space behind it."""
    for line in _LINE.finditer(text):
        start = line.start()
        for end in [*_ends(line[0]), len(line[0])]:
            if line.start() + end > start:
                yield start, line.start() + end
                start = line.start() + end


def _cut(paragraph: str) -> Iterator[str]:
    """The paragraph's sentences."""
    start = 0
    for end in _ends(paragraph):
        yield paragraph[start:end].rstrip()
        start = end
    if start < len(paragraph):
        yield paragraph[start:]


def _ends(paragraph: str) -> Iterator[int]:
    """Where its sentences end, white space included, but for the last one; an abbreviation ends none."""
    start = 0
    for end in _END.finditer(paragraph):
        if not _SHORTENED.search(paragraph[start : end.end()].rstrip()):
            yield end.end()
            start = end.end()


def _last_words(before: list[str]) -> str:
    """The last whole sentences that fit into the context."""
    taken: list[str] = []
    words = 0
    for sentence in reversed(before):
        words += len(sentence.split())
        if words > CONTEXT_WORDS:
            break
        taken.insert(0, sentence)
    return " ".join(taken)


def _is_usable(sentence: str) -> bool:
    """Whether it is prose, whole, and neither too short to ask about nor too long to read."""
    words = sentence.split()
    letters = sum(character.isalpha() or character.isspace() for character in sentence)
    return (
        FEWEST_WORDS <= len(words) <= MOST_WORDS
        and sentence.rstrip("\"”’')")[-1:] in (".", "!", "?")
        and sentence.lstrip("\"“‘'(")[:1].isupper()
        and letters >= 0.85 * len(sentence)
        and not _MARKUP.search(sentence)
        and all(sentence.count(pair[0]) == sentence.count(pair[1]) for pair in _BRACKETS)
        and sentence.count('"') % 2 == 0
    )
