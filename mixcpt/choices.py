"""Choices: selections that are being made in the app. They lie on disk, so that a reload or a restarted server finds
what was chosen; several people have a choice each.

    choices/<id>.json    a `Choice`, written at its first change and replaced atomically at every other

What it gives up: whoever is given the address of a choice changes the same one.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from mixcpt.errors import NotFound
from mixcpt.scores import ScoredSample, ScoreTable, default_score
from mixcpt.selection import Rule, Selection, open_selection
from mixcpt.settings import Config, validate
from mixcpt.workspace import Workspace, check_name, locked, new_id, read_json, write_json

FEW = 64
"""Samples that are chosen until somebody says otherwise, where there are many."""


class Choice(Config):
    """What is chosen of the table `scores`, or, changing a saved selection, of the samples of `selection`."""

    id: str
    scores: str | None = None
    selection: str | None = None
    rule: Rule
    keep: tuple[str, ...] = ()
    discard: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _begins_somewhere(self) -> Self:
        if (self.scores is None) == (self.selection is None):
            raise ValueError("a choice begins with scores or with a saved selection: name one of the two")
        return self

    def of(self, begun: Selection) -> Selection:
        """This choice among the samples that `begin` has opened, without hands on samples that are gone (`lost`)."""
        gone = self.lost(begun)
        keep, discard = ([id for id in ids if id not in gone] for ids in (self.keep, self.discard))
        return Selection(begun.info, begun.samples, self.rule, keep, discard)

    def lost(self, begun: Selection) -> set[str]:
        """Samples kept or discarded by hand that are not there any more, or, kept, cannot be trained on now: the source
        was scored again after it had changed."""
        reasons = {sample.id: sample.reason for sample in begun.samples}
        return {id for id in self.keep if reasons.get(id, "gone")} | {id for id in self.discard if id not in reasons}

    def by(self, selection: Selection) -> "Choice":
        """The choice with the rule and the hands of a selection."""
        changes = {"rule": selection.rule, "keep": tuple(selection.keep), "discard": tuple(selection.discard)}
        return self.model_copy(update=changes)


def begin(workspace: Workspace, scores: str | None = None, selection: str | None = None) -> Selection:
    """What a choice begins with: the few easiest of a table, or a saved selection as it is.

    Raises:
        NotFound: it is not there (any more). BadFile: it is damaged.
    """
    if selection is not None:
        return open_selection(workspace, selection)
    table = ScoreTable.open(workspace, str(scores))
    return Selection.of(table, first_rule(table.samples, table.names()))


def first_rule(samples: Sequence[ScoredSample], names: Sequence[str]) -> Rule:
    """The few easiest of these samples; all of them where there is no score."""
    score = default_score(names)
    usable = sum(not sample.reason for sample in samples)
    if score is None:
        return Rule(strategy="all")
    return Rule(strategy="easiest", score=score, count=max(1, min(FEW, usable // 2)))


class Choices:
    """The choices of a workspace."""

    def __init__(self, workspace: Workspace):
        self.folder = workspace.root / "choices"

    @staticmethod
    def new_id() -> str:
        return new_id("choice")

    def get(self, id: str) -> Choice:
        """Raises NotFound when there is no such choice, BadConfig when this version cannot read it."""
        path = self._path(id)
        if not path.is_file():
            raise NotFound(f"There is no choice {id!r} any more: open the scores again.")
        return validate(Choice, read_json(path), f"choice {id}")

    def change(self, first: Choice, how: Callable[[Choice], Choice]) -> Choice:
        """Replace the choice by what `how` makes of it as it is on disk now (as `first` is before its first change), so
        that two clicks at once are both heard; returns the new one."""
        path = self._path(first.id)
        with locked(self.folder / f".{first.id}.lock"):
            changed = how(self.get(first.id) if path.is_file() else first)
            write_json(path, changed.model_dump(mode="json"))
        return changed

    def delete(self, id: str) -> None:
        self._path(id).unlink(missing_ok=True)

    def _path(self, id: str) -> Path:
        return self.folder / f"{check_name(id, 'choice')}.json"


def ending(selection: Selection, end: str) -> dict[str, Any]:
    """The changes of a rule that let it be ended by `end` (count, tokens, threshold, or empty for nothing) and, as near
    as that can say it, take what it takes now."""
    rule, blank = selection.rule, dict.fromkeys(("count", "tokens", "threshold"))
    taken = rule.choose(selection.samples)
    by_id = {sample.id: sample for sample in selection.samples}
    if end == "count":
        return blank | {"count": max(len(taken), 1)}
    if end == "tokens":
        return blank | {"tokens": max(sum(by_id[id].tokens for id in taken), 1)}
    if end == "threshold":
        return blank | {"threshold": reach(selection)}
    return blank


def reach(selection: Selection) -> float | None:
    """The value of the score at which the rule stops, as a threshold would say it; None where no score orders it or
    nothing has the score."""
    rule = selection.rule
    if rule.strategy not in ("easiest", "hardest"):
        return None
    if rule.threshold is not None:
        return rule.threshold
    taken = rule.choose(selection.samples)
    values = {sample.id: sample.scores[str(rule.score)] for sample in selection.samples if rule.score in sample.scores}
    if taken:
        return values[taken[-1]]
    return (min(values.values()) if rule.ascending else max(values.values())) if values else None
