"""One answer as text, with one place in it marked. A component of our own: the script sets text, never markup."""

from typing import Any

import streamlit as st

from app.words import printable

_CSS = """
.answer { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.55; font-family: var(--st-font);
  font-size: 0.95rem; color: var(--st-text-color); min-height: 1.55em; }
.answer mark { background: color-mix(in srgb, #E69F00 45%, transparent); color: inherit; border-radius: 3px;
  padding: 0.08em 0.06em; }
.answer mark.end { border: 1px dashed #E69F00; background: none; border-radius: 999px; padding: 0 0.5em;
  font-size: 0.78rem; }
.answer .cursor { display: inline-block; width: 0.5em; height: 1.05em; vertical-align: text-bottom;
  background: var(--st-primary-color); animation: blink 1s steps(2) infinite; }
@keyframes blink { 50% { opacity: 0; } }
@media (prefers-reduced-motion: reduce) { .answer .cursor { animation: none; } }
"""

_JS = """
function element(tag, text, classes, title) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (classes) made.className = classes;
  if (title) made.title = title;
  return made;
}

export default function (component) {
  const { data, parentElement } = component;
  const root = parentElement.querySelector('.answer');
  const parts = [document.createTextNode(data.before)];
  if (data.mark !== null) {
    parts.push(data.mark ? element('mark', data.mark, '', data.note) : element('mark', data.end, 'end', data.note));
    parts.push(document.createTextNode(data.after));
  }
  if (data.writing) parts.push(element('span', '', 'cursor'));
  root.replaceChildren(...parts);
}
"""

_COMPONENT = st.components.v2.component("mixcpt_answer", html='<div class="answer"></div>', css=_CSS, js=_JS)


def answer(
    text: str, *, key: str, marked: tuple[int, int] | None = None, note: str = "", writing: bool = False
) -> None:
    """Draws `text`.

    Args:
        marked: where the mark begins and ends, in characters; an empty one says that the text ends there.
        note: what hovering over the mark tells.
        writing: a cursor blinks at the end.
    """
    start, stop = marked or (len(text), len(text))
    data: dict[str, Any] = {
        "before": printable(text[:start]),
        "mark": printable(text[start:stop]) if marked else None,
        "after": printable(text[stop:]),
        "end": "ends here",
        "note": printable(note),
        "writing": writing,
    }
    _COMPONENT(key=key, data=data)
