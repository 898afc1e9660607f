"""Frames of many points at once equal the frames of their windows, one by one and bit by bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from data_prep.archive.sensor import load_sensors
from finetune.data.frames import model_frames
from finetune.data.season import seen_until
from finetune.data.tables.pixel_task import pixel_task
from finetune.data.tables.point_frames import PointFrames
from finetune.data.tables.table_data import TableData
from finetune.task import Task, load_task
from tests.support.point_tables import BANDS, description, simulate_points, write_table, write_task

SENSORS = load_sensors()
NORMALIZATION = {
    "sentinel2": {"mean": [1200.0] * 10, "std": [333.0] * 10, "low": [300.0] * 10, "high": [2600.0] * 10},
    "landsat": {"mean": [900.0] * 6, "std": [210.0] * 6},
}


def irregular_table(seed: int, *, with_year: bool) -> tuple[pa.Table, dict[str, Any]]:
    """A long table of two sources with random dates of two years, gaps, and points that lack Landsat; and its description."""
    rng = np.random.default_rng(seed)
    points = simulate_points(60, seed)
    bands = [*BANDS, *(f"L{band}" for band in ("B02", "B03", "B04", "B05", "B06", "B07"))]
    columns: dict[str, list[Any]] = {name: [] for name in ("sample_id", "lon", "lat", "crop", "year", "timestamp", *bands)}
    for number, name in enumerate(points.ids):
        year = 2020 + number % 2
        days = np.unique(np.datetime64(f"{year}-01-01") + rng.integers(-60, 430, rng.integers(20, 50)))
        for day in rng.permutation(days):
            numbers = rng.integers(1, 4000, len(bands)).astype(float)
            missing = rng.random(len(bands)) < 0.02
            missing[: len(BANDS)] |= rng.random() < 0.3
            missing[len(BANDS) :] |= (rng.random() < 0.5) | (number % 7 == 0)
            about = (name, points.lon[number], points.lat[number], points.labels[number], year, str(day))
            for column, value in zip(columns, (*about, *np.where(missing, np.nan, numbers)), strict=True):
                columns[column].append(value)
    values = description("long")
    values["sources"]["landsat"] = {"bands": {band: f"L{band}" for band in ("B02", "B03", "B04", "B05", "B06", "B07")}}
    if with_year:
        values["columns"]["year"] = "year"
    return pa.table(columns), values


@pytest.mark.parametrize("with_year", [True, False])
@pytest.mark.parametrize("season", [("01-01", "12-31"), ("10-01", "07-31")])
@pytest.mark.parametrize("patch_px", [1, 4])
def test_they_are_those_of_windows(tmp_path: Path, with_year: bool, season: tuple[str, str], patch_px: int) -> None:
    table, values = irregular_table(1, with_year=with_year)
    task: Task = load_task(str(write_task(tmp_path, sources=["sentinel2", "landsat"], season=list(season), frames=9)))
    task = replace(pixel_task(task, patch_px), missing_sources="allow")
    data = TableData(write_table(tmp_path, table, values))
    unseen = 0
    for compositing in ("image", "pixel"):
        of_kind = replace(task, compositing=compositing)
        windows = data.windows("train", of_kind, augmentation=None, year=None)
        frames = windows.frames(NORMALIZATION)
        for seen_days in (np.inf, 90, 3):
            found, seen = frames.read(slice(0, len(windows)), seen_days)
            for index in range(len(windows)):
                window = windows.window(index)
                seasons = seen_until(window.seasons, seen_days)
                for source in task.sources:
                    expected = model_frames(window.stacks[source], seasons[source], NORMALIZATION[source])
                    np.testing.assert_array_equal(found[source][index], expected)
                    assert found[source].dtype == np.float32
                chosen = [seasons[s].choose(window.stacks[s].valid) for s in task.sources]
                assert seen[index] == (np.concatenate(chosen) >= 0).any()
            unseen += int((~seen).sum())
        windows.normalization = NORMALIZATION
        windows.keep_share(0.5, seed=0)
        with windows.ended_after(200):
            some = [int(index) for index in np.random.default_rng(0).permutation(len(windows))[:9]]
            batch, items = windows.batch(some), [windows[index] for index in some]
        assert batch["file_name"] == [item["file_name"] for item in items]
        torch.testing.assert_close(batch["label"], torch.stack([item["label"] for item in items]), rtol=0, atol=0)
        for source in task.sources:
            expected = torch.stack([item["data"][source] for item in items])
            torch.testing.assert_close(batch["data"][source], expected, rtol=0, atol=0)
    assert unseen > 0


def test_points_without_an_image_in_the_season_are_refused_unless_allowed(tmp_path: Path) -> None:
    table, values = irregular_table(2, with_year=True)
    task = pixel_task(load_task(str(write_task(tmp_path, season=["02-01", "02-03"], frames=1))), 1)
    data = TableData(write_table(tmp_path, table, values))
    points = data.labelled_points(task).points
    frames = PointFrames(points=points, chosen=np.arange(60), task=task, sensors=SENSORS, normalization=NORMALIZATION)
    with pytest.raises(
        ValueError, match=r"p\d+-202\d: no image of sentinel2 in the season \['02-01', '02-03'\] that ends in 202"
    ):
        frames.read(slice(0, 60))
    allowed = replace(frames, task=replace(task, missing_sources="allow"))
    assert not allowed.read(slice(0, 60))[1].all()
    with pytest.raises(ValueError, match="p0000-2020: is of 2020, but --year is 2019; leave --year out"):
        replace(allowed, year=2019).read(slice(0, 60))
