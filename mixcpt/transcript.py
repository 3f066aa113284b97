"""What came of asking base and run, as it is kept with the run: the tasks, the answers side by side, and the section
`evaluation` of results.json with scores, gains and their intervals.

What is asked again replaces what was known of the same sets and templates, and the rest stays. What this gives up: of
an older asking nothing is kept but what was not asked anew.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from mixcpt import answers, instructed, official, probe_sets
from mixcpt.answers import Answered
from mixcpt.config import EvaluationConfig
from mixcpt.grading import Asked, Score
from mixcpt.questions import Question, about, question_sets
from mixcpt.runs import Run
from mixcpt.statistics import paired_interval
from mixcpt.tasks import SAMPLES, lm_eval_commands, write_tasks
from mixcpt.templates import OWN
from mixcpt.workspace import Workspace, read_json, write_json

Answers = tuple[Score, list[Question]]
"""A score, and the questions as they were asked."""
FORMAT = "format"
"""Section of the evaluation with the format measure, and how its answers are called."""


@dataclass(frozen=True)
class Transcript:
    """One asking of a run. `base` and `final` are by set, `formats` per template what was counted and the answers;
    `probes` are the facts of the sets made of a corpus, `unavailable` says of what could not be had why, and `how` when
    and under what it was asked."""

    run: Run
    asked: Sequence[Asked]
    base: Mapping[str, Answers]
    final: Mapping[str, Answers]
    formats: Mapping[str, tuple[dict[str, Any], list[Answered]]]
    probes: Mapping[str, dict[str, Any]]
    unavailable: Mapping[str, str]
    how: dict[str, Any]

    def keep(self, sets: Mapping[str, Sequence[Question]]) -> None:
        """The tasks and the answers, beside the results."""
        folder = self.run.folder / "tasks"
        write_tasks(sets, folder)
        path = folder / SAMPLES
        chosen: dict[str, list[int]] = read_json(path) if path.exists() else {}
        chosen = {name: indices for name, indices in chosen.items() if name not in {one.name for one in self.asked}}
        chosen |= {one.name: one.chosen for one in self.asked if one.chosen is not None}
        path.unlink(missing_ok=True)
        if chosen:
            write_json(path, chosen)
        for one in self.asked:
            answers.write(self.run, one.name, _side_by_side(self.base[one.name][0], *self.final[one.name]))
        for name, (_, rows) in self.formats.items():
            answers.write(self.run, f"{FORMAT}.{name}", rows)

    def section(self, workspace: Workspace, seen: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """The section `evaluation` as it was, with what was asked now in its place; `seen` are the questions that stand
        in what the run read, by set (`mixcpt.contamination`)."""
        before: dict[str, Any] = self.run.results().get("evaluation", {})
        base, final = self.base, self.final
        new: dict[str, dict[str, Any]] = {
            "base": {one.name: base[one.name][0].kept() for one in self.asked},
            "final": {one.name: final[one.name][0].kept() for one in self.asked},
            "gain": {one.name: _gain(one, base[one.name][0], final[one.name][0]) for one in self.asked},
            "asked": {one.name: {**self.how, **self._facts(one), "lm_eval": version("lm_eval")} for one in self.asked},
            "contamination": seen,
            FORMAT: {name: {**counted, **self.how} for name, (counted, _) in self.formats.items()},
        }
        found = {part: {**before.get(part, {}), **values} for part, values in new.items()}
        unavailable = self._still_unavailable(before.get("unavailable", {}), new["asked"])
        commands = lm_eval_commands(workspace, self.run, found["asked"])
        whole = {"finished": self.how["finished"], "precision": self.how["precision"], **found}
        return {**whole, "unavailable": unavailable, "commands": commands}

    def _facts(self, one: Asked) -> dict[str, Any]:
        return one.facts() | ({"probes": self.probes[one.name]} if one.name in self.probes else {})

    def _still_unavailable(self, before: dict[str, str], asked: Collection[str]) -> dict[str, str]:
        made = {probe_sets.unavailable_name(facts["corpus"]) for facts in self.probes.values()}
        had = {*asked, *(f"{FORMAT} {name}" for name in self.formats), *made}
        return {name: why for name, why in {**before, **self.unavailable}.items() if name not in had}


def _gain(one: Asked, base: Score, final: Score) -> dict[str, Any]:
    """`difference` and its 95 % `interval`; of open questions also those of exact answers, under `exact`."""
    subjects = about(one.questions) if one.questions else None

    def gained(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
        difference = (sum(after) - sum(before)) / len(after)
        return {"difference": difference, "interval": paired_interval(before, after, subjects)}

    gain = gained(base.correct, final.correct)
    if base.exact and final.exact:
        gain["exact"] = gained(base.exact["correct"], final.exact["correct"])
    return gain


def _side_by_side(base: Score, final: Score, questions: Sequence[Question]) -> list[Answered]:
    return [
        Answered(
            question=question["question"],
            choices=question.get("choices", []),
            right=_right(question),
            base=_in_words(question, before),
            final=_in_words(question, after),
            base_right=was_right,
            final_right=is_right,
            about=subject,
        )
        for question, before, after, was_right, is_right, subject in zip(
            questions, base.given, final.given, base.correct, final.correct, about(questions), strict=True
        )
    ]


def _right(question: Question) -> list[str]:
    """All texts that are right, as a page shows them; of an instruction what is demanded, in words."""
    if "checks" in question:
        return ["; ".join(map(instructed.in_words, question["checks"]))]
    if "answers" in question:
        return list(question["answers"])
    answer = question["answer"]
    return [question["choices"][answer] if isinstance(answer, int) else str(answer)]


def _in_words(question: Question, given: Any) -> str:
    return str(question["choices"][given] if isinstance(given, int) and "choices" in question else given)


def refusals(results: dict[str, Any], config: EvaluationConfig, domain: Sequence[str]) -> dict[str, str]:
    """Of what `config` asks of a run with this field, what could not be had, and why."""
    probed = map(probe_sets.unavailable_name, probe_sets.corpora(config.tasks, domain))
    wanted = {*official.tasks(config.tasks), *(f"{FORMAT} {name}" for name in templates_of(config)), *probed}
    return {name: why for name, why in results.get("unavailable", {}).items() if name in wanted}


def scores_in_short(results: dict[str, Any], config: EvaluationConfig, domain: Sequence[str]) -> list[str]:
    """Of what `config` asks of a run with this field, what came out, set by set."""
    tasks = [*question_sets(config), *probe_sets.task_names(config.tasks, domain), *official.tasks(config.tasks)]
    shares = {
        task: [results[side][task]["accuracy"] for side in ("base", "final")]
        for task in tasks
        if task in results["final"]
    }
    for name in templates_of(config):
        if one := results[FORMAT].get(name):
            shares[f"well formed ({name})"] = [one[side]["well_formed"]["share"] for side in ("base", "final")]
    return [f"{what} {before:.0%} → {after:.0%}" for what, (before, after) in shares.items()]


def templates_of(config: EvaluationConfig) -> list[str]:
    """In which templates the format is measured; none when it is not."""
    return (config.format_templates or [OWN]) if config.format_items else []
