"""A made-up field of which the words are known: what probes are made of in tests."""

import random

from mixcpt.records import Record

TERMS = [first + last for first in ("bram", "drel", "fosk", "glim", "krun", "plov") for last in
         ("ado", "ebo", "iko", "olu", "umo", "arn", "elk", "oft")]  # fmt: skip
"""48 words that general text does not have, in groups of six that stand together."""
_PLAIN = [
    "morning", "evening", "window", "garden", "river", "bridge", "winter", "summer", "letter", "paper", "table",
    "kitchen", "teacher", "farmer", "village", "street", "mountain", "valley", "forest", "meadow", "harbour",
    "market", "friend", "brother", "sister", "mother", "father", "doctor", "story", "picture", "colour", "music",
    "number", "question", "answer", "reason", "season", "weather", "water", "stone", "wood", "iron", "bread",
    "butter", "cheese", "apple", "basket", "bottle",
]  # fmt: skip


def group(number: int) -> list[str]:
    """The six terms of a document."""
    return TERMS[number % 8 :: 8]


def text(number: int) -> str:
    """A document of four sentences with two terms each and eight without; no two documents share eight words in a row.
    So a term stands about once in 1,500 words."""
    chance = random.Random(number)
    sentences = []
    for place in range(12):
        a, b, c, d, e, f = chance.sample(_PLAIN, 6)
        one, two = chance.sample(group(number), 2) if place % 3 == 0 else chance.sample(_PLAIN, 2)
        sentences.append(f"Near the {a} and the {b} every {one} of the {c} keeps its {two} behind a {d}, {e} or {f}.")
    return " ".join(sentences)


def records(count: int) -> list[Record]:
    return [
        Record(kind="documents", text=text(number), meta={"id": str(number)}, file="test") for number in range(count)
    ]
