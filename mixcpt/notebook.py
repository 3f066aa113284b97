"""The notebook of an experiment: a journal that writes itself, with the user's notes and pinned charts in between.

    experiments/<experiment>/notebook.json      what the user did: notes, drafts of notes, pins, order, hidden entries

The journal's own entries are made from what lies on disk each time (`mixcpt.journal`) and never stored, so they cannot
grow stale. Whatever changes the file holds its lock and reads it anew first, so two tabs lose nothing.

**Order.** Entries stand in the order of time until one is moved. From then on the arrangement is kept, and an entry
that is not in it is put where the fewest entries stand on the wrong side of it in time, the last such place: a new
result goes to the end, whatever was moved, and a corpus of last week goes between the entries of last week.

What this gives up: a history of a note's versions.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from mixcpt import stamps
from mixcpt.errors import BadConfig, BadFile, NotFound
from mixcpt.journal import Entry, journal
from mixcpt.overview import overview
from mixcpt.settings import Config, validate
from mixcpt.workspace import Workspace, check_name, locked, new_id, now, read_json, write_json

T = TypeVar("T")
Item = TypeVar("Item", "Note", "NoteDraft", "Pin")


class Note(Config):
    """What the user wrote, in Markdown. `revision` counts how often it was saved; `draft` is the one it came from."""

    id: str
    text: str
    created: str
    edited: str
    revision: int = 1
    draft: str = ""


class NoteDraft(Config):
    """Text that is being typed: for the note `note`, begun from its `revision`, or for a new note when that is empty,
    which will stand before the entry `before` (at the end when that is empty)."""

    id: str
    note: str = ""
    revision: int = 0
    before: str = ""
    text: str = ""
    changed: str


class Pin(Config):
    """A chart by its name in `mixcpt.charts.CHARTS`, of these run ids or corpus names, drawn anew each time."""

    id: str
    chart: str
    subjects: tuple[str, ...]
    caption: str = ""
    created: str


class Contents(Config):
    """notebook.json. `order` is empty until an entry is moved."""

    notes: tuple[Note, ...] = ()
    drafts: tuple[NoteDraft, ...] = ()
    pins: tuple[Pin, ...] = ()
    order: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()


_CONTENTS: stamps.Kept[Contents] = stamps.Kept()


class Conflict(Exception):
    """A note was saved by somebody else since a draft of it was begun; `note` is how it stands now."""

    def __init__(self, note: Note):
        super().__init__(f"The note was changed elsewhere on {note.edited}.")
        self.note = note


class Notebook:
    """The notebook of one experiment.

    Raises:
        BadInput: the experiment's name cannot be a folder.
    """

    def __init__(self, workspace: Workspace, experiment: str):
        self.workspace = workspace
        self.experiment = check_name(experiment, "experiment name")
        self.path = workspace.experiments / experiment / "notebook.json"

    def read(self) -> Contents:
        """What the user did. Raises BadFile when notebook.json is damaged; nothing is written over it then."""
        return _CONTENTS.get(self.path, [str(self.path)], self._read)

    def _read(self) -> Contents:
        if not self.path.is_file():
            return Contents()
        try:
            return validate(Contents, read_json(self.path), "it")
        except (ValueError, BadConfig) as error:
            fault = str(error).rstrip(".")
            raise BadFile(
                f"The notes of {self.experiment} cannot be read, for {self.path} is damaged ({fault}): mend "
                "that file or move it away; nothing is written to it until then."
            ) from None

    def entries(self) -> list[Entry]:
        """All entries in their order, hidden ones included. Raises BadFile when notebook.json is damaged."""
        kept = self.read()
        entries = arrange([*journal(self.workspace, self.experiment), *_own(kept)], kept.order)
        return [replace(entry, hidden=entry.id in kept.hidden) for entry in entries]

    def note(self, id: str) -> Note:
        """Raises NotFound when it was deleted."""
        return _find(self.read(), id)

    # Notes are typed as drafts, which lie on disk from the first word on

    def begin(self, note: str = "", before: str = "") -> NoteDraft:
        """A draft: of a change to the note of this id, or of a new note before the entry of this id."""

        def change(kept: Contents) -> tuple[Contents, NoteDraft]:
            old = _find(kept, note) if note else None
            text, revision = (old.text, old.revision) if old else ("", 0)
            draft = NoteDraft(id=new_id("draft"), note=note, revision=revision, before=before, text=text, changed=now())
            yesterday = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
            drafts = [other for other in kept.drafts if other.text.strip() or other.changed > yesterday]
            return _with(kept, drafts=(*drafts, draft)), draft

        return self._change(change)

    def type(self, draft: NoteDraft, text: str) -> None:
        """Keep what was typed so far into `draft`, as it was read last. Nothing is lost: a draft that was discarded
        elsewhere comes back, and what somebody else typed into it meanwhile becomes a draft of its own."""

        def change(kept: Contents) -> tuple[Contents, None]:
            if any(note.draft == draft.id for note in kept.notes):  # it was saved
                return kept, None
            typed = draft.model_copy(update={"text": text, "changed": now()})
            others = [d for d in kept.drafts if d.id == draft.id and d.text not in (draft.text, text)]
            copies = [other.model_copy(update={"id": new_id("draft")}) for other in others]
            return _with(kept, drafts=(*_without(kept.drafts, draft.id), *copies, typed)), None

        self._change(change)

    def take(self, draft_id: str) -> NoteDraft | None:
        """Go on with a draft that was left: it gets a new id, so that a tab that has it open still does not write into
        the same. None when it is gone."""

        def change(kept: Contents) -> tuple[Contents, NoteDraft | None]:
            old = next((draft for draft in kept.drafts if draft.id == draft_id), None)
            if old is None:
                return kept, None
            new = old.model_copy(update={"id": new_id("draft")})
            return _with(kept, drafts=(*_without(kept.drafts, draft_id), new)), new

        return self._change(change)

    def discard(self, draft_id: str) -> None:
        self._change(lambda kept: (_with(kept, drafts=_without(kept.drafts, draft_id)), None))

    def save(self, draft: NoteDraft, text: str, *, over: int | None = None) -> Note | None:
        """Make a note of the draft, once, however often it is called; None when the text is empty.

        `over` is the revision that may be overwritten, that from which the draft was begun when it is None.

        Raises:
            Conflict: the note has another revision by now. The draft stays.
        """
        expected = draft.revision if over is None else over

        def change(kept: Contents) -> tuple[Contents, Note | None]:
            saved = next((note for note in kept.notes if note.draft == draft.id), None)
            rest = _with(kept, drafts=_without(kept.drafts, draft.id))
            if saved or not text.strip():
                return rest, saved
            old = next((note for note in kept.notes if note.id == draft.note), None)
            if old is None:
                new = Note(id=new_id("note"), text=text, created=now(), edited=now(), draft=draft.id)
                return self._placed(_with(rest, notes=(*kept.notes, new)), f"note:{new.id}", draft.before), new
            if old.revision != expected:
                raise Conflict(old)
            new = old.model_copy(
                update={"text": text, "edited": now(), "revision": old.revision + 1, "draft": draft.id}
            )
            return _with(rest, notes=tuple(new if note is old else note for note in kept.notes)), new

        return self._change(change)

    def delete_note(self, id: str) -> None:
        self._change(lambda kept: (_with(kept, notes=_without(kept.notes, id)), None))

    # Pins

    def pin(self, chart: str, subjects: Sequence[str], caption: str = "") -> Pin:
        """Pin a chart, once: the same chart of the same subjects with the same caption is not added again."""

        def change(kept: Contents) -> tuple[Contents, Pin]:
            old = _same(kept, chart, subjects, caption)
            if old:
                return kept, old
            new = Pin(id=new_id("pin"), chart=chart, subjects=tuple(subjects), caption=caption, created=now())
            return _with(kept, pins=(*kept.pins, new)), new

        return self._change(change)

    def is_pinned(self, chart: str, subjects: Sequence[str], caption: str = "") -> bool:
        return _same(self.read(), chart, subjects, caption) is not None

    def unpin(self, id: str) -> None:
        self._change(lambda kept: (_with(kept, pins=_without(kept.pins, id)), None))

    # Order

    def move(self, entry_id: str, before: str = "") -> None:
        """Put an entry right before another one, or at the end; nothing happens when either is no longer there."""
        self._change(lambda kept: (self._placed(kept, entry_id, before, end=True), None))

    def hide(self, entry_id: str, hidden: bool = True) -> None:
        def change(kept: Contents) -> tuple[Contents, None]:
            rest = tuple(id for id in kept.hidden if id != entry_id)
            return _with(kept, hidden=(*rest, entry_id) if hidden else rest), None

        self._change(change)

    def _placed(self, kept: Contents, entry_id: str, before: str, end: bool = False) -> Contents:
        """`kept` with the entry before another one; where that one is gone it is not moved."""
        ids = [entry.id for entry in arrange([*journal(self.workspace, self.experiment), *_own(kept)], kept.order)]
        if entry_id == before or entry_id not in ids or (before not in ids and (before or not end)):
            return kept
        ids.remove(entry_id)
        ids.insert(ids.index(before) if before else len(ids), entry_id)
        return _with(kept, order=tuple(ids))

    def _change(self, change: Callable[[Contents], tuple[Contents, T]]) -> T:
        with locked(self.path.with_name(".notebook.lock")):
            old = self.read()
            new, answer = change(old)
            if new != old:
                write_json(self.path, new.model_dump(mode="json"))
            return answer


@dataclass(frozen=True)
class ExperimentSummary:
    """One line for a chooser: `latest` is when its last run was created, empty without runs."""

    name: str
    runs: int
    notes: int
    pins: int
    latest: str


def experiments(workspace: Workspace) -> list[ExperimentSummary]:
    """All experiments that have a run or a notebook, the one with the newest run first."""
    latest: dict[str, list[str]] = defaultdict(list)
    for run in overview(workspace):
        if run.experiment:
            latest[run.experiment].append(run.created)
    written = {path.parent.name for path in workspace.experiments.glob("[!.]*/notebook.json")}
    found = [_summary(workspace, name, latest.get(name, [])) for name in sorted(latest.keys() | written)]
    return sorted(found, key=lambda experiment: experiment.latest, reverse=True)


def _summary(workspace: Workspace, name: str, created: Sequence[str]) -> ExperimentSummary:
    try:
        kept = Notebook(workspace, name).read()
    except BadFile:  # its own page tells
        kept = Contents()
    return ExperimentSummary(name, len(created), len(kept.notes), len(kept.pins), max(created, default=""))


def arrange(entries: Iterable[Entry], order: Sequence[str]) -> list[Entry]:
    """Entries by time, or in a kept order with the rest put in as the top of this file tells."""
    by_time = sorted(entries, key=lambda entry: (entry.time, entry.rank, entry.id))
    if not order:
        return by_time
    found = {entry.id: entry for entry in by_time}
    arranged = [found[id] for id in order if id in found]
    kept = {entry.id for entry in arranged}
    for entry in by_time:
        if entry.id not in kept:
            arranged.insert(_place(entry.time, [other.time for other in arranged]), entry)
    return arranged


def _place(time: str, times: Sequence[str]) -> int:
    """The index at which the fewest of `times` stand on the wrong side of `time`; the last such."""
    wrong = best = sum(other <= time for other in times)  # at 0, all that is older stands behind it
    place = 0
    for index, other in enumerate(times, 1):
        wrong += 1 if other > time else -1
        if wrong <= best:
            best, place = wrong, index
    return place


def _own(kept: Contents) -> list[Entry]:
    notes = [Entry(id=f"note:{note.id}", kind="note", time=note.created, text=note.text) for note in kept.notes]
    pins = [
        Entry(
            id=f"pin:{pin.id}", kind="pin", time=pin.created, title=pin.caption, chart=pin.chart, subjects=pin.subjects
        )
        for pin in kept.pins
    ]
    return [*notes, *pins]


def _find(kept: Contents, id: str) -> Note:
    for note in kept.notes:
        if note.id == id:
            return note
    raise NotFound(f"There is no note {id!r} any more: it was deleted, perhaps in another tab.")


def _same(kept: Contents, chart: str, subjects: Sequence[str], caption: str) -> Pin | None:
    wanted = (chart, tuple(subjects), caption)
    return next((pin for pin in kept.pins if (pin.chart, pin.subjects, pin.caption) == wanted), None)


def _with(kept: Contents, **changes: Any) -> Contents:
    return kept.model_copy(update=changes)


def _without(items: tuple[Item, ...], id: str) -> tuple[Item, ...]:
    return tuple(item for item in items if item.id != id)
