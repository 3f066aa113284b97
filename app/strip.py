"""The token strip: tokens as coloured chips, to be read, hovered over and clicked. Serves rows, masks and losses alike.

A component of our own that lives in the page (no frame). All text reaches the page as text: the script sets only
`textContent` and attributes, never markup.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from app.words import printable


@dataclass(frozen=True, slots=True)
class Chip:
    """One token. `group` is its place in the legend, `block` its place in the headings: tokens of one block stand
    together. `value` from 0 to 1 makes the colour as strong; None leaves it even. `detail` is shown on hovering."""

    text: str
    group: int = 0
    block: int = 0
    detail: str = ""
    value: float | None = None
    is_end: bool = False
    is_begin: bool = False
    is_masked: bool = False


_CSS = """
.legend { display: flex; flex-wrap: wrap; gap: 0.25rem 1.1rem; margin-bottom: 0.6rem; font-size: 0.85rem;
  font-family: var(--st-font); color: var(--st-text-color); }
.legend span { display: inline-flex; align-items: center; gap: 0.4rem; }
.legend i { width: 0.9rem; height: 0.9rem; border-radius: 3px; display: inline-block; }
.block { border-left: 4px solid var(--c); padding: 0.1rem 0 0.35rem 0.7rem; margin: 0 0 0.7rem 0; }
.block h6 { margin: 0 0 0.2rem 0; font: 600 0.78rem var(--st-font); color: var(--st-text-color); opacity: 0.75; }
.chips { font-family: var(--st-code-font); font-size: 0.84rem; line-height: 1.85; color: var(--st-text-color);
  overflow-wrap: anywhere; }
.chip { background: color-mix(in srgb, var(--c) calc(var(--v, 1) * 26%), transparent); border-radius: 3px;
  padding: 0.12em 0.08em; margin-right: 1px; cursor: pointer; white-space: pre-wrap; }
.chip:hover { background: color-mix(in srgb, var(--c) 55%, transparent); }
.chip:focus { outline: none; }
.chip[aria-selected="true"] { outline: 2px solid var(--st-text-color);
  background: color-mix(in srgb, var(--c) 60%, transparent); }
.chip u { text-decoration: none; opacity: 0.35; }
.masked, .legend i.masked { background: repeating-linear-gradient(45deg,
  color-mix(in srgb, var(--c) 45%, transparent) 0 2px, transparent 2px 5px); }
.pill { border: 1px solid var(--c); border-radius: 999px; padding: 0.05em 0.5em; font: 600 0.72rem var(--st-font); }
"""

_JS = """
const SIGNS = { ' ': '\\u00b7', '\\n': '\\u23ce', '\\t': '\\u21e5' };

function element(tag, text, classes) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (classes) made.className = classes;
  return made;
}

function write(target, text) {
  for (const part of text.split(/([ \\n\\t])/)) {
    if (!part) continue;
    target.append(part in SIGNS ? element('u', SIGNS[part]) : document.createTextNode(part));
  }
}

function chip(token, number, data) {
  const pill = token.end || token.begin;
  const made = element('span', undefined, pill ? 'chip pill' : token.masked ? 'chip masked' : 'chip');
  made.style.setProperty('--c', data.legend[token.group].colour);
  if (token.value !== null) made.style.setProperty('--v', token.value);
  if (pill) made.textContent = token.end ? data.words.end : data.words.begin;
  else write(made, token.text);
  made.title = token.detail;
  made.dataset.number = number;
  made.setAttribute('role', 'option');
  made.tabIndex = -1;
  return made;
}

function legend(data) {
  const made = element('div', undefined, 'legend');
  const entries = data.legend.map(entry => [entry.name, entry.colour, '']);
  if (data.tokens.some(token => token.masked)) entries.push([data.words.masked, 'var(--st-text-color)', 'masked']);
  for (const [name, colour, classes] of entries) {
    const swatch = element('i', '', classes);
    swatch.style.setProperty('--c', colour);
    if (!classes) swatch.style.background = `color-mix(in srgb, ${colour} 55%, transparent)`;
    const entry = element('span');
    entry.append(swatch, document.createTextNode(name));
    made.append(entry);
  }
  return made;
}

function draw(root, data) {
  root.replaceChildren(legend(data));
  let block = null, line = null;
  data.tokens.forEach((token, number) => {
    if (token.block !== block) {
      block = token.block;
      const box = element('div', undefined, 'block');
      box.style.setProperty('--c', data.legend[token.group].colour);
      if (data.headings[block]) box.append(element('h6', data.headings[block]));
      line = element('div', undefined, 'chips');
      box.append(line);
      root.append(box);
    }
    line.append(chip(token, number, data));
    if (token.text.endsWith('\\n') && !token.end) line.append(element('br'));
  });
}

function mark(root, selected, focus) {
  for (const one of root.querySelectorAll('[aria-selected="true"]')) {
    one.removeAttribute('aria-selected');
    one.tabIndex = -1;
  }
  const chosen = root.querySelector(`[data-number="${selected ?? 0}"]`);
  if (!chosen) return;
  chosen.tabIndex = 0;
  if (selected === null) return;
  chosen.setAttribute('aria-selected', 'true');
  if (focus) chosen.focus();
}

export default function (component) {
  const { data, parentElement, setStateValue } = component;
  const root = parentElement.querySelector('.strip');
  const drawn = JSON.stringify(data);
  if (root.drawn !== drawn) {
    root.drawn = drawn;
    root.selected = data.selected;
    draw(root, data);
    mark(root, root.selected, false);
  }
  const choose = (number) => {
    root.selected = number;
    mark(root, number, true);
    setStateValue('selected', number);
  };
  root.onclick = (event) => {
    const hit = event.target.closest('.chip');
    if (hit) choose(Number(hit.dataset.number));
  };
  root.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    choose(Math.min(data.tokens.length - 1, Math.max(0, (root.selected ?? -step) + step)));
  };
}
"""

_COMPONENT = st.components.v2.component(
    "mixcpt_token_strip", html='<div class="strip" role="listbox" aria-label="tokens"></div>', css=_CSS, js=_JS
)


def token_strip(
    chips: Sequence[Chip],
    *,
    key: str,
    legend: Sequence[tuple[str, str]],
    headings: Sequence[str] = (),
    masked: str = "read, not learned",
) -> int | None:
    """Draws the chips and returns the number of the one that was clicked, or None.

    Args:
        legend: name and colour of each group.
        headings: a line over each block.
        masked: what the legend says of masked chips.
    """
    tokens = [
        {
            "text": printable(chip.text),
            "group": chip.group,
            "block": chip.block,
            "detail": printable(chip.detail),
            "value": chip.value,
            "end": chip.is_end,
            "begin": chip.is_begin,
            "masked": chip.is_masked,
        }
        for chip in chips
    ]
    data: dict[str, Any] = {
        "tokens": tokens,
        "legend": [{"name": printable(name), "colour": colour} for name, colour in legend],
        "headings": [printable(heading) for heading in headings],
        "words": {"end": "end", "begin": "begin", "masked": masked},
        "selected": None,
    }
    result = _COMPONENT(key=key, data=data, default={"selected": None}, on_selected_change=lambda: None)
    selected: int | None = result.selected
    return selected if selected is not None and selected < len(chips) else None
