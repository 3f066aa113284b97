"""Instructions whose fulfilment a rule can check: what a written answer has to be, and whether it is.

In the spirit of IFEval (Zhou et al. 2023, arXiv 2311.07911), with prompts and rules of our own. A demand is a dict with
the name of its `check` and what that needs, as in {"check": "words", "most": 20}. An answer is *strict* when it meets
every demand of its prompt as it stands; an empty answer meets none. This file is copied beside the lm-eval tasks that
are made of such prompts and imports nothing of mixcpt, so the plain `lm_eval` command scores as we do.

What this gives up: whether an answer is true, useful or on its subject. A rule cannot tell.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Demand = Mapping[str, Any]
_BULLET = re.compile(r"^\s*[-*•]\s+\S")
_NUMBERED = re.compile(r"^\s*(\d+)[.)]\s+\S")
_SENTENCE_END = re.compile(r"[.!?…]+(?=[\s\"'”’)]|$)")


def _words(text: str) -> list[str]:
    return [word for word in text.split() if any(character.isalnum() for character in word)]


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _within(count: int, demand: Demand) -> bool:
    return int(demand.get("least", count)) <= count <= int(demand.get("most", count))


def words(text: str, demand: Demand) -> bool:
    """From `least` to `most` words."""
    return _within(len(_words(text)), demand)


def sentences(text: str, demand: Demand) -> bool:
    """From `least` to `most` sentences; what follows the last full stop counts as one."""
    return _within(sum(bool(_words(part)) for part in _SENTENCE_END.split(text)), demand)


def lines(text: str, demand: Demand) -> bool:
    """From `least` to `most` lines, empty ones not counted."""
    return _within(len(_lines(text)), demand)


def paragraphs(text: str, demand: Demand) -> bool:
    """From `least` to `most` blocks of text with empty lines between."""
    return _within(sum(bool(part.strip()) for part in re.split(r"\n\s*\n", text)), demand)


def bullets(text: str, demand: Demand) -> bool:
    """From `least` to `most` lines that begin with a hyphen, a star or a dot."""
    return _within(sum(bool(_BULLET.match(line)) for line in _lines(text)), demand)


def numbered(text: str, demand: Demand) -> bool:
    """Lines numbered 1, 2, 3 and so on, from `least` to `most` of them."""
    found = [int(match[1]) for line in _lines(text) if (match := _NUMBERED.match(line))]
    return found == list(range(1, len(found) + 1)) and _within(len(found), demand)


def contains(text: str, demand: Demand) -> bool:
    """The words `text` as whole words, large or small letters alike, at least `times` (1) times."""
    pattern = rf"(?<!\w){re.escape(demand['text'].casefold())}(?!\w)"
    return len(re.findall(pattern, text.casefold())) >= int(demand.get("times", 1))


def without(text: str, demand: Demand) -> bool:
    """Not the words `text` as whole words, large or small letters alike."""
    return not contains(text, {"text": demand["text"]})


def without_character(text: str, demand: Demand) -> bool:
    """Nowhere one of the `characters`, large or small."""
    return not set(text.casefold()) & set(demand["characters"].casefold())


def lower(text: str, demand: Demand) -> bool:
    """Letters, and no capital among them."""
    return any(character.isalpha() for character in text) and text == text.lower()


def upper(text: str, demand: Demand) -> bool:
    """Letters, and only capitals among them."""
    return any(character.isalpha() for character in text) and text == text.upper()


def starts(text: str, demand: Demand) -> bool:
    """Begins with exactly `text`."""
    return text.startswith(demand["text"])


def ends(text: str, demand: Demand) -> bool:
    """Ends with exactly `text`."""
    return text.endswith(demand["text"])


def quoted(text: str, demand: Demand) -> bool:
    """Stands in double quotation marks as a whole."""
    return len(text) > 2 and text[0] == text[-1] == '"'


def one_of(text: str, demand: Demand) -> bool:
    """Nothing but one of the `choices`, large or small letters alike; a full stop after it is fine."""
    return text.rstrip(".").casefold() in {choice.casefold() for choice in demand["choices"]}


def number(text: str, demand: Demand) -> bool:
    """Nothing but a whole number in digits, from `least` to `most`."""
    return bool(re.fullmatch(r"-?\d{1,12}\.?", text)) and _within(int(text.rstrip(".")), demand)


def valid_json(text: str, demand: Demand) -> bool:
    """JSON and nothing else: an object with all of `keys`, or a list of `items` entries, where these are given."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if "keys" in demand:
        return isinstance(value, dict) and set(demand["keys"]) == set(value)
    return "items" not in demand or (isinstance(value, list) and len(value) == demand["items"])


def script(text: str, demand: Demand) -> bool:
    """Letters, and all of them of one `script`, such as GREEK or LATIN (the first word of their Unicode names)."""
    letters = [character for character in text if character.isalpha()]
    return bool(letters) and all(unicodedata.name(one, "").split(" ")[0] == demand["script"] for one in letters)


CHECKS: dict[str, Callable[[str, Demand], bool]] = {
    check.__name__.strip("_"): check
    for check in (
        *(words, sentences, lines, paragraphs, bullets, numbered, contains, without, without_character),
        *(lower, upper, starts, ends, quoted, one_of, number, valid_json, script),
    )
}


def met(written: str, demands: Sequence[Demand]) -> list[bool]:
    """Which demands an answer meets; an empty one meets none."""
    text = written.strip()
    return [bool(text) and CHECKS[demand["check"]](text, demand) for demand in demands]


def is_strict(written: str, demands: Sequence[Demand]) -> bool:
    """Whether an answer meets all of them."""
    return all(met(written, demands))


def score(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """What lm-eval calls with a prompt and the text written for it (its `process_results`): whether all demands are
    met, and the share of them that is."""
    (written,) = results
    found = met(written, json.loads(doc["checks"]))
    return {"strict": float(all(found)), "met": sum(found) / len(found)}


_COUNTED = {
    "words": "words",
    "sentences": "sentences",
    "lines": "lines",
    "paragraphs": "paragraphs",
    "bullets": "bullet points",
    "numbered": "numbered points",
}


def in_words(demand: Demand) -> str:
    """A demand as a page shows it: "at most 20 words"."""
    name = demand["check"]
    if name in _COUNTED:
        single = demand.get("most") == 1
        return f"{_range(demand)} {_COUNTED[name].removesuffix('s') if single else _COUNTED[name]}"
    if name == "contains":
        times = f" {demand['times']} times" if demand.get("times", 1) > 1 else ""
        return f"has “{demand['text']}”{times}"
    if name == "number":
        return f"only a number, {_range(demand)}" if len(demand) > 1 else "only a number"
    if name == "valid_json":
        more = f" with the keys {', '.join(demand['keys'])}" if "keys" in demand else ""
        return f"only JSON{more}" + (f", a list of {demand['items']}" if "items" in demand else "")
    told = {
        "without": "not “{text}”",
        "without_character": "none of “{characters}”",
        "lower": "small letters only",
        "upper": "capital letters only",
        "starts": "begins with “{text}”",
        "ends": "ends with “{text}”",
        "quoted": "in double quotation marks",
        "one_of": "only one of: {choices}",
        "script": "{script} letters only",
    }[name]
    return told.format(**{**demand, "choices": ", ".join(demand.get("choices", []))})


def _range(demand: Demand) -> str:
    least, most = demand.get("least"), demand.get("most")
    if least == most:
        return f"exactly {least}"
    if least is None:
        return f"at most {most}"
    return f"at least {least}" if most is None else f"{least} to {most}"


CONSTANT = (
    "Yes.",
    "I am sorry, but I cannot help with that.",
    "yes",
    "YES",
    "OK",
    "7",
    "- one\n- two\n- three",
    "1. one\n2. two\n3. three",
    "{}",
)
"""Answers that know nothing of the prompt; what the best of them scores is the majority baseline."""


def constant(every: Sequence[Sequence[Demand]]) -> float:
    """The share of prompts of which the best of `CONSTANT`, given to all of them, meets all demands."""
    return max(sum(is_strict(one, demands) for demands in every) for one in CONSTANT) / len(every)


def empty(every: Sequence[Sequence[Demand]]) -> float:
    """The same share for an answer that is empty."""
    return sum(is_strict("", demands) for demands in every) / len(every)
