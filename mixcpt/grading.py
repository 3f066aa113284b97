"""From question sets to scores: each set is asked by lm-eval, and its answers are counted.

Ours become local lm-eval tasks (`mixcpt.tasks`): choices are scored by likelihood as continuations of the question,
open answers and those to instructions are written greedily. lm-eval's own tasks are scored by the first of their
metrics that counts right answers.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixcpt import official
from mixcpt.config import EvaluationConfig
from mixcpt.errors import MixcptError, Unavailable
from mixcpt.questions import Question, about, chance, drawn, fingerprint, kind_of, majority
from mixcpt.statistics import grouped_share_interval, share_interval
from mixcpt.tasks import PREFIX, write_tasks

if TYPE_CHECKING:
    from lm_eval.api.task import Task

Heard = Callable[[float], None]
"""Told the share of the questions that is answered; whatever it raises ends the asking."""
_MEASURES = {"choice": "acc", "open": "contains", "instructed": "strict"}
_OFFICIAL_METRICS = ("acc", "exact_match", "em", "f1")


@dataclass(frozen=True)
class Score:
    """Accuracy on one question set, with all it takes to believe it. `correct` is 0 or 1 per item, in order.

    interval: over the questions, and over what they ask about where several ask about the same.
    chance: expected by guessing. majority: what always giving the most frequent answer would score.
    measure: what counts as right. acc: the right choice is the likeliest; contains: the written answer holds an
        accepted one; strict: the written answer meets every demand; else the metric of an official task.
    exact: of open questions, `accuracy`, `interval` and `correct` when only an accepted answer may be written.
    given: per item the index of the choice, or the text that was written.
    """

    task: str
    accuracy: float
    interval: tuple[float, float]
    items: int
    chance: float
    majority: float
    correct: list[float]
    measure: str = "acc"
    exact: dict[str, Any] | None = None
    given: list[Any] = field(default_factory=list)

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Score":
        return cls(**{**kept, "interval": tuple(kept["interval"])})

    def kept(self) -> dict[str, Any]:
        """What results.json keeps: all but the answers themselves, which lie beside it."""
        return {name: value for name, value in asdict(self).items() if name != "given"}


@dataclass(frozen=True)
class Asked:
    """A question set on its way to a model: ours (`questions`), or one of lm-eval's, of which `chosen` are asked."""

    name: str
    task: "Task"
    questions: list[Question]
    chosen: list[int] | None = None

    @property
    def kind(self) -> str:
        if not self.questions:
            return "official"
        return kind_of(self.questions)

    @property
    def items(self) -> int:
        return len(self.questions or self.chosen or self.task.eval_docs)

    def facts(self) -> dict[str, Any]:
        """What is kept of it in results: sets whose fingerprints are equal asked the same."""
        shots = {"shots": self.shots} if self.kind == "official" else {}
        return {"kind": self.kind, "fingerprint": self.fingerprint, **shots}

    @property
    def shots(self) -> int:
        """Examples in the prompt of an official task."""
        return int(self.task.get_config("num_fewshot") or 0)

    @property
    def fingerprint(self) -> str:
        if self.questions:
            return fingerprint(self.questions)
        documents = self.task.eval_docs
        examples = [{"shots": self.shots}] if self.shots else []
        return fingerprint([*examples, *(documents[index] for index in self.chosen or range(len(documents)))])


def ask(
    model: Any,
    tokenizer: Any,
    sets: Mapping[str, Sequence[Question]],
    folder: Path,
    batch_size: int,
    heard: Heard = lambda share: None,
) -> dict[str, Score]:
    """Score every set with lm-eval; the adapter is on or off as the caller has it. `folder` keeps the task files."""
    return {one.name: answered(model, tokenizer, one, batch_size, heard)[0] for one in ours(sets, folder)}


def ours(sets: Mapping[str, Sequence[Question]], folder: Path) -> list[Asked]:
    """Our sets, written into `folder` as tasks and loaded from there."""
    if not sets:
        return []
    write_tasks(sets, folder)
    loaded = official.load_from(folder, [PREFIX + name for name in sets])
    return [Asked(name, loaded[PREFIX + name], list(questions)) for name, questions in sets.items()]


def theirs(config: EvaluationConfig) -> tuple[list[Asked], dict[str, str]]:
    """lm-eval's tasks that can be asked, and why the others cannot."""
    found: list[Asked] = []
    problems: dict[str, str] = {}
    shots = official.shots(config.tasks)
    for name in official.tasks(config.tasks):
        try:
            task = official.load(name, shots.get(name))
        except Unavailable as problem:
            problems[name] = str(problem)
            continue
        chosen = drawn(len(task.eval_docs), config.items)
        found.append(Asked(name, task, [], chosen if len(chosen) < len(task.eval_docs) else None))
    return found, problems


def answered(model: Any, tokenizer: Any, one: Asked, batch_size: int, heard: Heard) -> tuple[Score, list[Question]]:
    """The score of a set, and its questions as they were asked.

    Raises:
        Unavailable: lm-eval's code for a task of its own failed, or counts no right answers. Whatever `heard` raises.
    """
    from mixcpt import asking

    try:
        samples = asking.samples_of(model, tokenizer, one.task, batch_size, one.chosen, heard)
    except MixcptError:
        raise
    except Exception as error:
        if one.kind != "official":
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise Unavailable(f"{official.PREFIX}{one.name} failed inside lm-eval ({reason}): leave it out.") from error
    return _scored(one, samples)


def _scored(one: Asked, samples: Sequence[Mapping[str, Any]]) -> tuple[Score, list[Question]]:
    if one.kind == "official":
        return _official_score(one, samples), [_as_question(sample, one.task) for sample in samples]
    measure = _MEASURES[one.kind]
    correct = [float(sample[measure]) for sample in samples]
    exact = [float(sample["exact"]) for sample in samples] if one.kind == "open" else []
    score = Score(
        task=one.name,
        accuracy=sum(correct) / len(correct),
        interval=interval_over(correct, about(one.questions)),
        items=len(correct),
        chance=chance(one.questions),
        majority=majority(one.questions),
        correct=correct,
        measure=measure,
        exact=_share(exact, one.questions) if exact else None,
        given=[_given(sample) for sample in samples],
    )
    return score, one.questions


def _share(correct: list[float], questions: Sequence[Question]) -> dict[str, Any]:
    interval = interval_over(correct, about(questions))
    return {"accuracy": sum(correct) / len(correct), "interval": interval, "correct": correct}


def interval_over(correct: Sequence[float], subjects: Sequence[str]) -> tuple[float, float]:
    """95 % interval of a share right, over the questions, or over what they are about where several share that."""
    if len(set(subjects)) == len(subjects):
        return share_interval(sum(correct), len(correct))
    return grouped_share_interval(correct, subjects)


def _given(sample: Mapping[str, Any]) -> Any:
    """The index of the likeliest choice, the first of several; or the text that was written. Of a text that lm-eval
    only compares with what would be written: that text where it would be, else nothing."""
    answers = sample["filtered_resps"]
    if isinstance(answers[0], str):
        return answers[0].strip()
    if len(answers) == 1:
        return str(sample["arguments"][0][1]).strip() if answers[0][1] else ""
    likelihoods = [float(answer[0]) for answer in answers]
    return likelihoods.index(max(likelihoods))


def _official_score(one: Asked, samples: Sequence[Mapping[str, Any]]) -> Score:
    """By the first of the task's metrics that counts right answers.

    Raises:
        Unavailable: it has none.
    """
    metrics = [*_OFFICIAL_METRICS, *samples[0]["metrics"]]
    measure = next((metric for metric in metrics if all(_is_share(sample.get(metric)) for sample in samples)), None)
    if measure is None:
        raise Unavailable(
            f"{official.PREFIX}{one.name} counts no right answers (it has {', '.join(samples[0]['metrics'])}): choose "
            "a task with acc or exact_match."
        )
    correct = [float(sample[measure]) for sample in samples]
    with_choices = one.task.OUTPUT_TYPE == "multiple_choice"
    return Score(
        task=one.name,
        accuracy=sum(correct) / len(correct),
        interval=share_interval(sum(correct), len(correct)),
        items=len(correct),
        chance=sum(1 / len(sample["arguments"]) for sample in samples) / len(samples) if with_choices else 0.0,
        majority=Counter(str(sample["target"]) for sample in samples).most_common(1)[0][1] / len(samples),
        correct=correct,
        measure=measure,
        given=[_given(sample) for sample in samples],
    )


def _is_share(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) and 0 <= value <= 1


def _as_question(sample: Mapping[str, Any], task: Any) -> Question:
    """An official question as texts: what the model was given, without the solved examples before it, which say
    nothing of this question, and the continuations it chose from. Where the beginnings differ (winogrande) the task
    does not say the question's text by itself, and examples stay."""
    arguments, target = sample["arguments"], sample["target"]
    own = task.doc_to_text(sample["doc"])

    def alone(context: str) -> str:
        return own if isinstance(own, str) and own and context.endswith(own) else context

    contexts, continuations = zip(*((alone(str(one[0])), str(one[1])) for one in arguments), strict=True)
    if len(arguments) == 1:
        return {"question": contexts[0], "answers": [str(target)]}
    if len(set(contexts)) == 1:
        return {"question": contexts[0], "choices": list(continuations), "answer": target}
    return {"question": continuations[0], "choices": list(contexts), "answer": target}  # the beginnings differ
