"""Question sets: built in, a user's JSONL file, or by name from lm-eval's own tasks.

A question has choices, of which one is right, or it is open: a short text is written and compared with the accepted
answers (`mixcpt.matching`). One file holds one kind. Built in are also instructions whose fulfilment a rule can check
(`mixcpt.instructed`). What this gives up: questions with pictures or several turns.
"""

import gzip
import hashlib
import io
import json
import random
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

from mixcpt import atlas, builtin, instructed, official
from mixcpt.config import EvaluationConfig
from mixcpt.errors import BadFile
from mixcpt.matching import normalised
from mixcpt.published import as_ours
from mixcpt.uploads import safe_name
from mixcpt.workspace import Workspace

Question = dict[str, Any]
"""`question`, and `choices` with `answer` (an index), or `answers` (texts), or `checks` (demands); of built-in ones
`meta`, the fact. Of instructions also `text`, the prompt as it is set out for a model, and `ends`, what ends an answer,
once these are known."""
Kind = Literal["choice", "open", "instructed"]

BUILTIN_SETS = ("general", "atlas", "instructions")
PROBES = "probes"
"""The entry for probes of the run's own field; with :CORPUS behind it, of that corpus (`mixcpt.probe_sets`)."""
_TAKEN = ("general", "atlas_recall", "atlas_two_step", "instructions", "domain")
"""Task names no file may have: the built-in ones, and what `compare` calls the field itself."""
_SHAPES = {
    "choice": '{"question": "...", "choices": ["...", "..."], "answer": 0}',
    "open": '{"question": "...", "answer": "..."}',
}
_SPARE_DISK, _MOST = 50_000_000, 200_000_000  # bytes
_WORDS = {"choice": "a question with choices", "open": "an open question"}


def is_file(entry: str) -> bool:
    """Whether an entry of `evaluation.tasks` is the path of a file, and not a set that has a name."""
    named = (official.PREFIX, official.PRESET)
    return entry not in BUILTIN_SETS and not entry.startswith(named) and not is_probes(entry)


def is_probes(entry: str) -> bool:
    """Whether an entry of `evaluation.tasks` asks for probes."""
    return entry == PROBES or entry.startswith(f"{PROBES}:")


def probe_entries(corpora: Sequence[str]) -> list[str]:
    """The entries that ask for probes: of the run's own field, and of each of these corpora."""
    return [PROBES, *(f"{PROBES}:{name}" for name in corpora)]


def question_sets(config: EvaluationConfig) -> dict[str, list[Question]]:
    """The configured sets by task name: `general`, `atlas_recall` and `atlas_two_step`, or a JSONL file's stem. Tasks
    of lm-eval are not in it (see `official.tasks`), but their names are checked; nor are probes, which are made of a
    corpus (`mixcpt.probe_sets`).

    Raises:
        BadFile: a set is neither built in nor a readable JSONL file of questions, or two sets share a task name.
        NotFound: lm-eval has no task of that name.
    """
    sets: dict[str, list[Question]] = {}
    taken = [*_TAKEN, *official.tasks(config.tasks)]
    for entry in config.tasks:
        if entry == "general":
            sets["general"] = builtin.questions()
        elif entry == "atlas":
            questions = [question.as_dict() for question in atlas.questions(builtin.world())]
            for kind in ("recall", "two-step"):
                sets[f"atlas_{kind.replace('-', '_')}"] = [q for q in questions if q["kind"] == kind]
        elif entry == "instructions":
            sets["instructions"] = [
                {"question": row["prompt"], "checks": row["checks"]} for row in builtin.instructed()
            ]
        elif is_file(entry):
            task = _task_name(Path(entry))
            if task in sets or task in taken or task.startswith(f"{PROBES}_"):
                raise BadFile(f"The question set {entry!r} would be called {task!r}, which is taken: rename the file.")
            sets[task] = read_questions(Path(entry))
    return {task: [questions[n] for n in drawn(len(questions), config.items)] for task, questions in sets.items()}


def _task_name(path: Path) -> str:
    """Of the file's name what a command line and lm-eval's patterns take as it is."""
    return re.sub(r"\W+", "_", path.name.split(".")[0]).strip("_") or "questions"


def drawn(total: int, items: int | None) -> list[int]:
    """The indices of all questions, or of `items` of them drawn by a fixed seed, in their order."""
    if items is None or items >= total:
        return list(range(total))
    return sorted(random.Random(0).sample(range(total), items))


def read_questions(path: Path) -> list[Question]:
    """A user's question set, packed by gzip or not, in our words or those of a published data set (`published`); every
    line checked, the first fault reported with its line number.

    Raises:
        BadFile: the file or a line of it is unusable, or it mixes both kinds of questions.
    """
    if not path.is_file():
        known = ", ".join(BUILTIN_SETS)
        raise BadFile(f"There is no question set {str(path)!r}: name {known}, or an existing JSONL file.")
    try:
        lines = _plain(path.read_bytes(), path.name).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise BadFile(f"{path} is not UTF-8 text: save it as JSON Lines in UTF-8.") from None
    questions: list[Question] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        question = _read(line, f"Line {number} of {path}")
        if questions and is_open(questions) != is_open([question]):
            here, before = ("open", "choice") if is_open([question]) else ("choice", "open")
            raise BadFile(
                f"Line {number} of {path} is {_WORDS[here]}, but those before are of the other kind "
                f"({_WORDS[before]}): put each kind into a file of its own."
            )
        questions.append(question)
    if not questions:
        raise BadFile(f"{path} holds no questions: write a line for each, {_SHAPES['choice']} or {_SHAPES['open']}.")
    return questions


def _plain(content: bytes, name: str) -> bytes:
    """The content of a file, unpacked where it is packed by gzip.

    Raises:
        BadFile: it cannot be unpacked, or would be too large.
    """
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        with gzip.open(io.BytesIO(content)) as file:
            unpacked = file.read(_MOST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BadFile(f"{name} cannot be unpacked ({error}): pack it again, or send it unpacked.") from None
    if len(unpacked) > _MOST:
        raise BadFile(f"{name} holds more than {_MOST // 10**6} MB: take fewer questions.")
    return unpacked


def _read(line: str, place: str) -> Question:
    kind = "choice"
    try:
        found = json.loads(line)
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
        found = as_ours(found)
        kind = "choice" if "choices" in found else "open"
        if kind == "open" and type(found.get("answer")) in (int, float):
            kind = "choice"  # an index that has lost its choices
        question = _SHAPED[kind](found)
        json.dumps(question, ensure_ascii=False).encode()  # half a surrogate pair is no text
        return question
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{place} is no question ({error}): write {_SHAPES[kind]}.") from None


def _with_choices(found: dict[str, Any]) -> Question:
    choices, answer = _required(found, "choices"), _required(found, "answer")
    if not isinstance(choices, list) or len(choices) < 2:
        raise ValueError("choices must be a list of two or more")
    texts = [str(choice) for choice in choices]
    if empty := [number for number, text in enumerate(texts, 1) if not text.strip()]:
        raise ValueError(f"choice {empty[0]} is empty")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise ValueError(f"answer must be the index of a choice, 0 to {len(choices) - 1}")
    return {"question": _asked(found), "choices": texts, "answer": answer}


def _open(found: dict[str, Any]) -> Question:
    given = found["answers"] if "answers" in found else [_required(found, "answer")]
    if not isinstance(given, list) or not given:
        raise ValueError("answers must be a list of one or more texts")
    for answer in given:
        if not isinstance(answer, str) or not normalised(answer):
            raise ValueError(f"the answer {answer!r} has no letter or digit that could be compared")
    return {"question": _asked(found), "answers": given}


_SHAPED: dict[str, Callable[[dict[str, Any]], Question]] = {"choice": _with_choices, "open": _open}


def _required(found: dict[str, Any], key: str) -> Any:
    if key not in found:
        raise ValueError(f"{key!r} is missing")
    return found[key]


def _asked(found: dict[str, Any]) -> str:
    question = _required(found, "question")
    if not isinstance(question, str) or not question.strip():
        raise ValueError("question must be text")
    return question


def keep(workspace: Workspace, name: str, file: BinaryIO) -> Path:
    """Keep a question set that was sent to this server, unpacked, below inbox/questions, and return its path. A file of
    the same content keeps its place; another of the same name gets a number.

    Raises:
        BadFile: it holds no questions that can be asked; nothing is kept then. TooLittle: the disk is too full.
    """
    content, name = _plain(file.read(), name), name.removesuffix(".gz")
    folder = kept_folder(workspace)
    there = [path for path in folder.iterdir() if path.is_file() and path.read_bytes() == content]
    if there:
        return there[0]
    workspace.require_disk(len(content) + _SPARE_DISK, "Keeping the questions")
    with tempfile.TemporaryDirectory(prefix=".upload-", dir=folder) as place:
        path = Path(place) / safe_name(name, [other.name.casefold() for other in folder.iterdir()])
        path.write_bytes(content)
        try:
            read_questions(path)
        except BadFile as problem:
            raise BadFile(str(problem).replace(str(path), path.name)) from None
        return path.replace(folder / path.name)


def kept_folder(workspace: Workspace) -> Path:
    """Where question sets lie that were sent to this server."""
    folder = workspace.root / "inbox" / "questions"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def kind_of(questions: Sequence[Question]) -> Kind:
    """Whether a set's questions have choices, are open, or are instructions whose fulfilment a rule can check."""
    if "checks" in questions[0]:
        return "instructed"
    return "choice" if "choices" in questions[0] else "open"


def is_open(questions: Sequence[Question]) -> bool:
    """Whether a set's questions are compared with accepted answers."""
    return kind_of(questions) == "open"


def chance(questions: Sequence[Question]) -> float:
    """The share that guessing gets right: one in the number of choices, and none of open questions; of instructions
    what an empty answer fulfils."""
    kind = kind_of(questions)
    if kind == "instructed":
        return instructed.empty([question["checks"] for question in questions])
    if kind == "open":
        return 0.0
    return sum(1 / len(question["choices"]) for question in questions) / len(questions)


def majority(questions: Sequence[Question]) -> float:
    """The share that is right when always the most frequent answer is given: the place of a choice, or, of open
    questions, the text that most of them accept; of instructions the best of some answers that know no prompt."""
    kind = kind_of(questions)
    if kind == "instructed":
        return instructed.constant([question["checks"] for question in questions])
    if kind == "choice":
        return Counter(question["answer"] for question in questions).most_common(1)[0][1] / len(questions)
    accepted = [{normalised(answer) for answer in question["answers"]} for question in questions]
    return Counter(answer for answers in accepted for answer in answers).most_common(1)[0][1] / len(questions)


def about(questions: Sequence[Question]) -> list[str]:
    """What each question is about: the fact its `meta` names, else only itself."""
    return [json.dumps(question.get("meta", number), sort_keys=True) for number, question in enumerate(questions)]


def fingerprint(questions: Sequence[Any]) -> str:
    """16 hex digits that change with any question, and with their order."""
    text = json.dumps(list(questions), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
