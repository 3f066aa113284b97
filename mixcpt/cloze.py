"""What a corpus gives to questions with a gap: its characteristic terms, and terms that could stand in their place.

No model has a part in it. A term is characteristic when the corpus uses it at least `RATIO` times as often as general
text does (the built-in prose, instructions and preferences). What it gives up: terms of several words, terms too rare
for that to be told, and any knowledge of grammar but the shape of words and their neighbours in the corpus.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache

from mixcpt import builtin
from mixcpt.sentences import WORD, Sentence
from mixcpt.unify import unify

RATIO = 5.0
LEAST_COUNT = 3
"""A term stands at least so often in the training text: once is no chance to learn it."""
COMMON = 1000
"""A word that stands more often than once in so many is no rare one; names are taken however frequent."""
GENERAL = ("builtin/replay", "builtin/general", "builtin/instructions", "builtin/preferences")
_FREQUENCY, _LETTERS = 3.0, 0.35
_BEFORE_GAP = 7
"""Words before a gap: with the term, as many as it takes to tell whether a run has read them (`overlap.LEAST`)."""
_STEM = 4
_SUFFIXES = (
    ("ing", r"ing$"),
    ("ed", r"ed$"),
    ("nouns", r"(?:tion|sion|ment|ness|ity|ism|ance|ence|ship|ure|age)s$"),
    ("noun", r"(?:tion|sion|ment|ness|ity|ism|ance|ence|ship|ure|age)$"),
    ("adjective", r"(?:al|ic|ous|ive|able|ible|ary|ory|ful|less|ar)$"),
    ("plural", r"[^sui]s$"),
)


@cache
def general_counts() -> Counter[str]:
    """How often each word stands in the built-in general text, whatever its case."""
    texts = (unify(record) for source in GENERAL for record in builtin.SOURCES[source]())
    return Counter(word.lower() for text in texts for word in WORD.findall(text))


@lru_cache(1 << 20)
def kind(term: str) -> str:
    """The shape of a word, as far as it tells what may stand in its place: number, code (letters with digits, inner
    capitals), name (capitalised), or a small word by its ending."""
    if term.isdigit():
        return f"number of {len(term)} digits"
    if re.search(r"\d", term) or not (term.islower() or term.istitle()):
        return "code, plural" if re.search(r"[A-Z\d]s$", term) else "code"
    if term[0].isupper():
        return "name"
    joined = "joined " if "-" in term else ""
    return joined + next((name for name, ending in _SUFFIXES if re.search(ending, term)), "word")


@dataclass
class Vocabulary:
    """The words of a corpus' training text: how often each form stands there, and which forms are characteristic."""

    counts: Counter[str] = field(default_factory=Counter)
    documents: Counter[str] = field(default_factory=Counter)
    lower: Counter[str] = field(default_factory=Counter)
    total: int = 0

    def read(self, texts: Iterable[str]) -> "Vocabulary":
        for text in texts:
            here = Counter(WORD.findall(text))
            self.counts.update(here)
            self.documents.update(here.keys())
        for form, count in self.counts.items():
            self.lower[form.lower()] += count
        self.total = sum(self.counts.values())
        return self

    def is_characteristic(self, form: str) -> bool:
        """Whether the corpus has a word, in any case, `RATIO` times as often as general text; there half an occurrence
        is added to each word's count, since a word that was not met may still exist."""
        general = general_counts()
        elsewhere = (general[form.lower()] + 0.5) / sum(general.values())
        return self.lower[form.lower()] / max(self.total, 1) >= RATIO * elsewhere

    def weight(self, form: str) -> float:
        """How much a term tells what a text is about, to take the best first: names and codes, then what comes several
        times where it comes at all (burstiness; Church and Gale 1995); twice that where general text has it never."""
        bursts = self.counts[form] / self.documents[form] - 1
        special = 1.0 if not form[0].islower() or kind(form) == "code" else 0.0
        return (min(bursts, 1.0) + special) * (1 if general_counts()[form.lower()] else 2)

    def terms(self) -> set[str]:
        """The forms that a question may ask for."""
        most = max(10, self.total // COMMON)
        return {
            form
            for form, count in self.counts.items()
            if count >= LEAST_COUNT
            and len(form) >= (4 if form.islower() else 3)
            and not re.search(r"['’]|ly$", form)
            and (count <= most or not form[0].islower())
            and (form[0].islower() or 2 * count > self.lower[form.lower()])  # no small word at a sentence's beginning
            and self.is_characteristic(form)
        }


@dataclass(frozen=True, slots=True)
class Gap:
    """A sentence with one of its terms to be found: `question` is what goes before it, `rest` what comes after, which
    is shown to readers but not asked.

    left, right: the neighbours of the gap, in small letters; right is empty where the sentence ends.
    """

    document: int
    term: str
    question: str
    rest: str
    left: str
    right: str

    @property
    def asked(self) -> str:
        """What a model that answers right has read in the end."""
        return f"{self.question} {self.term}"


def gaps(document: int, sentence: Sentence, terms: set[str]) -> Iterator[Gap]:
    """Every way to ask for a term of the sentence: it has some words before it, and stands nowhere else in sight."""
    found = list(WORD.finditer(sentence.text))
    lowered = [match[0].lower() for match in found]
    seen = Counter(lowered)
    before = {word.lower() for word in WORD.findall(sentence.before)}
    for number, match in enumerate(found):
        term = match[0]
        if number < _BEFORE_GAP or term not in terms or seen[term.lower()] > 1 or term.lower() in before:
            continue
        if any(_are_related(term, word) for word in {*before, *lowered} - {term.lower()}):
            continue
        start, end = match.span()
        if sentence.text[start - 1] != " " or not re.match(r"[,;:]? |[.!?]", sentence.text[end:]):
            continue
        yield Gap(
            document,
            term,
            f"{sentence.before} {sentence.text[: start - 1]}".strip(),
            _shortened(sentence.text[end:]),
            lowered[number - 1],
            lowered[number + 1] if number + 1 < len(found) else "",
        )


def _shortened(rest: str, most: int = 6) -> str:
    """What follows a gap, up to so many words: enough to see whether a term fits."""
    words = rest.split(" ")
    return rest if len(words) <= most + 1 else " ".join(words[: most + 1]).rstrip(",;:(")


def _are_related(term: str, word: str) -> bool:
    """Whether two words look like forms of one: they begin alike, or one holds the other."""
    one, other = term.lower(), word.lower()
    shorter = min(len(one), len(other))
    return shorter >= _STEM and (one[:_STEM] == other[:_STEM] or one in other or other in one)


@dataclass
class Surroundings:
    """What stands around the terms in the training text: the neighbours of each; the characteristic words beside it, by
    the sentences they share; and in how many sentences each of these was met."""

    left: dict[str, set[str]] = field(default_factory=dict)
    right: dict[str, set[str]] = field(default_factory=dict)
    beside: dict[str, Counter[str]] = field(default_factory=dict)
    met: Counter[str] = field(default_factory=Counter)

    def add(self, sentence: Sentence, terms: set[str], topical: set[str]) -> None:
        """Take in a sentence; `topical` are the characteristic words in small letters."""
        words = WORD.findall(sentence.text)
        here = [word for word in {word.lower() for word in words} if word in topical]
        self.met.update(here)
        for number, term in enumerate(words):
            if term not in terms:
                continue
            if number:
                self.left.setdefault(term, set()).add(words[number - 1].lower())
            self.right.setdefault(term, set()).add(words[number + 1].lower() if number + 1 < len(words) else "")
            self.beside.setdefault(term, Counter()).update(word for word in here if word != term.lower())

    def likeness(self, term: str, other: str) -> float:
        """0 to 2: how far two terms share their neighbours, on either side the cosine of the sets. What shares them is
        mostly of one part of speech."""
        return _cosine(self.left, term, other) + _cosine(self.right, term, other)

    def fit(self, term: str, gap: Gap) -> int:
        """0 to 2: on how many sides the corpus has the term beside the neighbours of the gap."""
        return (gap.left in self.left.get(term, ())) + (gap.right in self.right.get(term, ()))

    def is_knowable(self, gap: Gap, others: int) -> bool:
        """Whether the training text names the term in one sentence with a characteristic word of the question, in at
        least one sentence and `others` more: else nothing there tells that they belong together. A number belongs to a
        word when it stands in two such sentences, and in a tenth of all that name the word: years go with anything."""
        beside: Mapping[str, int] = self.beside.get(gap.term, {})
        times, share = (2, 0.1) if gap.term.isdigit() else (1, 0.0)
        asked = {word.lower() for word in WORD.findall(gap.question)}
        return any(beside.get(word, 0) >= max(times + others, share * self.met[word]) for word in asked)


def _cosine(neighbours: Mapping[str, set[str]], term: str, other: str) -> float:
    one, two = neighbours.get(term, set()), neighbours.get(other, set())
    return len(one & two) / math.sqrt(len(one) * len(two)) if one and two else 0.0


def is_rival(term: str, other: str, vocabulary: Vocabulary) -> bool:
    """Whether `other`, a term of the same kind, has a similar length and frequency in the training text."""
    often, counts = vocabulary.counts[term], vocabulary.counts
    return (
        often / _FREQUENCY <= counts[other] <= often * _FREQUENCY
        and abs(len(other) - len(term)) <= max(2, _LETTERS * len(term))
        and not _are_related(term, other)
    )
