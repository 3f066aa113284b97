"""The journal that writes itself, and what users put in between."""

import json
import threading
from collections.abc import Sequence

import pytest
from made import made_run, stage_of

from mixcpt import guesses
from mixcpt.drafts import Guess
from mixcpt.errors import BadFile, BadInput, NotFound
from mixcpt.journal import Entry, journal
from mixcpt.notebook import Conflict, Notebook, arrange, experiments
from mixcpt.runs import Run, Runs
from mixcpt.workspace import Workspace, read_json, write_json


@pytest.fixture
def notebook(workspace: Workspace) -> Notebook:
    return Notebook(workspace, "trial")


def entry(id: str, time: str) -> Entry:
    return Entry(id=id, kind="note", time=time)


def ids(entries: Sequence[Entry]) -> list[str]:
    return [entry.id for entry in entries]


def at(run: Run, created: str, finished: str = "") -> Run:
    """The run as if it had been launched and finished at these times."""
    info = read_json(run.folder / "run.json")
    write_json(run.folder / "run.json", info | {"created": created})
    if finished:
        results = run.results()
        run.write_results("training", results["training"] | {"finished": finished})
    return Runs(Workspace(run.folder.parents[1])).get(run.id)


def write(notebook: Notebook, text: str, before: str = "") -> str:
    note = notebook.save(notebook.begin(before=before), text)
    assert note
    return f"note:{note.id}"


# The journal


def test_an_experiment_without_anything_has_no_entries(notebook: Notebook) -> None:
    assert notebook.entries() == []
    assert not notebook.path.exists()


def test_a_finished_run_is_told_in_order(workspace: Workspace) -> None:
    run = at(made_run(workspace, name="first"), "2026-01-01T10:00:00Z", "2026-01-01T11:00:00Z")
    made_run(workspace, experiment="another")
    entries = Notebook(workspace, "trial").entries()
    assert [(e.kind, e.title, e.time[11:16]) for e in entries] == [
        ("mixture", "Mixture A: 12,000 tokens from 4 sources", "10:00"),
        ("launch", "first", "10:00"),
        ("result", "first", "11:00"),
    ]
    assert ids(entries)[1:] == [f"launch:{run.id}", f"result:{run.id}"]
    assert entries[1].run == run.id


def test_what_a_launch_says(workspace: Workspace) -> None:
    stage = stage_of(objective__retention_weight=0.5, training__learning_rate=2e-3, training__seed=7)
    made_run(workspace, stage=stage, seed=7)
    launch = next(e for e in journal(workspace, "trial") if e.kind == "launch")
    facts = dict(launch.facts)
    assert facts["Reads"] == "mixture A, 12,000 tokens"
    assert facts["Model"] == "smollm2-135m"
    assert facts["Objective"] == "cross-entropy + 0.5 × LSSD"
    assert facts["Learning rate"].startswith("0.002, ")
    assert facts["Seed"] == "7"
    assert "Guess" not in facts


def test_what_a_result_says(workspace: Workspace) -> None:
    run = made_run(workspace, gain=0.4, forgetting=0.1)
    measures = {
        "base": {"domain_bits_per_byte": 1.6, "general_bits_per_byte": 1.25, "prompt_kl": 0.0},
        "final": {"domain_bits_per_byte": 1.25, "general_bits_per_byte": 1.375, "prompt_kl": 0.5},
    }
    run.write_results("training", run.results()["training"] | measures)
    result = next(e for e in journal(workspace, "trial") if e.kind == "result")
    assert dict(result.facts) == {
        "Field": "1.600 → 1.250 bits per byte: gain +0.350",
        "General text": "1.250 → 1.375 bits per byte: forgetting +0.125",
        "Distance to the base": "KL 0.500 nats per token on general prompts",
        "Questions: general": "90% → 85% of 48 right: −5 points (95 % interval −12 to +2)",
        "Diagnosis": "Found: catastrophic forgetting. Cannot tell: diverged and learned, but not usable.",
        "Took": "2 minutes for 10,240 tokens, 128 tokens/s on cpu",
    }


def test_mixtures_are_told_once_whatever_the_seed(workspace: Workspace) -> None:
    for seed in (0, 1):
        made_run(workspace, seed=seed, state="queued")
    made_run(workspace, state="queued", stage=stage_of(mixture__budget_tokens=5000))
    mixtures = sorted((e for e in journal(workspace, "trial") if e.kind == "mixture"), key=lambda e: e.title)
    assert [e.title for e in mixtures] == [
        "Mixture A: 12,000 tokens from 4 sources",
        "Mixture B: 5,000 tokens from 4 sources",
    ]
    assert dict(mixtures[0].facts)["Read by"] == "2 runs"
    assert mixtures[1].table[:2] == (
        ("source", "share asked for", "tokens"),
        ("builtin/atlas (the field)", "60%", "3,000"),
    )


def test_a_mixture_tells_what_was_read_once_a_run_is_done(workspace: Workspace) -> None:
    made_run(workspace)
    mixture = next(e for e in journal(workspace, "trial") if e.kind == "mixture")
    assert mixture.table[0] == ("source", "share asked for", "share read", "tokens read", "times through")
    assert mixture.table[1] == ("builtin/atlas (the field)", "60%", "60.0%", "6,144", "2.05")  # 6,144 / 3,000


def test_a_failed_run_says_why(workspace: Workspace) -> None:
    made_run(workspace, name="big", state="failed", message="Not enough memory.")
    entries = {e.kind: e for e in journal(workspace, "trial")}
    assert entries["failure"].title == "big failed"
    assert entries["failure"].facts == (("Reason", "Not enough memory."),)
    assert "result" not in entries


def test_a_cancelled_run_says_so(workspace: Workspace) -> None:
    made_run(workspace, name="x", state="cancelled")
    assert [e.title for e in journal(workspace, "trial") if e.kind == "failure"] == ["x was cancelled"]


def test_the_guess_is_hidden_until_the_end(workspace: Workspace) -> None:
    run = made_run(workspace, state="running")
    guesses.keep(run, Guess(domain_gain=77, forgetting=5))
    entries = journal(workspace, "trial")
    assert [e.kind for e in entries] == ["mixture", "launch"]
    assert dict(entries[1].facts)["Guess"] == "made before the launch; it is shown beside the result"
    assert "77" not in str([(e.title, e.facts, e.table, e.text) for e in entries]), "ids aside, which are drawn"


def test_guess_and_outcome_follow_the_result(workspace: Workspace) -> None:
    run = made_run(workspace, name="x")
    guesses.keep(run, Guess(domain_gain=24, forgetting=5))
    entries = Notebook(workspace, "trial").entries()
    assert [e.kind for e in entries][-2:] == ["result", "outcome"]
    outcome = guesses.outcome(run)
    assert outcome and entries[-1].facts == (("Outcome", outcome.sentence),)


def test_corpora_that_the_runs_read_are_told(small_corpora: Workspace) -> None:
    sources = [{"source": "field", "share": 1, "domain": True}]
    made_run(small_corpora, state="queued", stage=stage_of(mixture__sources=sources, measures__general="world"))
    corpora = {e.corpus: e for e in journal(small_corpora, "trial") if e.kind == "corpus"}
    assert set(corpora) == {"field", "world"}
    assert corpora["field"].title == "Corpus field was added"
    assert dict(corpora["field"].facts)["Documents"] == "40 from 0 files"


def test_a_corpus_of_no_run_is_not_told(small_corpora: Workspace) -> None:
    made_run(small_corpora, state="queued")
    assert [e for e in journal(small_corpora, "trial") if e.kind == "corpus"] == []


def test_the_journal_follows_what_happens(workspace: Workspace) -> None:
    run = made_run(workspace, state="running")
    assert [e.kind for e in journal(workspace, "trial")] == ["mixture", "launch"]
    run.relabel(name="renamed")
    assert [e.title for e in journal(workspace, "trial") if e.kind == "launch"] == ["renamed"]
    run.write_results("training", made_run(workspace, experiment="other").results()["training"])
    assert [e.kind for e in journal(workspace, "trial")] == ["mixture", "launch", "result"]


def test_a_run_of_another_version_does_not_hide_the_rest(workspace: Workspace) -> None:
    strange = made_run(workspace, name="strange")
    text = (strange.folder / "config.yaml").read_text()
    (strange.folder / "config.yaml").write_text(text + "later_setting: 1\n")
    made_run(workspace, name="good")
    assert {e.title for e in journal(workspace, "trial") if e.kind == "launch"} == {"good"}


# Notes


def test_a_note_is_saved_once(notebook: Notebook) -> None:
    draft = notebook.begin()
    first, again = notebook.save(draft, "text"), notebook.save(draft, "text")
    assert first and first == again
    assert [note.text for note in notebook.read().notes] == ["text"]
    assert notebook.read().drafts == ()


def test_a_note_lies_on_disk_for_others(notebook: Notebook, workspace: Workspace) -> None:
    write(notebook, "# x <b>")
    assert [e.text for e in Notebook(workspace, "trial").entries()] == ["# x <b>"]


def test_an_empty_note_is_none(notebook: Notebook) -> None:
    assert notebook.save(notebook.begin(), " \n") is None
    assert notebook.read().notes == () and notebook.read().drafts == ()


def test_a_draft_is_kept_as_it_is_typed(notebook: Notebook) -> None:
    draft = notebook.begin()
    notebook.type(draft, "half a")
    assert [d.text for d in Notebook(notebook.workspace, "trial").read().drafts] == ["half a"]
    notebook.discard(draft.id)
    assert notebook.read().drafts == ()


def test_typing_after_the_save_leaves_no_draft(notebook: Notebook) -> None:
    draft = notebook.begin()
    notebook.save(draft, "text")
    notebook.type(draft, "text")
    assert notebook.read().drafts == ()


def test_two_tabs_in_one_draft_lose_nothing(notebook: Notebook) -> None:
    draft = notebook.begin()
    notebook.type(draft, "from one tab")
    notebook.type(draft, "from the other")  # it saw the draft when it was empty
    assert sorted(d.text for d in notebook.read().drafts) == ["from one tab", "from the other"]


def test_a_draft_that_was_taken_over_comes_back_when_its_tab_types_on(notebook: Notebook) -> None:
    draft = notebook.begin()
    notebook.type(draft, "mine")
    taken = notebook.take(draft.id)
    assert taken and taken.text == "mine" and taken.id != draft.id
    assert notebook.take(draft.id) is None
    notebook.type(draft.model_copy(update={"text": "mine"}), "mine, longer")
    assert sorted(d.text for d in notebook.read().drafts) == ["mine", "mine, longer"]


def test_old_empty_drafts_go(notebook: Notebook) -> None:
    old = notebook.begin()
    kept = read_json(notebook.path)
    kept["drafts"][0]["changed"] = "2020-01-01T00:00:00Z"
    write_json(notebook.path, kept)
    new = notebook.begin()
    assert [d.id for d in notebook.read().drafts] == [new.id] != [old.id]


def test_an_edit_changes_the_note_and_its_revision(notebook: Notebook) -> None:
    id = write(notebook, "old").removeprefix("note:")
    draft = notebook.begin(note=id)
    assert draft.text == "old"
    notebook.save(draft, "new")
    assert [(n.id, n.text, n.revision) for n in notebook.read().notes] == [(id, "new", 2)]


def test_another_tabs_edit_is_not_overwritten(notebook: Notebook) -> None:
    id = write(notebook, "old").removeprefix("note:")
    one, two = notebook.begin(note=id), notebook.begin(note=id)
    notebook.save(one, "by one")
    notebook.type(two, "by two")
    with pytest.raises(Conflict) as caught:
        notebook.save(two, "by two")
    assert caught.value.note.text == "by one"
    assert notebook.note(id).text == "by one"
    assert [d.text for d in notebook.read().drafts] == ["by two"]
    notebook.save(two, "by two", over=2)
    assert notebook.note(id).text == "by two"


def test_an_edit_of_a_note_that_was_deleted_becomes_a_new_note(notebook: Notebook) -> None:
    id = write(notebook, "old").removeprefix("note:")
    draft = notebook.begin(note=id)
    notebook.delete_note(id)
    notebook.save(draft, "new")
    assert [n.text for n in notebook.read().notes] == ["new"]
    with pytest.raises(NotFound, match="deleted"):
        notebook.note(id)
    with pytest.raises(NotFound):
        notebook.begin(note=id)


def test_many_tabs_at_once_lose_nothing(workspace: Workspace) -> None:
    def write_some(number: int) -> None:
        for text in range(5):
            write(Notebook(workspace, "trial"), f"{number}-{text}")

    threads = [threading.Thread(target=write_some, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = [note.text for note in Notebook(workspace, "trial").read().notes]
    assert sorted(texts) == sorted(f"{number}-{text}" for number in range(6) for text in range(5))


# Pins


def test_a_chart_is_pinned_once(notebook: Notebook) -> None:
    first = notebook.pin("plane", ["a", "b"], "look")
    assert notebook.pin("plane", ["a", "b"], "look") == first
    assert notebook.is_pinned("plane", ["a", "b"], "look")
    assert not notebook.is_pinned("plane", ["a"], "look")
    notebook.pin("plane", ["a", "b"], "another caption")
    assert [e.title for e in notebook.entries()] == ["look", "another caption"]
    notebook.unpin(first.id)
    assert not notebook.is_pinned("plane", ["a", "b"], "look")


# Order and hiding


def test_entries_stand_in_time() -> None:
    late, early = entry("a", "2026-01-02"), entry("b", "2026-01-01")
    assert ids(arrange([late, early], ())) == ["b", "a"]


def test_entries_of_one_second_stand_in_the_order_of_a_story() -> None:
    kinds = ["result", "launch", "corpus", "outcome", "mixture"]
    entries = [Entry(id=kind, kind=kind, time="2026-01-01") for kind in kinds]
    assert ids(arrange(entries, ())) == ["corpus", "mixture", "launch", "result", "outcome"]


@pytest.mark.parametrize(
    ("order", "times", "new", "expected"),
    [
        ("bca", {"a": 1, "b": 2, "c": 3}, 9, "bcax"),  # the newest goes to the end, whatever was moved
        ("abc", {"a": 1, "b": 5, "c": 9}, 6, "abxc"),  # an older one between its neighbours
        ("cab", {"a": 1, "b": 5, "c": 9}, 3, "caxb"),  # a late note pulled to the top draws nothing with it
        (
            "bca",
            {"a": 1, "b": 5, "c": 9},
            3,
            "xbca",
        ),  # and an early one put last neither: one on the wrong side, not two
        ("ab", {"a": 5, "b": 5}, 5, "abx"),
    ],
)
def test_new_entries_keep_their_place_in_time(order: str, times: dict[str, int], new: int, expected: str) -> None:
    entries = [entry(id, f"2026-01-0{day}") for id, day in {**times, "x": new}.items()]
    assert ids(arrange(entries, list(order))) == list(expected)


def test_moving(notebook: Notebook) -> None:
    a, b, c = (write(notebook, text) for text in "abc")
    notebook.move(c, a)
    notebook.move(c, a)  # a double click
    assert ids(notebook.entries()) == [c, a, b]
    notebook.move(c, "")
    assert ids(notebook.entries()) == [a, b, c]
    notebook.move(a, c)
    assert ids(notebook.entries()) == [b, a, c]


def test_moving_what_is_gone_does_nothing(notebook: Notebook) -> None:
    a, b = (write(notebook, text) for text in "ab")
    notebook.move(a, "note:gone")
    notebook.move("note:gone", a)
    notebook.move(a, a)
    assert ids(notebook.entries()) == [a, b]


def test_a_note_is_written_above_an_entry(notebook: Notebook) -> None:
    a = write(notebook, "a")
    b = write(notebook, "b", before=a)
    c = write(notebook, "c", before="note:gone")
    assert ids(notebook.entries()) == [b, a, c]


def test_a_result_that_comes_after_a_move_goes_to_the_end(workspace: Workspace, notebook: Notebook) -> None:
    run = at(made_run(workspace), "2026-01-01T10:00:00Z", "2026-01-01T11:00:00Z")
    notebook.move(f"result:{run.id}", f"launch:{run.id}")
    late = at(made_run(workspace), "2026-01-01T12:00:00Z", "2026-01-01T13:00:00Z")
    assert [e.kind for e in notebook.entries()] == ["mixture", "result", "launch", "launch", "result"]
    assert ids(notebook.entries())[-2:] == [f"launch:{late.id}", f"result:{late.id}"]


def test_hiding(notebook: Notebook) -> None:
    a, b = (write(notebook, text) for text in "ab")
    notebook.hide(a)
    notebook.hide(a)
    assert [(e.id, e.hidden) for e in notebook.entries()] == [(a, True), (b, False)]
    assert notebook.read().hidden == (a,)
    notebook.hide(a, hidden=False)
    assert [e.hidden for e in notebook.entries()] == [False, False]


# Damage


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"notes": 1}', '{"unknown": []}', "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")],
)
def test_a_damaged_notebook_is_one_sentence_and_stays(notebook: Notebook, content: str) -> None:
    notebook.path.parent.mkdir(parents=True)
    notebook.path.write_bytes(content.encode("latin-1"))
    for action in (notebook.entries, notebook.begin, lambda: notebook.pin("plane", ["a"])):
        with pytest.raises(BadFile, match=r"The notes of trial cannot be read, for .*notebook\.json is damaged"):
            action()
    assert notebook.path.read_bytes() == content.encode("latin-1")
    assert [e.name for e in experiments(notebook.workspace)] == ["trial"]


def test_the_name_cannot_leave_the_workspace(workspace: Workspace) -> None:
    with pytest.raises(BadInput, match="cannot be used"):
        Notebook(workspace, "../x")


# The chooser


def test_experiments_newest_first(workspace: Workspace, notebook: Notebook) -> None:
    at(made_run(workspace, experiment="old", state="queued"), "2026-01-01T10:00:00Z")
    for _ in range(2):
        at(made_run(workspace, experiment="new", state="queued"), "2026-02-01T10:00:00Z")
    write(notebook, "only notes")
    notebook.pin("plane", ["a"])
    found = experiments(workspace)
    assert [(e.name, e.runs, e.notes, e.pins, e.latest[:7]) for e in found] == [
        ("new", 2, 0, 0, "2026-02"),
        ("old", 1, 0, 0, "2026-01"),
        ("trial", 0, 1, 1, ""),
    ]


def test_only_what_the_user_did_is_stored(workspace: Workspace, notebook: Notebook) -> None:
    made_run(workspace)
    write(notebook, "a")
    kept = json.loads(notebook.path.read_text())
    assert set(kept) == {"notes", "drafts", "pins", "order", "hidden"}
    assert kept["order"] == []
