"""The Notebook page: the journal, notes that are never lost, pinned charts, order, exports."""

import sys

import pytest
from made import made_run, open_page, texts
from streamlit.testing.v1 import AppTest

from mixcpt.notebook import Notebook
from mixcpt.workspace import Workspace

WICKED = "<script>alert(1)</script> $x^2$ :red[a] **bold** ![i](https://evil.org/i.png)"


@pytest.fixture
def notebook(studio: Workspace) -> Notebook:
    """One finished run named "first" in the experiment "trial"."""
    made_run(studio, name="first")
    return Notebook(studio, "trial")


def write(notebook: Notebook, text: str) -> str:
    note = notebook.save(notebook.begin(), text)
    assert note
    return f"note:{note.id}"


def opened() -> AppTest:
    app = open_page("notebook", experiment="trial")
    assert not app.exception
    return app


def choose(app: AppTest, entry_id: str, action: str) -> AppTest:
    """Click an action in the menu of an entry."""
    return app.menu_button(key=f"notebook_menu_{entry_id}").click(action).run()


def draft_key(app: AppTest) -> str:
    return next(str(area.key) for area in app.text_area if str(area.key).startswith("notebook_text_"))


def test_an_empty_workspace_says_what_to_do(studio: Workspace) -> None:
    app = open_page("notebook")
    assert "No experiment yet" in texts(app)
    assert "It begins with your first run" in texts(app)
    assert len(app.button) == 0


def test_it_tells_the_story(notebook: Notebook) -> None:
    said = texts(opened())
    assert "Mixture A" in said and "**first**" in said
    assert "1 run · 0 notes · 0 pinned charts" in said


def test_the_address_chooses_the_experiment(notebook: Notebook) -> None:
    made_run(notebook.workspace, experiment="other", name="second", state="queued")
    app = opened()
    assert app.selectbox(key="notebook_experiment").value == "trial"
    app.selectbox(key="notebook_experiment").select("other").run()
    assert app.query_params["experiment"] == "other"
    assert "**second**" in texts(app) and "**first**" not in texts(app)


def test_an_unknown_experiment_is_said(notebook: Notebook) -> None:
    app = open_page("notebook", experiment="<b>gone")
    assert app.warning[0].value.startswith(r"There is no experiment \<b\>gone")
    assert app.selectbox(key="notebook_experiment").value == "trial"


def test_a_note_is_typed_kept_and_saved(notebook: Notebook) -> None:
    app = opened()
    app.button(key="notebook_write").click().run()
    key = draft_key(app)
    app.text_area(key=key).set_value("half a thought").run()
    assert [draft.text for draft in notebook.read().drafts] == ["half a thought"]
    writing = app.query_params["writing"]
    again = open_page("notebook", experiment="trial", writing=writing)  # the page is reloaded
    assert again.text_area(key=key).value == "half a thought"
    again.text_area(key=key).set_value("a whole thought").run()
    again.button(key="notebook_save").click().run()
    assert "a whole thought" in texts(again)
    assert len(again.text_area) == 0 and "writing" not in again.query_params
    app.button(key="notebook_save").click().run()  # the old tab saves too, late
    assert [note.text for note in notebook.read().notes] == ["a whole thought"]
    assert notebook.read().drafts == ()


def test_saving_takes_what_stands_in_the_box_even_when_it_was_not_kept_yet(notebook: Notebook) -> None:
    app = opened()
    app.button(key="notebook_write").click().run()
    app.text_area(key=draft_key(app)).set_value("typed and saved at once")
    app.button(key="notebook_save").click().run()
    assert [note.text for note in notebook.read().notes] == ["typed and saved at once"]


def test_a_note_is_shown_safely(notebook: Notebook) -> None:
    write(notebook, WICKED)
    shown = [element.value for element in opened().markdown if "alert" in element.value]
    assert shown == [
        r"\<script\>alert\(1\)\</script\> \$x\^2\$ \:red\[a\] **bold** [image\: i](<https://evil.org/i.png>)"
    ]


def test_a_draft_is_discarded(notebook: Notebook) -> None:
    app = opened()
    app.button(key="notebook_write").click().run()
    app.text_area(key=draft_key(app)).set_value("no").run()
    app.button(key="notebook_discard").click().run()
    assert notebook.read().drafts == () and notebook.read().notes == ()
    assert len(app.text_area) == 0


def test_a_left_draft_is_offered_and_taken_up(notebook: Notebook) -> None:
    left = notebook.begin()
    notebook.type(left, "left behind")
    app = opened()
    assert "**Unsaved text**" in texts(app) and "left behind" in texts(app)
    app.button(key=f"notebook_take_{left.id}").click().run()
    assert app.text_area(key=draft_key(app)).value == "left behind"
    app.button(key="notebook_save").click().run()
    assert [note.text for note in notebook.read().notes] == ["left behind"]


def test_a_left_draft_is_dropped(notebook: Notebook) -> None:
    left = notebook.begin()
    notebook.type(left, "left behind")
    app = opened()
    app.button(key=f"notebook_drop_{left.id}").click().run()
    assert notebook.read().drafts == ()


@pytest.mark.parametrize(
    ("button", "texts_then"),
    [
        ("notebook_mine", ["mine"]),
        ("notebook_theirs", ["theirs"]),
        ("notebook_both", ["theirs", "mine"]),
    ],
)
def test_an_edit_elsewhere_is_not_overwritten(notebook: Notebook, button: str, texts_then: list[str]) -> None:
    id = write(notebook, "old").removeprefix("note:")
    draft = notebook.begin(note=id)
    app = open_page("notebook", experiment="trial", writing=draft.id)
    key = draft_key(app)
    app.text_area(key=key).set_value("mine").run()
    notebook.save(notebook.begin(note=id), "theirs")
    app.button(key="notebook_save").click().run()
    assert "changed elsewhere" in app.warning[0].value
    assert "theirs" in [code.value for code in app.code]
    assert app.text_area(key=key).value == "mine"
    app.button(key=button).click().run()
    assert [note.text for note in notebook.read().notes] == texts_then
    assert notebook.read().drafts == () and len(app.text_area) == 0


def test_the_menu_of_an_entry(notebook: Notebook) -> None:
    first, second = write(notebook, "one"), write(notebook, "two")
    app = choose(opened(), second, "Move up")
    assert [entry.id for entry in notebook.entries()][-2:] == [second, first]
    app = choose(app, second, "Move down")
    assert [entry.id for entry in notebook.entries()][-2:] == [first, second]
    app = choose(app, first, "Hide")
    assert "one" not in texts(app).splitlines()
    app.toggle(key="notebook_show_hidden").set_value(True).run()
    assert "one" in texts(app).splitlines()
    app = choose(app, first, "Show again")
    assert notebook.read().hidden == ()
    app = choose(app, second, "Edit")
    assert app.text_area(key=draft_key(app)).value == "two"
    app.button(key="notebook_discard").click().run()
    app = choose(app, first, "Write a note above")
    app.text_area(key=draft_key(app)).set_value("above")
    app.button(key="notebook_save").click().run()
    assert [entry.text for entry in notebook.entries()][-3:] == ["above", "one", "two"]


def test_deleting_a_note_asks_first(notebook: Notebook) -> None:
    id = write(notebook, "one")
    app = choose(opened(), id, "Delete")
    assert len(notebook.read().notes) == 1
    app.button(key="notebook_keep").click().run()
    assert len(notebook.read().notes) == 1
    app = choose(app, id, "Delete")
    app.button(key="notebook_delete").click().run()
    assert notebook.read().notes == ()


def test_a_pinned_chart_is_drawn_and_removed(notebook: Notebook) -> None:
    run = notebook.entries()[1].run
    pin = notebook.pin("plane", [run], "look")
    app = opened()
    assert len(app.get("plotly_chart")) == 1 and "**look**" in texts(app)
    choose(app, f"pin:{pin.id}", "Remove the chart")
    assert notebook.read().pins == ()


def test_a_chart_whose_run_is_gone_can_be_removed(notebook: Notebook) -> None:
    pin = notebook.pin("losses", ["cpt-20200101-000000-000000"])
    app = opened()
    assert app.info[0].value.startswith("This chart cannot be drawn any more: There is no run")
    app.button(key=f"notebook_remove_pin:{pin.id}").click().run()
    assert notebook.read().pins == () and not app.info


def test_every_export_is_offered(notebook: Notebook) -> None:
    buttons = opened().download_button
    assert [button.label for button in buttons] == ["Markdown", "HTML", "Jupyter"]


def test_a_damaged_notebook_is_one_sentence_above_the_journal(notebook: Notebook) -> None:
    notebook.path.parent.mkdir(parents=True, exist_ok=True)
    notebook.path.write_text("{")
    app = opened()
    assert "damaged" in app.error[0].value
    assert "**first**" in texts(app)
    app.button(key="notebook_write").click().run()
    assert not app.exception and "damaged" in app.toast[0].value
    assert notebook.path.read_text() == "{"


def test_many_entries_come_in_parts(notebook: Notebook) -> None:
    for number in range(40):
        write(notebook, f"note-{number}")
    app = opened()
    said = texts(app)
    assert r"note\-39" in said and r"note\-1" not in said.splitlines()
    assert "43 entries" in said


def test_no_heavy_library_is_needed(notebook: Notebook) -> None:
    before = set(sys.modules)
    opened()
    assert not {"torch", "transformers", "peft", "datasets", "lm_eval"} & (set(sys.modules) - before)
