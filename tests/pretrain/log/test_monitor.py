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
from tensorboard.plugins.hparams import metadata as hparams_metadata

from data_prep.archive.sensor import load_sensors
from data_prep.landcover.legend import load_legend
from pretrain.log.figures import fractions_figure, rgb_strip_figure
from pretrain.log.monitor import METRICS_LINES, Monitor, configuration_text, flat, validation_scalars


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
        first.scalars(step, {"loss/total": 10.0 * step, "optimizer/learning_rate": 1e-3})
    first.close()
    with (tmp_path / METRICS_LINES).open("a") as file:
        file.write('{"step": 6, "lo')  # what a kill leaves
    second = Monitor(tmp_path, is_main=True, first_step=3, num_steps=6)
    for step in range(4, 7):
        second.scalars(step, {"loss/total": 10.0 * step + 1, "optimizer/learning_rate": 1e-3})
    second.close()
    expected = [(1, 10.0), (2, 20.0), (3, 30.0), (4, 41.0), (5, 51.0), (6, 61.0)]
    lines = [json.loads(line) for line in (tmp_path / METRICS_LINES).read_text().splitlines()]
    assert [(line["step"], line["loss/total"]) for line in lines] == expected
    assert [(event.step, event.value) for event in logged(tmp_path).Scalars("loss/total")] == expected


def test_text_and_figures_arrive_and_nan_is_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor(tmp_path, is_main=True, first_step=10, num_steps=20)
    monitor.text(10, "configuration", "**a**")
    monitor.figure(11, "fractions/modis", fractions_figure(np.eye(8)[:2], np.eye(8)[:2], load_legend("glc_fcs30d")))
    values = {"loss/total": 0.25, "loss/modis": 0.5, "optimizer/gradient_norm": float("nan"), "speed/samples_per_second": 12.0}
    monitor.scalars(15, values)
    monitor.close()
    tags = logged(tmp_path).Tags()
    assert tags["images"] == ["fractions/modis"]
    assert "configuration/text_summary" in tags["tensors"]
    assert json.loads((tmp_path / METRICS_LINES).read_text())["optimizer/gradient_norm"] is None
    line = capsys.readouterr().out
    assert line.startswith("step 15/20  loss total 0.2500, modis 0.5000  12 samples/s  left 0:00:0")


def test_texts_among_the_numbers_are_lines_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor(tmp_path, is_main=True, num_steps=20)
    monitor.scalars(5, {"loss/total": 0.25, "speed/mfu": 0.1234, "samples_digest": "00000000000000ff"})
    monitor.close()
    assert json.loads((tmp_path / METRICS_LINES).read_text())["samples_digest"] == "00000000000000ff"
    assert logged(tmp_path).Tags()["scalars"] == ["loss/total", "speed/mfu"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert "MFU 12.3%" in lines[0]
    assert "00ff" not in lines[0]


def test_hyperparameters_are_in_the_events_of_the_run(tmp_path: Path) -> None:
    """Read by TensorBoard's own reader and its plugin's own parser."""
    monitor = Monitor(tmp_path, is_main=True, num_steps=20)
    settings = {"optimizer": {"learning_rate": 0.5, "betas": [0.9, 0.95]}, "compile": True, "mixture": None, "data": Path("a/b")}
    monitor.scalars(20, {"validation/modis/mae": 0.125})
    defaults = {"optimizer": {"learning_rate": 0.5, "betas": [0.9, 0.999]}, "compile": False, "mixture": None}
    monitor.hyperparameters(settings, ["validation/modis/mae"], defaults)
    monitor.close()
    assert [path for path in tmp_path.rglob("*") if path.is_dir()] == []
    assert len(list(tmp_path.glob("events.*"))) == 1
    events = logged(tmp_path)
    contents = events.PluginTagToContent(hparams_metadata.PLUGIN_NAME)
    started = hparams_metadata.parse_session_start_info_plugin_data(contents[hparams_metadata.SESSION_START_INFO_TAG])
    found = {name: getattr(value, value.WhichOneof("kind")) for name, value in started.hparams.items()}
    assert found == {
        "optimizer.learning_rate": 0.5,
        "optimizer.betas": "[0.9, 0.95]",
        "compile": "true",
        "mixture": "null",
        "data": '"a/b"',
    }
    experiment = hparams_metadata.parse_experiment_plugin_data(contents[hparams_metadata.EXPERIMENT_TAG])
    assert [metric.name.tag for metric in experiment.metric_infos] == ["validation/modis/mae"]
    assert [(event.step, event.value) for event in events.Scalars("validation/modis/mae")] == [(20, 0.125)]
    differing = {info.name for info in experiment.hparam_infos if info.differs}
    assert differing == {"optimizer.betas", "compile", "data"}
    assert {info.name for info in experiment.hparam_infos} == set(found)


def test_flat_names_every_setting_once() -> None:
    nested = {"a": {"b": {"c": 1, "d": 2.5}, "e": "text"}, "f": False, "g": {}}
    assert dict(flat(nested)) == {"a.b.c": 1, "a.b.d": 2.5, "a.e": "text", "f": "false", "g": "{}"}


def test_configuration_is_a_table_of_dotted_names() -> None:
    lines = configuration_text({"optimizer": {"learning_rate": 1e-3, "betas": [0.9, 0.95]}, "seed": 0}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["option", "value"]
    expected = [["`optimizer.learning_rate`", "`0.001`"], ["`optimizer.betas`", "`[0.9, 0.95]`"], ["`seed`", "`0`"]]
    assert cells[2:] == expected


def test_scores_of_classes_are_in_a_group_of_their_own_and_not_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {"modis": {"mae": 0.25, "r2": 0.5, "samples": 7, "mae/forest": 0.125}, "landsat": {"mae": 0.5, "probe_r2": 0.75}}
    named = validation_scalars(scores)
    assert named == {
        "validation/modis/mae": 0.25,
        "validation/modis/r2": 0.5,
        "validation/modis/samples": 7,
        "validation_by_class/modis/mae/forest": 0.125,
        "validation/landsat/mae": 0.5,
        "validation/landsat/probe_r2": 0.75,
    }
    monitor = Monitor(tmp_path, is_main=True, num_steps=20)
    monitor.scalars(20, named)
    monitor.close()
    assert json.loads((tmp_path / METRICS_LINES).read_text()).keys() == named.keys() | {"step", "time"}
    line = "step 20/20  validation modis: mae 0.2500, r2 0.5000  validation landsat: mae 0.5000, probe_r2 0.7500  left 0:00:00\n"
    assert capsys.readouterr().out == line


def test_other_ranks_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor(tmp_path / "run", is_main=False, num_steps=2)
    monitor.scalars(1, {"loss/total": 1.0})
    monitor.text(1, "a", "b")
    monitor.hyperparameters({"a": 1}, ["loss/total"])
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
