"""What the monitor writes, read back by TensorBoard's own reader."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams_metadata

from data_prep.landcover import load_legend
from data_prep.sensors import load_sensors
from pretrain.figures import fractions_figure, rgb_strip_figure
from pretrain.monitor import METRICS_LINES, Monitor, StepReport, flat, teacher_distance


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
    monitor.hyperparameters(settings, ["validation/modis/mae"])
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


def test_flat_names_every_setting_once() -> None:
    nested = {"a": {"b": {"c": 1, "d": 2.5}, "e": "text"}, "f": False, "g": {}}
    assert dict(flat(nested)) == {"a.b.c": 1, "a.b.d": 2.5, "a.e": "text", "f": "false", "g": "{}"}


FLOPS = {"modis": 2e6, "sentinel2": 3e9}


def micro_steps(count: int, batch_size: int) -> list[dict[str, Any]]:
    """Losses of each sample and digests of a made-up run, by micro-step."""
    rng = np.random.default_rng(0)
    return [
        {
            "source": ("modis", "sentinel2", "sentinel2")[number % 3],
            "losses": rng.random((3, batch_size)),  # supervised, consistency, total
            "digests": rng.integers(2**62, 2**63, batch_size).tolist(),
        }
        for number in range(count)
    ]


def reports(steps: list[dict[str, Any]], ranks: int, peak_flops: float | None, waits: float = 0.0) -> list[dict[str, Any]]:
    """What each of some ranks, which are threads here, reports of its equal share of every micro-step."""
    meeting, given, results = threading.Barrier(ranks), [torch.empty(0)] * ranks, [{}] * ranks

    def work(rank: int) -> None:
        def sum_over_ranks(mine: torch.Tensor) -> torch.Tensor:
            given[rank] = mine
            meeting.wait()
            total = torch.stack(given).sum(dim=0)
            meeting.wait()
            return total

        report = StepReport(["sentinel2", "modis", "landsat"], FLOPS, peak_flops)
        for step in steps:
            share = step["losses"].shape[1] // ranks
            mine = slice(rank * share, (rank + 1) * share)
            supervised, consistency, total = (torch.tensor(loss[mine].mean(), dtype=torch.float32) for loss in step["losses"])
            pixels = torch.empty(share, 16, 3, 2, 2)
            digest = sum(step["digests"][mine]) % 2**63
            batch = SimpleNamespace(source=step["source"], keys=["k"] * share, pixels=pixels, nbytes=10**6 * share, digest=digest)
            report.waited(waits)
            report.add(batch, supervised, consistency, total)
        results[rank] = report.scalars(sum_over_ranks, ranks)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_report_is_of_all_samples_on_any_number_of_ranks(ranks: int) -> None:
    steps = micro_steps(7, 8)
    for report in reports(steps, ranks, None):
        supervised, consistency, total = np.stack([step["losses"] for step in steps]).mean(axis=2).T
        of_modis = np.array([step["source"] == "modis" for step in steps])
        losses = {name: value for name, value in report.items() if name.startswith("loss/")}
        assert losses == pytest.approx(
            {
                "loss/total": total.mean(),
                "loss/consistency": consistency.mean(),
                "loss/modis": supervised[of_modis].mean(),
                "loss/sentinel2": supervised[~of_modis].mean(),
            },
            rel=1e-6,
        )
        assert int(report["samples_digest"], 16) == sum(sum(step["digests"]) for step in steps) % 2**63
        assert len(report["samples_digest"]) == 16
        assert "speed/mfu" not in report
        now = psutil.Process().memory_info().rss / 1e9
        assert 0.9 * now < report["memory/device_gb"] < 10 * now  # the peak of the process


@pytest.mark.parametrize("ranks", [1, 2])
def test_rates_and_utilisation_follow_from_counts_and_time(monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    clock = threading.local()  # of each rank: 0 when it starts, 8 s when it is asked

    def now() -> float:
        clock.calls = getattr(clock, "calls", -1) + 1
        return 8.0 * clock.calls

    monkeypatch.setattr(time, "perf_counter", now)
    flops = 8 * (2e6 + 3e9 + 3e9)
    for report in reports(micro_steps(3, 8), ranks, 1e10, waits=0.5):
        assert report["speed/samples_per_second"] == pytest.approx(24 / 8)
        assert report["speed/frames_per_second"] == pytest.approx(24 * 16 / 8)
        assert report["speed/read_gb_per_second"] == pytest.approx(24e-3 / 8)
        assert report["speed/share_waiting_for_data"] == pytest.approx(1.5 / 8)
        assert report["speed/mfu"] == pytest.approx(flops / (8 * ranks * 1e10))


def test_an_interval_begins_where_the_last_ended_and_a_pause_is_not_in_it() -> None:
    report = StepReport(["modis"], {"modis": 1.0}, None)
    batch = SimpleNamespace(source="modis", keys=["a", "b"], pixels=torch.empty(2, 4, 1, 1, 1), nbytes=7, digest=2**63 - 1)
    for loss in (1.0, 3.0):
        started = time.perf_counter()
        for micro_step in range(2):
            report.add(batch, *torch.tensor([loss, 0.0, loss + micro_step], requires_grad=True).unbind())
            time.sleep(0.05)
        with report.paused():
            time.sleep(0.5)
        values = report.scalars(lambda tensor: tensor, 1)
        assert values["loss/modis"] == loss
        assert values["loss/total"] == loss + 0.5
        assert values["samples_digest"] == f"{2**63 - 2:016x}"
        elapsed = time.perf_counter() - started - 0.5
        assert 0.1 <= 4 / values["speed/samples_per_second"] <= elapsed


def test_counting_a_micro_step_reads_no_loss() -> None:
    """Reading a tensor without data raises an error; on a GPU it would wait for the device."""
    report = StepReport(["modis"], {"modis": 1.0}, None)
    batch = SimpleNamespace(source="modis", keys=["a"], pixels=torch.empty(1, 4, 1, 1, 1), nbytes=7, digest=1)
    report.add(batch, *torch.zeros(3, device="meta").unbind())
    with pytest.raises((NotImplementedError, RuntimeError)):
        report.scalars(lambda tensor: tensor, 1)


def test_a_loss_that_is_overwritten_by_the_next_step_is_reported_as_it_was() -> None:
    report = StepReport(["modis"], {"modis": 1.0}, None)
    batch = SimpleNamespace(source="modis", keys=["a"], pixels=torch.empty(1, 4, 1, 1, 1), nbytes=7, digest=1)
    memory = torch.zeros(3)
    for loss in (1.0, 2.0):
        memory.fill_(loss)
        report.add(batch, *memory)
    assert report.scalars(lambda tensor: tensor, 1)["loss/modis"] == 1.5


def test_teacher_distance_is_relative_over_all_parameters() -> None:
    student, teacher = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    ours, theirs = (np.concatenate([p.detach().numpy().ravel() for p in m.parameters()]) for m in (student, teacher))
    expected = np.linalg.norm(theirs - ours) / np.linalg.norm(ours)
    assert teacher_distance(student.parameters(), teacher.parameters()) == pytest.approx(expected, rel=1e-6)
    assert teacher_distance(student.parameters(), student.parameters()) == 0
    with pytest.raises(ValueError, match="zip"):
        teacher_distance(student.parameters(), list(teacher.parameters())[:1])


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
