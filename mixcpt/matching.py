"""Right or wrong: how the text that a model writes is compared with the accepted answers of an open question.

This file is copied beside the lm-eval tasks that are made of a user's questions, and is all the code that they need: it
imports nothing of mixcpt, so the plain `lm_eval` command scores as we do, wherever the folder lies.

Both sides are normalised as SQuAD does (Rajpurkar et al. 2016): lower case, no punctuation, no English articles, single
spaces; also Unicode's compatible forms are one, and each wide character (Chinese, Japanese, Korean) is a word of its
own. Then an answer is *exact* when it is one of the accepted ones, and *contains* the right one when that stands in it
as whole words. What this gives up: synonyms, numbers written as words, and an answer that denies what it contains.
"""

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ARTICLES = {"a", "an", "the"}


def normalised(text: str) -> str:
    """`text` as it is compared; a text of articles only keeps them."""
    parts = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(_spaced(character) for character in parts).split()
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def _spaced(character: str) -> str:
    if unicodedata.category(character)[0] in "PC":  # punctuation, and what cannot be seen
        return " " if character.isspace() else ""
    return f" {character} " if unicodedata.east_asian_width(character) == "W" else character


def is_exact(written: str, accepted: Sequence[str]) -> bool:
    """Whether a written answer is one of the accepted ones."""
    return normalised(written) in {normalised(answer) for answer in accepted}


def contains(written: str, accepted: Sequence[str]) -> bool:
    """Whether one of the accepted answers stands in a written one as whole words."""
    text = f" {normalised(written)} "
    return any(f" {normalised(answer)} " in text for answer in accepted)


def score(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """What lm-eval calls with a question and the text written for it (its `process_results`)."""
    (written,) = results
    accepted = doc["answers"]
    return {"contains": float(contains(written, accepted)), "exact": float(is_exact(written, accepted))}


def load(file: str, **_: Any) -> dict[str, Any]:
    """What lm-eval calls for the questions (its `custom_dataset`): those of the JSONL file beside this one."""
    from datasets import Dataset

    lines = (Path(__file__).parent / file).read_text(encoding="utf-8").split("\n")
    return {"test": Dataset.from_list([json.loads(line) for line in lines if line])}
