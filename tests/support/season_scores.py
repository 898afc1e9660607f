"""A task with cut dates, made-up scores at these dates, and scenes whose classes differ only from a known day on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data.scene_windows import SceneWindows
from finetune.scoring.early_season import SeasonScores
from finetune.task import Task, load_task
from tests.support.archives import Cube, days, write_scene
from tests.support.rice_scenes import write_label

RICE = replace(
    load_task("paddy_rice"),
    sources=("landsat",),
    season=("01-01", "12-31"),
    frames=8,
    window_px=32,
    cut_dates=("03-01", "05-01", "07-01", "08-15", "10-01"),
)


TURN = np.datetime64("2021-07-02")  # from here on the classes differ, the second half of the periods


def season_scores(task: Task, rice: list[float | None]) -> SeasonScores:
    """Scores with these F1 of rice, and 0.9 of the rest."""
    dates = task.season_of(2021)[0] + (np.array(task.days_seen(2021)) - 1).astype("timedelta64[D]")
    found = [
        {"mean_f1": value, "mean_iou": 0.5, "overall_accuracy": 0.75, "kappa": None}
        | {"classes": {"other": {"f1": 0.9}, "paddy_rice": {"f1": value}}}
        for value in rice
    ]
    return SeasonScores(task=task, dates=dates, scores=found)


def write_turning_scene(folder: Path, seed: int, until: np.datetime64 | None = None) -> None:
    """64 x 64 px of rice and the rest in fields of 16 px: the same noise before TURN, and after it rice is brighter.

    Images of dates after `until` are left out, as an archive would have it on that day.
    """
    rng = np.random.default_rng(seed)
    sensor = load_sensors()["landsat"]
    codes = np.kron(rng.permutation([1, 2] * 8).reshape(4, 4), np.ones((16, 16), int))
    dates = days(2021, 24)
    pixels = rng.normal(2000, 200, (len(dates), 6, 64, 64))
    pixels[dates >= TURN] += 1500 * (codes == 1)
    quality = np.where(rng.random((len(dates), 64, 64)) < 0.1, 2, 64).astype(np.uint8)
    keep = dates <= (until or dates[-1])
    cube = Cube(pixels.astype(sensor.dtype)[keep], quality[keep], dates[keep])
    labels = {"crop_type": {"path": "crop_type.tif", "classes": {1: "paddy_rice", 2: "maize"}, "nodata": 0}}
    write_scene(folder, {"landsat": cube}, {"landsat": 30.0}, labels=labels)
    write_label(folder / "crop_type.tif", codes)


def turning_windows(folder: Path, **options: Any) -> SceneWindows:
    dataset = SceneWindows([load_scene(folder)], RICE, load_sensors(), **options)
    dataset.normalization = {"landsat": {"mean": [2000.0] * 6, "std": [500.0] * 6}}
    return dataset
