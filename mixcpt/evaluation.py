"""Questions asked of the base and of a finished run, by lm-eval, offline.

Every question set becomes a local lm-eval task (a YAML beside a JSONL file) whose choices are scored by likelihood as
continuations of the question. The task folder is kept in the run, so the plain `lm_eval` command can ask the same.
"""

import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from mixcpt import atlas, builtin
from mixcpt.config import EvaluationConfig
from mixcpt.errors import BadFile
from mixcpt.runs import Run
from mixcpt.statistics import grouped_share_interval, paired_interval, share_interval
from mixcpt.workspace import Workspace, building, now, read_json, write_json

Question = dict[str, Any]
BUILTIN_SETS = ("general", "atlas")
_TAKEN = ("general", "atlas_recall", "atlas_two_step", "domain")
"""Task names no file may have: the built-in ones, and what `compare` calls the field itself."""


@dataclass(frozen=True)
class Score:
    """Accuracy on one question set, with all it takes to believe it. `correct` is 0 or 1 per item, in order.

    interval: over the questions, and over what they ask about where several ask about the same.
    chance: expected by guessing. majority: what always giving the most frequent answer position would score.
    """

    task: str
    accuracy: float
    interval: tuple[float, float]
    items: int
    chance: float
    majority: float
    correct: list[int]


def question_sets(config: EvaluationConfig) -> dict[str, list[Question]]:
    """The configured sets by task name: `general`, `atlas_recall` and `atlas_two_step`, or a JSONL file's stem.

    Raises:
        BadFile: a set is neither built in nor a readable JSONL file of question, choices and answer, or two sets share
            a task name.
    """
    sets: dict[str, list[Question]] = {}
    for name in config.tasks:
        if name == "general":
            sets["general"] = builtin.questions()
        elif name == "atlas":
            questions = [question.as_dict() for question in atlas.questions(builtin.world())]
            for kind in ("recall", "two-step"):
                sets[f"atlas_{kind.replace('-', '_')}"] = [q for q in questions if q["kind"] == kind]
        else:
            task = Path(name).name.split(".")[0]
            if task in sets or task in _TAKEN:
                raise BadFile(f"The question set {name!r} would be called {task!r}, which is taken: rename the file.")
            sets[task] = read_questions(Path(name))
    return {task: _first(questions, config.items) for task, questions in sets.items()}


def read_questions(path: Path) -> list[Question]:
    """A user's question set; every line checked, the first fault reported with its line number."""
    if not path.is_file():
        raise BadFile(f"There is no question set {str(path)!r}: name general, atlas, or an existing JSONL file.")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise BadFile(f"{path} is not UTF-8 text: save it as JSON Lines in UTF-8.") from None
    questions = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            question = json.loads(line)
            choices, answer = question["choices"], question["answer"]
            if not isinstance(question["question"], str) or not isinstance(choices, list) or len(choices) < 2:
                raise ValueError("question must be text and choices a list of two or more")
            if type(answer) is not int or not 0 <= answer < len(choices):
                raise ValueError(f"answer must be the index of a choice, 0 to {len(choices) - 1}")
        except (ValueError, KeyError, TypeError) as error:
            raise BadFile(
                f"Line {number} of {path} is no question ({error}): "
                'write {"question": "...", "choices": ["...", "..."], "answer": 0}.'
            ) from None
        questions.append({"question": question["question"], "choices": [str(c) for c in choices], "answer": answer})
    if not questions:
        raise BadFile(f"{path} holds no questions: add lines with question, choices and answer.")
    return questions


def write_tasks(sets: dict[str, list[Question]], folder: Path) -> None:
    """Make `folder` anew with each set as `TASK.yaml` and `TASK.jsonl`, as lm-eval reads them."""
    with building(folder) as unfinished:
        for task, questions in sets.items():
            lines = [json.dumps({key: q[key] for key in ("question", "choices", "answer")}) for q in questions]
            (unfinished / f"{task}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
            definition = _definition(task, folder.absolute())
            (unfinished / f"{task}.yaml").write_text(yaml.safe_dump(definition, sort_keys=False), encoding="utf-8")


def _definition(task: str, folder: Path) -> dict[str, Any]:
    """The lm-eval task over `folder`/TASK.jsonl; its paths are absolute, for lm-eval would start them where it runs.

    The text is named as a column: lm-eval makes a number of a template that renders to digits only ("1984").
    """
    return {
        "task": f"mixcpt_{task}",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(folder / f"{task}.jsonl")},
            "cache_dir": str(folder / "cache"),
        },
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": " ",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def ask(model: Any, tokenizer: Any, sets: dict[str, list[Question]], folder: Path, batch_size: int) -> dict[str, Score]:
    """Score every set with lm-eval. `folder` keeps the task files."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    write_tasks(sets, folder)
    outcome = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
        tasks=[f"mixcpt_{task}" for task in sets],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    return {task: _score(task, questions, outcome["samples"][f"mixcpt_{task}"]) for task, questions in sets.items()}


def _score(task: str, questions: Sequence[Question], samples: Sequence[dict[str, Any]]) -> Score:
    by_item = {sample["doc_id"]: int(sample["acc"]) for sample in samples}
    correct = [by_item[item] for item in range(len(questions))]
    positions = Counter(question["answer"] for question in questions)
    asked = _asked(questions)
    alone = len(set(asked)) == len(asked)
    return Score(
        task=task,
        accuracy=sum(correct) / len(correct),
        interval=share_interval(sum(correct), len(correct)) if alone else grouped_share_interval(correct, asked),
        items=len(correct),
        chance=sum(1 / len(question["choices"]) for question in questions) / len(questions),
        majority=positions.most_common(1)[0][1] / len(questions),
        correct=correct,
    )


def _asked(questions: Sequence[Question]) -> list[str]:
    """What each question is about: the fact its `meta` names, else only itself."""
    return [json.dumps(question.get("meta", number), sort_keys=True) for number, question in enumerate(questions)]


def _first(questions: list[Question], items: int | None) -> list[Question]:
    """All questions, or `items` of them drawn by a fixed seed, in their order."""
    if items is None or items >= len(questions):
        return questions
    return [questions[index] for index in sorted(random.Random(0).sample(range(len(questions)), items))]


def evaluate(
    workspace: Workspace,
    run: Run,
    *,
    progress: Callable[[float | None, str], None] = lambda fraction, message: None,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Ask the run's adapter and its base, same precision; writes the `evaluation` section of results.json.

    The base's answers are kept in the workspace and asked only once per model, device, precision, question sets and
    version of lm-eval.
    """
    from transformers import AutoTokenizer

    from mixcpt import models
    from mixcpt.teacher import evaluating, teacher_mode

    sets = question_sets(run.config.evaluation)
    folder = models.ensure_model(workspace, run.config.model.name)
    device, precision = models.resolve(run.config.model, workspace)
    batch = run.config.evaluation.batch_size
    progress(None, "loading the model")
    model = models.load_adapter(models.load_base(folder, device, precision), run.adapter, trainable=False)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    check()
    kept = _base_answers(workspace, models.model_fingerprint(folder), device, precision, sets, batch)
    if kept.exists():
        base = {task: Score(**values) for task, values in read_json(kept).items()}
    else:
        progress(0.1, f"asking the base {sum(map(len, sets.values()))} questions")
        with teacher_mode(model):
            base = ask(model, tokenizer, sets, run.folder / "tasks", batch)
        kept.parent.mkdir(exist_ok=True)
        write_json(kept, {task: asdict(score) for task, score in base.items()})
    check()
    progress(0.5, f"asking the run {sum(map(len, sets.values()))} questions")
    with evaluating(model):
        final = ask(model, tokenizer, sets, run.folder / "tasks", batch)
    results = {
        "finished": now(),
        "precision": precision,
        "base": {task: asdict(score) for task, score in base.items()},
        "final": {task: asdict(score) for task, score in final.items()},
        "gain": {
            task: {
                "difference": final[task].accuracy - base[task].accuracy,
                "interval": paired_interval(base[task].correct, final[task].correct, _asked(questions)),
            }
            for task, questions in sets.items()
        },
    }
    run.write_results("evaluation", results)
    return results


def _base_answers(
    workspace: Workspace,
    fingerprint: str,
    device: str,
    precision: str,
    sets: dict[str, list[Question]],
    batch_size: int,
) -> Path:
    asked = json.dumps([fingerprint, device, precision, sets, batch_size, version("lm_eval")], sort_keys=True)
    return workspace.root / "evaluations" / f"base-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.json"


def run_job(context: Any) -> str:
    """The `evaluate` job: its run's questions."""
    from mixcpt.runs import Runs

    results = evaluate(
        context.workspace, Runs(context.workspace).get(context.job.run), progress=context.progress, check=context.check
    )
    parts = [
        f"{task} {results['base'][task]['accuracy']:.0%} → {score['accuracy']:.0%}"
        for task, score in results["final"].items()
    ]
    return "; ".join(parts)
