"""Finished runs measured anew: bits per byte document by document, KL to the base, at any strength of the adapter.

The held-out part of each text is read under the base and under the run, in the precision that the run was trained in.
Of a long document only its first `PIECE` tokens count, so that many documents do; and however a run was trained, it is
measured on the same pieces as every other run of its model. Of the run at full strength every token's loss is kept
beside that of the base (`mixcpt.token_losses`). What was measured before under the same key is not measured again, so a
job that was stopped goes on where it was. What this gives up: speed on a GPU, where one row of
512 tokens at a time is little work.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mixcpt import token_losses
from mixcpt.builtin import fingerprint, open_source
from mixcpt.config import MixtureConfig, SourceShare
from mixcpt.errors import BadInput, NotFound
from mixcpt.lssd import Head
from mixcpt.measured import PROMPTS, TOKENS, VERSION, Order, Taken, folder_of, part_of, read, texts_of
from mixcpt.measures import Sample, bits_by_piece, bits_of, hidden, kl_by_piece, nats_by_token, sample
from mixcpt.modelstore import ensure_model
from mixcpt.prompts import Base, base_of
from mixcpt.resident import Resident, release_memory
from mixcpt.runs import Run, Runs
from mixcpt.teacher import evaluating
from mixcpt.token_kinds import kinds_of, terms_of
from mixcpt.token_losses import TokenLosses
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace, now, read_json, write_json

if TYPE_CHECKING:
    from mixcpt.worker import JobContext

Progress = Callable[[float | None, str], None]
Check = Callable[[], None]
PIECE = 512
"""Tokens: the most that are read of one document, and the length of a row."""


def measure(
    workspace: Workspace,
    run: Run,
    *,
    on: Sequence[str] = (),
    strengths: Sequence[float] = (1.0,),
    tokens: int = TOKENS,
    usual: bool = True,
    progress: Progress = lambda fraction, message: None,
    check: Check = lambda: None,
) -> list[Taken]:
    """Measure one finished run; see `measure_runs`, and `mixcpt.measured.Order` for what is measured."""
    order = Order(tuple(on), tuple(strengths), tokens, usual)
    return measure_runs(workspace, [run], order, progress=progress, check=check)


def measure_runs(
    workspace: Workspace,
    runs: Sequence[Run],
    order: Order,
    *,
    progress: Progress = lambda fraction, message: None,
    check: Check = lambda: None,
) -> list[Taken]:
    """Measure finished runs, each base loaded once, and return what was ordered, measured now or known before.

    A corpus of a run's own field that is not there any more is left out; what `order` names must be there.

    Raises:
        BadInput, NotFound: as `Order.check`; or a text has no held-out part. TooLittle: not enough memory.
        Interrupted: by `check`; what was measured until then is kept.
    """
    order.check(workspace, runs)
    bases: dict[Base, list[Run]] = defaultdict(list)
    for run in runs:
        ensure_model(workspace, run.config.model.name)
        bases[base_of(workspace, run, run.config.model.name)].append(run)
    found: list[Taken] = []
    for number, (base, its) in enumerate(bases.items()):
        first, share = number / len(bases), 1 / len(bases)

        def tell(fraction: float | None, message: str, first: float = first, share: float = share) -> None:
            progress(None if fraction is None else first + share * fraction, message)

        found += _OnBase(workspace, base, its, order, tell, check).take()
        release_memory()
    return found


@dataclass(frozen=True)
class _Text:
    """What is measured of one source: its pieces, one a document, and what its figures depend on."""

    name: str
    measure: str
    pieces: Sample
    how: dict[str, Any]


class _OnBase:
    """One call of `measure_runs`, for the runs of one base. The base is loaded once something is missing."""

    def __init__(
        self, workspace: Workspace, base: Base, runs: Sequence[Run], order: Order, progress: Progress, check: Check
    ):
        self.workspace, self.base, self.runs, self.order = workspace, base, runs, order
        self.progress, self.check = progress, check
        self._tokenizer = TextTokenizer.from_folder(base.folder)
        self._texts: dict[tuple[str, str], _Text | None] = {}
        self._model: Resident | None = None
        self._teacher: dict[str, tuple[list[Tensor], Head]] = {}
        self._terms: dict[tuple[str, ...], set[str]] = {}

    def take(self) -> list[Taken]:
        work = [(run, text) for run in self.runs for text in self._texts_of(run)]
        total, found = len(work) * len(self.order.strengths), []
        self._bases = {(text.name, text.measure): self._of_base(text) for _, text in work}
        for number, (run, text, strength) in enumerate(
            (run, text, strength) for run, text in work for strength in self.order.strengths
        ):
            self.check()
            self.progress(number / total, f"{run.title} at strength {strength:g} on {text.name}")
            found.append(self._taken(run, text, strength))
        return found

    def _texts_of(self, run: Run) -> Iterator[_Text]:
        for name in texts_of(run, self.order):
            if text := self._text(name, "bits"):
                yield text
        if self.order.usual and (prompts := self._text(PROMPTS, "kl")):
            yield prompts

    def _text(self, name: str, measure: str) -> _Text | None:
        """None where a corpus that nobody named is gone, or has no held-out text."""
        if (name, measure) not in self._texts:
            self._texts[name, measure] = self._open(name, measure)
        return self._texts[name, measure]

    def _open(self, name: str, measure: str) -> _Text | None:
        named = name in self.order.on
        try:
            corpus = open_source(self.workspace, name, self._tokenizer)
        except NotFound:
            if named:
                raise
            return None
        reading = MixtureConfig(sources=[SourceShare(source=name, share=1)], row_tokens=PIECE)
        indices = list(range(len(corpus.documents("heldout"))))
        pieces = sample(corpus, indices, "heldout", self._tokenizer, reading, self.order.tokens, pieces_each=1)
        if not pieces.rows:
            if named:
                raise BadInput(f"The corpus {name} has no held-out text, so nothing can be measured on it: add more.")
            return None
        how = {
            "version": VERSION,
            "measure": measure,
            "text": name,
            "fingerprint": fingerprint(self.workspace, name),
            "limit": self.order.tokens,
            "piece": PIECE,
            "model": self.base.fingerprint,
            "precision": self.base.precision,
            "device": self.base.device,
        }
        return _Text(name, measure, pieces, how)

    def _of_base(self, text: _Text) -> list[float]:
        """What the base needs for each document; read where it is known, else taken and kept."""
        if text.measure == "kl":
            return [0.0] * len(text.pieces.piece_bytes)
        kept = self._base_file(text)
        if kept.exists():
            values: list[float] = read_json(kept)["values"]
            return values
        values = bits_of(self._nats_of_base(text)).tolist()
        write_json(kept, {"how": text.how, "documents": text.pieces.documents, "values": values, "finished": now()})
        return values

    def _base_file(self, text: _Text) -> Path:
        return self.workspace.root / "measured" / f"{_hash(text.how)}.json"

    def _nats_of_base(self, text: _Text) -> list[np.ndarray]:
        """Token by token, for each document; read where it is known, else taken and kept."""
        kept = self._base_file(text).with_suffix(".npz")
        if kept.exists():
            ends = np.cumsum([len(spans) for spans in text.pieces.spans])
            return np.split(token_losses.load(kept)[1]["base"], ends[:-1])
        self.check()
        self.progress(None, f"the base on {text.name}")
        model = self._loaded()
        model.use(None)
        nats = nats_by_token(model.model, model.head, text.pieces, self.check)
        kept.parent.mkdir(exist_ok=True)
        token_losses.save(kept, {"how": text.how, "finished": now()}, {"base": np.concatenate(nats)})
        return nats

    def _loaded(self) -> Resident:
        if self._model is None:
            self.progress(None, f"loading {self.base}")
            self._model = Resident(self.base)
        return self._model

    def _taken(self, run: Run, text: _Text, strength: float) -> Taken:
        path = folder_of(run) / f"{_hash({**text.how, 'adapter': _adapter(run), 'strength': strength})}.json"
        base = self._bases[text.name, text.measure]
        by_token = text.measure == "bits" and strength == 1
        if path.exists() and (not by_token or path.with_suffix(".npz").exists()):
            known = read_json(path)
            # What is ordered counts from now on, though the text was measured otherwise since (`measured.read`).
            counting = {(one.text, one.measure): one.how for one in read(run)}
            superseded = counting.get((text.name, text.measure), text.how) != text.how
            finished = now() if superseded else str(known["finished"])
            found = self._as_taken(run, text, strength, base, known["values"], known["sizes"], finished)
            if superseded:
                write_json(path, found.kept())
                if by_token:
                    token_losses.renew(run, path.with_suffix(".npz"), finished)
            return found
        sizes: Sequence[float] = text.pieces.piece_bytes
        if text.measure == "kl":
            values, sizes = self._kl(run, text, strength)
        elif by_token:
            nats = self._nats(run, text)
            values = bits_of(nats).tolist()
        else:
            values = base if strength == 0 else self._bits(run, text, strength)
        taken = self._as_taken(run, text, strength, base, values, sizes, now())
        if not run.folder.exists():
            raise NotFound(f"Run {run.id} was deleted meanwhile, so nothing more is measured of it.")
        path.parent.mkdir(exist_ok=True)
        if by_token:
            token_losses.write(path.with_suffix(".npz"), self._as_losses(run, text, nats, taken.finished))
        write_json(path, taken.kept())
        return taken

    def _as_taken(
        self,
        run: Run,
        text: _Text,
        strength: float,
        base: Sequence[float],
        values: Sequence[float],
        sizes: Sequence[float],
        finished: str,
    ) -> Taken:
        predicted = sum(int((row.labels[1:] >= 0).sum()) for row in text.pieces.rows)
        return Taken(
            run=run.id,
            text=text.name,
            part=part_of(run, text.name) if text.measure == "bits" else "prompts",
            measure=text.measure,
            strength=strength,
            tokens=predicted,
            documents=tuple(text.pieces.documents),
            sizes=tuple(sizes),
            base_values=tuple(base),
            values=tuple(values),
            how=text.how,
            finished=finished,
        )

    def _bits(self, run: Run, text: _Text, strength: float) -> list[float]:
        model = self._loaded()
        model.use(run, strength)
        bits: list[float] = bits_by_piece(model.model, model.head, text.pieces, self.check).tolist()
        return bits

    def _nats(self, run: Run, text: _Text) -> list[np.ndarray]:
        """Of the run at full strength, token by token for each document."""
        model = self._loaded()
        model.use(run, 1.0)
        return nats_by_token(model.model, model.head, text.pieces, self.check)

    def _as_losses(self, run: Run, text: _Text, nats: list[np.ndarray], finished: str) -> TokenLosses:
        pieces, terms = text.pieces, self._terms_of(run)
        kinds = [kinds_of(one, spans, terms) for one, spans in zip(pieces.texts, pieces.spans, strict=True)]
        return TokenLosses(
            source=text.name,
            part=part_of(run, text.name),
            documents=tuple(pieces.documents),
            texts=tuple(pieces.texts),
            piece=np.repeat(np.arange(len(pieces.spans)), [len(spans) for spans in pieces.spans]),
            spans=np.concatenate(pieces.spans),
            kinds=np.concatenate(kinds),
            base=np.concatenate(self._nats_of_base(text)),
            run=np.concatenate(nats),
            how=text.how,
            finished=finished,
        )

    def _terms_of(self, run: Run) -> set[str]:
        """The terms of those corpora of the run's field that are still there."""
        field = tuple(run.config.mixture.domain_sources())
        if field not in self._terms:
            self.progress(None, "looking for the terms of the field")
            there = [name for name in field if self._text(name, "bits")]
            self._terms[field] = terms_of(open_source(self.workspace, name, self._tokenizer) for name in there)
        return self._terms[field]

    def _kl(self, run: Run, text: _Text, strength: float) -> tuple[list[float], list[int]]:
        """Nats and predicted tokens of each prompt."""
        model = self._loaded()
        if text.name not in self._teacher:
            model.use(None)
            with evaluating(model.model):
                self._teacher[text.name] = [hidden(model.model, row)[0] for row in text.pieces.rows], model.head
        states, head = self._teacher[text.name]
        model.use(run, strength)
        with evaluating(model.model):
            nats, counts = kl_by_piece(model.model, model.head, text.pieces, states, head, self.check)
        return nats.tolist(), counts.tolist()


def _hash(how: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()[:16]


def _adapter(run: Run) -> str:
    """A hash of the run's adapter: a run that was trained further is measured again."""
    whole = hashlib.sha256()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        whole.update((run.adapter / name).read_bytes())
    return whole.hexdigest()[:16]


def run_job(context: "JobContext") -> str:
    """The `measure` job. Payload: `runs`, ids, and the fields of an `Order`."""
    payload = context.job.payload
    runs = [Runs(context.workspace).get(id) for id in payload["runs"]]
    order = Order.of(payload)
    found = measure_runs(context.workspace, runs, order, progress=context.progress, check=context.check)
    texts, strengths = {taken.text for taken in found}, len(order.strengths)
    gone = sorted({text for run in runs for text in texts_of(run, order)} - texts)
    words = f"{_count(len(runs), 'run')} measured on {_count(len(texts), 'text')}"
    words += f" at {_count(strengths, 'strength')}"
    return words + (f"; not on {', '.join(gone)}, for it is not here any more" if gone else "") + "."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
