"""The figures of docs/experiments.md, from the finished studies of a workspace.

    python scripts/experiments.py [STUDY ...]

Writes each study's report and charts into docs/experiments, and what stands between `<!-- study NAME -->` and
`<!-- end -->` in docs/experiments.md anew: arms, charts, claims. Runs nothing: carry the studies out first
(`mixcpt study run`, the commands stand in the document). Charts are drawn by Plotly in Chromium, as in the app.
"""

import argparse
import re
import sys
from pathlib import Path
from urllib.parse import unquote

import plotly.graph_objects as go
import plotly.io
from playwright.sync_api import Browser

from mixcpt import charts, study_reports
from mixcpt.claim_table import glance
from mixcpt.columns import differences_table, formats_table
from mixcpt.notes import table_for_files
from mixcpt.plotting import Table
from mixcpt.studies import Study, open_study
from mixcpt.workspace import Workspace

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
from browser import a_browser  # noqa: E402 (the browser that the tests use)

DOCUMENT = ROOT / "docs" / "experiments.md"
FOLDER = ROOT / "docs" / "experiments"
PLACE = re.compile(r"(<!-- study (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def told(workspace: Workspace, study: Study, browser: Browser) -> str:
    """What the document says of a study, as Markdown; its report and charts are written beside it."""
    found = study_reports.findings(workspace, study)
    rows = found.rows
    drawings = {
        "plane": ("Gain against forgetting", charts.plane(study_reports.on_plane(rows))),
        "curves": ("Forgetting over tokens", charts.forgetting_curves([row for row in rows if row["curve"]])),
        "seeds": ("Differences seed by seed", charts.seeds(rows, study.pairs)),
    }
    report = FOLDER / f"{study.name}.md"
    report.write_text(study_reports.to_markdown(found), encoding="utf-8")
    tables = [differences_table(found.arms), found.beside, formats_table(found.arms)]
    parts = [f"{markdown(table)}\n\n{table.note}".rstrip() for table in tables if table]
    if found.chains:
        drawings = {"matrices": ("Every corpus after every stage", charts.matrices_chart(found.chains))} | drawings
        parts.append(study_reports.matrices_markdown(found.chains))
    for name, (title, figure) in drawings.items():
        path = FOLDER / f"{study.name}-{name}.svg"
        path.write_text(as_svg(figure, browser), encoding="utf-8")
        parts.append(f"![{title}](experiments/{path.name})")
    claims = glance([card.claims for card in found.cards])
    parts += [
        markdown(claims),
        claims.note,
        f"All claim cards, and every run: [{report.name}](experiments/{report.name}).",
    ]
    return "\n\n".join(parts) + "\n\n"


def markdown(table: Table) -> str:
    return table_for_files([table.columns, *table.rows])


def as_svg(figure: go.Figure, browser: Browser, width: int = 960, height: int = 560) -> str:
    """The figure as the app draws it, on white."""
    light = go.Figure(figure).update_layout(template="plotly_white", paper_bgcolor="white", width=width, height=height)
    page = browser.new_page()
    page.set_content(plotly.io.to_html(light, include_plotlyjs=True))
    address = page.evaluate("Plotly.toImage(document.querySelector('.plotly-graph-div'), {format: 'svg'})")
    page.close()
    return unquote(str(address).split(",", 1)[1]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", help="only these; all that the document names when none is given")
    wanted = parser.parse_args().studies
    workspace = Workspace()
    FOLDER.mkdir(exist_ok=True)
    with a_browser() as browser:

        def anew(place: re.Match[str]) -> str:
            begin, name, end = place.groups()
            if wanted and name not in wanted:
                return place[0]
            print(name)
            return f"{begin}{told(workspace, open_study(workspace, name), browser)}{end}"

        document = PLACE.sub(anew, DOCUMENT.read_text(encoding="utf-8"))
    DOCUMENT.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    main()
