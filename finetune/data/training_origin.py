"""Where and when the training data of a run are from, for metrics.json and the descriptions of the model."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.grid import Grid, unwrapped
from data_prep.archive.scene import is_simulated
from finetune.data.sample_windows import SampleWindows
from finetune.data.scene_windows import SceneWindows
from finetune.data.window_dataset import LabelledWindows

EDGE_POINTS = 16  # along each edge of a scene, which is curved in other projections
DECIMALS = 4  # of degrees: ten metres


def training_origin(training: LabelledWindows) -> dict[str, Any]:
    """What is known of the training data, as plain values.

    "years": number of scenes or samples by the year in which their season ends. "regions": for each region of the scenes the box
    [west, south, east, north] in degrees around them, None without a place on the globe; west is larger than east across the
    antimeridian. "scenes" and "simulated_scenes": numbers of scenes, the second None where a storage does not tell; "samples":
    number of samples. Of samples neither place nor whether they are simulated is known.
    """
    known: dict[str, Any] = {"years": {str(year): count for year, count in sorted(training.years.items())}, "regions": {}}
    if isinstance(training, SampleWindows):
        return known | {"samples": len(training.names)}
    assert isinstance(training, SceneWindows), training
    boxes: dict[str, list[np.ndarray]] = {}
    for series in training.series:
        of_region = boxes.setdefault(series.scene.region, [])
        if series.grid.georeferenced:
            of_region.append(_border(series.grid))
    simulated = [is_simulated(series.scene) for series in training.series]
    return known | {
        "regions": {region: _box(borders) for region, borders in sorted(boxes.items())},
        "scenes": len(training.series),
        "simulated_scenes": None if None in simulated else sum(map(bool, simulated)),
    }


def _border(grid: Grid) -> np.ndarray:
    """Longitudes and latitudes along the border of a grid, float64 (points, 2), without jumps at the antimeridian."""
    there = np.linspace(0, 1, EDGE_POINTS, endpoint=False)
    rows = np.concatenate([0 * there, there, 0 * there + 1, 1 - there]) * grid.height
    cols = np.concatenate([there, 0 * there + 1, 1 - there, 0 * there]) * grid.width
    lon, lat = grid.lon_lat(rows, cols)
    return np.stack([unwrapped(lon, lon[0]), lat], axis=-1)


def _box(borders: list[np.ndarray]) -> list[float] | None:
    """The box around borders; None without one, and for a border that leaves the domain of its CRS."""
    if not borders:
        return None
    near = [np.stack([unwrapped(border[:, 0], borders[0][0, 0]), border[:, 1]], axis=-1) for border in borders]
    points = np.concatenate(near)
    if not np.isfinite(points).all():
        return None
    (west, south), (east, north) = points.min(axis=0), points.max(axis=0)
    if east - west >= 360:
        west, east = -180.0, 180.0
    else:
        west, east = ((lon + 180) % 360 - 180 if not -180 <= lon <= 180 else lon for lon in (west, east))
    return [round(float(value), DECIMALS) for value in (west, south, east, north)]
