"""The forgetting matrix as a picture: cells coloured by the difference to the base, with their values in them."""

import plotly.graph_objects as go

from mixcpt.matrix import FIELD, Matrix, cell_words, stage_words
from mixcpt.palette import NEUTRAL
from mixcpt.plotting import frame, label, nothing

NAME = "matrix"
_BETTER, _SAME, _WORSE = "#6FB1DB", "#F1F1F1", "#F2A071"
_INK = "#1A1A1A"
_LEAST = 0.02
"""Bits per byte at which a colour is full, at least: noise must not look like something."""
_HIGH = 44


def matrix_chart(matrix: Matrix) -> go.Figure:
    """Rows are stages, the base on top; columns are texts. Blue is read better than by the base, orange worse, and the
    scale is the same to both sides. The cell of the stage that had a corpus for its field is bold."""
    if not any(matrix.base(column) for column in range(len(matrix.columns))):
        return nothing(NAME, "Nothing was measured yet of this chain: measure it to fill the matrix.")
    columns, rows = range(len(matrix.columns)), range(len(matrix.lines))
    changes = [[None if (gain := matrix.gain(row, j)) is None else -gain for j in columns] for row in rows]
    most = max([_LEAST, *(abs(change) for line in changes for change in line if change is not None)])
    figure = go.Figure(
        go.Heatmap(
            z=changes,
            x=[_column(matrix, j) for j in columns],
            y=[label(stage_words(line)) for line in matrix.lines],
            text=[[_text(matrix, row, j) for j in columns] for row in rows],
            customdata=[[_hover(matrix, row, j) for j in columns] for row in rows],
            texttemplate="%{text}",
            textfont={"color": _INK, "size": 12},
            hovertemplate="<b>%{y}</b><br>%{x}<br>%{customdata}<extra></extra>",
            hoverongaps=False,
            colorscale=[[0, _BETTER], [0.5, _SAME], [1, _WORSE]],
            zmid=0,
            zmin=-most,
            zmax=most,
            xgap=3,
            ygap=3,
            colorbar={"title": {"text": "to the base<br>(bits per byte)"}, "thickness": 12, "tickformat": "+.2f"},
        )
    )
    frame(figure, NAME, height=120 + _HIGH * len(matrix.lines))
    figure.update_layout(showlegend=False)
    figure.update_xaxes(side="top", showgrid=False, title_text="", type="category")
    figure.update_yaxes(autorange="reversed", showgrid=False, title_text="", type="category", automargin=True)
    for row in rows:
        for j in columns:
            if changes[row][j] is None:
                figure.add_annotation(x=j, y=row, text="–", showarrow=False, font={"color": NEUTRAL})
    return figure


def _column(matrix: Matrix, number: int) -> str:
    column = matrix.columns[number]
    return label(column.text) if column.kind == FIELD else f"general:<br>{label(column.kind)}"


def _text(matrix: Matrix, row: int, column: int) -> str:
    if matrix.gain(row, column) is None:
        return ""
    value, _, change = cell_words(matrix, row, column).partition(" ")
    text = f"{value}<br>{change.strip('()')}" if change else value
    return f"<b>{text}</b>" if row in matrix.columns[column].learned else text


def _hover(matrix: Matrix, row: int, column: int) -> str:
    cell = matrix.lines[row].cells[column] if row else matrix.base(column)
    if cell is None:
        return ""
    if row == 0:
        return f"{cell.base:.4f} bits per byte, {len(cell.documents)} documents"
    low, high = cell.interval
    return (
        f"{cell.figure:.4f} bits per byte; {cell.difference:+.4f} to the base, 95 % {low:+.4f} to {high:+.4f}, "
        f"{len(cell.documents)} documents"
    )
