"""A run's question sets as a folder of lm-eval tasks, and the plain `lm_eval` command that asks them.

Each set is TASK.yaml beside TASK.jsonl; `matching.py` beside them reads the questions and compares open answers, and
`instructed.py` checks instructions, whose prompts stand there as they are set out in a run's chat template. No path is
written into any file, so the folder may be moved, and `lm_eval --include_path FOLDER` finds all it needs.
"""

import json
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mixcpt import instructed, matching
from mixcpt.errors import BadInput
from mixcpt.modelstore import find_folder
from mixcpt.origins import origin
from mixcpt.questions import Kind, Question, kind_of
from mixcpt.runs import Run
from mixcpt.workspace import Workspace, building, write_atomic

PREFIX = "mixcpt_"
ANSWER_TOKENS = 32
"""What an open answer may take at most."""
INSTRUCTED_TOKENS = 96
"""What an answer to an instruction may take at most; it is checked as far as it goes."""
SAMPLES = "samples.json"
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "nf4": "bfloat16"}
NF4_NOTE = (
    "In 4 bits the plain command cannot hold the base as this run did, for lm-eval passes no such setting on: it asks "
    "the base in bf16 instead, so expect other numbers by what the 4 bits change."
)
_README = """# Questions as lm-eval tasks

{sets}

Ask them with lm-eval, here with the adapter that `mixcpt export RUN --to adapter my-adapter` wrote:

    lm_eval --model hf --model_args {arguments} \\
        --include_path . --tasks {tasks} --batch_size {batch}
{weights}
Nothing here names a path: the folder may be moved. `matching.py` (and `instructed.py`, where it lies here) is run by
lm-eval: it reads the questions and judges answers.
"""

_OTHER_WEIGHTS = """
The run was trained and asked on weights that came from {base.package}, which keeps them in about 4 bits
({base.quantised}): on those of the hub, expect numbers that differ a little.
"""


def write_tasks(sets: Mapping[str, Sequence[Question]], folder: Path) -> None:
    """Put each set into `folder` as `TASK.yaml` and `TASK.jsonl`, as lm-eval reads them; other sets there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "matching.py", Path(matching.__file__).read_text(encoding="utf-8"))
    for task, questions in sets.items():
        kind = kind_of(questions)
        if kind == "instructed":
            write_atomic(folder / "instructed.py", Path(instructed.__file__).read_text(encoding="utf-8"))
        lines = [json.dumps(_row(kind, question)) for question in questions]
        write_atomic(folder / f"{task}.jsonl", "\n".join(lines) + "\n")
        write_atomic(folder / f"{task}.yaml", _definition(task, kind, questions[0].get("ends", [])))


_COLUMNS: dict[Kind, tuple[str, ...]] = {"choice": ("question", "choices", "answer"), "open": ("question", "answers")}


def _row(kind: Kind, question: Question) -> dict[str, Any]:
    if kind == "instructed":  # demands as text, for a table wants the same keys in every row
        text = question.get("text", question["question"])
        ends, checks = question.get("ends", []), json.dumps(question["checks"])
        return {"question": question["question"], "text": text, "ends": ends, "checks": checks}
    return {key: question[key] for key in _COLUMNS[kind]}


def _definition(task: str, kind: Kind, ends: Sequence[str]) -> str:
    """Texts are named as columns: lm-eval makes a number of a template that renders to digits only ("1984")."""
    common: dict[str, Any] = {"task": f"{PREFIX}{task}", "dataset_kwargs": {"file": f"{task}.jsonl"}}
    common |= {"test_split": "test"}
    choice = {
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": " ",
        "metric_list": [_mean("acc")],
    }
    written = {
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "answers",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": ANSWER_TOKENS, "do_sample": False},
        "metric_list": [_mean("contains"), _mean("exact")],
    }
    obeyed = {
        "output_type": "generate_until",
        "doc_to_text": "text",
        "doc_to_target": "question",
        "generation_kwargs": {"until": list(ends), "max_gen_toks": INSTRUCTED_TOKENS, "do_sample": False},
        "metric_list": [_mean("strict"), _mean("met")],
    }
    shapes: dict[Kind, dict[str, Any]] = {"choice": choice, "open": written, "instructed": obeyed}
    functions = {"custom_dataset": "matching.load"}
    functions |= {"open": {"process_results": "matching.score"},
                  "instructed": {"process_results": "instructed.score"}}.get(kind, {})  # fmt: skip
    text = yaml.safe_dump(common | shapes[kind], sort_keys=False)
    return text + "".join(f"{key}: !function {name}\n" for key, name in functions.items())


def _mean(metric: str) -> dict[str, Any]:
    return {"metric": metric, "aggregation": "mean", "higher_is_better": True}


def export_tasks(workspace: Workspace, run: Run, folder: Path) -> Path:
    """Copy what a run was asked into a new folder that the plain `lm_eval` command takes anywhere.

    Raises:
        BadInput: `folder` is there already, or the run was asked nothing of ours yet.
    """
    if folder.exists():
        raise BadInput(f"{folder} is there already: name a folder that does not exist yet.")
    sets, samples = _sets(run), run.folder / "tasks" / SAMPLES
    with building(folder) as unfinished:
        write_tasks(sets, unfinished)
        if samples.exists():
            write_atomic(unfinished / SAMPLES, samples.read_text("utf-8"))
        write_atomic(unfinished / "README.md", readme(workspace, run))
    return folder


def readme(workspace: Workspace, run: Run) -> str:
    """What lies beside exported tasks: the sets, and how to ask them elsewhere, where the base goes by its own name.

    Raises:
        BadInput: the run was asked nothing of ours yet.
    """
    sets, base = _sets(run), origin(workspace, run.config.model.name)
    asked = _asked(run).get(next(iter(sets)), {})
    dtype = _DTYPES[asked.get("precision", "fp32")]
    arguments = json.dumps({"pretrained": base.to_load, "peft": "my-adapter", "dtype": dtype})
    return _README.format(
        sets="\n".join(f"- `{PREFIX}{task}`: {len(questions)} questions" for task, questions in sets.items()),
        tasks=",".join(PREFIX + task for task in sets),
        arguments=shlex.quote(arguments),  # JSON, for a folder's name may hold , and =
        batch=asked.get("batch_size", 1),
        weights=_OTHER_WEIGHTS.format(base=base) if base.quantised else "",
    )


def _sets(run: Run) -> dict[str, list[Question]]:
    """What a run was asked, by set. Raises BadInput when that is nothing."""
    files = sorted((run.folder / "tasks").glob("*.jsonl"))
    if not files:
        raise BadInput(f"Run {run.id} was asked no questions yet: ask some with `mixcpt evaluate {run.id}`.")
    return {file.stem: [_question(line) for line in file.read_text("utf-8").split("\n") if line] for file in files}


def _question(line: str) -> Question:
    """What `_row` made a line of."""
    row: Question = json.loads(line)
    return row | {"checks": json.loads(row["checks"])} if "checks" in row else row


def _asked(run: Run) -> dict[str, dict[str, Any]]:
    asked: dict[str, dict[str, Any]] = run.results().get("evaluation", {}).get("asked", {})
    return asked


def lm_eval_commands(workspace: Workspace, run: Run, asked: Mapping[str, Mapping[str, Any]] | None = None) -> list[str]:
    """The plain `lm_eval` commands that ask a run's adapter what it was asked and give the same numbers, one for each
    precision, device, batch size and number of examples in the prompt that was used. In 4 bits the numbers are others:
    see `NF4_NOTE`.

    Args:
        asked: how each set was asked, `asked` of the run's evaluation; read from the run when it is not given.
    """
    model = find_folder(workspace, run.config.model.name)
    groups: dict[tuple[str, str, int, int | None], list[str]] = defaultdict(list)
    for task, how in (_asked(run) if asked is None else asked).items():
        name = task if how["kind"] == "official" else PREFIX + task
        groups[how["precision"], how["device"], how["batch_size"], how.get("shots") or None].append(name)
    return [
        _command(run, str(model or run.config.model.name), *how, names)  # of one precision, device, batch and shots
        for how, names in groups.items()
    ]


def _command(
    run: Run, model: str, precision: str, device: str, batch: int, shots: int | None, names: Iterable[str]
) -> str:
    folder = run.folder / "tasks"
    arguments = {"pretrained": model, "peft": str(run.adapter), "dtype": _DTYPES[precision]}
    words = ["lm_eval", "--model", "hf", "--model_args", json.dumps(arguments)]  # JSON, for a path may hold , and =
    words += ["--tasks", ",".join(names), "--include_path", str(folder)]
    if (folder / SAMPLES).exists():
        words += ["--samples", str(folder / SAMPLES)]
    words += ["--batch_size", str(batch), "--device", device]
    words += ["--num_fewshot", str(shots)] if shots else []
    return shlex.join(words)
