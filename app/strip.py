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
    together. `value` from 0 to 1 makes the colour as strong; None leaves it even. `detail` is shown on hovering.
    `is_faint`: it stands there for context."""

    text: str
    group: int = 0
    block: int = 0
    detail: str = ""
    value: float | None = None
    is_end: bool = False
    is_begin: bool = False
    is_masked: bool = False
    is_faint: bool = False


_CSS = """
.legend { display: flex; flex-wrap: wrap; gap: 0.25rem 1.1rem; margin-bottom: 0.6rem; font-size: 0.85rem;
  font-family: var(--st-font); color: var(--st-text-color); }
.legend span { display: inline-flex; align-items: center; gap: 0.4rem; }
.legend i { width: 0.9rem; height: 0.9rem; border-radius: 3px; display: inline-block; }
.box { overflow-y: auto; scrollbar-width: thin; padding: 2px; }
.block { border-left: 4px solid var(--c); padding: 0.1rem 0 0.35rem 0.7rem; margin: 0 0 0.7rem 0; }
.block:last-child { margin-bottom: 0; }
.block h6 { margin: 0 0 0.2rem 0; font: 600 0.78rem var(--st-font); color: var(--st-text-color); opacity: 0.8; }
.chips { font-family: var(--st-code-font); font-size: 0.84rem; line-height: 1.85; color: var(--st-text-color);
  overflow-wrap: anywhere; }
.chip { background: color-mix(in srgb, var(--c) calc(var(--v, 1) * var(--full, 26%)), transparent); border-radius: 3px;
  padding: 0.12em 0.08em; margin-right: 1px; cursor: pointer; white-space: pre-wrap; }
.chip:hover { background: color-mix(in srgb, var(--c) 55%, transparent); }
.chip:focus { outline: none; }
.chip:focus-visible { outline: 2px dashed var(--st-text-color); }
.chip[aria-selected="true"] { outline: 2px solid var(--st-text-color);
  background: color-mix(in srgb, var(--c) 60%, transparent); }
.chip u { text-decoration: none; opacity: 0.35; }
.masked, .legend i.masked { background: repeating-linear-gradient(45deg,
  color-mix(in srgb, var(--c) 32%, transparent) 0 2px, transparent 2px 5px); }
.faint { opacity: 0.6; }
.pill { border: 1px solid var(--c); border-radius: 999px; padding: 0.05em 0.5em; font: 600 0.72rem var(--st-font); }
"""

_JS = """
const SIGNS = { ' ': '\\u00b7', '\\n': '\\u23ce', '\\t': '\\u21e5' };
const MOVES = {
  ArrowRight: (chips, from) => from + 1,
  ArrowLeft: (chips, from) => from - 1,
  ArrowDown: (chips, from) => beyond(chips, from, 1),
  ArrowUp: (chips, from) => beyond(chips, from, -1),
  Home: () => 0,
  End: (chips, from, last) => last,
  Enter: (chips, from) => from,
};

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
  if (token.value !== null) {
    made.style.setProperty('--v', token.value);
    made.style.setProperty('--full', '62%');  // where strength means something, all of it is used
  }
  if (pill) made.textContent = token.end ? data.words.end : data.words.begin;
  else write(made, token.text);
  if (token.faint) made.classList.add('faint');
  made.title = token.detail;
  made.dataset.number = number;
  made.setAttribute('role', 'option');
  made.setAttribute('aria-selected', 'false');
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
  const box = element('div', undefined, 'box');
  box.setAttribute('role', 'listbox');
  box.setAttribute('aria-label', data.words.label);
  if (data.height) box.style.maxHeight = `${data.height}px`;
  let block = null, line = null;
  root.chips = data.tokens.map((token, number) => {
    if (token.block !== block) {
      block = token.block;
      const group = element('div', undefined, 'block');
      group.setAttribute('role', 'group');
      group.style.setProperty('--c', data.legend[token.group].colour);
      if (data.headings[block]) {
        group.append(element('h6', data.headings[block]));
        group.setAttribute('aria-label', data.headings[block]);
      }
      line = element('div', undefined, 'chips');
      line.setAttribute('role', 'presentation');
      group.append(line);
      box.append(group);
    }
    const made = chip(token, number, data);
    line.append(made);
    if (token.text.endsWith('\\n') && !token.end) line.append(element('br'));
    return made;
  });
  root.replaceChildren(legend(data), box);
}

function mark(root, selected) {
  const before = root.chips[root.selected ?? 0];
  if (before) {
    before.setAttribute('aria-selected', 'false');
    before.tabIndex = -1;
  }
  root.selected = selected;
  const chosen = root.chips[selected ?? 0];
  if (!chosen) return;
  chosen.tabIndex = 0;  // the one that the Tab key finds
  if (selected !== null) chosen.setAttribute('aria-selected', 'true');
}

/* The chip in the next line up (-1) or down (1) that stands nearest to being straight above or below. */
function beyond(chips, number, step) {
  const here = chips[number].getBoundingClientRect();
  let best = number, line = null, nearest = Infinity;
  for (let other = number + step; other >= 0 && other < chips.length; other += step) {
    const there = chips[other].getBoundingClientRect();
    if (Math.abs(there.top - (line ?? here.top)) < here.height / 2) {
      if (line === null) continue;
    } else if (line === null) line = there.top;
    else break;
    const distance = Math.abs(there.left + there.width / 2 - here.left - here.width / 2);
    if (distance < nearest) [best, nearest] = [other, distance];
  }
  return best;
}

function moved(root, key) {
  const last = root.chips.length - 1;
  const from = root.selected;
  if (from === null) return key in MOVES ? 0 : null;
  return key in MOVES ? Math.min(last, Math.max(0, MOVES[key](root.chips, from, last))) : null;
}

export default function (component) {
  const { data, parentElement, setStateValue } = component;
  const root = parentElement.querySelector('.strip');
  const { selected, ...content } = data;
  const drawn = JSON.stringify(content);
  if (root.drawn !== drawn) {
    root.drawn = drawn;
    root.selected = null;
    draw(root, data);
    mark(root, selected);
  }
  const choose = (number) => {
    mark(root, number);
    root.chips[number].focus();
    setStateValue('selected', number);
  };
  root.onclick = (event) => {
    const hit = event.target.closest('.chip');
    if (hit) choose(Number(hit.dataset.number));
  };
  root.onkeydown = (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const number = moved(root, event.key);
    if (number === null) return;
    event.preventDefault();
    choose(number);
  };
}
"""

_COMPONENT = st.components.v2.component("mixcpt_token_strip", html='<div class="strip"></div>', css=_CSS, js=_JS)


def token_strip(
    chips: Sequence[Chip],
    *,
    key: str,
    legend: Sequence[tuple[str, str]],
    headings: Sequence[str] = (),
    masked: str = "read, not learned",
    height: int | None = None,
) -> int | None:
    """Draws the chips and returns the number of the one that was clicked, or None.

    Args:
        legend: name and colour of each group.
        headings: a line over each block.
        masked: what the legend says of masked chips.
        height: pixels from which on the chips scroll in a box of their own; None lets them be as tall as they are.
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
            "faint": chip.is_faint,
        }
        for chip in chips
    ]
    data: dict[str, Any] = {
        "tokens": tokens,
        "legend": [{"name": printable(name), "colour": colour} for name, colour in legend],
        "headings": [printable(heading) for heading in headings],
        "words": {"end": "end", "begin": "begin", "masked": masked, "label": "tokens"},
        "height": height,
        "selected": _selected(st.session_state.get(key), len(chips)),  # for a page that is drawn anew
    }
    result = _COMPONENT(key=key, data=data, default={"selected": None}, on_selected_change=lambda: None)
    return _selected(result, len(chips))


def _selected(state: Any, count: int) -> int | None:
    """The number of the chip that the browser says was clicked; None for none, or for what is no number of a chip."""
    number = state.get("selected") if state else None
    return number if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < count else None
