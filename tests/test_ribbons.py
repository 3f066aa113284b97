"""Ribbons over seeds, against figures worked out by hand."""

import plotly.graph_objects as go
import pytest

from mixcpt.ribbons import add_band, ribbon


def test_the_band_is_the_range_and_lies_where_all_curves_are() -> None:
    # At 10 the second is half way from 0 to 0.4; at 20 the first is 0.3; the first ends at 20, the second begins at 0.
    found = ribbon([[(0, 0.0), (10, 0.1), (20, 0.3)], [(0, 0.0), (20, 0.4), (40, 9.0)]])
    assert found is not None and found.x == [0, 10, 20]
    assert found.low == pytest.approx([0, 0.1, 0.3]) and found.high == pytest.approx([0, 0.2, 0.4])
    assert found.mean == pytest.approx([0, 0.15, 0.35])


def test_one_curve_and_curves_apart_have_no_band() -> None:
    assert ribbon([[(0, 0.0), (10, 0.1)]]) is None
    assert ribbon([[(0, 0.0), (10, 0.1)], [(10, 0.0), (20, 0.1)]]) is None


def test_the_band_is_drawn_there_and_back_in_the_colour_of_its_lines() -> None:
    figure, found = go.Figure(), ribbon([[(0, 0.0), (10, 0.1)], [(0, 0.0), (10, 0.3)]])
    assert found is not None
    add_band(figure, found, "#0072B2", 3)
    (band,) = figure.data
    assert list(band.x) == [0, 10, 10, 0] and list(band.y) == pytest.approx([0, 0.3, 0.1, 0])
    assert band.fillcolor == "rgba(0,114,178,0.16)" and band.legendgroup == "3"
