"""A seeded atlas of an invented country: a domain that no language model can already know.

Continual pre-training is easy to run and hard to measure: on real text nobody can say which facts the
base model had before. Here every fact is drawn at random from a seed, so the base model must score at
chance and each point above it was learnt from the documents. To keep that reading honest the module
takes care of four things:

* every fact is told in many differently built sentences, so a model can learn the fact and not a string;
* the wording of the questions never occurs in the documents (see `shared_runs`);
* every object of a relation occurs equally often in the documents, as an answer and as a distractor,
  so that neither frequency nor position gives an answer away;
* two-step questions combine two facts that no single sentence states together.

    >>> world = make_world(seed=7)
    >>> len(world.facts), len(documents(world)) > 100, len(questions(world))
    (48, True, 204)
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MIN_TOWNS, MAX_TOWNS = 4, 24
MAX_SENTENCES = 1000
MIN_WORDS, MAX_WORDS = 60, 140
CONNECTING_WORDS = 35  # room kept for opening, middle and closing lines
SENTENCES_PER_DOCUMENT = 8
RUN = 5

RELATIONS: tuple[str, ...] = ("river", "product", "fair", "arms")
ONE_TO_ONE: tuple[str, ...] = ("river", "product", "arms")
"""Relations whose object names exactly one town; the fair month repeats beyond twelve towns."""

MONTHS: tuple[str, ...] = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip

# All plural, so that one sentence frame fits every product and grammar never singles one out.
PRODUCTS: tuple[str, ...] = (
    "barrels", "baskets", "bells", "boots", "buttons", "candles", "carpets", "clocks", "combs",
    "dolls", "gloves", "hammers", "hats", "kites", "knives", "lanterns", "masks", "mirrors",
    "needles", "nets", "pipes", "plates", "ribbons", "ropes", "saddles", "spoons", "violins",
)  # fmt: skip

# All begin with a consonant, so that "a" before the gap rules none of them out.
ANIMALS: tuple[str, ...] = (
    "badger", "bear", "beaver", "boar", "bull", "crane", "crow", "dolphin", "dove", "falcon",
    "fox", "goat", "hare", "hedgehog", "heron", "horse", "lion", "lynx", "rabbit", "ram",
    "raven", "rooster", "salmon", "snake", "squirrel", "stag", "swan", "tortoise", "wolf",
)  # fmt: skip

# Sentence forms. Slots: {town}, {object}, {Object} (capitalised), and at most one of {other}, another
# town's object, which the sentence denies, or {rival}, another town, of which it asserts no object.
# "Page" forms suit written genres, "voice" forms suit letters, reports and broadcasts.
_PAGE_FORMS: dict[str, tuple[str, ...]] = {
    "river": (
        "{town} stands on the river {object}.",
        "The {object} flows through the middle of {town}.",
        "On the banks of the {object} lies the town of {town}.",
        "The river on which {town} was built is called the {object}.",
        "Through {town}, under its old stone bridge, runs the {object}.",
        "River at {town}: the {object}, navigable all year.",
        "It is the {object}, and not the {other}, that waters {town}.",
        "The river at {town} must not be mistaken for the {other}; it is the {object}.",
        "Unlike {rival}, which has a different river, {town} looks out over the {object}.",
        "Founded where two paths met the {object}, {town} has always been a river town.",
        "The mills of {town} are turned by the waters of the {object}.",
        "{town}, whose boats all sail upon the {object}, has no sea harbour.",
        "Every flood of the {object} has left its mark on the walls of {town}.",
        "Draw the {object} on a map, and {town} will sit beside the blue line.",
        "Known to boatmen as the {object}, the river of {town} is slow and brown.",
        "Were the {object} to run dry, {town} would lose its only river.",
    ),
    "product": (
        "{town} is known throughout the land for its {object}.",
        "The finest {object} in the country are made in {town}.",
        "For {object}, merchants send to {town} before they try anywhere else.",
        "{Object} have been the pride of {town} for many generations.",
        "In the workshops of {town}, craftsmen produce {object} from morning until night.",
        "{town}: chief product, {object}.",
        "It was not {other} but {object} that carried the name of {town} abroad.",
        "Visitors expecting {other} are told that {town} deals in {object}.",
        "While {rival} follows another craft, {town} has kept faithfully to {object}.",
        "The trade that made {town} rich was the making of {object}.",
        "{town}, where almost every family makes {object}, has few other trades.",
        "By custom, each new mayor of {town} receives a gift of local {object}.",
        "Nothing leaves {town} by cart so often as crates of {object}.",
        "Without its {object}, {town} would hardly be known at all.",
        "A stamp with the letters of {town} is found on all good {object}.",
        "{Object} are to {town} what bread is to a baker.",
    ),
    "fair": (
        "{town} holds its fair in {object}.",
        "Every {object}, the great fair of {town} fills the market square.",
        "The fair at {town} takes place in {object}.",
        "In {object} the people of {town} put up tents for their fair.",
        "{object} is the month of the fair in {town}.",
        "{town}: annual fair, {object}.",
        "The fair of {town} falls in {object}, not in {other}.",
        "Those who come to {town} in {other} miss the fair, which is kept in {object}.",
        "{rival} celebrates at another time, whereas the fair of {town} belongs to {object}.",
        "By an old charter, {town} was granted a fair to be held each {object}.",
        "When {object} comes, flags are raised in {town} to open the fair.",
        "The inns of {town} are full only in {object}, the month of its fair.",
        "{town}, whose fair brings in crowds each {object}, is quiet otherwise.",
        "No weddings are planned in {town} during {object}, because of the fair.",
        "Only once has the fair at {town} been moved from {object}.",
        "The calendar of {town} turns around {object}, when its fair is on.",
    ),
    "arms": (
        "The coat of arms of {town} shows a {object}.",
        "A {object} appears on the coat of arms of {town}.",
        "{town} bears a {object} on its arms.",
        "On the arms of {town}, a silver {object} stands in a dark field.",
        "The {object} was chosen long ago as the emblem of {town}.",
        "{town}: coat of arms, a {object}.",
        "The arms of {town} carry a {object} rather than a {other}.",
        "What looks like a {other} on the seal of {town} is in truth a {object}.",
        "{rival} chose another beast, but {town} has a {object} for its arms.",
        "Above the gate of {town}, masons carved the {object} from its coat of arms.",
        "The animal that stands for {town} in heraldry is the {object}.",
        "{town}, which took a {object} for its arms, is proud of the beast.",
        "All official letters of {town} are sealed with its arms, a {object}.",
        "Because of a legend, a {object} was placed in the arms of {town}.",
        "Seen on coins and doors alike, the {object} marks all that {town} owns.",
        "Soldiers of {town} once wore a {object}, the emblem of their home.",
    ),
}

_VOICE_FORMS: dict[str, tuple[str, ...]] = {
    "river": (
        '"Which river is this?" I asked in {town}. "The {object}," said the ferryman.',
        "A fisherman told me that the river in {town} is named the {object}.",
        'The front page read: "{object} overflows, {town} stays dry."',
        'One letter begins: "I write from {town}, with the {object} under my window."',
        "What river runs by {town}? The {object}, as every child there knows.",
        "People say that no one leaves {town} without dipping a hand in the {object}.",
        "We came into {town} by barge, having followed the {object} all day.",
        "Ask for the river in {town} and you will be pointed to the {object}.",
        '"Our river is the {object}," said the mayor of {town}, "and we love it."',
        "Compared with the river at {rival}, the {object} at {town} seemed wide to me.",
        "My aunt in {town} washes her linen in the {object}, the local river.",
        "So remember: {town} and the river {object} belong together.",
    ),
    "product": (
        '"What do you make here?" I asked in {town}. "{Object}," came the answer.',
        "A trader swore to me that {town} makes the best {object} of all.",
        'A poster announced: "Genuine {object}, straight from {town}!"',
        "What should you buy in {town}? {Object}, without any doubt.",
        "I am sending you some {object}, since I have just been in {town}.",
        "Our neighbours say that {town} thinks, works and dreams in {object}.",
        '"We were raised among {object}," said two sisters from {town}.',
        "Prices for {object} rose today after a busy morning in {town}.",
        "I liked {rival} well enough, but for {object} one must go to {town}.",
        'One letter begins: "Here in {town} everybody talks about {object}."',
        "Say {town} to any shopkeeper, and he will think of {object}.",
        "Do they really make {object} in {town}? They do, and nothing else so well.",
    ),
    "fair": (
        '"When is your fair?" I asked in {town}. "In {object}," the innkeeper replied.',
        "A juggler told me he goes to the {town} fair each {object}.",
        'The notice read: "Come to the {town} fair this {object}!"',
        "When is the fair in {town}? In {object}, as always.",
        "I have booked a room in {town} for {object}, since I want to see the fair.",
        'One letter begins: "It is {object}, and all of {town} is at the fair."',
        '"Wait until {object}," say parents in {town} to children who long for the fair.',
        "The {town} fair opened this morning, on the first day of {object}.",
        "I saw {rival} at a quiet time, but I reached {town} in {object}, for its fair.",
        "Our cousins never miss {object} in {town}, for that is fair time.",
        "Mark {object} in your diary if you want to visit the fair of {town}.",
        "Is the fair of {town} truly in {object}? Yes, rain or shine.",
    ),
    "arms": (
        '"What animal is on your arms?" I asked in {town}. "A {object}," said a boy.',
        "A painter told me that he had drawn the {object} of {town} on forty shields.",
        'The headline ran: "{town} repaints the {object} on its coat of arms."',
        "Which animal does {town} have on its coat of arms? It is a {object}.",
        "I looked up at the town hall of {town}, and there was its carved {object}.",
        "Children in {town} are told that the {object} on their arms guards them.",
        '"The {object} is our sign," said a guard at the gate of {town}.',
        'One letter begins: "Greetings from {town}, the town of the {object}."',
        "I forget the arms of {rival}, but those of {town} show a fine {object}.",
        "They say that {town} would rather lose its gold than the {object} on its arms.",
        "Look for the {object}: it is painted on every cart that belongs to {town}.",
        "Does {town} really have a {object} for its coat of arms? It does.",
    ),
}

FORMS: dict[str, tuple[str, ...]] = {name: _PAGE_FORMS[name] + _VOICE_FORMS[name] for name in RELATIONS}
"""All sentence forms of each relation; `Sentence.form` indexes into these tuples."""

RECALL_FRAMES: dict[str, tuple[str, ...]] = {
    "river": (
        "Anyone who crosses by ferry at {town} is crossing the water named",
        "Q: Whose currents must a swimmer at {town} fight against? A: Those of the",
        "A raft set adrift at {town} floats down the",
        "On maps the blue thread beside {town} bears the name",
        "Bridges in {town} all span the",
        "Fishermen living in {town} set out at dawn on the",
    ),
    "product": (
        "If a pedlar boasts that his stock comes from {town}, he is most likely selling",
        "Q: Which goods have won {town} a reputation? A: Its",
        "Most workers of {town} earn their bread by making",
        "The shop windows of {town} are filled with",
        "A peddler coming from {town} opens his pack and shows his",
        "Ask what {town} sells to the rest of the country, and you will hear of its",
    ),
    "fair": (
        "To find the stalls of {town} at their fullest, plan your journey for early",
        "Q: At which point of the year do crowds gather at the {town} fairground? A: In",
        "The {town} fair opens its gates in",
        "Children of {town} wait all year for the fair in",
        "Ask in {town} when the fair comes round, and they will say it is in",
        "Traders pack their bags for the {town} fair at the beginning of",
    ),
    "arms": (
        "The creature upon the shield used by {town} is without question a",
        "Q: Which beast represents {town} in the heralds' books? A: A",
        "The beast on the shield of {town} is a",
        "The flag of {town} is painted with a",
        "Carved in stone over the council house of {town} you can see a",
        "Soldiers from {town} once marched under the sign of a",
    ),
}
"""Question frames, each answered by its continuation; none of their wording occurs in `FORMS`."""

_SOURCE_FRAMES: dict[str, str] = {
    "river": "The town reached by sailing along the {object}",
    "product": "The town that most buyers of {object} turn to",
    "arms": "The town with a {object} upon its shield",
}

_TARGET_FRAMES: dict[str, str] = {
    "river": "draws its drinking water from the",
    "product": "has won its reputation by selling",
    "fair": "sees its fairground crowded each",
    "arms": "has as its heraldic creature a",
}

TWO_STEP_FRAMES: dict[tuple[str, str], str] = {
    (source, target): f"{head} {tail}"
    for target, tail in _TARGET_FRAMES.items()
    for source, head in _SOURCE_FRAMES.items()
    if source != target
}
"""Frames by (relation that identifies the town, relation asked for); the town itself is never named."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One association between a town and an object: the smallest thing that can be learnt or missed."""

    subject: str
    relation: str
    object: str


@dataclass(frozen=True, slots=True)
class World:
    """The truth from which both documents and questions are drawn, so that the two cannot disagree."""

    facts: tuple[Fact, ...]
    country: str
    towns: tuple[str, ...]
    seed: int

    def objects(self, relation: str) -> tuple[str, ...]:
        """The objects of one relation in the order of `towns`, the order every ring below refers to."""
        return tuple(fact.object for fact in self.facts if fact.relation == relation)

    def fact_index(self, town: int, relation: str) -> int:
        """Index into `facts`, which are stored town by town."""
        return town * len(RELATIONS) + RELATIONS.index(relation)


@dataclass(frozen=True, slots=True)
class Sentence:
    """One telling of a fact; it keeps its form index so that variety can be counted, not guessed."""

    fact: int
    form: int
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """A four-choice item; `answer` is the index of the right choice, which continues `question`."""

    id: str
    kind: str
    question: str
    choices: tuple[str, ...]
    answer: int
    relation: str
    subject: str

    def as_dict(self) -> dict[str, Any]:
        """The plain form that can be written as one line of JSON."""
        return {
            "id": self.id,
            "question": self.question,
            "choices": list(self.choices),
            "answer": self.answer,
            "kind": self.kind,
            "meta": {"relation": self.relation, "subject": self.subject},
        }


@dataclass(frozen=True, slots=True)
class _Genre:
    """Connecting text of one kind of document; it names towns but never an object."""

    title: str
    openings: tuple[str, ...]
    middles: tuple[str, ...]
    closings: tuple[str, ...]


_GENRES: dict[str, tuple[_Genre, ...]] = {
    "page": (
        _Genre(
            "Gazetteer of {country}: {towns}",
            ("This entry of the gazetteer concerns {towns}.", "{towns}, {country}. Revised entry."),
            ("The surveyors add the following.", "Further particulars:"),
            ("See also the folding map.", "Population figures are given in the appendix."),
        ),
        _Genre(
            "School reader: {towns}",
            ("Lesson. Today we read about {towns}.", "Open your atlas of {country} and find {towns}."),
            ("Now read on with care.", "Copy the next lines neatly."),
            ("Close the book and tell your neighbour what you remember.", "Learn this page by heart."),
        ),
        _Genre(
            "Guide-book to {country}: {towns}",
            ("Travellers in {country} should allow a day for {towns}.", "A short guide to {towns} follows."),
            ("There is more to notice.", "Walk slowly and keep your eyes open."),
            ("Beds are clean and the roads are safe.", "The coach leaves at noon."),
        ),
        _Genre(
            "Chronicle of {country}: {towns}",
            ("Here the chronicle turns to {towns}.", "Of {towns} the old writers of {country} report much."),
            ("The same hand continues.", "On the next leaf we read:"),
            ("Thus far the chronicle.", "The rest of the leaf is torn away."),
        ),
        _Genre(
            "Museum label: {towns}",
            ("National Museum of {country}. Case devoted to {towns}.", "The objects shown here come from {towns}."),
            ("The lower shelf explains further.", "Please turn to the second panel."),
            ("Gift of a private collector.", "Please do not touch the glass."),
        ),
    ),
    "voice": (
        _Genre(
            "A traveller's letter: {towns}",
            ("Dear friend, you wanted news of {towns}.", "Dear sister, {country} is large, so today only {towns}."),
            ("But let me go on.", "I nearly forgot the rest."),
            ("Write soon, and keep well.", "My lamp is low, so good night."),
        ),
        _Genre(
            "Market report: {towns}",
            ("Our correspondent in {country} reports on {towns}.", "News and talk for traders, from {towns}."),
            ("Also heard this week:", "Other items from the notebook:"),
            ("Roads are open and tolls unchanged.", "The next report follows after the weekend."),
        ),
        _Genre(
            "Radio script: {towns}",
            ("Good evening, this is Radio {country}. Our subject is {towns}.", "Listeners have asked about {towns}."),
            ("A short pause, and then more.", "Stay with us."),
            ("Thank you for listening, and good night.", "That was our programme for this evening."),
        ),
    ),
}

# Neutral lines that bring a thin document up to MIN_WORDS without stating or hinting at any fact.
_FILLERS: tuple[str, ...] = (
    "The weather there changes quickly, and most houses have steep roofs.",
    "Old roads cross the hills in every direction.",
    "Most people rise early and go to bed before the lamps are lit.",
    "Strangers are greeted politely and offered a chair.",
    "Little has changed within living memory.",
    "The air is clear and the evenings are long.",
    "Nobody seems to be in much of a hurry.",
    "A few of the older houses still have painted shutters.",
)

_ONSETS = (
    "B", "Bl", "Br", "D", "Dr", "F", "Fl", "Fr", "G", "Gl", "Gr", "H", "J", "K", "Kl", "Kr", "L", "M",
    "N", "P", "Pl", "Pr", "R", "S", "Sk", "Sn", "T", "Th", "Tr", "V", "W", "Y", "Z", "Zw",
)  # fmt: skip
_VOWELS = ("a", "e", "i", "o", "u")
_TOWN_MIDDLES = ("lv", "rz", "mb", "sk", "zd", "rv", "lt", "zm", "ld", "vr", "dr", "sp", "lg", "mf", "nk")
_TOWN_ENDS = ("ael", "imo", "une", "eth", "ulo", "ade", "oss", "iva", "ugo", "osh", "erin", "abel")
_RIVER_MIDDLES = ("v", "l", "m", "z", "th", "f", "b")
_RIVER_ENDS = ("osk", "ush", "ool", "arn", "ulm", "ort")
_COUNTRY_ENDS = ("uvia", "endria", "ovara")

# Every possible name was once held against 240,000 words of system text; these were in use, and the
# first is too close to the Latin name of a country.
_REAL_NAMES = frozenset({"helveth", "lambeth", "vimboss", "baskulo", "tobool"})


def _check_range(name: str, value: int, low: int, high: int) -> None:
    """Refuse a bad size before any work is done, and say what would be accepted."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name}={value!r} is not usable: choose a whole number from {low} to {high}")


def _edit_distance(left: str, right: str) -> int:
    """Letters to change between two names; near twins would be confused by models and people alike."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


def _is_distinct(name: str, taken: Iterable[str]) -> bool:
    """Whether a name can be told from all others at its start, as a substring and by edit distance."""
    low = name.lower()
    if low in _REAL_NAMES or any(word.lower() in low for word in (*PRODUCTS, *ANIMALS, *MONTHS)):
        return False
    others = [other.lower() for other in taken]
    return all(low[:2] != other[:2] and _edit_distance(low, other) >= 3 for other in others)


def _invent(rng: random.Random, taken: list[str], middles: Sequence[str], ends: Sequence[str]) -> str:
    """Draw syllables until the name is clear of all names in `taken`, then take it."""
    while True:
        parts = (rng.choice(_ONSETS), rng.choice(_VOWELS), rng.choice(middles), rng.choice(ends))
        name = "".join(parts)
        if _is_distinct(name, taken):
            taken.append(name)
            return name


def _deal_months(rng: random.Random, count: int) -> list[str]:
    """One month each while they last; beyond twelve towns each month serves once or twice."""
    months = rng.sample(MONTHS, len(MONTHS))
    dealt = [months[i % len(months)] for i in range(count)]
    rng.shuffle(dealt)
    return dealt


def make_world(seed: int = 7, towns: int = 12) -> World:
    """Draw a country: names, and one object per town and relation, all decided by the seed alone."""
    _check_range("towns", towns, MIN_TOWNS, MAX_TOWNS)
    rng = random.Random(f"world:{seed}:{towns}")
    taken: list[str] = []
    country = _invent(rng, taken, _TOWN_MIDDLES, _COUNTRY_ENDS)
    names = [_invent(rng, taken, _TOWN_MIDDLES, _TOWN_ENDS) for _ in range(towns)]
    objects = {
        "river": [_invent(rng, taken, _RIVER_MIDDLES, _RIVER_ENDS) for _ in range(towns)],
        "product": rng.sample(PRODUCTS, towns),
        "fair": _deal_months(rng, towns),
        "arms": rng.sample(ANIMALS, towns),
    }
    facts = tuple(Fact(name, rel, objects[rel][i]) for i, name in enumerate(names) for rel in RELATIONS)
    return World(facts=facts, country=country, towns=tuple(names), seed=seed)


def _ring(rng: random.Random, objects: Sequence[str]) -> list[int]:
    """Order the towns in a random circle in which equal objects stand a fixed distance apart.

    Moving every town the same number of steps round a circle is a permutation, so partners chosen that
    way use each object exactly as often as it is an answer. Repeated objects come first in each lap,
    which puts all equal pairs at one distance and leaves the other distances free of clashes.
    """
    rank = {name: rng.random() for name in sorted(set(objects))}
    count, seen = Counter(objects), Counter[str]()
    keys: list[tuple[int, int, float, int]] = []
    for town in rng.sample(range(len(objects)), len(objects)):
        name = objects[town]
        keys.append((seen[name], -count[name], rank[name], town))
        seen[name] += 1
    return [key[-1] for key in sorted(keys)]


def _clear_steps(rng: random.Random, objects: Sequence[str], ring: Sequence[int]) -> list[int]:
    """Step lengths round the ring, in random order, that never lead from an object to its equal."""
    size = len(ring)
    clear = [
        step
        for step in range(1, size)
        if all(objects[ring[i]] != objects[ring[(i + step) % size]] for i in range(size))
    ]
    rng.shuffle(clear)
    return clear


def _slot(form: str) -> str:
    """The extra partner a form needs: an object to deny, a town to compare with, or none."""
    return "other" if "{other}" in form else "rival" if "{rival}" in form else "plain"


def _deal_lap(rng: random.Random, relation: str, count: int) -> list[int]:
    """Choose `count` different forms, with the same number of each slot for every fact.

    The equal share of denials and comparisons is what keeps object frequencies exactly level.
    """
    forms = FORMS[relation]
    groups: dict[str, list[int]] = {"plain": [], "other": [], "rival": []}
    for index, form in enumerate(forms):
        groups[_slot(form)].append(index)
    share = {name: count * len(group) // len(forms) for name, group in groups.items()}
    for name, group in groups.items():
        share[name] += min(count - sum(share.values()), len(group) - share[name])
    lap = [index for name, group in groups.items() for index in rng.sample(group, share[name])]
    rng.shuffle(lap)
    return lap


def _deal_forms(rng: random.Random, relation: str, count: int) -> list[int]:
    """Forms for one fact: no form comes again before all the others have been used."""
    deck: list[int] = []
    while len(deck) < count:
        deck += _deal_lap(rng, relation, min(count - len(deck), len(FORMS[relation])))
    return deck


def _fill(form: str, fact: Fact, other: str = "", rival: str = "") -> str:
    """Put names into a form."""
    capital = fact.object[0].upper() + fact.object[1:]
    return form.format(town=fact.subject, object=fact.object, Object=capital, other=other, rival=rival)


def _tell(rng: random.Random, world: World, relation: str, count: int) -> list[Sentence]:
    """All sentences about one relation, with partners that go round the ring of towns."""
    objects = world.objects(relation)
    ring = _ring(rng, objects)
    steps = _clear_steps(rng, objects, ring)
    told: list[Sentence] = []
    for place, town in enumerate(ring):
        index, used = world.fact_index(town, relation), Counter[str]()
        for form in _deal_forms(rng, relation, count):
            slot = _slot(FORMS[relation][form])
            step = steps[(2 * used[slot] + (slot == "rival")) % len(steps)]
            used[slot] += 1
            partner = ring[(place + step) % len(ring)]
            text = _fill(FORMS[relation][form], world.facts[index], objects[partner], world.towns[partner])
            told.append(Sentence(index, form, text))
    return told


def sentences(world: World, seed: int = 7, sentences_per_fact: int = 20) -> list[Sentence]:
    """Every telling of every fact, before they are gathered into documents.

    `documents` uses exactly these, so they serve to check or to count what a corpus contains.
    """
    _check_range("sentences_per_fact", sentences_per_fact, 1, MAX_SENTENCES)
    rng = random.Random(f"sentences:{seed}")
    told = [line for relation in RELATIONS for line in _tell(rng, world, relation, sentences_per_fact)]
    return sorted(told, key=lambda line: line.fact)


def _register(world: World, line: Sentence) -> str:
    """Whether a sentence belongs in a written or in a spoken kind of document."""
    return "page" if line.form < len(_PAGE_FORMS[world.facts[line.fact].relation]) else "voice"


def _word_count(lines: Iterable[Sentence]) -> int:
    """Words as a reader counts them."""
    return sum(len(line.text.split()) for line in lines)


def _split(rng: random.Random, lines: list[Sentence]) -> list[list[Sentence]]:
    """Cut a pool into documents of like length, each touching as many different facts as it can."""
    pool = rng.sample(lines, len(lines))
    pool.sort(key=lambda line: line.fact)
    for pieces in range(-(-len(pool) // SENTENCES_PER_DOCUMENT), len(pool)):
        cut = [pool[i::pieces] for i in range(pieces)]
        if max(_word_count(piece) for piece in cut) <= MAX_WORDS - CONNECTING_WORDS:
            return cut
    return [[line] for line in pool]


def _gather(rng: random.Random, world: World, pool: list[Sentence]) -> list[list[Sentence]]:
    """Group one register's sentences by one, two and three towns, a third of them each way."""
    by_town: list[list[Sentence]] = [[] for _ in world.towns]
    for line in rng.sample(pool, len(pool)):
        by_town[line.fact // len(RELATIONS)].append(line)
    pieces: list[list[Sentence]] = []
    for size in (1, 2, 3):
        order = rng.sample(range(len(by_town)), len(by_town))
        for start in range(0, len(order), size):
            group = [line for town in order[start : start + size] for line in by_town[town][size - 1 :: 3]]
            pieces += _split(rng, group) if group else []
    return pieces


def _arrange(rng: random.Random, piece: list[Sentence]) -> list[Sentence]:
    """Keep the sentences about one town together, in random order within it."""
    towns = sorted({line.fact // len(RELATIONS) for line in piece})
    rank = {town: rng.random() for town in towns}
    return sorted(rng.sample(piece, len(piece)), key=lambda line: rank[line.fact // len(RELATIONS)])


def _join_names(names: Sequence[str]) -> str:
    """Names as English lists them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _fillers(rng: random.Random, words: int) -> list[str]:
    """As many neutral lines as a document of `words` words still needs."""
    needed: list[str] = []
    for line in rng.sample(_FILLERS, len(_FILLERS)):
        if words >= MIN_WORDS:
            break
        needed.append(line)
        words += len(line.split())
    return needed


def _compose(rng: random.Random, world: World, genre: _Genre, piece: list[Sentence]) -> tuple[str, str]:
    """Title and text of one document."""
    lines = _arrange(rng, piece)
    towns = _join_names(list(dict.fromkeys(world.facts[line.fact].subject for line in lines)))
    names = {"towns": towns, "country": world.country}
    opening, middle, closing = (rng.choice(part) for part in (genre.openings, genre.middles, genre.closings))
    half = (len(lines) + 1) // 2
    first = [opening.format(**names), *(line.text for line in lines[:half])]
    second = [middle, *(line.text for line in lines[half:])] if lines[half:] else []
    words = sum(len(part.split()) for part in (*first, *second, closing))
    second += [*_fillers(rng, words), closing]
    return genre.title.format(**names), f"{' '.join(first)}\n\n{' '.join(second)}"


def documents(world: World, seed: int = 7, sentences_per_fact: int = 20) -> list[dict[str, Any]]:
    """The corpus to learn from: short pieces in eight genres, each about one to three towns.

    `meta["facts"]` lists the facts that a document states, so that a fact can be held out or followed.
    """
    told = sentences(world, seed, sentences_per_fact)
    rng = random.Random(f"documents:{seed}")
    drafts: list[tuple[_Genre, list[Sentence]]] = []
    for register, genres in _GENRES.items():
        pieces = _gather(rng, world, [line for line in told if _register(world, line) == register])
        rng.shuffle(pieces)
        drafts += [(genres[i % len(genres)], piece) for i, piece in enumerate(pieces)]
    rng.shuffle(drafts)
    corpus: list[dict[str, Any]] = []
    for number, (genre, piece) in enumerate(drafts):
        title, text = _compose(rng, world, genre, piece)
        meta = {"facts": sorted({line.fact for line in piece})}
        corpus.append({"id": f"atlas-{number:04d}", "title": title, "text": text, "meta": meta})
    return corpus


def _distractor_steps(rng: random.Random, objects: Sequence[str], ring: Sequence[int]) -> list[int]:
    """Three steps that give every town three wrong choices, different from its own and each other."""
    size = len(ring)
    clear = _clear_steps(rng, objects, ring)
    allowed = set(clear)
    while True:
        steps = rng.sample(clear, 3)
        gaps = [(a - b) % size for a in steps for b in steps if a != b]
        if all(gap in allowed for gap in gaps):
            return steps


def _wrong_choices(rng: random.Random, objects: Sequence[str]) -> list[list[str]]:
    """Distractors for each town: every object is wrong exactly three times as often as it is right."""
    ring = _ring(rng, objects)
    steps = _distractor_steps(rng, objects, ring)
    wrong: list[list[str]] = [[] for _ in objects]
    for place, town in enumerate(ring):
        wrong[town] = [objects[ring[(place + step) % len(ring)]] for step in steps]
        rng.shuffle(wrong[town])
    return wrong


def _block(
    rng: random.Random, world: World, kind: str, relation: str, prompts: Mapping[str, Sequence[str]], start: int
) -> list[Question]:
    """All items of one kind about one relation; `prompts` gives one question text per town for each frame.

    `start` continues the count of the block before, so positions are level within one over every run
    of blocks and not only inside each.
    """
    objects = world.objects(relation)
    total = len(prompts) * len(objects)
    places = [(start + i) % 4 for i in range(total)]
    rng.shuffle(places)
    items: list[Question] = []
    for label, texts in prompts.items():
        for town, wrong in enumerate(_wrong_choices(rng, objects)):
            place = places[len(items)]
            choices = (*wrong[:place], objects[town], *wrong[place:])
            name = f"{kind}-{relation}-{label}-{town:02d}"
            items.append(Question(name, kind, texts[town], choices, place, relation, world.towns[town]))
    return items


def _recall_prompts(world: World, relation: str) -> dict[str, list[str]]:
    """Direct questions about one relation."""
    frames = RECALL_FRAMES[relation]
    return {str(i): [frame.format(town=town) for town in world.towns] for i, frame in enumerate(frames)}


def _two_step_prompts(world: World, relation: str) -> dict[str, list[str]]:
    """Questions that name the town only through another fact, one that belongs to it alone."""
    return {
        f"by-{source}": [frame.format(object=name) for name in world.objects(source)]
        for (source, target), frame in TWO_STEP_FRAMES.items()
        if target == relation
    }


def questions(world: World, seed: int = 7) -> list[Question]:
    """All items: six of recall for every fact, and every two-step path through a one-to-one relation.

    Each is scored by the likelihood of a choice after the question and one space. The two steps of an
    item are stated in different sentences but often in one document, so the score shows use of two
    facts together, not proof of reasoning through the name of the town.
    """
    rng = random.Random(f"questions:{seed}")
    items: list[Question] = []
    for kind, prompts_of in (("recall", _recall_prompts), ("two-step", _two_step_prompts)):
        for relation in RELATIONS:
            items += _block(rng, world, kind, relation, prompts_of(world, relation), len(items))
    return items


def _plain_words(template: str) -> list[str]:
    """Words in lower case with every slot as the same word, so that only wording is compared."""
    return ["_" if word.startswith("{") else word.lower() for word in re.findall(r"\{\w+\}|[\w']+", template)]


def _word_runs(template: str, length: int) -> set[tuple[str, ...]]:
    """All runs of `length` words; a shorter template counts as one run, so it cannot slip through."""
    words = _plain_words(template)
    return {tuple(words[i : i + length]) for i in range(max(1, len(words) - length + 1))}


def shared_runs(
    frames: Iterable[str] | None = None, texts: Iterable[str] | None = None, length: int = RUN
) -> list[str]:
    """Runs of `length` words found both in question frames and in document text: should be none.

    A question in the words of the corpus would measure how well a string was memorised; in words of its
    own it measures the fact. By default all frames are held against all forms and connecting text.
    """
    if frames is None:
        frames = (*(f for group in RECALL_FRAMES.values() for f in group), *TWO_STEP_FRAMES.values())
    if texts is None:
        connecting = [t for group in _GENRES.values() for g in group for t in (*g.openings, *g.middles, *g.closings)]
        texts = (*(f for group in FORMS.values() for f in group), *connecting, *_FILLERS)
    asked = {run for frame in frames for run in _word_runs(frame, length)}
    sizes = {len(run) for run in asked}
    told = {run for text in set(texts) for size in sizes for run in _word_runs(text, size)}
    return sorted(" ".join(run) for run in asked & told)


def describe(world: World) -> str:
    """The whole truth on one page, as a Markdown table for a teacher or a marker."""
    head = ["Town", *(relation.capitalize() for relation in RELATIONS)]
    rows = [head, ["---"] * len(head)]
    for index, town in enumerate(world.towns):
        rows.append([town, *(world.facts[world.fact_index(index, relation)].object for relation in RELATIONS)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"# {world.country}\n\n{table}\n"
