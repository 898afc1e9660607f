"""Figures of scores: what they show."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.dates import num2date
from matplotlib.figure import Figure

from finetune.report.figures import confusion_figure, season_figure, training_figure
from tests.support.season_scores import RICE, season_scores


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_confusion_figure_has_shares_and_counts() -> None:
    figure = confusion_figure([[1500, 500, 0], [0, 2_000_000, 1], [0, 0, 0]], ["a", "winter_wheat", "c"])
    assert texts(figure) == ["75.0\n1.5k", "25.0\n500", "0\n0", "0\n0", ">99.9\n2M", "<0.1\n1", "-", "-", "-"]
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a\n2k px", "winter wheat\n2M px", "c\n0 px"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("label", "map")
    # Colours go by the row: darker where more, grey where nothing is labelled.
    image = axes.images[0]
    colors = image.cmap(image.norm(image.get_array()))[..., :3]
    brightness = colors.mean(axis=-1)
    assert brightness[1, 1] < brightness[0, 0] < brightness[0, 1] < brightness[0, 2]
    np.testing.assert_allclose(colors[2], [to_rgb("#e8e8e8")] * 3, atol=0.01)
    # With many classes only shares.
    assert texts(confusion_figure(np.eye(16), [str(i) for i in range(16)]))[:2] == ["100", "0"]


def test_training_figure_draws_each_number() -> None:
    history = [{"loss": 2.0, "f1": None}, {"loss": 1.0, "f1": 0.5, "mean_iou": 0.4}]
    left, right = training_figure(history, best_epoch=2).axes
    assert left.lines[0].get_xydata().tolist() == [[1, 2], [2, 1]]
    assert [line.get_label() for line in right.lines[:2]] == ["F1", "mean IoU"]
    np.testing.assert_array_equal(right.lines[1].get_ydata(), [np.nan, 0.4])
    assert right.lines[-1].get_xdata() == [2, 2]
    assert len(training_figure([{"loss": 1.0}]).axes) == 1


def test_plot_shows_every_class_over_dates() -> None:
    season = season_scores(RICE, [None, 0.1, 0.9, 0.4, 0.7812, 0.8])
    figure = season_figure(season)
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert {"mean", "other", "paddy rice"} <= set(lines)
    assert lines["paddy rice"].get_color() == RICE.classes[1].color
    np.testing.assert_allclose(lines["paddy rice"].get_ydata(), [np.nan, 10, 90, 40, 78.12, 80])
    assert "paddy rice F1 is 95 % of the whole season's from 2021-10-01 on" in axes.get_title()
    assert season_figure(season, simulated=True).axes[0].get_title().startswith("Paddy rice (simulated data): paddy rice F1")
    figure.canvas.draw()
    left, right = (num2date(x) for x in axes.get_xlim())
    assert (left.year, right.month) in ((2021, 12), (2021, 1), (2020, 1))
    assert any(month in [t.get_text() for t in axes.get_xticklabels()] for month in ("Apr", "May", "Jul"))
    nothing = season_figure(season_scores(RICE, [0.0] * 6))
    assert "is 0 or not defined at the end" in nothing.axes[0].get_title()


def test_figures_leave_the_backend_of_a_notebook_alone() -> None:
    before = matplotlib.get_backend()
    try:
        matplotlib.use("svg")
        season_figure(season_scores(RICE, [0.5] * 6))
        assert matplotlib.get_backend() == "svg"
    finally:
        matplotlib.use(before)
