"""The token strip: what reaches the browser, and what is believed of what comes back."""

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import strip
from app.strip import Chip


class Browser:
    """Stands in for the component: keeps what it is given, and answers as if `clicked` had been clicked."""

    def __init__(self, clicked: object = None):
        self.clicked = clicked
        self.data: dict[str, Any] = {}

    def __call__(self, *, data: dict[str, Any], **rest: object) -> dict[str, object]:
        self.data = data
        return {"selected": self.clicked}


def shown(monkeypatch: pytest.MonkeyPatch, browser: Browser, chips: list[Chip], **more: Any) -> int | None:
    monkeypatch.setattr(strip, "_COMPONENT", browser)
    return strip.token_strip(chips, key="test", legend=[("a", "#000000"), ("b", "#ffffff")], **more)


def test_everything_a_chip_says_reaches_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    browser = Browser()
    marks = {"is_end": True, "is_begin": True, "is_masked": True, "is_faint": True}
    chips = [Chip("x", group=1, block=2, detail="token 5", value=0.5, **marks)]
    assert shown(monkeypatch, browser, chips, headings=["h"], height=100) is None
    (token,) = browser.data["tokens"]
    expected = {"text": "x", "group": 1, "block": 2, "detail": "token 5", "value": 0.5}
    assert token == expected | {"end": True, "begin": True, "masked": True, "faint": True}
    assert browser.data["headings"] == ["h"] and browser.data["height"] == 100
    assert browser.data["legend"] == [{"name": "a", "colour": "#000000"}, {"name": "b", "colour": "#ffffff"}]


def test_control_characters_are_made_visible_and_markup_stays_text(monkeypatch: pytest.MonkeyPatch) -> None:
    browser = Browser()
    shown(monkeypatch, browser, [Chip("a\x1b\u202e<img src=x onerror=alert(1)>\n", detail="\x00")], headings=["\x07"])
    (token,) = browser.data["tokens"]
    assert token["text"] == "a\ufffd\ufffd<img src=x onerror=alert(1)>\n"
    assert token["detail"] == "\ufffd" and browser.data["headings"] == ["\ufffd"]


def test_the_script_sets_text_only() -> None:
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "srcdoc"):
        assert way not in strip._JS


@pytest.mark.parametrize(
    ("clicked", "expected"),
    [(None, None), (0, 0), (1, 1), (2, None), (-1, None), ("1", None), (True, None), (0.5, None), ([1], None)],
)
def test_only_the_number_of_a_chip_is_believed(
    monkeypatch: pytest.MonkeyPatch, clicked: object, expected: int | None
) -> None:
    assert shown(monkeypatch, Browser(clicked), [Chip("a"), Chip("b")]) == expected


def test_it_draws_in_streamlit() -> None:
    def page() -> None:
        import streamlit as st

        from app.strip import Chip, token_strip

        st.text(str(token_strip([Chip("a"), Chip("b")], key="test", legend=[("one", "#000000")])))

    app = AppTest.from_function(page, default_timeout=30).run()
    assert not app.exception and app.text[0].value == "None"
