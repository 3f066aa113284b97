"""Questions asked of the base and of a finished run, by lm-eval, and the format of their answers; `mixcpt.transcript`
keeps what came of it.

Base and run are asked alike, under the precision that the run was trained in. The tasks are kept in the run, so the
plain `lm_eval` command can ask the same, and gets the same numbers (`mixcpt.tasks`).

In fp32 the batch size does not matter. In 16 and 4 bits questions are asked one at a time, whatever the batch size
says: there the neighbours in a batch change the last digits, and with them, now and then, an answer.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixcpt import contamination, probe_sets
from mixcpt.answers import Answered
from mixcpt.builtin import open_source
from mixcpt.config import EvaluationConfig
from mixcpt.errors import BadInput, Unavailable
from mixcpt.grading import Asked, Heard, Score, answered, ours, theirs
from mixcpt.modelstore import ensure_model
from mixcpt.prompts import base_of, ends_of, form_of, set_out
from mixcpt.questions import question_sets
from mixcpt.runs import Run, Runs
from mixcpt.settings import override
from mixcpt.templates import NAMED, OWN, choose_template
from mixcpt.tokens import TextTokenizer
from mixcpt.transcript import FORMAT, Answers, Transcript, refusals, scores_in_short, templates_of
from mixcpt.workspace import Workspace, now, read_json, write_json

if TYPE_CHECKING:
    from mixcpt.format import Exam
    from mixcpt.worker import JobContext

Progress = Callable[[float | None, str], None]
Check = Callable[[], None]


def batch_size(config: EvaluationConfig, precision: str) -> int:
    """How many questions are asked at once: only in fp32 as many as the configuration says."""
    return config.batch_size if precision == "fp32" else 1


def evaluate(
    workspace: Workspace,
    run: Run,
    config: EvaluationConfig | None = None,
    *,
    progress: Progress = lambda fraction, message: None,
    check: Check = lambda: None,
) -> dict[str, Any]:
    """Ask the run's adapter and its base, and return the whole `evaluation` section of results.json.

    What is asked replaces what the section held of the same sets and templates, and leaves the others. What cannot be
    had (a task whose questions lie on a hub that cannot be reached) is told in `unavailable`, and the rest is asked.
    The base's answers are kept in the workspace, and asked only once per model, device, precision, questions and
    version of lm-eval.

    Args:
        config: what is asked; what the run is configured for when it is not given.

    Raises:
        BadInput: there is nothing to ask, or the run has no adapter. Interrupted: by `check`; nothing is replaced.
    """
    return _Evaluation(workspace, run, config or run.config.evaluation, progress, check).results()


class _Evaluation:
    """One call of `evaluate`."""

    def __init__(self, workspace: Workspace, run: Run, config: EvaluationConfig, progress: Progress, check: Check):
        self.workspace, self.run, self.config, self.check = workspace, run, config, check
        self._progress = progress
        if not config.asks:
            raise BadInput(f"There is nothing to ask run {run.id}: name a question set, for example general.")
        self.sets = question_sets(config)
        self.domain = run.config.mixture.domain_sources()
        probe_sets.require(workspace, config.tasks, self.domain)
        self.probes: dict[str, dict[str, Any]] = {}
        self.unavailable: dict[str, str] = {}

    def results(self) -> dict[str, Any]:
        self._load()
        self._set_out()
        with tempfile.TemporaryDirectory(prefix=".asking-", dir=self.workspace.root) as folder:
            asked, self.unavailable = theirs(self.config)
            self._make_probes()
            asked = [*ours(self.sets, Path(folder)), *asked]
            base = self._ask(asked, self._ask_base, 0.05, 0.4)
            final = self._ask([one for one in asked if one.name in base], self._ask_run, 0.4, 0.75)
        formats = {name: self._examine(name, exam) for name, exam in self._exams().items()}
        asked = [one for one in asked if one.name in final]
        transcript = Transcript(self.run, asked, base, final, formats, self.probes, self.unavailable, self._how())
        transcript.keep(self.sets)
        seen = self._look_for([one.name for one in asked])
        self.run.write_results("evaluation", transcript.section(self.workspace, seen))
        written: dict[str, Any] = self.run.results()["evaluation"]
        return written

    def _load(self) -> None:
        from transformers import AutoTokenizer

        from mixcpt import models

        config = self.run.config.model
        self._progress(None, "loading the model")
        ensure_model(self.workspace, config.name)
        self.base = base_of(self.workspace, self.run, config.name)
        loaded = models.load_base(self.base.folder, self.base.device, self.base.precision)
        self.model = models.load_adapter(loaded, self.run.adapter, trainable=False)
        self.tokenizer = AutoTokenizer.from_pretrained(str(self.base.folder))
        self.batch_size = batch_size(self.config, self.base.precision)
        self.check()

    def _set_out(self) -> None:
        """Instructions as prompts in the template in which the run answers, for base and run alike."""
        if not any("checks" in questions[0] for questions in self.sets.values()):
            return
        form = form_of(self.base.folder, None, self.run.adapter)
        ends = [form.tokenizer.decode([end]) for end in sorted(ends_of(form, self.base.folder))]
        for name, questions in self.sets.items():
            if "checks" in questions[0]:
                self.sets[name] = [
                    {**question, "text": set_out(form, question["question"]), "ends": ends} for question in questions
                ]

    def _make_probes(self) -> None:
        self._progress(0.02, "making questions of the corpus")
        tokenizer = TextTokenizer.from_folder(self.base.folder)
        made = probe_sets.asked(self.workspace, self.config, self.domain, tokenizer, self.check)
        self.sets |= made.sets
        self.probes = made.facts
        self.unavailable |= made.unavailable

    def _look_for(self, asked: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Which of the questions stand in what the run read."""
        self._progress(1.0, "looking for the questions in the training text")
        memorised = [name for name, facts in self.probes.items() if facts["side"] == "memorised"]
        return contamination.look(self.workspace, self.run, asked, memorised, should_stop=self.check)

    def _heard(self, first: float, last: float, what: str) -> Callable[[float], None]:
        """What is told the share that is done of a part of the work, itself from `first` to `last` of the whole."""

        def heard(share: float) -> None:
            self.check()
            self._progress(first + share * (last - first), what)

        return heard

    def _ask(
        self, asked: Sequence[Asked], ask: Callable[[Asked, Heard], Answers], first: float, last: float
    ) -> dict[str, Answers]:
        """What `ask` gives for each set; one that cannot be asked is told in `unavailable`."""
        found: dict[str, Answers] = {}
        total, done = sum(one.items for one in asked), 0
        for one in asked:
            start, end = (first + (last - first) * count / total for count in (done, done + one.items))
            who = "the base" if ask == self._ask_base else "the run"
            try:
                found[one.name] = ask(
                    one, self._heard(start, end, f"asking {who} {one.items:,} questions ({one.name})")
                )
            except Unavailable as problem:
                self.unavailable[one.name] = str(problem)
            done += one.items
        return found

    def _ask_base(self, one: Asked, heard: Heard) -> Answers:
        from mixcpt.teacher import teacher_mode

        kept = self._kept(f"{one.kind} {one.fingerprint} lm-eval {version('lm_eval')}")
        if kept.exists():
            return Score.from_json({**read_json(kept), "task": one.name}), one.questions
        with teacher_mode(self.model):
            score, questions = answered(self.model, self.tokenizer, one, self.batch_size, heard)
        write_json(kept, asdict(score))
        return score, questions

    def _ask_run(self, one: Asked, heard: Heard) -> Answers:
        from mixcpt.teacher import evaluating

        with evaluating(self.model):
            return answered(self.model, self.tokenizer, one, self.batch_size, heard)

    def _kept(self, asked: str) -> Path:
        """Where the base's answers to something lie. The batch size is no part of it, for it does not matter."""
        key = json.dumps([self.base.fingerprint, self.base.device, self.base.precision, asked])
        folder = self.workspace.root / "evaluations"
        folder.mkdir(exist_ok=True)
        return folder / f"base-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"

    def _exams(self) -> dict[str, "Exam"]:
        """Per template the prompts that are answered in it."""
        from mixcpt.format import Exam

        exams: dict[str, Exam] = {}
        for name in templates_of(self.config):
            template = choose_template(self.base.folder, None if name == OWN else name, self.run.adapter)
            if template is None:
                self.unavailable[f"{FORMAT} {name}"] = (
                    f"{self.run.config.model.name} has no chat template of its own, so the format of its answers was "
                    f"not measured: name templates in format_templates, of {', '.join(NAMED)}."
                )
                continue
            corpus = open_source(self.workspace, self.config.format_source, template.tokenizer)
            try:
                exams[name] = Exam(
                    corpus, template, self.base.folder, self.config.format_items, self.config.format_tokens
                )
            except BadInput as problem:
                self.unavailable[f"{FORMAT} {name}"] = str(problem)
        return exams

    def _examine(self, name: str, exam: "Exam") -> tuple[dict[str, Any], list[Answered]]:
        """What is counted of both sides' answers to an exam, and the answers."""
        from mixcpt.format import Side, compared
        from mixcpt.heads import output_head
        from mixcpt.teacher import evaluating, teacher_mode

        kept, count = self._kept(f"{FORMAT} {exam.fingerprint}"), len(exam.prompts)
        if not kept.exists():
            with teacher_mode(self.model):
                heard = self._heard(0.75, 0.87, f"the base answers {count} prompts (template {name})")
                write_json(kept, asdict(exam.put_to(self.model, output_head(self.model), self.batch_size, heard)))
        base = Side.from_json(read_json(kept))
        with evaluating(self.model):
            heard = self._heard(0.87, 1.0, f"the run answers {count} prompts (template {name})")
            final = exam.put_to(self.model, output_head(self.model), self.batch_size, heard)
        counted = {
            "base": base.summary(),
            "final": final.summary(),
            "gain": compared(base, final),
            "source": self.config.format_source,
            "tokens": exam.tokens,
            "fingerprint": exam.fingerprint,
        }
        return counted, [
            Answered(
                question=prompt.question,
                choices=[],
                right=[prompt.reference],
                base=before.text,
                final=after.text,
                base_right=float(before.well_formed),
                final_right=float(after.well_formed),
            )
            for prompt, before, after in zip(exam.prompts, base.answers, final.answers, strict=True)
        ]

    def _how(self) -> dict[str, Any]:
        """When and how something was asked."""
        return {
            "finished": now(),
            "precision": self.base.precision,
            "device": self.base.device,
            "batch_size": self.batch_size,
        }


def run_job(context: "JobContext") -> str:
    """The `evaluate` job: its run's questions. `ask` of the payload may say what is asked instead of what the run is
    configured for: fields of an `EvaluationConfig`."""
    run = Runs(context.workspace).get(context.job.run or "")
    config = override(run.config.evaluation, context.job.payload.get("ask", {}))
    results = evaluate(context.workspace, run, config, progress=context.progress, check=context.check)
    domain = run.config.mixture.domain_sources()
    return "; ".join([*scores_in_short(results, config, domain), *refusals(results, config, domain).values()])
