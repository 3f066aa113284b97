"""Notebooks to take along: what they show, and that what users wrote does nothing in them."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from made import made_run

from mixcpt import reports
from mixcpt.errors import BadFile, BadInput, NotFound
from mixcpt.notebook import Notebook
from mixcpt.runs import Runs
from mixcpt.tables import table
from mixcpt.workspace import Workspace

EVIL = "<script>alert(1)</script> <img src=https://evil.org/x.png> ![a](https://evil.org/y.png) $x^2$ [z](javascript:1)"


@pytest.fixture
def notebook(workspace: Workspace) -> Notebook:
    """Two finished runs, one with a wicked name, a wicked note, two charts, one hidden note."""
    runs = [made_run(workspace, name="plain"), made_run(workspace, name="<b>$y$</b> | *")]
    notebook = Notebook(workspace, "trial")
    notebook.save(notebook.begin(), f"# Seen\n{EVIL}\n\n```\ncode\n```")
    notebook.pin("plane", [run.id for run in runs], "Both <i>runs</i>")
    notebook.pin("forgetting_curve", [runs[0].id])
    hidden = notebook.save(notebook.begin(), "not for others")
    assert hidden
    notebook.hide(f"note:{hidden.id}")
    return notebook


class Tags(HTMLParser):
    """The tags of a page with their attributes; the text inside scripts is none."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def read(text: str) -> nbformat.NotebookNode:
    """The notebook, once Jupyter's own schema has found nothing to complain of."""
    whole: nbformat.NotebookNode = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(whole)
    return whole


def test_an_empty_notebook(workspace: Workspace) -> None:
    notebook = Notebook(workspace, "trial")
    assert reports.to_markdown(notebook) == "# Notebook: trial\n"
    assert "<h1>Notebook: trial</h1>" in reports.to_html(notebook)
    assert "Plotly" not in reports.to_html(notebook)
    assert [cell.cell_type for cell in read(reports.to_ipynb(notebook)).cells] == ["markdown", "code"]


def test_markdown_tells_all(notebook: Notebook) -> None:
    text = reports.to_markdown(notebook)
    assert text.startswith("# Notebook: trial\n\n## Mixture A: 12,000 tokens from 4 sources\n\n*Mixture, ")
    assert "| builtin/atlas (the field) | 60% | 60.0% | 6,144 | 2.05 |" in text
    assert "- **Field**\\: " not in text and "- **Field**: 1.600 → 1.220 bits per byte: gain +0.380" in text
    assert "### Seen" in text and "```\ncode\n```" in text
    assert "not for others" not in text


def test_a_pinned_chart_is_a_table_in_markdown(notebook: Notebook) -> None:
    text = reports.to_markdown(notebook)
    assert "## Both \\<i\\>runs\\</i\\>\n\n*Chart, " in text
    assert "## Forgetting curve: plain" in text
    # 0.4 * (1 - e^-3) = 0.380, 0.1 and 0.5 likewise
    assert "| plain | 10,240 | +0.380 | +0.095 | 0.475 |" in text
    assert "| \\<b\\><span>$</span>y<span>$</span>\\</b\\> \\| \\* | 10,240 |" in text


def test_markdown_holds_no_markup_of_users(notebook: Notebook) -> None:
    text = reports.to_markdown(notebook)
    assert set(re.findall(r"(?<!\\)<(/?\w+)", text)) == {"span", "/span", "https"}  # https: the address of a link
    assert "javascript:" not in text and "![" not in text
    assert re.sub(r"<span>\$</span>", "", text).count("$") == 0


def test_html_holds_no_markup_of_users(notebook: Notebook) -> None:
    page = reports.to_html(notebook)
    tags = Tags(page).found
    names = [tag for tag, _ in tags]
    assert names.count("script") == 3  # plotly.js once, and one for each chart
    assert not {"img", "i", "b", "iframe", "object", "link"} & set(names)
    links = [attributes for tag, attributes in tags if tag == "a"]
    assert [link["href"] for link in links] == ["https://evil.org/y.png"]
    assert all(not name.startswith("on") for _, attributes in tags for name in attributes)
    assert "&lt;b&gt;$y$&lt;/b&gt;" in page
    assert "not for others" not in page
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page


def test_html_has_every_chart_once(notebook: Notebook) -> None:
    page = reports.to_html(notebook)
    assert page.count('class="chart"') == 2
    assert page.count("Plotly.newPlot(") == 2
    assert len(set(re.findall(r'<div id="(chart-\d+)"', page))) == 2


def test_ipynb_is_valid_and_its_code_is_not_the_users(notebook: Notebook) -> None:
    whole = read(reports.to_ipynb(notebook))
    code = [cell.source for cell in whole.cells if cell.cell_type == "code"]
    ids = [run.id for run in Runs(notebook.workspace).all()]
    assert code[0].endswith(f"workspace = Workspace({str(notebook.workspace.root)!r})\nruns = Runs(workspace)")
    assert code[1] == f"draw(workspace, 'plane', {ids!r})"
    assert code[2] == f"draw(workspace, 'forgetting_curve', [{ids[0]!r}])"
    assert code[3].startswith("finished = ")
    assert len(code) == 4
    assert "alert" not in "".join(code)
    markdown = "\n".join(cell.source for cell in whole.cells if cell.cell_type == "markdown")
    assert "![" not in markdown and "not for others" not in markdown


def test_ipynb_executes_against_the_library(notebook: Notebook, tmp_path: Path) -> None:
    """In a real kernel, in a process of its own, as Jupyter does."""
    path = tmp_path / "notebook.ipynb"
    path.write_text(reports.to_ipynb(notebook), encoding="utf-8")
    script = (
        "import sys, nbformat\nfrom nbclient import NotebookClient\nfrom jupyter_client.manager import KernelManager\n"
        "book = nbformat.read(sys.argv[1], as_version=4)\n"
        "manager = KernelManager(kernel_name='python3')\n"
        "manager.kernel_spec.argv[0] = sys.executable\n"
        "NotebookClient(book, km=manager, timeout=60).execute()\nnbformat.write(book, sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", script, path], check=True, timeout=90)
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [1, 2, 3, 4]
    assert "application/vnd.plotly.v1+json" in cells[1]["outputs"][0]["data"]
    printed = "".join(cells[3]["outputs"][0]["text"])
    assert printed.startswith("bits per byte, lower is better") and "+0.380" in printed


def test_a_chart_whose_run_is_gone_is_a_sentence_everywhere(workspace: Workspace) -> None:
    notebook = Notebook(workspace, "trial")
    notebook.pin("losses", ["cpt-20200101-000000-000000"])
    notebook.pin("no such chart", ["x"])
    assert "There is no run 'cpt\\-20200101" in reports.to_markdown(notebook)
    assert "There is no run &#x27;cpt-20200101" in reports.to_html(notebook)
    whole = read(reports.to_ipynb(notebook))
    assert [cell.cell_type for cell in whole.cells] == ["markdown", "code", "markdown", "markdown"]
    assert "## Losses: cpt-20200101-000000-000000" in whole.cells[2].source


def test_a_damaged_notebook_is_not_exported(workspace: Workspace) -> None:
    notebook = Notebook(workspace, "trial")
    notebook.path.parent.mkdir(parents=True)
    notebook.path.write_text("{")
    for export in (reports.to_markdown, reports.to_html, reports.to_ipynb):
        with pytest.raises(BadFile):
            export(notebook)


def test_file_names(workspace: Workspace) -> None:
    assert reports.file_name(Notebook(workspace, "my.trial"), "md") == "notebook-my.trial.md"


# Tables


def test_the_table_of_a_curve(workspace: Workspace) -> None:
    run = made_run(workspace)
    lines = table(workspace, "forgetting_curve", [run.id])
    assert lines[0] == ("tokens read", "field (bits per byte)", "general text (bits per byte)", "KL (nats per token)")
    assert lines[1] == ("0", "1.600", "1.250", "0.000")
    assert lines[-1] == ("10,240", "1.220", "1.345", "0.475")


def test_a_long_curve_is_told_by_eight_points(workspace: Workspace) -> None:
    run = made_run(workspace, steps=40)
    lines = table(workspace, "speed", [run.id])
    assert len(lines) == 9
    assert lines[0] == ("tokens read", "tokens per second")
    assert (lines[1], lines[-1]) == (("1,024", "128"), ("40,960", "128"))


def test_other_tables(small_corpora: Workspace) -> None:
    run = made_run(small_corpora, name="x")
    assert table(small_corpora, "losses", [run.id])[0] == ("tokens read", "loss (nats per token)", "cross-entropy")
    assert table(small_corpora, "learning_rate", [run.id])[1][0] == "1,024"
    assert table(small_corpora, "memory", [run.id])[1] == ("1,024", "2,000,000,000")
    assert table(small_corpora, "shares", [run.id])[1][3] == "6,144"
    assert table(small_corpora, "questions", [run.id])[1] == ("x", "general", "48", "90%", "85%", "74% to 92%")
    assert table(small_corpora, "lengths", ["field"]) == [("tokens", "documents"), ("128 to 255", "40")]


def test_no_table_of_nothing(workspace: Workspace) -> None:
    with pytest.raises(NotFound, match="no chart"):
        table(workspace, "plane", [])
    with pytest.raises(BadInput, match="measured"):
        table(workspace, "losses", [made_run(workspace, state="queued").id])
