"""Probes: questions about a corpus, made of its own sentences without any model.

Each asks for the next word of a sentence, with four choices: the term that stands there, and three of the same kind, of
similar length and frequency, that the document does not hold. Every term is asked twice: in a sentence of the training
text (`memorised`) and in one of the held-out text (`generalised`), with the same choices in the same places, so the
gains on the two tell what was learned by heart from what carries over. The same corpus, number and seed give the same
probes.

What it gives up: whether a distractor would be true as well cannot be told without a reader; a large corpus is read in
part (`MOST_CHARACTERS`); bare small numbers and terms of several words are not asked for.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from mixcpt.cloze import Gap, Surroundings, Vocabulary, gaps, is_rival, kind
from mixcpt.corpus import Corpus
from mixcpt.documents import Documents
from mixcpt.errors import BadCorpus, Damaged
from mixcpt.overlap import Finder
from mixcpt.sentences import WORD, sentences
from mixcpt.statistics import share_interval
from mixcpt.workspace import read_json, write_json

CHOICES = 4
ITEMS = 100
"""How many probes each set has when nothing else is said."""
FEWEST = 20
"""With fewer a score would tell nothing: chance alone spreads over 40 points."""
MOST_CHARACTERS = 30_000_000
"""So much training text is looked at, in documents spread evenly; of the held-out text a tenth of it."""
VERSION = 1
"""Goes up when the same corpus and seed would give other probes."""
_RIVALS = 6
"""The best fitting candidates for a distractor, of which three are taken."""
_SENTENCES = 12
"""Sentences of the training text that are kept of each term, to choose one from."""


@dataclass(frozen=True)
class Probe:
    """One term, asked in two sentences. `choices` and `counts` (occurrences in the training text) are of the terms, in
    the order of the choices; `answer` is the place of the right one."""

    term: str
    choices: list[str]
    counts: list[int]
    answer: int
    memorised: dict[str, str]
    generalised: dict[str, str]

    def question(self, side: str) -> dict[str, Any]:
        """As a question of a set: `mixcpt.questions.Question`. `meta` names the document, over which intervals go."""
        asked: dict[str, str] = getattr(self, side)
        return {
            "question": asked["question"],
            "choices": self.choices,
            "answer": self.answer,
            "meta": {"document": asked["document"]},
        }


@dataclass(frozen=True)
class Check:
    """What a strategy that knows nothing of the field scores: share, 95 % interval (Wilson), and the chance level."""

    strategy: str
    accuracy: float
    interval: tuple[float, float]
    chance: float

    @property
    def is_at_chance(self) -> bool:
        return self.interval[0] <= self.chance <= self.interval[1]


@dataclass(frozen=True)
class Probes:
    """The probes of a corpus, and what blind strategies score on them. `refused`: left out to keep these at chance."""

    corpus: str
    fingerprint: str
    seed: int
    probes: list[Probe]
    refused: int = 0
    checks: list[Check] = field(default_factory=list)

    def sets(self) -> dict[str, list[dict[str, Any]]]:
        """The two question sets."""
        return {side: [probe.question(side) for probe in self.probes] for side in SIDES}


SIDES = ("memorised", "generalised")


# ---- blind strategies ------------------------------------------------------------------------------------------------


def credits(lengths: Sequence[int], counts: Sequence[int], answer: int) -> dict[str, float]:
    """What each blind strategy earns on one item: 1 when it picks the right choice, a share where it cannot decide
    between several, else 0. `lengths` are characters, `counts` occurrences in the training text."""

    def earned(values: Sequence[int], best: int) -> float:
        return 1 / list(values).count(best) if values[answer] == best else 0.0

    places = {f"place {place + 1}": float(place == answer) for place in range(len(lengths))}
    return {
        **places,
        "longest": earned(lengths, max(lengths)),
        "shortest": earned(lengths, min(lengths)),
        "most frequent": earned(counts, max(counts)),
        "rarest": earned(counts, min(counts)),
    }


def blind(probes: Sequence[Probe]) -> list[Check]:
    """What "always the first place", "the longest" and so on score: all should stay at chance."""
    earned = [_credits(probe) for probe in probes]
    chance = sum(1 / len(probe.choices) for probe in probes) / len(probes)
    checks = []
    for strategy in earned[0]:
        total = sum(one.get(strategy, 0.0) for one in earned)
        checks.append(Check(strategy, total / len(probes), share_interval(total, len(probes)), chance))
    return checks


def balanced(probes: Sequence[Probe]) -> list[Probe]:
    """The probes without as many as it takes for all strategies to be at chance; each time the one goes that the
    strategies off chance would miss most. Down to none, where no part of them is balanced."""
    left = list(probes)
    while left and (off := [check for check in blind(left) if not check.is_at_chance]):
        pull = {check.strategy: check.accuracy - check.chance for check in off}
        worst = max(left, key=lambda probe: sum(pull[name] * _credits(probe)[name] for name in pull))
        left.remove(worst)
    return left


def _credits(probe: Probe) -> dict[str, float]:
    return credits([len(choice) for choice in probe.choices], probe.counts, probe.answer)


# ---- making them -----------------------------------------------------------------------------------------------------


def make(corpus: Corpus, items: int = ITEMS, seed: int = 0, should_stop: Callable[[], None] = lambda: None) -> Probes:
    """Up to `items` probes of a corpus; what was made once is read from beside it.

    Raises:
        BadCorpus: it gives fewer than `FEWEST` (or than `items`, where that is less) good ones. Whatever `should_stop`
            raises.
    """
    path = _kept_at(corpus, items, seed)
    if path.is_file():
        return _from_json(read_json(path), str(path))
    made = _Maker(corpus, items, seed, should_stop).probes()
    write_json(path, asdict(made))
    return made


def is_made(corpus: Corpus, items: int = ITEMS, seed: int = 0) -> bool:
    """Whether `make` would answer at once."""
    return _kept_at(corpus, items, seed).is_file()


def _kept_at(corpus: Corpus, items: int, seed: int) -> Path:
    settings = json.dumps([VERSION, corpus.manifest.fingerprint, items, seed])
    return corpus.folder / f"probes-{hashlib.sha256(settings.encode()).hexdigest()[:16]}.json"


def _from_json(kept: Any, where: str) -> Probes:
    try:
        checks = [Check(**{**check, "interval": tuple(check["interval"])}) for check in kept["checks"]]
        return Probes(**{**kept, "probes": [Probe(**probe) for probe in kept["probes"]], "checks": checks})
    except (TypeError, KeyError) as error:
        raise Damaged(f"{where} is damaged ({error}): delete it, and the probes are made again.") from None


def _spread(documents: Documents, most: int) -> list[int]:
    """Indices of documents that hold about `most` bytes in all, spread evenly over the corpus."""
    total = sum(sum(batch.column("bytes").to_pylist()) for batch in documents.batches())
    step = max(1.0, total / most)
    return [int(number * step) for number in range(int(len(documents) / step))]


class _Maker:
    """Three readings: the words of the training text; the gaps of the held-out text; what stands around the terms."""

    def __init__(self, corpus: Corpus, items: int, seed: int, should_stop: Callable[[], None]):
        self.corpus, self.items, self.seed, self.should_stop = corpus, items, seed, should_stop
        self.random = random.Random(seed)
        self.train, self.heldout = corpus.documents("train"), corpus.documents("heldout")
        self.read = _spread(self.train, MOST_CHARACTERS)
        self.words: dict[tuple[str, int], set[str]] = {}

    def probes(self) -> Probes:
        self.vocabulary = Vocabulary().read(self._training_texts())
        self.terms = self.vocabulary.terms()
        self.kinds: dict[str, list[str]] = {}
        for term in sorted(self.terms):
            self.kinds.setdefault(kind(term), []).append(term)
        unseen = self._heldout_gaps()
        unseen = self._read_around(unseen)
        made = self._matched(unseen)
        kept = balanced(self._placed(made)) if made else []
        if len(kept) < min(FEWEST, self.items):
            raise BadCorpus(
                f"The corpus {self.corpus.manifest.name!r} gives only {len(kept)} good probes, and fewer than "
                f"{min(FEWEST, self.items)} tell nothing: they need whole sentences of prose, in the held-out part as "
                "in the training part, with terms of the field that stand there several times; add more documents."
            )
        fingerprint = self.corpus.manifest.fingerprint
        return Probes(self.corpus.manifest.name, fingerprint, self.seed, kept, len(made) - len(kept), blind(kept))

    def _training_texts(self) -> Iterator[str]:
        for index in self.read:
            self.should_stop()
            yield self.train[index].text

    def _heldout_gaps(self) -> list[Gap]:
        """All gaps of the held-out text, those of different documents in turn, and of each first those whose terms
        tell most; where it is the same, in seeded order."""
        per_document: list[list[Gap]] = []
        for index in _spread(self.heldout, MOST_CHARACTERS // 10):
            found = [gap for one in sentences(self.heldout[index].text) for gap in gaps(index, one, self.terms)]
            self.random.shuffle(found)
            per_document.append(sorted(found, key=lambda gap: -self.vocabulary.weight(gap.term)))
        self.random.shuffle(per_document)
        most = max(map(len, per_document), default=0)
        return [found[turn] for turn in range(most) for found in per_document if turn < len(found)]

    def _read_around(self, unseen: Sequence[Gap]) -> list[Gap]:
        """What stands around the terms in the training text, and gaps there for those of the held-out text; returns
        the held-out gaps whose sentences do not stand there too."""
        wanted, finder = {gap.term for gap in unseen}, Finder([gap.asked for gap in unseen])
        self.around = Surroundings()
        self.seen: dict[str, list[Gap]] = {}
        met: dict[str, int] = {}
        topical = {form.lower() for form in self.vocabulary.counts if self.vocabulary.is_characteristic(form)}
        for index, text in zip(self.read, self._training_texts(), strict=True):
            finder.read(text)
            for sentence in sentences(text):
                self.around.add(sentence, self.terms, topical)
                for gap in gaps(index, sentence, wanted):
                    self._keep_one_of(gap, met)
        return [gap for number, gap in enumerate(unseen) if number not in finder.found]

    def _keep_one_of(self, gap: Gap, met: dict[str, int]) -> None:
        """Each sentence of a term is among those kept with the same chance (reservoir sampling)."""
        met[gap.term] = met.get(gap.term, 0) + 1
        kept = self.seen.setdefault(gap.term, [])
        if len(kept) < _SENTENCES:
            kept.append(gap)
        elif (place := self.random.randrange(met[gap.term])) < _SENTENCES:
            kept[place] = gap

    def _matched(self, unseen: Sequence[Gap]) -> list[tuple[Gap, Gap, list[str]]]:
        """A held-out gap, one of the training text for the same term, and three distractors for both; each term and
        each sentence once."""
        made: list[tuple[Gap, Gap, list[str]]] = []
        used: set[str] = set()
        excess: dict[str, float] = {}
        for gap in unseen:
            if len(made) == self.items:
                break
            if gap.term in used or gap.asked in used or not self.around.is_knowable(gap, others=0):
                continue
            if found := self._twin(gap, used, excess):
                made.append((gap, *found))
                used |= {gap.term, gap.asked, found[0].asked}
        return made

    def _twin(self, gap: Gap, used: set[str], excess: dict[str, float]) -> tuple[Gap, list[str]] | None:
        for twin in self.seen.get(gap.term, []):
            if twin.asked in used or not self.around.is_knowable(twin, others=1):
                continue
            if distractors := self._distractors(gap, twin, excess):
                return twin, distractors
        return None

    def _distractors(self, gap: Gap, twin: Gap, excess: dict[str, float]) -> list[str] | None:
        """Three rivals that neither document holds, of those that fit the gaps best; which three keeps length and
        frequency from telling the right one, given what the probes so far have left over (`excess`)."""
        absent = [
            rival
            for rival in self._rivals(gap.term)
            if rival.lower() not in self._words(gap, self.heldout, "heldout")
            and rival.lower() not in self._words(twin, self.train, "train")
        ]
        if len(absent) < CHOICES - 1:
            return None
        self.random.shuffle(absent)
        absent.sort(key=lambda rival: self._fit(rival, gap, twin), reverse=True)
        options = list(combinations(absent[:_RIVALS], CHOICES - 1))
        best = min(options, key=lambda three: self._unbalance(gap.term, three, excess))
        for name, earned in self._earned(gap.term, best).items():
            excess[name] = excess.get(name, 0.0) + earned - 1 / CHOICES
        return list(best)

    def _fit(self, rival: str, gap: Gap, twin: Gap) -> float:
        """How well a rival would stand in both sentences, as far as neighbours tell."""
        fits = self.around.fit(rival, gap) + self.around.fit(rival, twin)
        return self.around.likeness(gap.term, rival) + fits / 4

    def _earned(self, term: str, others: Sequence[str]) -> dict[str, float]:
        choices = [term, *others]
        earned = credits(list(map(len, choices)), [self.vocabulary.counts[choice] for choice in choices], 0)
        return {name: share for name, share in earned.items() if not name.startswith("place")}

    def _unbalance(self, term: str, others: Sequence[str], excess: dict[str, float]) -> float:
        earned = self._earned(term, others)
        return sum((excess.get(name, 0.0) + share - 1 / CHOICES) ** 2 for name, share in earned.items())

    def _rivals(self, term: str) -> list[str]:
        """All terms of its kind that could stand for it, in a fixed order."""
        return [other for other in self.kinds[kind(term)] if is_rival(term, other, self.vocabulary)]

    def _words(self, gap: Gap, documents: Documents, side: str) -> set[str]:
        """The words of the document of a gap, in small letters."""
        key = side, gap.document
        if key not in self.words:
            if len(self.words) > 1000:
                self.words.clear()
            self.words[key] = {word.lower() for word in WORD.findall(documents[gap.document].text)}
        return self.words[key]

    def _placed(self, made: Sequence[tuple[Gap, Gap, list[str]]]) -> list[Probe]:
        """The right choice in each place equally often, in seeded order."""
        places = [number % CHOICES for number in range(len(made))]
        self.random.shuffle(places)
        probes = []
        for (gap, twin, distractors), answer in zip(made, places, strict=True):
            self.random.shuffle(distractors)
            choices = [*distractors[:answer], gap.term, *distractors[answer:]]
            counts = [self.vocabulary.counts[choice] for choice in choices]
            seen, unseen = self._asked(twin, self.train), self._asked(gap, self.heldout)
            probes.append(Probe(gap.term, choices, counts, answer, seen, unseen))
        return probes

    def _asked(self, gap: Gap, documents: Documents) -> dict[str, str]:
        return {"question": gap.question, "rest": gap.rest, "document": documents[gap.document].id}
