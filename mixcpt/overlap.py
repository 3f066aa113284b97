"""Runs of words that a short text shares with long ones that stream by.

A run of `n` words must be the same, compared without case and punctuation: 13, as for GPT-3 (Brown et al. 2020,
appendix C). An item of fewer words is looked for as a whole, down to 8; a shorter one cannot be judged, since everyday
phrases would be found. Only the items are held in memory. What it gives up: paraphrases and translations.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

N, LEAST = 13, 8
_WIDE = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_WIDE}]|[^\W_{_WIDE}]+")


def words(text: str) -> list[str]:
    """As they are compared: Unicode's compatible forms are one, no case, no punctuation; a Chinese, Japanese or Korean
    character is a word of its own."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


@dataclass(frozen=True)
class Overlap:
    """The first words of an item that were found in training text, and the source and run in which they stand."""

    words: str
    source: str
    run: str


class Finder:
    """Looks for items in text that streams by. `found` are those that were met, by index.

    Args:
        n: how many words in a row must be the same. least: items of fewer words than this are not looked for
            (`too_short`); between the two an item is looked for as a whole.
    """

    def __init__(self, items: Sequence[str], n: int = N, least: int = LEAST):
        if not 1 <= least <= n:
            raise ValueError(f"runs of {n} words, but at least {least}, cannot be looked for")
        self.least = least
        self.found: dict[int, Overlap] = {}
        self.too_short: list[int] = []
        # Runs of words by their first `least`, so that one look-up a place of the text is enough.
        self._runs: dict[str, list[tuple[int, list[str]]]] = {}
        for number, item in enumerate(items):
            mine = words(item)
            if len(mine) < least:
                self.too_short.append(number)
                continue
            length = min(n, len(mine))
            for start in range(len(mine) - length + 1):
                run = mine[start : start + length]
                self._runs.setdefault(" ".join(run[:least]), []).append((number, run))

    def read(self, text: str, source: str = "", run: str = "") -> None:
        """Look for the items in a text, and remember where each was met first."""
        if not self._runs:
            return
        mine, least, runs = words(text), self.least, self._runs
        for start in range(len(mine) - least + 1):
            for number, wanted in runs.get(" ".join(mine[start : start + least]), ()):
                if number not in self.found and mine[start : start + len(wanted)] == wanted:
                    self.found[number] = Overlap(" ".join(wanted), source, run)
