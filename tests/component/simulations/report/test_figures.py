"""What is drawn stays within its figure."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from simulations.report.figures import _legend


@pytest.mark.parametrize(("length", "count"), [(8, 2), (70, 8), (400, 3)])
def test_a_legend_is_never_wider_than_its_figure(length: int, count: int) -> None:
    """Rows of a table are named after all settings in which they differ."""
    figure = Figure(layout="constrained", figsize=(9.0, 4.0))
    names = [f"{number} " + "long " * (length // 5) for number in range(count)]
    for name in names:
        figure.subplots().plot([0, 1], label=name)
    _legend(figure)
    figure.draw_without_rendering()
    assert all(axis.bbox.height >= 250 for axis in figure.axes), "of 400 points a third is left to it"
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert [text.get_text().replace("\n", " ") for text in legend.get_texts()] == [name.strip() for name in names]
