"""lm-eval's own tasks by name, as in `lm-eval:arc_easy`, or several of them, as in `preset:quick`.

Their names are read from the files that come with lm-eval, in less than a second and without torch, so a typo is found
when it is typed; lm-eval's own index takes ten. Their questions come from the Hugging Face hub when they are asked.
What this gives up: lm-eval's groups, for a group is no one score, and tasks that run code a model has written.
"""

import difflib
import importlib.util
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mixcpt.errors import BadInput, NotFound, Unavailable

if TYPE_CHECKING:
    from lm_eval.api.task import Task

PREFIX = "lm-eval:"
PRESET = "preset:"


@dataclass(frozen=True)
class Preset:
    """Tasks that are asked together: per ability their names, each with its number of examples in the prompt (shots)
    and about how many questions it has."""

    words: str
    abilities: dict[str, dict[str, tuple[int, int]]]

    @property
    def shots(self) -> dict[str, int]:
        """By task."""
        return {name: shots for own in self.abilities.values() for name, (shots, _) in own.items()}

    @property
    def items(self) -> int:
        """Questions in all, about."""
        return sum(items for own in self.abilities.values() for _, items in own.values())

    def needs(self) -> str:
        """What it asks, and what that takes."""
        return (
            f"{self.words} {len(self.shots)} of lm-eval's tasks with about {self.items:,} questions, which are fetched "
            "from the Hugging Face hub; with Questions per set at 200 it takes a few minutes on a GPU, far longer on a "
            "processor."
        )


PRESETS = {
    "quick": Preset(
        "A first look at general ability, without examples in the prompt.",
        {
            "examinations": {"arc_easy": (0, 2376), "sciq": (0, 1000)},
            "common sense": {"piqa": (0, 1838), "winogrande": (0, 1267)},
        },
    ),
    "paper": Preset(
        "Seven abilities in 17 tasks, as many as in the paper; which tasks these are is our choice.",
        {
            "knowledge": {"nq_open": (5, 3610), "triviaqa": (5, 17944)},
            "common sense": {
                "hellaswag": (10, 10042),
                "piqa": (0, 1838),
                "winogrande": (5, 1267),
                "commonsense_qa": (5, 1221),
            },
            "reading": {"boolq": (0, 3270), "race": (0, 1045)},
            "mathematics": {"gsm8k": (5, 1319), "mathqa": (0, 2985)},
            "code": {"bigbench_code_line_description_multiple_choice": (0, 60)},
            "examinations": {"arc_easy": (0, 2376), "arc_challenge": (25, 1172), "agieval_sat_en": (0, 206)},
            "language": {"lambada_openai": (0, 5153), "rte": (0, 277), "anli_r1": (0, 1000)},
        },
    ),
}
"""Tasks that run code which a model has written are in none of them, so code is asked as multiple choice."""
_NAMED = re.compile(
    r"""^["']?(task|group)["']?[ \t]*:[ \t]*(?:"([^"\n]+)"|'([^'\n]+)'|([^\s"'#\[{|>&*!][^\n#]*?))[ \t\r]*(?:\#.*)?$""",
    re.MULTILINE,
)


@cache
def _index() -> tuple[dict[str, Path], frozenset[str]]:
    """The YAML file of each task of the installed lm-eval, and the names of its groups."""
    tasks: dict[str, Path] = {}
    groups: set[str] = set()
    found = importlib.util.find_spec("lm_eval")
    for place in found.submodule_search_locations or [] if found else []:
        for path in sorted(Path(place, "tasks").rglob("*.yaml")):
            text = path.read_text(encoding="utf-8", errors="replace")
            named = {match[1]: match[2] or match[3] or match[4] for match in _NAMED.finditer(text)}
            if "task" in named:
                tasks.setdefault(named["task"], path)
            elif "group" in named:
                groups.add(named["group"])
    return tasks, frozenset(groups)


def names() -> list[str]:
    """Every task that the installed lm-eval knows."""
    return sorted(_index()[0])


def tasks(entries: Sequence[str]) -> list[str]:
    """The names of lm-eval's tasks among the entries of `evaluation.tasks`, those of presets included, each once.

    Raises:
        NotFound: lm-eval has no such task, or there is no such preset; the nearest are named. BadInput: it is a group.
    """
    wanted: dict[str, None] = {}
    for entry in entries:
        if entry.startswith(PREFIX):
            _require(entry.removeprefix(PREFIX))
            wanted[entry.removeprefix(PREFIX)] = None
        elif entry.startswith(PRESET):
            wanted |= dict.fromkeys(_preset(entry).shots)
    return list(wanted)


def shots(entries: Sequence[str]) -> dict[str, int]:
    """Examples in the prompt, by name, of those tasks that a preset names; the others have as many as lm-eval says."""
    named = {entry.removeprefix(PREFIX) for entry in entries if entry.startswith(PREFIX)}
    found: dict[str, int] = {}
    for entry in entries:
        if entry.startswith(PRESET):
            found = _preset(entry).shots | found
    return {name: count for name, count in found.items() if name not in named}


def preset_entries() -> list[str]:
    """The entries that ask for presets."""
    return [PRESET + name for name in PRESETS]


def _preset(entry: str) -> Preset:
    name = entry.removeprefix(PRESET)
    if name not in PRESETS:
        raise NotFound(f"There is no preset {name!r} of lm-eval's tasks: choose from {', '.join(preset_entries())}.")
    return PRESETS[name]


def _require(name: str) -> None:
    known, groups = _index()
    if name in known:
        return
    if name in groups:
        some = [task for task in known if task.startswith(f"{name}_")][:2]
        example = f"one of its tasks, for example {' or '.join(PREFIX + task for task in some)}" if some else "a task"
        raise BadInput(f"{PREFIX}{name} is a group of lm-eval's tasks, which has no one score: name {example}.")
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(PREFIX + task for task in near)}?" if near else "`lm_eval ls tasks` lists them."
    raise NotFound(f"lm-eval has no task {name!r}: {hint}")


def load(name: str, shots: int | None = None) -> "Task":
    """The task by lm-eval's own TaskManager, its questions loaded from the hub or from what was kept of it.

    Args:
        shots: examples in the prompt; as many as lm-eval says when not given, and for tasks that take none.

    Raises:
        Unavailable: its questions cannot be had, or it cannot be asked here.
    """
    path = _index()[0][name]
    try:
        task = load_from(path.parent, [name])[name]
    except Exception as error:  # each task brings code of its own, so anything may come out of it
        raise Unavailable(_why(name, path, error)) from error
    if getattr(task, "UNSAFE_CODE", False):
        raise Unavailable(f"{PREFIX}{name} runs code that a model has written, which is not done here: leave it out.")
    if shots is not None and task.get_config("num_fewshot") != 0:  # lm-eval's own command leaves a 0 as it is, too
        task.set_config(key="num_fewshot", value=shots)
    return task


def load_from(folder: Path, names: Sequence[str]) -> "dict[str, Task]":
    """These tasks of a folder by lm-eval's TaskManager, which says nothing but errors from now on."""
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    loaded: dict[str, Task] = TaskManager(include_path=str(folder), include_defaults=False).load(list(names))["tasks"]
    return loaded


def _why(name: str, path: Path, error: Exception) -> str:
    source = re.search(r"^dataset_path:[ \t]*(\S+)", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    data = f"the data set {source[1]}" if source else "its data set"
    reason = " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
    if isinstance(error, OSError):  # so are all errors of connections, and of a hub that is switched off
        return (
            f"{PREFIX}{name} could not be asked, because {data} could not be had from the Hugging Face hub ({reason}): "
            "ask again where the hub can be reached, or leave it out."
        )
    return f"{PREFIX}{name} could not be asked, because {data} could not be read ({reason}): leave it out."
