"""What the monitor writes, read back by TensorBoard's own reader."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_prep.landcover import load_legend
from data_prep.sensors import load_sensors
from pretrain.figures import fractions_figure, rgb_strip_figure
from pretrain.monitor import METRICS_LINES, Monitor


def logged(output: Path) -> EventAccumulator:
    return EventAccumulator(str(output), purge_orphaned_data=True).Reload()


def image(figure: Figure) -> np.ndarray:
    """(H, W, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def test_a_restarted_run_continues_its_logs_without_a_point_twice(tmp_path: Path) -> None:
    first = Monitor(tmp_path, is_main=True, num_steps=6)
    for step in range(1, 6):
        first.scalars(step, {"loss/total": 10.0 * step, "learning_rate": 1e-3})
    first.close()
    with (tmp_path / METRICS_LINES).open("a") as file:
        file.write('{"step": 6, "lo')  # what a kill leaves
    second = Monitor(tmp_path, is_main=True, first_step=3, num_steps=6)
    for step in range(4, 7):
        second.scalars(step, {"loss/total": 10.0 * step + 1, "learning_rate": 1e-3})
    second.close()
    expected = [(1, 10.0), (2, 20.0), (3, 30.0), (4, 41.0), (5, 51.0), (6, 61.0)]
    lines = [json.loads(line) for line in (tmp_path / METRICS_LINES).read_text().splitlines()]
    assert [(line["step"], line["loss/total"]) for line in lines] == expected
    assert [(event.step, event.value) for event in logged(tmp_path).Scalars("loss/total")] == expected


def test_text_and_figures_arrive_and_nan_is_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor(tmp_path, is_main=True, first_step=10, num_steps=20)
    monitor.text(10, "configuration", "**a**")
    monitor.figure(11, "fractions/modis", fractions_figure(np.eye(8)[:2], np.eye(8)[:2], load_legend("glc_fcs30d")))
    monitor.scalars(15, {"loss/total": 0.25, "loss/modis": 0.5, "gradient_norm": float("nan"), "speed/samples_per_second": 12.0})
    monitor.close()
    tags = logged(tmp_path).Tags()
    assert tags["images"] == ["fractions/modis"]
    assert "configuration/text_summary" in tags["tensors"]
    assert json.loads((tmp_path / METRICS_LINES).read_text())["gradient_norm"] is None
    line = capsys.readouterr().out
    assert line.startswith("step 15/20  loss total 0.2500, modis 0.5000  12 samples/s  left 0:00:0")


def test_other_ranks_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor(tmp_path / "run", is_main=False, num_steps=2)
    monitor.scalars(1, {"loss/total": 1.0})
    monitor.text(1, "a", "b")
    monitor.close()
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def test_rgb_strip_shows_the_right_bands_and_veils_what_is_not_clear() -> None:
    sensor = load_sensors()["sentinel2"]
    pixels = np.full((2, 3, len(sensor.bands), 8, 8), 500, np.uint16)
    pixels[0, :, sensor.bands.index(sensor.rgb[0])] = 3000  # the first sample is red
    valid = np.ones((2, 3, 8, 8), bool)
    valid[0, 1] = False
    dates = torch.tensor([[18628, 18700, 18800]] * 2, dtype=torch.int32)
    shown = image(rgb_strip_figure(torch.from_numpy(pixels), torch.from_numpy(valid), sensor, dates))
    red = (shown == (255, 0, 0)).all(axis=-1)
    assert 0.3 < red[: len(red) // 2].any(axis=0).mean() < 0.75  # two of three frames
    assert not red[len(red) // 2 + len(red) // 8 :].any()


def test_fraction_bars_are_as_long_as_the_fractions() -> None:
    legend = load_legend("glc_fcs30d")
    true = torch.zeros(1, 8)
    true[0, :2] = torch.tensor([0.75, 0.25])
    figure = fractions_figure(true, torch.full((1, 8), 0.125), legend)
    bars = [(bar.get_facecolor()[:3], round(bar.get_width(), 4)) for bar in figure.axes[0].patches]
    assert bars[:2] == [(to_rgb(legend.colors[0]), 0.75), (to_rgb(legend.colors[1]), 0.25)]
    assert [width for _, width in bars[8:]] == [0.125] * 8
    assert image(figure).std() > 10
