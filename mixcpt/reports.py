"""A notebook to take along: as Markdown, as a standalone HTML page, as a Jupyter notebook.

Hidden entries stay at home. Whatever users wrote is shown and does nothing (`mixcpt.notes`); no export fetches anything
from the network. A pinned chart is a table in Markdown, itself in HTML, and a line of code that draws it in Jupyter.
What this gives up: the charts of a Jupyter notebook are drawn when it is run, so they need the workspace.
"""

import html
import json
from collections.abc import Iterator, Sequence
from typing import Any

from plotly.offline import get_plotlyjs

from mixcpt import charts, plotting
from mixcpt.errors import MixcptError, NotFound
from mixcpt.journal import Entry
from mixcpt.notebook import Notebook
from mixcpt.notes import as_html, escape_for_files, safe_for_files, table_for_files
from mixcpt.runs import Runs
from mixcpt.tables import table

_KINDS = {"corpus": "Corpus", "mixture": "Mixture", "launch": "Launch", "failure": "Failure", "result": "Result"}
_KINDS |= {"outcome": "Guess and outcome", "note": "Note", "pin": "Chart"}


def file_name(notebook: Notebook, ending: str) -> str:
    return f"notebook-{notebook.experiment}.{ending}"


def pin_title(notebook: Notebook, entry: Entry) -> str:
    """The heading of a pinned chart: its caption, else what it is called and what it is of."""
    chart = charts.CHARTS.get(entry.chart)
    if entry.title or chart is None:
        return entry.title or entry.chart
    if chart.of == "runs" or not entry.subjects:
        return chart.title
    return f"{chart.title}: {_subject(notebook, chart.of, entry.subjects[0])}"


def _subject(notebook: Notebook, of: str, name: str) -> str:
    try:
        return Runs(notebook.workspace).get(name).title if of == "run" else name
    except NotFound:
        return name


def _shown(notebook: Notebook) -> list[Entry]:
    return [entry for entry in notebook.entries() if not entry.hidden]


def _when(entry: Entry) -> str:
    return f"{entry.time[:10]} {entry.time[11:16]} UTC"


# Markdown


def to_markdown(notebook: Notebook) -> str:
    """Raises BadFile when the notebook is damaged, as all three do."""
    title = f"# Notebook: {escape_for_files(notebook.experiment)}"
    return "\n\n".join([title, *(_entry_markdown(notebook, entry) for entry in _shown(notebook))]) + "\n"


def _entry_markdown(notebook: Notebook, entry: Entry) -> str:
    if entry.kind != "pin":
        return _words(notebook, entry)
    try:
        data = table_for_files(table(notebook.workspace, entry.chart, entry.subjects))
    except MixcptError as problem:
        data = escape_for_files(str(problem))
    return f"{_words(notebook, entry)}\n\n{data}"


def _words(notebook: Notebook, entry: Entry) -> str:
    """An entry without its chart."""
    when = f"*{_KINDS[entry.kind]}, {_when(entry)}*"
    if entry.kind == "note":
        return f"{when}\n\n{safe_for_files(entry.text)}"
    title = pin_title(notebook, entry) if entry.kind == "pin" else entry.title
    parts = [f"## {escape_for_files(title)}", when]
    if entry.facts:
        parts.append("\n".join(f"- **{escape_for_files(name)}**: {escape_for_files(v)}" for name, v in entry.facts))
    if entry.table:
        parts.append(table_for_files(entry.table))
    return "\n\n".join(parts)


# HTML

_STYLE = """
:root { color-scheme: light dark; --text: #1B2733; --page: #fff; --soft: #F3F6F9; --line: #D8E0E8; --quiet: #55616D;
  --link: #0072B2 }
@media (prefers-color-scheme: dark) { :root { --text: #E6EDF3; --page: #10161D; --soft: #1A232D; --line: #33404D;
  --quiet: #A5B1BD; --link: #56B4E9 } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 52rem;
  margin: 2.5rem auto; padding: 0 1.5rem }
h1 { font-size: 1.8rem; line-height: 1.25 } h2 { font-size: 1.15rem; margin: 0 0 .2rem }
section { border-top: 1px solid var(--line); padding: 1.1rem 0; break-inside: avoid }
.when, .note { color: var(--quiet); font-size: .85rem; margin: 0 0 .6rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: 0 } dt { color: var(--quiet) }
dd { margin: 0; overflow-wrap: anywhere } a { color: var(--link) }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
pre { background: var(--soft); padding: .8rem 1rem; border-radius: .4rem; white-space: pre-wrap;
  overflow-wrap: anywhere }
blockquote { margin: 0; padding-left: 1rem; border-left: 3px solid var(--line); color: var(--quiet) }
.chart { background: #fff; color: #1B2733; border-radius: .4rem; padding: .4rem }
@media print { body { margin: 0; max-width: none } .wide { overflow: visible } }
"""
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def to_html(notebook: Notebook) -> str:
    """A page that stands alone, for a light or a dark screen and for paper, its charts alive."""
    entries = _shown(notebook)
    sections = "\n".join(_section(notebook, entry, number) for number, entry in enumerate(entries))
    library = f"<script>{get_plotlyjs()}</script>" if any(entry.kind == "pin" for entry in entries) else ""
    title = f"Notebook: {html.escape(notebook.experiment)}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title><style>{_STYLE}</style>{library}</head>\n"
        f"<body><h1>{title}</h1>\n{sections}\n</body></html>\n"
    )


def _section(notebook: Notebook, entry: Entry, number: int) -> str:
    return f"<section>\n{''.join(_html_parts(notebook, entry, number))}</section>"


def _html_parts(notebook: Notebook, entry: Entry, number: int) -> Iterator[str]:
    if entry.kind != "note":
        yield f"<h2>{html.escape(pin_title(notebook, entry) if entry.kind == 'pin' else entry.title)}</h2>\n"
    yield f'<p class="when">{_KINDS[entry.kind]}, {_when(entry)}</p>\n'
    if entry.kind == "note":
        yield as_html(entry.text)
    if entry.kind == "pin":
        yield _chart(notebook, entry, number)
    if entry.facts:
        facts = (f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in entry.facts)
        yield f"<dl>{''.join(facts)}</dl>\n"
    if entry.table:
        header, *rows = entry.table
        yield f'<div class="wide"><table><thead>{_line(header, "th")}</thead><tbody>'
        yield f"{''.join(_line(row, 'td') for row in rows)}</tbody></table></div>\n"


def _line(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>\n"


def _chart(notebook: Notebook, entry: Entry, number: int) -> str:
    try:
        figure = charts.draw(notebook.workspace, entry.chart, entry.subjects)
    except MixcptError as problem:
        return f"<p>{html.escape(str(problem))}</p>"
    return f'<div class="chart">{plotting.as_fragment(figure, f"chart-{number}")}</div>\n'


# Jupyter

_BEGIN = """from mixcpt.charts import draw
from mixcpt.columns import as_text
from mixcpt.compare import compare, summarise
from mixcpt.runs import Runs
from mixcpt.workspace import Workspace

workspace = Workspace({root!r})
runs = Runs(workspace)"""
_ALL = """finished = {runs!r}
print(as_text(summarise(compare(runs.get(id) for id in finished))))"""


def to_ipynb(notebook: Notebook) -> str:
    """A notebook of format 4.5. Its code is written here and uses only the library; what users wrote is never code."""
    title = f"# Notebook: {escape_for_files(notebook.experiment)}"
    needs = "Runs in a Jupyter whose Python has `mixcpt` (`pip install ipykernel nbformat` beside it), on this machine."
    cells = [_cell("markdown", f"{title}\n\n{needs}"), _cell("code", _BEGIN.format(root=str(notebook.workspace.root)))]
    entries = _shown(notebook)
    for entry in entries:
        cells += _cells(notebook, entry)
    finished = [entry.run for entry in entries if entry.kind == "result"]
    if finished:
        cells += [_cell("markdown", "## All results"), _cell("code", _ALL.format(runs=finished))]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _cells(notebook: Notebook, entry: Entry) -> list[dict[str, Any]]:
    words = _words(notebook, entry)
    if entry.kind != "pin":
        return [_cell("markdown", words)]
    try:
        charts.draw(notebook.workspace, entry.chart, entry.subjects)
    except MixcptError as problem:  # a cell that fails would end the whole run
        return [_cell("markdown", f"{words}\n\n{escape_for_files(str(problem))}")]
    return [_cell("markdown", words), _cell("code", f"draw(workspace, {entry.chart!r}, {list(entry.subjects)!r})")]


def _cell(kind: str, source: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": source}
    return cell | {"execution_count": None, "outputs": []} if kind == "code" else cell
