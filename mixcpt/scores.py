"""What samples are scored by, and scored samples on disk. No model is needed to read this.

The scores of a sample, in nats where nothing else is said, of its last answer r after what comes before it, q:

    loss_template       L(r | q) / |r|, q under the chat template; the end of turn is not counted
    loss_plain          the same in plain text, turns joined by blank lines; the tokens of r are the same
    perplexity_*        exp of these. Mix-CPT's first version (arXiv 2407.10804v1) sorts by perplexity, easy = low
    alignment_response  loss_template / loss_plain                                        (our reading, see below)
    alignment_whole     loss per token of the whole text, with over without template      (our reading, see below)
    ifd                 L(r | q) / L(r) in plain text, over the same tokens of r (Li et al., 2308.12032); without a BOS
                        the first token of r has nothing before it, so it is left out of both

and of a preference pair, log p summed over the answer and its end of turn, as DPO does:

    logp_chosen, logp_rejected     log-probability of each answer
    margin                         logp_chosen - logp_rejected
    margin_per_token               the same with each divided by its tokens
    implicit_margin                margin - margin of the base: the reward difference of DPO over beta
    dpo_loss                       -log sigmoid(beta * implicit_margin), held out: the pair was not trained on

The *format alignment score* is named in the ICLR version of the paper, but its equation was not available to us: over
the response and over the whole text are both offered, and the reading "low = easy" is ours.
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mixcpt.errors import BadFile, Damaged, NotFound
from mixcpt.records import Kind, Record
from mixcpt.stamps import Kept
from mixcpt.workspace import Workspace, building, locked, read_json, write_atomic, write_json


@dataclass(frozen=True)
class ScoreKind:
    """How a score is shown and read; `easy` says which end of it is the easy one. `ours`: our reading of a paper."""

    label: str
    kind: Kind
    easy: Literal["low", "high"]
    help: str
    unit: str = ""
    ours: bool = False
    needs_template: bool = False

    @property
    def short(self) -> str:
        """The label where there is little room; a star stands for "our reading"."""
        return self.label.replace(" (our reading)", "*")

    @property
    def title(self) -> str:
        """As `short`, with the unit: the title of an axis or a column."""
        return f"{self.short} ({self.unit})" if self.unit else self.short


def _of_answers(label: str, help: str, **more: Any) -> ScoreKind:
    return ScoreKind(label, "instructions", "low", help, **more)


def _of_pairs(label: str, easy: Literal["low", "high"], help: str, unit: str) -> ScoreKind:
    return ScoreKind(label, "preferences", easy, help, unit)


SCORES: dict[str, ScoreKind] = {
    "perplexity_template": _of_answers(
        "Perplexity, with template", "How surprising the answer is under the chat template.", needs_template=True
    ),
    "perplexity_plain": _of_answers("Perplexity, plain text", "How surprising the answer is in plain text."),
    "loss_template": _of_answers(
        "Loss, with template",
        "Nats per token of the answer under the chat template.",
        unit="nats per token",
        needs_template=True,
    ),
    "loss_plain": _of_answers("Loss, plain text", "Nats per token of the answer in plain text.", unit="nats per token"),
    "alignment_response": _of_answers(
        "Format alignment, over the answer (our reading)",
        "Loss with template over loss without, of the answer: near or below 1, the format is no obstacle.",
        ours=True,
        needs_template=True,
    ),
    "alignment_whole": _of_answers(
        "Format alignment, over the whole text (our reading)",
        "Loss per token with template over without, of question and answer together.",
        ours=True,
        needs_template=True,
    ),
    "ifd": _of_answers("IFD", "Loss of the answer after its question over that without it: low, the question helps."),
    "margin": _of_pairs("Margin", "high", "How many nats likelier the chosen answer is.", "nats"),
    "margin_per_token": _of_pairs(
        "Margin per token",
        "high",
        "The margin with each answer's log-probability over its tokens.",
        "nats per token",
    ),
    "implicit_margin": _of_pairs(
        "Implicit-reward margin", "high", "How far training moved the margin from the base's, in nats.", "nats"
    ),
    "dpo_loss": _of_pairs(
        "Held-out DPO loss", "low", "DPO's loss on this pair, with the base as reference; 0.693 = none.", "nats"
    ),
    "logp_chosen": _of_pairs("Log-probability of chosen", "high", "Summed over the answer, in nats.", "nats"),
    "logp_rejected": _of_pairs("Log-probability of rejected", "low", "Summed over the answer, in nats.", "nats"),
}


_FIRST = ("alignment_response", "loss_template", "loss_plain", "implicit_margin", "margin")


def default_score(names: Sequence[str]) -> str | None:
    """Of these scores the one to choose by when nobody says which; None when there is none."""
    return next((name for name in (*_FIRST, *names) if name in names), None)


@dataclass(frozen=True)
class Sums:
    """What one pass over one rendered text gives: sums of -log p (nats) and how many tokens they are over.

    first: of the answer's first token (0 where nothing comes before it). answer: of the answer's text. end: of its end
    of turn. whole: of every token that is predicted at all (answers of pairs: not summed, 0).
    """

    first: float
    answer: float
    answer_tokens: int
    end: float
    end_tokens: int
    whole: float
    whole_tokens: int

    @property
    def total(self) -> float:
        return self.answer + self.end

    @property
    def total_tokens(self) -> int:
        return self.answer_tokens + self.end_tokens


def answer_scores(forms: Mapping[str, Sums], alone_sees_first: bool) -> dict[str, float]:
    """Scores of an instruction sample from its forms "template", "plain" and "alone", as far as they are there.

    alone_sees_first: a BOS comes before the answer that stands alone, so its first token is predicted too.
    """
    scores: dict[str, float] = {}
    for form in ("template", "plain"):
        if form in forms:
            loss = forms[form].answer / forms[form].answer_tokens
            scores |= {f"loss_{form}": loss, f"perplexity_{form}": math.exp(min(loss, 700.0))}
    if {"template", "plain"} <= forms.keys():
        template, plain = forms["template"], forms["plain"]
        whole = _ratio(template.whole / template.whole_tokens, plain.whole / plain.whole_tokens)
        ratios = {
            "alignment_response": _ratio(scores["loss_template"], scores["loss_plain"]),
            "alignment_whole": whole,
        }
        scores |= {name: value for name, value in ratios.items() if value is not None}
    if {"plain", "alone"} <= forms.keys():
        after, alone = forms["plain"], forms["alone"]
        ifd = _ratio(after.answer - (0 if alone_sees_first else after.first), alone.answer)
        scores |= {} if ifd is None else {"ifd": ifd}
    return scores


def _ratio(above: float, below: float) -> float | None:
    return above / below if below > 0 else None


def pair_scores(
    chosen: Sums, rejected: Sums, base: tuple[Sums, Sums] | None = None, beta: float = 0.1
) -> dict[str, float]:
    """Scores of a preference pair; `base` are the two under the base, None when the base itself is asked."""
    margin = rejected.total - chosen.total
    scores = {
        "logp_chosen": -chosen.total,
        "logp_rejected": -rejected.total,
        "margin": margin,
        "margin_per_token": rejected.total / rejected.total_tokens - chosen.total / chosen.total_tokens,
    }
    if base is not None:
        implicit = margin - (base[1].total - base[0].total)
        scores |= {"implicit_margin": implicit, "dpo_loss": softplus(-beta * implicit)}
    return scores


def softplus(x: float) -> float:
    """log(1 + e^x) = -log sigmoid(-x), without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@dataclass(frozen=True)
class ScoredSample:
    """A sample and its scores. `record` is its canonical JSON. tokens: that training would read (both answers of a
    pair, each with the prompt). reason: why it is left out of every choice; then it has no scores."""

    id: str
    record: str
    tokens: int
    answer_tokens: int
    scores: dict[str, float]
    reason: str = ""

    @cached_property
    def parsed(self) -> Record:
        return Record.from_json(self.record)

    @property
    def question(self) -> str:
        """What is asked last."""
        return next((turn.content for turn in reversed(self.parsed.messages) if turn.role == "user"), "")

    @property
    def answer(self) -> str:
        """The answer that is scored; of a pair the chosen one."""
        turns = self.parsed.messages
        return self.parsed.chosen if self.parsed.kind == "preferences" else turns[-1].content if turns else ""


class ScoreTable:
    """The scores of one source under one model and template: scores/tables/<id>/ with table.json and scores.jsonl.

    table.json: id, source, kind, run (None: the base), model, template (name and Jinja, None: none), precision, beta,
    created, how many samples were scored and left_out, and the fingerprints of what was asked.
    """

    def __init__(self, info: dict[str, Any], samples: Sequence[ScoredSample]):
        self.info, self.samples = info, list(samples)

    @property
    def id(self) -> str:
        return str(self.info["id"])

    @property
    def kind(self) -> Kind:
        kind: Kind = self.info["kind"]
        return kind

    def names(self) -> list[str]:
        """The scores that at least one sample has, in the order of `SCORES`."""
        return names_of(self.samples)

    def save(self, workspace: Workspace) -> None:
        """Written whole or not at all; takes the place of a table of the same id."""
        with building(workspace.root / "scores" / "tables" / self.id) as folder:
            write_json(folder / "table.json", self.info)
            write_samples(folder / "scores.jsonl", self.samples)

    @classmethod
    def open(cls, workspace: Workspace, id: str) -> "ScoreTable":
        """Raises NotFound when there is no such table, BadFile when it is damaged."""
        if id not in table_ids(workspace):
            raise NotFound(f"There are no scores {id!r}: score the source again.")
        folder = _tables(workspace) / id
        return cls(read_facts(folder / "table.json", _FACTS), read_samples(folder / "scores.jsonl"))


def alike(reason: str) -> str:
    """A reason without its numbers, so that the same one is counted as one."""
    return re.sub(r"\d[\d,]*", "…", reason)


def names_of(samples: Iterable[ScoredSample]) -> list[str]:
    """The scores that at least one sample has, in the order of `SCORES`."""
    there = {name for sample in samples for name in sample.scores}
    return [name for name in SCORES if name in there]


_FACTS = ("id", "source", "kind", "run", "model", "template", "created")


def table_ids(workspace: Workspace) -> list[str]:
    """Of all tables, also damaged ones."""
    return sorted(file.parent.name for file in _tables(workspace).glob("[!.]*/table.json"))


def list_tables(workspace: Workspace) -> list[dict[str, Any]]:
    """What table.json says of every table, newest first, without damaged ones."""
    infos = all_facts(_tables(workspace).glob("[!.]*/table.json"), _FACTS)
    return sorted(infos, key=lambda info: (str(info["created"]), str(info["id"])), reverse=True)


def delete_table(workspace: Workspace, id: str) -> None:
    """Saved selections keep their own scores. Raises NotFound when there is no such table."""
    if id not in table_ids(workspace):
        raise NotFound(f"There are no scores {id!r} any more.")
    shutil.rmtree(_tables(workspace) / id)


def _tables(workspace: Workspace) -> Path:
    return workspace.root / "scores" / "tables"


def read_facts(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    """A JSON object that has these keys. Raises Damaged when the file holds none."""
    facts = read_json(path)
    if not isinstance(facts, dict) or (missing := sorted(set(keys) - facts.keys())):
        lacks = f"it lacks {missing[0]}" if isinstance(facts, dict) else "it is no object"
        raise Damaged(f"{path} is damaged ({lacks}): mend it, or move its folder away.")
    return facts


def all_facts(paths: Iterable[Path], keys: Sequence[str]) -> list[dict[str, Any]]:
    """What those of the files say that can be read; they are read again only when they change."""

    def read(path: Path) -> dict[str, Any] | None:
        try:
            return read_facts(path, keys)
        except (FileNotFoundError, Damaged):  # deleted just now, or damaged: its own page tells that
            return None

    found = [_KEPT.get(str(path), [str(path)], lambda path=path: read(path)) for path in paths]  # type: ignore[misc]
    return [facts for facts in found if facts]


_KEPT: Kept[dict[str, Any] | None] = Kept()


def write_samples(path: Path, samples: Iterable[ScoredSample]) -> None:
    lines = (json.dumps(asdict(sample), ensure_ascii=False, allow_nan=False) + "\n" for sample in samples)
    write_atomic(path, "".join(lines))


def read_samples(path: Path) -> list[ScoredSample]:
    """Raises BadFile, with the line, where a line is no scored sample."""
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], 1):
        try:
            samples.append(ScoredSample(**json.loads(line)))
        except (ValueError, TypeError):
            raise BadFile(f"Line {number} of {path} is damaged: score the source again.") from None
    return samples


def sample_fingerprint(record: Record) -> str:
    """16 hex digits of what a model reads of a record: turns and answers, not where they come from."""
    content = [[[m.role, m.content] for m in record.messages], record.chosen, record.rejected]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


class Cache:
    """Sums kept per sample and form, for one model in one precision under one template: scores/cache/<key>.jsonl.

    A line is appended as soon as it is known and carries a checksum of its own. A line that does not fit it (a killed
    worker, a full disk, an editor) is dropped, and its sample is scored again.
    """

    def __init__(self, workspace: Workspace, facts: Mapping[str, str]):
        key = hashlib.sha256(json.dumps({**facts, "version": "1"}, sort_keys=True).encode()).hexdigest()[:24]
        self.path = workspace.root / "scores" / "cache" / f"{key}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Sums] = {}
        with locked(self.path.with_suffix(".lock")):
            self._read()

    def get(self, sample: str, form: str) -> Sums | None:
        return self._known.get(f"{sample} {form}")

    def put(self, found: Mapping[tuple[str, str], Sums]) -> None:
        """Add the sums of some (sample fingerprint, form); they are on disk when this returns."""
        new = {f"{sample} {form}": sums for (sample, form), sums in found.items()}
        lines = "".join(_line(key, sums) for key, sums in new.items())
        with locked(self.path.with_suffix(".lock")), open(self.path, "ab") as file:
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())
        self._known |= new

    def _read(self) -> None:
        if not self.path.exists():
            return
        lines = self.path.read_bytes().split(b"\n")
        good = [line for line in lines if self._take(line)]
        if len(good) != len(lines) - 1:  # after the last newline nothing stands
            write_atomic(self.path, "".join(line.decode() + "\n" for line in good))

    def _take(self, line: bytes) -> bool:
        match = re.fullmatch(rb"([0-9a-f]{8}) (\S+ \S+) (\[.*\])", line)
        if not match or match[1] != _checksum(match[2] + match[3]):
            return False
        self._known[match[2].decode()] = Sums(*json.loads(match[3]))
        return True


def _line(key: str, sums: Sums) -> str:
    values = json.dumps(list(asdict(sums).values()), allow_nan=False)
    return f"{_checksum((key + values).encode()).decode()} {key} {values}\n"


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest()[:8].encode()
