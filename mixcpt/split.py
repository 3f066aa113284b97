"""Choose what is held out: whole documents where there are enough, contiguous sections of them where there are few.

What it gives up: near-duplicates may stand on both sides, and a held-out section has its neighbours in training.
"""

import random
import re
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from mixcpt.cleaning import fingerprint

MAX_FRACTION = 0.2  # no more than this share is ever held out
_LEAST = 0.4  # of the wanted share: 2 % where 5 % are wanted
_SECTION_TOKENS = 64  # a section is a quarter of the held-out share, but not shorter than this …
_SECTION_SHARE = 0.1  # … or, in a very short corpus, than this share of it
_BOUNDARIES = tuple(map(re.compile, (r"\n\s*\n", r"[.!?…][\"'”’)\]]*\s+|[。！？]", r"\s+")))


class Piece(NamedTuple):
    """A stretch of a document: `text` = document[start:end] without blank ends."""

    document: int
    text: str
    held: bool


def choose(weights: Sequence[int], fraction: float, seed: int) -> set[int]:
    """Indices of a random subset that weighs about `fraction` of the whole: at least 0.4 times and at most a little
    more than it, or up to 20 % where the weights are too coarse; a quarter of the items at most. Empty when there is
    none. Same seed, same subset."""
    whole = sum(weights)
    order = random.Random(f"held-out {seed}").sample(range(len(weights)), len(weights))
    for limit in (1.25 * fraction * whole, MAX_FRACTION * whole):
        chosen: set[int] = set()
        weight = 0
        for index in order:
            fits = weight + weights[index] <= min(limit, MAX_FRACTION * whole) and len(chosen) < len(weights) // 4
            if fits and weight < fraction * whole:
                chosen.add(index)
                weight += weights[index]
        if weight >= _LEAST * fraction * whole:
            return chosen
    return set()


def cut_and_choose(texts: Sequence[str], tokens: int, fraction: float, seed: int) -> list[Piece]:
    """Cut `texts` (`tokens` long together) into pieces of which about `fraction` of the characters are held out.

    Sections on the same side that follow each other stay one piece, and a section that also stands on the held-out
    side leaves training. Empty when nothing can be held out so.
    """
    characters = sum(map(len, texts))
    size = int(characters * max(fraction / 4, min(_SECTION_TOKENS / tokens, _SECTION_SHARE)))
    sections = [(index, *span) for index, text in enumerate(texts) for span in cut(text, max(size, 1))]
    held = choose([end - start for _, start, end in sections], fraction, seed)
    prints = [fingerprint(texts[index][start:end]) for index, start, end in sections]
    unseen = {prints[number] for number in held}
    pieces = []
    numbered = enumerate(sections)
    for (document, is_held, repeated), run in groupby(
        numbered, lambda item: (item[1][0], item[0] in held, item[0] not in held and prints[item[0]] in unseen)
    ):
        spans = [span for _, span in run]
        text = texts[document][spans[0][1] : spans[-1][2]].strip()
        if text and not repeated:
            pieces.append(Piece(document, text, is_held))
    return pieces if held else []


def cut(text: str, size: int) -> list[tuple[int, int]]:
    """Spans of about `size` characters (half to one and a half) that cover `text`, ending at paragraphs, else at
    sentences, else at blanks, else anywhere."""
    spans = []
    start = 0
    while len(text) - start > 1.5 * size:
        end = _boundary(text, start, size)
        spans.append((start, end))
        start = end
    return [*spans, (start, len(text))]


def _boundary(text: str, start: int, size: int) -> int:
    low, wanted, high = start + max(size // 2, 1), start + max(size, 1), start + size + size // 2
    for boundary in _BOUNDARIES:
        ends = [match.end() for match in boundary.finditer(text, low, high)]
        if ends:
            return min(ends, key=lambda end: abs(end - wanted))
    return wanted
