"""Questions as published data sets write them, turned into ours, so that such a file can be used as it comes.

Known are the fields of ARC, CommonsenseQA and OpenBookQA (`choices` with `text` and `label`, `answerKey`), PIQA
(`goal`, `sol1`, `sol2`), HellaSwag (`ctx`, `endings`), Winogrande (`sentence`, `option1`, `option2`), BoolQ
(`passage`), SciQ (`correct_answer`, `distractor1` to 3), GSM8K (an answer after ####), and llm-foundry's (`query`,
`gold`; `context`, `aliases`). What this gives up: their exact prompts, so scores are no published ones; `lm-eval:NAME`
asks those.
"""

import zlib
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]


def as_ours(row: Row) -> Row:
    """`row` with the fields `question`, and `choices` with `answer`, or `answer` or `answers`, where it has one of the
    known shapes; else as it is.

    Raises:
        ValueError: it has a known shape but lacks a value of it, or is running text.
    """
    for is_shape, shaped in _SHAPES:
        if is_shape(row):
            return shaped(row)
    if set(row) == {"text"}:
        raise ValueError("it is running text with no question: add such a file as a corpus and measure on it")
    return _with_index(row)


def _has(*names: str) -> Callable[[Row], bool]:
    return lambda row: all(name in row for name in names)


def _arc(row: Row) -> Row:
    """ARC, CommonsenseQA, OpenBookQA."""
    choices = row["choices"]
    if isinstance(choices, list):  # [{"label": "A", "text": "..."}], as in the original files
        choices = {key: [one.get(key) for one in choices if isinstance(one, dict)] for key in ("text", "label")}
    texts, labels = choices.get("text") or [], [str(label) for label in choices.get("label") or []]
    key = str(row["answerKey"])
    if key not in labels:
        raise ValueError(f"answerKey {key!r} is none of the labels {', '.join(labels) or '(none)'}")
    question = row.get("question_stem", row.get("question"))
    return {"question": question, "choices": texts, "answer": labels.index(key)}


def _piqa(row: Row) -> Row:
    return {"question": row["goal"], "choices": [row["sol1"], row["sol2"]], "answer": _number(row, "label")}


def _hellaswag(row: Row) -> Row:
    return {"question": row["ctx"], "choices": row["endings"], "answer": _number(row, "label")}


def _winogrande(row: Row) -> Row:
    before, gap, after = str(row["sentence"]).partition("_")
    if not gap:
        raise ValueError("its sentence has no _ where an option belongs")
    choices = [f"{row[option]}{after}" for option in ("option1", "option2")]
    return {"question": before.strip(), "choices": choices, "answer": _number(row, "answer") - 1}


def _boolq(row: Row) -> Row:
    answer = row["answer"] if "answer" in row else row.get("label")
    question = f"{row['passage']}\nQuestion: {row['question']}\nAnswer:"
    return {"question": question, "choices": ["no", "yes"], "answer": int(answer in (True, 1, "true", "yes"))}


def _sciq(row: Row) -> Row:
    """The right one first in the file, so it is moved to a place that its question says, the same each time."""
    choices = [row[name] for name in ("distractor1", "distractor2", "distractor3") if row.get(name)]
    place = zlib.crc32(str(row["question"]).encode()) % (len(choices) + 1)
    choices.insert(place, row["correct_answer"])
    return {"question": row["question"], "choices": choices, "answer": place}


def _gsm8k(row: Row) -> Row:
    return {"question": row["question"], "answer": row["answer"].rpartition("####")[2].strip().replace(",", "")}


def _foundry_choice(row: Row) -> Row:
    return {"question": row["query"], "choices": row["choices"], "answer": _number(row, "gold")}


def _foundry_open(row: Row) -> Row:
    aliases = [text for text in row.get("aliases") or [] if text]
    return {"question": row["context"], "answers": list(dict.fromkeys([row["answer"], *aliases]))}


def _with_index(row: Row) -> Row:
    """An answer that is a choice's letter or its text becomes its index."""
    choices, answer = row.get("choices"), row.get("answer")
    if not isinstance(choices, list) or not isinstance(answer, str):
        return row
    if answer in choices:
        return row | {"answer": choices.index(answer)}
    if answer.isdecimal():
        return row | {"answer": int(answer)}
    letters = [chr(ord("A") + number) for number in range(len(choices))]
    return row | {"answer": letters.index(answer)} if answer in letters else row


def _number(row: Row, name: str) -> int:
    value = row.get(name)
    if isinstance(value, bool) or not str(value).isdecimal():
        raise ValueError(f"{name} must be the number of a choice, and is {value!r}")
    return int(str(value))


_SHAPES: tuple[tuple[Callable[[Row], bool], Callable[[Row], Row]], ...] = (
    (_has("choices", "answerKey"), _arc),
    (_has("goal", "sol1", "sol2"), _piqa),
    (_has("ctx", "endings"), _hellaswag),
    (_has("sentence", "option1", "option2"), _winogrande),
    (_has("passage", "question"), _boolq),
    (_has("question", "correct_answer"), _sciq),
    (_has("query", "choices", "gold"), _foundry_choice),
    (_has("context", "answer"), _foundry_open),
    (lambda row: "choices" not in row and isinstance(row.get("answer"), str) and "####" in row["answer"], _gsm8k),
)
