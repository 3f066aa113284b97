"""The button that pins a chart, on a page of its own."""

from made import made_run
from streamlit.testing.v1 import AppTest

from mixcpt.notebook import Notebook
from mixcpt.workspace import Workspace

CAPTION = "look <b>$x$</b>"


def page(experiment: str) -> AppTest:
    script = (
        "from app.pins import pin_button\n"
        f"pin_button({experiment!r}, 'plane', ['a', 'b'], key='here', caption={CAPTION!r})\n"
    )
    return AppTest.from_string(script, default_timeout=30).run()


def test_it_pins_once_and_says_so(studio: Workspace) -> None:
    app = page("trial")
    button = app.button(key="here")
    assert (button.label, button.help, button.disabled) == ("Pin", "Pin to the notebook of trial", False)
    button.click().run()
    done = app.button(key="here_done")
    assert (done.label, done.disabled) == ("Pinned", True)
    assert "trial" in app.toast[0].value
    pins = Notebook(studio, "trial").read().pins
    assert [(pin.chart, pin.subjects, pin.caption) for pin in pins] == [("plane", ("a", "b"), CAPTION)]


def test_two_pages_at_once_pin_once(studio: Workspace) -> None:
    one, two = page("trial"), page("trial")
    one.button(key="here").click().run()
    two.button(key="here").click().run()
    assert len(Notebook(studio, "trial").read().pins) == 1
    assert two.button(key="here_done").disabled


def test_without_an_experiment_it_asks(studio: Workspace) -> None:
    made_run(studio, experiment="first", state="queued")
    made_run(studio, experiment="second", state="queued")
    app = page("")
    assert sorted(app.selectbox(key="here_experiment").options) == ["first", "second"]
    app.selectbox(key="here_experiment").select("first").run()
    app.button(key="here").click().run()
    assert len(Notebook(studio, "first").read().pins) == 1
    assert Notebook(studio, "second").read().pins == ()


def test_without_any_experiment_it_says_so(studio: Workspace) -> None:
    app = page("")
    assert app.markdown[0].value.startswith("There is no experiment yet")
    assert len(app.button) == 0


def test_a_damaged_notebook_takes_only_the_button(studio: Workspace) -> None:
    path = Notebook(studio, "trial").path
    path.parent.mkdir(parents=True)
    path.write_text("{")
    app = page("trial")
    assert app.button(key="here").disabled
    assert "damaged" in app.button(key="here").help
    assert not app.exception


def test_damage_between_drawing_and_click_is_told(studio: Workspace) -> None:
    app = page("trial")
    path = Notebook(studio, "trial").path
    path.parent.mkdir(parents=True)
    path.write_text("{")
    app.button(key="here").click().run()
    assert "damaged" in app.error[0].value
    assert path.read_text() == "{"
