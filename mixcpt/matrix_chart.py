"""The forgetting matrix as a picture: cells coloured by the difference to the base, with their values in them. The KL
on prompts, which has another unit, is coloured on a scale of its own.

`matrix_chart` draws one chain, `matrices_chart` the means over seeds of several arms, one below the other, and of two
arms their difference. What this gives up: differences between more than two arms.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mixcpt import matrices
from mixcpt.matrices import ArmMatrix, Mean
from mixcpt.matrix import BITS, FIELD, NATS, Column, Matrix, cell_words, stage_words
from mixcpt.palette import NEUTRAL
from mixcpt.plotting import frame, label, nothing

NAME, NAME_OF_ARMS = "matrix", "matrices"
_BETTER, _SAME, _WORSE = "#6FB1DB", "#F1F1F1", "#F2A071"
_INK = "#1A1A1A"
_LEAST = 0.02
"""Bits per byte, or nats per token, at which a colour is full, at least: noise must not look like something."""
_HIGH, _TOP, _GAP = 44, 112, 26
"""Pixels: of a row, above the first panel and below the last, and between panels."""
_TO_BASE = "to the base<br>(bits per byte)"


@dataclass(frozen=True)
class _Cell:
    """`change` is None where nothing was measured."""

    change: float | None
    text: str = ""
    hover: str = ""


_EMPTY = _Cell(None)


@dataclass(frozen=True)
class _Panel:
    """A matrix to be drawn; `most` is by unit the change at which a colour is full, and `bar` tells what the colours
    are."""

    title: str
    rows: Sequence[str]
    columns: Sequence[Column]
    cells: Sequence[Sequence[_Cell]]
    bar: str
    most: Mapping[str, float] = field(default_factory=dict)

    def colour(self, row: int, column: int) -> float | None:
        """Where the cell stands on the scale, which is that of bits per byte: another unit is stretched to it."""
        change = self.cells[row][column].change
        return None if change is None else change * self.most[BITS] / self.most[self.columns[column].unit]


def matrix_chart(matrix: Matrix) -> go.Figure:
    """Rows are stages, the base on top; columns are texts. Blue is read better than by the base, orange worse, and the
    scale is the same to both sides. The cell of the stage that had a corpus for its field is bold."""
    if not any(matrix.base(column) for column in range(len(matrix.columns))):
        return nothing(NAME, "Nothing was measured yet of this chain: measure it to fill the matrix.")
    columns = range(len(matrix.columns))
    cells = [[_of_chain(matrix, row, j) for j in columns] for row in range(len(matrix.lines))]
    rows = [stage_words(line) for line in matrix.lines]
    return _draw(NAME, _scaled([_Panel("", rows, matrix.columns, cells, _TO_BASE)]))


def matrices_chart(arms: Sequence[ArmMatrix]) -> go.Figure:
    """Means over seeds, a panel an arm, with one scale for all of them; of two arms that learned the same corpora the
    second minus the first below, on a scale of its own. Every point stands in the tooltip."""
    drawn = [arm for arm in arms if any(arm.base(column) is not None for column in range(len(arm.columns)))]
    if not drawn:
        return nothing(NAME_OF_ARMS, "Nothing was measured yet of these chains: measure them to fill the matrices.")
    panels = _scaled([_Panel(label(arm.title), arm.stages, arm.columns, _of_arm(arm), _TO_BASE) for arm in drawn])
    if len(drawn) == 2 and matrices.comparable(*drawn):
        other, one = drawn
        title = f"{label(one.title, 20)}<br>minus {label(other.title, 20)}"
        cells = _of_difference(one, other)
        panels += _scaled([_Panel(title, one.stages[1:], one.columns, cells, "difference<br>(bits per byte)")])
    return _draw(NAME_OF_ARMS, panels)


def _scaled(panels: Sequence[_Panel]) -> list[_Panel]:
    most: dict[str, float] = defaultdict(lambda: _LEAST)
    for panel in panels:
        for line in panel.cells:
            for column, cell in zip(panel.columns, line, strict=True):
                most[column.unit] = max(most[column.unit], abs(cell.change or 0.0))
    return [replace(panel, most=most) for panel in panels]


def _draw(name: str, panels: Sequence[_Panel]) -> go.Figure:
    heights = [_HIGH * len(panel.rows) for panel in panels]
    whole = sum(heights) + _GAP * (len(panels) - 1)
    figure = make_subplots(
        rows=len(panels), cols=1, row_heights=heights, vertical_spacing=_GAP / whole if len(panels) > 1 else 0
    )
    for place, panel in enumerate(panels, 1):
        figure.add_trace(_heatmap(panel), row=place, col=1)
        _mark_empty(figure, panel, place)
    frame(figure, name, height=_TOP + whole + 8)
    figure.update_layout(showlegend=False)
    figure.update_xaxes(side="top", showgrid=False, title_text="", type="category")
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category", automargin=True)
    for place, panel in enumerate(panels, 1):
        same = place > 1 and panel.columns == panels[place - 2].columns
        figure.update_xaxes(showticklabels=not same, row=place, col=1)
        figure.update_yaxes(title_text=f"<b>{panel.title}</b>" if panel.title else "", row=place, col=1)
        low, high = figure.layout[f"yaxis{place if place > 1 else ''}"].domain
        bar = {"y": (low + high) / 2, "len": high - low, "lenmode": "fraction", "yanchor": "middle"}
        figure.data[place - 1].colorbar.update(bar)
    return figure


def _heatmap(panel: _Panel) -> go.Heatmap:
    return go.Heatmap(
        z=[[panel.colour(row, j) for j in range(len(line))] for row, line in enumerate(panel.cells)],
        x=[_column(column) for column in panel.columns],
        y=[label(row) for row in panel.rows],
        text=[[cell.text for cell in line] for line in panel.cells],
        customdata=[[cell.hover for cell in line] for line in panel.cells],
        texttemplate="%{text}",
        textfont={"color": _INK, "size": 12},
        hovertemplate="<b>%{y}</b><br>%{x}<br>%{customdata}<extra></extra>",
        hoverongaps=False,
        colorscale=[[0, _BETTER], [0.5, _SAME], [1, _WORSE]],
        zmid=0,
        zmin=-panel.most[BITS],
        zmax=panel.most[BITS],
        xgap=3,
        ygap=3,
        colorbar={"title": {"text": panel.bar}, "thickness": 12, "tickformat": "+.2f"},
    )


def _mark_empty(figure: go.Figure, panel: _Panel, place: int) -> None:
    for row, line in enumerate(panel.cells):
        for j, cell in enumerate(line):
            if cell.change is None:
                dash = {"text": "–", "showarrow": False, "font": {"color": NEUTRAL}}
                figure.add_annotation(x=j, y=row, row=place, col=1, **dash)


def _column(column: Column) -> str:
    if column.unit == NATS:
        return "KL on<br>prompts"
    return label(column.text) if column.kind == FIELD else f"general:<br>{label(column.kind)}"


def _text(words: str, bold: bool) -> str:
    """A value with its change below it."""
    value, _, change = words.partition(" ")
    text = f"{value}<br>{change.strip('()')}" if change else value
    return f"<b>{text}</b>" if bold else text


def _of_chain(matrix: Matrix, row: int, column: int) -> _Cell:
    cell, gain = matrix.lines[row].cells[column] if row else matrix.base(column), matrix.gain(row, column)
    if cell is None or gain is None:
        return _EMPTY
    text = _text(cell_words(matrix, row, column), row in matrix.columns[column].learned)
    unit, documents = matrix.columns[column].unit, f"{len(cell.documents)} documents"
    if row == 0:
        return _Cell(0.0, text, f"{cell.base:.4f} {unit}, {documents}")
    low, high = cell.interval
    apart = f"; {cell.difference:+.4f} to the base" if unit == BITS else ""
    hover = f"{cell.figure:.4f} {unit}{apart}, 95 % {low:+.4f} to {high:+.4f}, {documents}"
    return _Cell(-gain, text, hover)


def _of_arm(arm: ArmMatrix) -> list[list[_Cell]]:
    return [[_mean_cell(arm, row, j) for j in range(len(arm.columns))] for row in range(len(arm.stages))]


def _mean_cell(arm: ArmMatrix, row: int, column: int) -> _Cell:
    base, change = arm.base(column), arm.change(row, column)
    if base is None or change is None:
        return _EMPTY
    text = _text(matrices.cell_words(arm, row, column), row in arm.columns[column].learned)
    figure = f"{base + change.value:.4f} {arm.columns[column].unit}"
    if row == 0:
        return _Cell(0.0, text, figure)
    return _Cell(change.value, text, f"{figure}<br>to the base {_evidence(change)}")


def _of_difference(one: ArmMatrix, other: ArmMatrix) -> list[list[_Cell]]:
    def cell(row: int, column: int) -> _Cell:
        mean = matrices.difference(one, other, row, column)
        if mean is None:
            return _EMPTY
        return _Cell(mean.value, matrices.difference_words(mean).replace(" ", "<br>", 1), f"by seed {_evidence(mean)}")

    return [[cell(row, column) for column in range(len(one.columns))] for row in range(1, len(one.stages))]


def _evidence(mean: Mean) -> str:
    return f"{mean.value:+.4f}<br>{mean.evidence().replace('; ', '<br>', 1)}"
