"""Selections: which scored samples stage two trains on: a rule, what was changed by hand, and the samples themselves.

    selections/<name>/selection.json    where the scores come from, the rule, keep and discard, counts
    selections/<name>/scores.jsonl      every candidate with its scores, so a selection outlives source and scores

The rule chooses by a score from its easy or its hard end, or by chance, or takes all; then a number of samples, a
budget of tokens or a threshold ends it; then what the user keeps or discards by hand is added or taken out. A sample
that cannot be trained on (an empty answer, chosen equal to rejected, too long) is never chosen, and its reason is
kept.

What it gives up: diversity. Samples are judged one by one, so near-duplicates are chosen together.
"""

import json
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import model_validator

from mixcpt.errors import BadInput, NotFound
from mixcpt.records import Kind, Message, Record
from mixcpt.scores import SCORES, ScoredSample, ScoreTable, alike, all_facts, read_facts, read_samples, write_samples
from mixcpt.settings import Config, setting, validate
from mixcpt.workspace import Workspace, building, check_name, now, write_atomic, write_json

Strategy = Literal["easiest", "hardest", "random", "all", "by-hand"]


class Rule(Config):
    """How samples are chosen before anything is changed by hand. At most one of count, tokens and threshold.

    threshold: the last value of `score` that is taken, so easiest takes values at or below it where low is easy, and at
    or above it where high is easy; hardest the other way. tokens: samples are taken in order until one does not fit.
    """

    strategy: Strategy = setting(
        "easiest",
        label="Choose",
        level="basic",
        help="easiest: from the easy end of the score; hardest: from the other end; random: by chance; all: every "
        "sample that can be trained on; by-hand: only what you keep yourself.",
    )
    score: str | None = setting(
        None,
        label="By score",
        level="basic",
        help="The score whose ends are called easy and hard; it says nothing for random and all.",
    )
    count: int | None = setting(
        None, label="Samples", unit="samples", level="basic", ge=1, help="Takes so many and no more."
    )
    tokens: int | None = setting(
        None, label="Token budget", unit="tokens", ge=1, help="Takes samples in order until one does not fit."
    )
    threshold: float | None = setting(
        None, label="Threshold", allow_inf_nan=False, help="The last value of the score that is taken."
    )
    seed: int = setting(0, label="Selection seed", ge=0, help="Of the choice by chance.")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        by_score = self.strategy in ("easiest", "hardest")
        if by_score and self.score not in SCORES:
            raise ValueError(f"{self.strategy} needs a score, but score is {self.score!r}: take one of {_names()}")
        limits = {"count": self.count, "tokens": self.tokens, "threshold": self.threshold}
        given = [name for name, value in limits.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given, but only one can end a selection: leave one out")
        if self.threshold is not None and not by_score:
            raise ValueError(f"a threshold says nothing for {self.strategy}: set count or tokens, or choose by a score")
        if given and self.strategy == "by-hand":
            raise ValueError(f"{given[0]} says nothing for by-hand: leave it out")
        return self

    def words(self) -> str:
        """The rule in words, its direction stated, as in "the easiest 64 by Margin, highest first"."""
        number = "" if self.count is None else f" {self.count:,}"
        budget = "" if self.tokens is None else f", up to {self.tokens:,} tokens"
        if self.strategy == "by-hand":
            return "what was kept by hand"
        if self.strategy == "random":
            return f"{number} by chance (seed {self.seed}){budget}".strip()
        if self.strategy == "all":
            return (f"the first{number}" if number else "all, in their order") + budget
        first, towards = ("lowest", "up") if self.ascending else ("highest", "down")
        last = "" if self.threshold is None else f", {towards} to {self.threshold:g}"
        return f"the {self.strategy}{number} by {SCORES[str(self.score)].label}, {first} first{budget}{last}"

    @property
    def ascending(self) -> bool:
        return (SCORES[str(self.score)].easy == "low") == (self.strategy == "easiest")

    def choose(self, samples: Sequence[ScoredSample]) -> list[str]:
        """Ids of the chosen, in the order in which they were taken. It does not depend on the order of `samples`,
        except for `all`.

        Raises:
            BadInput: no sample has the score.
        """
        ordered = self._ordered([sample for sample in samples if not sample.reason])
        if self.threshold is not None:
            sign = 1 if self.ascending else -1
            ordered = [s for s in ordered if sign * s.scores[str(self.score)] <= sign * self.threshold]
        if self.tokens is not None:
            ends = np.cumsum([sample.tokens for sample in ordered], dtype=np.int64)
            ordered = ordered[: int(np.searchsorted(ends, self.tokens, side="right"))]
        return [sample.id for sample in ordered[: self.count]]

    def _ordered(self, usable: list[ScoredSample]) -> list[ScoredSample]:
        if self.strategy == "by-hand":
            return []
        if self.strategy == "all":
            return usable
        if self.strategy == "random":
            by_id = sorted(usable, key=lambda sample: sample.id)
            return random.Random(f"selection {self.seed}").sample(by_id, len(by_id))
        name = str(self.score)
        scored = [sample for sample in usable if name in sample.scores]
        if usable and not scored:
            there = sorted({name for sample in usable for name in sample.scores})
            needs = " It needs a chat template: score again with one." if SCORES[name].needs_template else ""
            raise BadInput(f"No sample has the score {name!r}: these have {', '.join(there)}.{needs}")
        sign = 1 if self.ascending else -1
        return sorted(scored, key=lambda sample: (sign * sample.scores[name], sample.id))


def _names() -> str:
    return ", ".join(SCORES)


@dataclass(frozen=True)
class Histogram:
    """`counts[i]` values lie in [edges[i], edges[i + 1]), the last edge included. The last bin may be wide: it holds
    the highest hundredth, which would squeeze all the others into one."""

    edges: list[float]
    counts: list[int]


def histogram(samples: Sequence[ScoredSample], score: str, bins: int = 40) -> Histogram:
    """How the score is spread over the samples that have it; empty when none has."""
    values = np.array([sample.scores[score] for sample in samples if score in sample.scores])
    if not len(values):
        return Histogram([], [])
    low, high = float(values.min()), float(values.max())
    usual = float(np.quantile(values, 0.99))
    edges = np.linspace(low, usual if usual > low else low + 1.0, bins + 1)
    edges[-1] = max(edges[-1], high)
    return Histogram(edges.tolist(), np.histogram(values, edges)[0].tolist())


@dataclass(frozen=True)
class Counts:
    """What a selection amounts to. excluded: reason, without its numbers, to how many samples; unscored: how many lack
    the rule's score."""

    candidates: int
    chosen: int
    tokens: int
    answer_tokens: int
    kept_by_hand: int
    discarded_by_hand: int
    unscored: int
    excluded: dict[str, int]


class Selection:
    """A choice among scored samples. Changing it makes a new one; `save` puts it on disk.

    Args:
        info: where the scores come from, as `ScoreTable.info`. keep, discard: ids, by hand; they win over the rule.

    Raises:
        BadInput: an id by hand that is unknown, cannot be trained on, or stands on both sides.
    """

    def __init__(
        self,
        info: dict[str, Any],
        samples: Sequence[ScoredSample],
        rule: Rule,
        keep: Sequence[str] = (),
        discard: Sequence[str] = (),
    ):
        self.info, self.samples, self.rule = info, list(samples), rule
        self.keep, self.discard = list(dict.fromkeys(keep)), list(dict.fromkeys(discard))
        self._by_id = {sample.id: sample for sample in samples}
        for id in [*self.keep, *self.discard]:
            if id not in self._by_id:
                raise BadInput(f"There is no sample {id!r} among these scores: choose from the table.")
        if both := set(self.keep) & set(self.discard):
            raise BadInput(f"The sample {min(both)!r} is kept and discarded: take one of them back.")
        for id in self.keep:
            if reason := self._by_id[id].reason:
                raise BadInput(f"The sample {id!r} cannot be kept, for {reason}: choose another.")

    @classmethod
    def of(cls, table: ScoreTable, rule: Rule, keep: Sequence[str] = (), discard: Sequence[str] = ()) -> "Selection":
        return cls(table.info, table.samples, rule, keep, discard)

    @property
    def kind(self) -> Kind:
        kind: Kind = self.info["kind"]
        return kind

    @cached_property
    def ids(self) -> list[str]:
        """The final choice: what the rule took, in its order, without what is discarded, then what is kept by hand."""
        chosen = self.rule.choose(self.samples)
        discarded = set(self.discard)
        return [id for id in dict.fromkeys([*chosen, *self.keep]) if id not in discarded]

    def rows(self) -> list[ScoredSample]:
        """The final samples, in the order of `ids`."""
        return [self._by_id[id] for id in self.ids]

    def records(self) -> list[Record]:
        """The final samples as training takes them."""
        return [sample.parsed for sample in self.rows()]

    def by_hand(self, keep: Sequence[str] = (), discard: Sequence[str] = (), reset: Sequence[str] = ()) -> "Selection":
        """The same with more kept or discarded by hand, or (`reset`) left to the rule again; the last word counts."""
        taken = {*keep, *discard, *reset}
        kept = [id for id in self.keep if id not in taken] + list(keep)
        discarded = [id for id in self.discard if id not in taken] + list(discard)
        return Selection(self.info, self.samples, self.rule, kept, discarded)

    def with_rule(self, rule: Rule) -> "Selection":
        return Selection(self.info, self.samples, rule, self.keep, self.discard)

    def counts(self) -> Counts:
        rows = self.rows()
        by_score = self.rule.strategy in ("easiest", "hardest")
        usable = [sample for sample in self.samples if not sample.reason]
        return Counts(
            candidates=len(usable),
            chosen=len(rows),
            tokens=sum(row.tokens for row in rows),
            answer_tokens=sum(row.answer_tokens for row in rows),
            kept_by_hand=len(self.keep),
            discarded_by_hand=len(self.discard),
            unscored=sum(self.rule.score not in sample.scores for sample in usable) if by_score else 0,
            excluded=dict(Counter(alike(sample.reason) for sample in self.samples if sample.reason)),
        )

    def histogram(self, score: str, bins: int = 40) -> Histogram:
        return histogram(self.samples, score, bins)

    def save(self, workspace: Workspace, name: str, replace: bool = False) -> None:
        """Write it whole or not at all.

        Raises:
            BadInput: the name cannot be used or is taken, or nothing is selected.
        """
        folder = _folder(workspace, name)
        if folder.exists() and not replace:
            raise BadInput(f"There is a selection {name!r} already: choose another name, or replace it (replace=True).")
        self.require_rows(name)
        counts = self.counts()
        value = {
            "name": name,
            "created": now(),
            "scores": self.info,
            "rule": self.rule.model_dump(mode="json"),
            "keep": self.keep,
            "discard": self.discard,
            "chosen": counts.chosen,
            "tokens": counts.tokens,
        }
        with building(folder) as unfinished:
            write_samples(unfinished / "scores.jsonl", self.samples)
            write_json(unfinished / "selection.json", value)

    def require_rows(self, name: str = "") -> None:
        """Raises BadInput when nothing is selected."""
        if self.ids:
            return
        called = f"The selection {name!r}" if name else "The selection"
        counts = self.counts()
        raise BadInput(
            f"{called} has no rows ({self.rule.words()}; {counts.candidates:,} candidates, "
            f"{counts.discarded_by_hand:,} discarded by hand, {sum(counts.excluded.values()):,} unusable): "
            "loosen the threshold or the budget, or keep samples by hand."
        )

    def export(self, path: Path) -> int:
        """Write the final samples as JSON lines, which any tool for such data reads; returns how many."""
        write_atomic(path, self.as_jsonl())
        return len(self.ids)

    def as_jsonl(self) -> str:
        """What `export` writes. Raises BadInput when nothing is selected."""
        self.require_rows()
        return "".join(json.dumps(_exported(row), ensure_ascii=False) + "\n" for row in self.rows())


_FACTS = ("name", "created", "scores", "rule", "keep", "discard", "chosen", "tokens")


def open_selection(workspace: Workspace, name: str) -> Selection:
    """Raises NotFound, with what there is; BadFile or BadConfig when it is damaged."""
    folder = _existing(workspace, name)
    value = read_facts(folder / "selection.json", _FACTS)
    rule = validate(Rule, value["rule"], f"the selection {name}")
    return Selection(value["scores"], read_samples(folder / "scores.jsonl"), rule, value["keep"], value["discard"])


def selection_names(workspace: Workspace) -> list[str]:
    """Of all selections, also damaged ones."""
    return sorted(file.parent.name for file in (workspace.root / "selections").glob("[!.]*/selection.json"))


def list_selections(workspace: Workspace) -> list[dict[str, Any]]:
    """What selection.json says of every selection, by name, without damaged ones."""
    return all_facts(sorted((workspace.root / "selections").glob("[!.]*/selection.json")), _FACTS)


def delete_selection(workspace: Workspace, name: str) -> None:
    """Raises NotFound when there is no such selection."""
    shutil.rmtree(_existing(workspace, name))


def _existing(workspace: Workspace, name: str) -> Path:
    if name not in (names := selection_names(workspace)):
        known = f"choose from {', '.join(names)}" if names else "score a source and save a selection of it first"
        raise NotFound(f"There is no selection {name!r}: {known}.")
    return _folder(workspace, name)


def _exported(sample: ScoredSample) -> dict[str, Any]:
    return {"id": sample.id, **texts_of(sample.parsed), "scores": sample.scores}


def texts_of(record: Record) -> dict[str, Any]:
    """The columns of a record, as data sets for SFT and DPO name them and as `mixcpt.records` reads them."""
    turns = [_turn(message) for message in record.messages]
    if record.kind == "preferences":
        return {"prompt": turns, "chosen": record.chosen, "rejected": record.rejected}
    return {"messages": turns}


def _turn(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.content}


def _folder(workspace: Workspace, name: str) -> Path:
    return workspace.root / "selections" / check_name(name, "selection name")
