"""What kind of token one is: part of a term of the field, a number, punctuation, a common word or another word.

By rules, for any tokenizer: a token is of the kind of the word that its first visible character stands in. What it
gives up: grammar, and terms of several words.
"""

from collections.abc import Iterable, Iterator, Set

import numpy as np

from mixcpt.cloze import Vocabulary, general_counts
from mixcpt.corpus import Corpus
from mixcpt.records import Record
from mixcpt.sentences import WORD
from mixcpt.unify import unify

KINDS = {
    "term": "the field's own terms",
    "number": "numbers",
    "common": "common words",
    "word": "other words",
    "mark": "punctuation and white space",
}
"""Kinds in their order on disk, and in words."""
COMMON = 10_000
"""A word is common when general text has it at least once in so many words."""
MOST_CHARACTERS = 3_000_000
"""Of each corpus of the field so much training text is read to find its terms."""
_TERM, _NUMBER, _COMMON, _WORD, _MARK = range(len(KINDS))


def terms_of(corpora: Iterable[Corpus]) -> set[str]:
    """The characteristic terms of each corpus (`cloze.Vocabulary.terms`), in small letters."""
    found: set[str] = set()
    for corpus in corpora:
        found |= {term.lower() for term in Vocabulary().read(_texts(corpus)).terms()}
    return found


def _texts(corpus: Corpus) -> Iterator[str]:
    left = MOST_CHARACTERS
    for document in corpus.documents("train"):
        if left <= 0:
            return
        text = document.text if document.kind == "documents" else unify(Record.from_json(document.record))
        left -= len(text)
        yield text


def kinds_of(text: str, spans: np.ndarray, terms: Set[str]) -> np.ndarray:
    """The kind of each token, as its place in `KINDS` (uint8).

    Args:
        spans: [tokens, 2], where they start and end in `text`. terms: of the field, in small letters.
    """
    of_character = np.full(len(text) + 1, _MARK, dtype=np.uint8)
    for word in WORD.finditer(text):
        of_character[word.start() : word.end()] = _kind(word[0], terms)
    found = np.full(len(spans), _MARK, dtype=np.uint8)
    for place, (start, end) in enumerate(spans):
        token = text[start:end]
        found[place] = of_character[start + len(token) - len(token.lstrip())]
    return found


def _kind(word: str, terms: Set[str]) -> int:
    if word.isdigit():
        return _NUMBER
    if word.lower() in terms:
        return _TERM
    if any(character.isdigit() for character in word):
        return _NUMBER
    general = general_counts()
    return _COMMON if general[word.lower()] * COMMON >= sum(general.values()) else _WORD
