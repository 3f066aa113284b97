"""The answer component: what reaches the browser, as text only."""

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import answer


def shown(monkeypatch: pytest.MonkeyPatch, text: str, **more: Any) -> dict[str, Any]:
    """What the browser is given."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(answer, "_COMPONENT", lambda *, key, data: found.update(data))
    answer.answer(text, key="test", **more)
    return found


def test_a_mark_cuts_the_text_in_three(monkeypatch: pytest.MonkeyPatch) -> None:
    found = shown(monkeypatch, "one two three", marked=(4, 7), note="the first")
    assert (found["before"], found["mark"], found["after"], found["note"]) == ("one ", "two", " three", "the first")


def test_an_empty_mark_says_that_the_text_ends_there(monkeypatch: pytest.MonkeyPatch) -> None:
    found = shown(monkeypatch, "one", marked=(3, 3))
    assert (found["before"], found["mark"], found["after"], found["end"]) == ("one", "", "", "ends here")


def test_without_a_mark_it_is_all_before(monkeypatch: pytest.MonkeyPatch) -> None:
    found = shown(monkeypatch, "one\n two", writing=True)
    assert (found["before"], found["mark"], found["after"], found["writing"]) == ("one\n two", None, "", True)


def test_control_characters_are_made_visible_and_markup_stays_text(monkeypatch: pytest.MonkeyPatch) -> None:
    found = shown(monkeypatch, "\x1b<img src=x onerror=alert(1)>\u202e", marked=(0, 1), note="\x07")
    assert found["mark"] == "\ufffd" and found["after"] == "<img src=x onerror=alert(1)>\ufffd"
    assert found["note"] == "\ufffd"


def test_the_script_sets_text_only() -> None:
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "srcdoc"):
        assert way not in answer._JS


def test_it_draws_in_streamlit() -> None:
    def page() -> None:
        from app.answer import answer

        answer("hello", key="test", marked=(0, 1))

    assert not AppTest.from_function(page, default_timeout=30).run().exception
