"""Score samples under a model: any run's adapter, or the base. What the scores are stands in `mixcpt.scores`.

Texts are batched by length, padded on the right; attention looks back only, so a text's losses do not depend on its
neighbours (in fp32 to about 1e-6 nats; in bf16 the shape of a batch moves the last digits). Logits are made a few
tokens at a time. What was once computed is kept on disk, sample by sample, so a cancelled job goes on where it was.

What it gives up: long samples are not shortened, for half an answer has another score; they are left out and reported.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from mixcpt import models
from mixcpt.builtin import open_source
from mixcpt.config import ModelConfig
from mixcpt.corpus import Corpus
from mixcpt.errors import BadInput, Diverged
from mixcpt.lssd import Head, token_losses
from mixcpt.packing import IGNORED
from mixcpt.readings import FORMS, MAX_TOKENS, Reader, Reading, Text, some_reasons
from mixcpt.runs import Runs
from mixcpt.score_jobs import require_adapter
from mixcpt.scores import Cache, ScoredSample, ScoreTable, Sums, answer_scores, pair_scores
from mixcpt.settings import validate
from mixcpt.teacher import evaluating, final_hidden, teacher_mode
from mixcpt.templates import NAMED, Rendered, choose_template
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace, now, write_json

if TYPE_CHECKING:
    from mixcpt.worker import JobContext

BATCH_TOKENS = 2048

Progress = Callable[[float | None, str], None]
Check = Callable[[], None]


@torch.no_grad()
def losses_of(
    model: nn.Module,
    head: Head,
    texts: Sequence[Text],
    *,
    batch_tokens: int = BATCH_TOKENS,
    chunk: int = 128,
) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Per-token losses (float64, nats; entry i is -log p of token i given those before it, 0 where it was not asked)
    of each text with its index in `texts`, a batch at a time, longest first.

    The mode of the model, adapter on or off, is the caller's; see `evaluating` and `teacher_mode`.
    """
    device = next(model.parameters()).device
    for batch in batches([len(text.ids) for text in texts], batch_tokens):
        width = len(texts[batch[0]].ids)
        ids = torch.zeros((len(batch), width), dtype=torch.long)
        labels = torch.full((len(batch), width), IGNORED, dtype=torch.long)
        for row, index in enumerate(batch):
            text = texts[index]
            whole = torch.from_numpy(text.ids).long()
            ids[row, : len(whole)] = whole
            first = max(text.first, 1)
            labels[row, first - 1 : len(whole) - 1] = whole[first:]  # state i predicts token i + 1
        positions = torch.arange(width).expand(len(batch), width)
        states = final_hidden(model, ids.to(device), positions.to(device))
        losses, _ = token_losses(states.flatten(0, 1), None, labels.flatten().to(device), head, chunk)
        values = losses.double().cpu().numpy().reshape(len(batch), width)
        yield [
            (index, np.concatenate([[0.0], values[row, : len(texts[index].ids) - 1]]))
            for row, index in enumerate(batch)
        ]


def batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices in batches of similar length, longest first, so that too little memory shows at once: at most
    `batch_tokens` tokens each, padding included, but at least one text."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    found: list[list[int]] = []
    for index in order:
        if found and (len(found[-1]) + 1) * lengths[found[-1][0]] <= batch_tokens:
            found[-1].append(index)
        else:
            found.append([index])
    return found


def sums_of(text: Text, losses: np.ndarray) -> Sums:
    """What is kept of a text's losses."""
    span = text.span
    whole = losses[1:] if text.first <= 1 else losses[:0]
    return Sums(
        first=float(losses[span.start]),
        answer=math.fsum(losses[span.start : span.text_end]),
        answer_tokens=span.text_end - span.start,
        end=math.fsum(losses[span.text_end : span.end]),
        end_tokens=span.end - span.text_end,
        whole=math.fsum(whole),
        whole_tokens=len(whole),
    )


@dataclass(frozen=True)
class TokenLosses:
    """Losses token by token (nats; 0 for the first, which nothing predicts), under the base and under the adapter."""

    ids: np.ndarray
    base: np.ndarray
    adapted: np.ndarray
    mask: np.ndarray


def per_token(model: nn.Module, rendered: Rendered) -> TokenLosses:
    """The losses of one rendered sample, base beside adapted, for showing it as a strip."""
    text = Text("", "strip", rendered.ids, rendered.response)

    def one(mode: AbstractContextManager[None]) -> np.ndarray:
        with mode:
            return next(losses_of(model, models.output_head(model), [text]))[0][1]

    return TokenLosses(rendered.ids, one(teacher_mode(model)), one(evaluating(model)), rendered.mask())


def adapter_fingerprint(folder: Path) -> str:
    """16 hex digits of a finished adapter: its weights and its configuration."""
    digest = hashlib.sha256((folder / "adapter_config.json").read_bytes())
    digest.update((folder / "adapter_model.safetensors").read_bytes())
    return digest.hexdigest()[:16]


def score(
    workspace: Workspace,
    source: str,
    *,
    run: str | None = None,
    model: ModelConfig | None = None,
    template: str | None = None,
    what: Sequence[str] = FORMS,
    beta: float = 0.1,
    max_tokens: int = MAX_TOKENS,
    limit: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = lambda fraction, message: None,
    check: Check = lambda: None,
) -> ScoreTable:
    """Score the training side of a source under a run's adapter, or under the base; the table is saved and returned.

    Args:
        run: None for the base, which is then `model` (the default model when that is None too).
        template: as `templates.choose_template` takes it, or "none" for plain text only.
        what: of `FORMS`; fewer forms are faster and give fewer scores. beta: DPO's, for `dpo_loss`.
        max_tokens: longer samples are left out and reported. limit: score only so many samples, drawn by a fixed seed;
        None scores all.

    Raises:
        BadInput: nothing in the source can be scored; the run has no adapter; an unknown form or template.
        Interrupted: by `check`; what was scored so far is kept.
    """
    return _Scoring(workspace, source, run, model, template, what, beta, max_tokens, limit, batch_tokens).run_all(
        progress, check
    )


class _Scoring:
    """One call of `score`."""

    def __init__(
        self,
        workspace: Workspace,
        source: str,
        run: str | None,
        model: ModelConfig | None,
        template: str | None,
        what: Sequence[str],
        beta: float,
        max_tokens: int,
        limit: int | None,
        batch_tokens: int,
    ):
        if unknown := [form for form in what if form not in FORMS]:
            raise BadInput(f"There is no form {unknown[0]!r} to score: choose from {', '.join(FORMS)}.")
        self.workspace, self.source, self.beta, self.batch_tokens = workspace, source, beta, batch_tokens
        self.run = None if run is None else Runs(workspace).get(run)
        self.config = self.run.config.model if self.run else model or ModelConfig()
        self.wanted, self.what, self.max_tokens, self.limit = template, what, max_tokens, limit
        if self.run:
            require_adapter(self.run)

    def run_all(self, progress: Progress, check: Check) -> ScoreTable:
        progress(None, "preparing the samples")
        self.folder = models.ensure_model(self.workspace, self.config.name)
        self.device, self.precision = models.resolve(self.config, self.workspace)
        tokenizer = TextTokenizer.from_folder(self.folder)
        corpus = open_source(self.workspace, self.source, tokenizer)
        adapter = self.run.adapter if self.run else None
        template = None if self.wanted == "none" else choose_template(self.folder, self.wanted, adapter)
        self.reader = Reader(tokenizer, template, self.max_tokens, self.what)
        self.kind = corpus.manifest.kind
        if self.kind == "instructions" and not self.reader.forms:
            raise BadInput(
                f"{self.config.name} has no chat template, and only scores with one were asked for: choose one of "
                f"{', '.join(NAMED)}."
            )
        self._open_caches()
        readings = self.reader.read(corpus, self.limit, check)
        self._require_some(readings)
        self._fill([text for reading in readings for text in reading.texts], progress, check)
        left_out = sum(bool(reading.reason) for reading in readings)
        counts = {"samples": len(readings) - left_out, "left_out": left_out}
        table = ScoreTable(self._info(corpus) | counts, [self._scored(reading) for reading in readings])
        table.save(self.workspace)
        return table

    def _open_caches(self) -> None:
        """One for each model (adapted, base) and reading of the text (under the template, without)."""
        facts = {
            "model": models.model_fingerprint(self.folder),
            "precision": self.precision,
            "device": self.device,
            "tokenizer": self.reader.tokenizer.fingerprint,
        }
        adapter = adapter_fingerprint(self.run.adapter) if self.run else ""
        template = self.reader.template.fingerprint if self.reader.template else ""
        needs_base = not self.run or self.kind == "preferences"
        modes = {"adapted": adapter} if self.run else {}
        self.modes = modes | ({"base": ""} if needs_base else {})
        self.facts = facts | {"adapter": adapter, "template": template}
        self._caches = {
            (mode, reading): Cache(self.workspace, {**facts, "adapter": adapter, "template": reading})
            for mode, adapter in self.modes.items()
            for reading in {template, ""}
        }
        self._template = template

    def _cache(self, mode: str, form: str) -> Cache:
        return self._caches[mode, "" if form in ("plain", "alone") else self._template]

    def _require_some(self, readings: Sequence[Reading]) -> None:
        if all(reading.reason for reading in readings):
            reasons = some_reasons(reading.reason for reading in readings) or "it has no samples"
            raise BadInput(f"Nothing in the source {self.source!r} can be scored ({reasons}): add other samples.")

    def _fill(self, texts: Sequence[Text], progress: Progress, check: Check) -> None:
        """Compute what the caches lack. The model is loaded only when there is something to do."""
        todo = {mode: self._missing(mode, texts) for mode in self.modes}
        total, done = sum(map(len, todo.values())), 0
        tokens, read = sum(len(text.ids) for missing in todo.values() for text in missing), 0
        if not total:
            return
        progress(0.0, f"loading {self.config.name} ({self.precision} on {self.device})")
        base = models.load_base(self.folder, self.device, self.precision)
        models.verify_head(base, models.output_head(base))
        model: nn.Module = models.load_adapter(base, self.run.adapter, trainable=False) if self.run else base
        for mode, missing in todo.items():
            with teacher_mode(model) if mode == "base" else evaluating(model):
                for batch in losses_of(model, models.output_head(model), missing, batch_tokens=self.batch_tokens):
                    self._keep(mode, [(missing[index], losses) for index, losses in batch])
                    done += len(batch)
                    read += sum(len(missing[index].ids) for index, _ in batch)  # the long ones come first
                    progress(read / tokens, f"scored {done:,} of {total:,} texts ({mode})")
                    check()

    def _missing(self, mode: str, texts: Sequence[Text]) -> list[Text]:
        """Each text once that no cache has, however many samples share it."""
        wanted = {(text.sample, text.form): text for text in texts}
        return [text for text in wanted.values() if self._cache(mode, text.form).get(text.sample, text.form) is None]

    def _keep(self, mode: str, scored: Sequence[tuple[Text, np.ndarray]]) -> None:
        for _, losses in scored:
            if not np.isfinite(losses).all():
                name = self.run.id if self.run else self.config.name
                raise Diverged(f"{name} gives no number for a sample of {self.source!r}: its weights are damaged.")
        for cache in {id(c): c for c in (self._cache(mode, text.form) for text, _ in scored)}.values():
            mine = [(text, losses) for text, losses in scored if self._cache(mode, text.form) is cache]
            cache.put({(text.sample, text.form): sums_of(text, losses) for text, losses in mine})

    def _sums(self, mode: str, text: Text) -> Sums:
        sums = self._cache(mode, text.form).get(text.sample, text.form)
        assert sums is not None  # `_fill` has seen to it
        return sums

    def _scored(self, reading: Reading) -> ScoredSample:
        id, record, texts = reading.id, reading.record, reading.texts
        canonical = replace(record, meta={}).to_json()
        if reading.reason:
            return ScoredSample(id, canonical, 0, 0, {}, reading.reason)
        mode = "adapted" if self.run else "base"
        forms = {text.form: self._sums(mode, text) for text in texts}
        if record.kind == "preferences":
            base = {text.form: self._sums("base", text) for text in texts} if self.run else None
            scores = pair_scores(
                forms["chosen"], forms["rejected"], (base["chosen"], base["rejected"]) if base else None, self.beta
            )
            answer = texts[0].span.end - texts[0].span.start
            return ScoredSample(id, canonical, sum(len(text.ids) for text in texts), answer, scores)
        scores = answer_scores(forms, alone_sees_first=self.reader.tokenizer.bos_id is not None)
        answer = texts[0].span.text_end - texts[0].span.start
        return ScoredSample(id, canonical, self.reader.trained_tokens(record, texts), answer, scores)

    def _info(self, corpus: Corpus) -> dict[str, Any]:
        template = self.reader.template
        facts = self.facts | {"corpus": corpus.manifest.fingerprint}
        asked = "\n".join(f"{key}={facts[key]}" for key in sorted(facts) if key != "corpus")
        who = self.run.id if self.run else Path(self.config.name).name.lower()
        asked += f"\n{self.reader.forms} {self.beta} {self.max_tokens} {self.limit}"
        mark = hashlib.sha256(f"{self.source}\n{asked}\n{who}".encode()).hexdigest()[:8]
        return {
            "id": f"{self.source.replace('/', '-')}.{who}.{mark}",
            "source": self.source,
            "kind": self.kind,
            "run": self.run.id if self.run else None,
            "model": self.config.name,
            "template": {"name": template.name, "source": template.source} if template else None,
            "device": self.device,
            "precision": self.precision,
            "beta": self.beta,
            "max_tokens": self.max_tokens,
            "limit": self.limit,
            "facts": facts,
            "created": now(),
        }


_OPTIONS = ("template", "beta", "max_tokens", "limit", "batch_tokens")


def score_as_asked(
    workspace: Workspace,
    payload: dict[str, Any],
    progress: Progress = lambda fraction, message: None,
    check: Check = lambda: None,
) -> ScoreTable:
    """`score` by the payload of a `score` job: source, run (id, null: the base), model (a `ModelConfig`, for the base),
    template (name or null), what (list of forms), and optionally beta, max_tokens, limit and batch_tokens."""
    options: dict[str, Any] = {key: payload[key] for key in _OPTIONS if key in payload}
    if payload.get("what"):
        options["what"] = payload["what"]
    if payload.get("model"):
        options["model"] = validate(ModelConfig, payload["model"], "the job's model")
    return score(workspace, payload["source"], run=payload.get("run"), progress=progress, check=check, **options)


def run_job(context: "JobContext") -> str:
    """The `score` job; its payload is as `score_as_asked` takes it."""
    table = score_as_asked(context.workspace, context.job.payload, context.progress, context.check)
    write_json(context.job.folder / "result.json", {"scores": table.id})
    left_out = table.info["left_out"]
    rest = f", {left_out:,} left out with their reason" if left_out else ""
    return f"Scores {table.id}: {table.info['samples']:,} samples scored{rest}."
