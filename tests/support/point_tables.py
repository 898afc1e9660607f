"""Small made-up series of pixels at points, as tables in each layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import yaml

MISSING = 65535
BANDS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")  # of sentinel2
TWENTY_METRES = ("B05", "B06", "B07", "B8A", "B11", "B12")
CLASSES = ("maize", "wheat", "meadow")
FIRST, EVERY_DAYS, TIMES = np.datetime64("2021-01-15"), 30, 12
TASK = {
    "name": "crops",
    "title": "Crops",
    "label": "crop",
    "sources": ["sentinel2"],
    "frames": TIMES,
    "season": ["01-01", "12-31"],
    "window_px": 64,
    "classes": [{"name": name, "color": f"#00{40 * i + 60:02x}00", "labels": [name]} for i, name in enumerate(CLASSES)],
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Points:
    """Series at points: ids and labels (n); lon, lat (n,); pixels (n, T, C), MISSING where not observed; days (T,)."""

    ids: list[str]
    labels: list[str]
    lon: np.ndarray
    lat: np.ndarray
    pixels: np.ndarray
    days: np.ndarray


def simulate_points(count: int = 120, seed: int = 0, side_deg: float = 4.0) -> Points:
    """Points of three classes with different seasons, in a square of `side_deg` degrees; a tenth of the dates is missing."""
    rng = np.random.default_rng(seed)
    of_class = rng.permutation(np.arange(count) % len(CLASSES))
    days = FIRST + EVERY_DAYS * np.arange(TIMES)
    peak = np.array([7.0, 4.0, 5.5])[of_class, None] + rng.normal(0, 0.9, (count, 1))
    green = np.exp(-(((np.arange(TIMES) - peak) / np.array([1.5, 1.5, 4.0])[of_class, None]) ** 2))
    pixels = rng.normal(900, 60, (count, TIMES, len(BANDS))) + 2500 * green[:, :, None] * np.linspace(-0.2, 1, len(BANDS))
    pixels = np.clip(np.rint(pixels), 1, 10_000)
    pixels[rng.random((count, TIMES)) < 0.1] = MISSING
    pixels[rng.random(pixels.shape) < 0.01] = MISSING
    return Points(
        ids=[f"p{number:04}" for number in range(count)],
        labels=[CLASSES[index] for index in of_class],
        lon=np.round(10 + side_deg * rng.random(count), 5),
        lat=np.round(45 + side_deg * rng.random(count), 5),
        pixels=pixels.astype(np.int64),
        days=days,
    )


def wide_name(band: str, step: int) -> str:
    """The name of a column as in WorldCereal."""
    return f"S2-L2A-{band}_ts{step}_{20 if band in TWENTY_METRES else 10}m"


def about_points(points: Points) -> dict[str, Any]:
    """The columns that describe points."""
    return {"sample_id": points.ids, "lon": points.lon, "lat": points.lat, "crop": points.labels}


def wide_table(points: Points) -> pa.Table:
    """One row per point, one column per band and time step."""
    columns = about_points(points)
    for index, band in enumerate(BANDS):
        columns |= {wide_name(band, step): points.pixels[:, step, index] for step in range(TIMES)}
    return pa.table(columns)


def long_table(points: Points, seed: int = 1) -> pa.Table:
    """One row per point and date, those of a point together and their dates in no order; missing numbers are empty cells."""
    rng = np.random.default_rng(seed)
    times = np.concatenate([rng.permutation(len(points.days)) for _ in points.ids])
    row = np.repeat(np.arange(len(points.ids)), len(points.days))
    columns = {name: np.asarray(values)[row] for name, values in about_points(points).items()}
    columns["timestamp"] = points.days[times].astype("datetime64[ms]")
    numbers = points.pixels[row, times]
    columns |= {band: pa.array(numbers[:, at].astype(float), mask=numbers[:, at] == MISSING) for at, band in enumerate(BANDS)}
    return pa.table(columns)


def nested_table(points: Points) -> pa.Table:
    """One row per point, a list per band, dates from last to first; missing numbers are NaN."""
    numbers = np.where(points.pixels == MISSING, np.nan, points.pixels.astype(float))[:, ::-1]
    columns = about_points(points) | {"dates": [points.days[::-1].astype(str).tolist() for _ in points.ids]}
    return pa.table(columns | {band: list(numbers[:, :, index]) for index, band in enumerate(BANDS)})


def description(layout: str, /, **changes: Any) -> dict[str, Any]:
    """The content of a table.yaml for tables in this module; values None of `changes` remove keys."""
    values: dict[str, Any] = {
        "files": "points.parquet",
        "layout": layout,
        "columns": {"id": "sample_id", "lon": "lon", "lat": "lat", "label": "crop"},
        "sources": {"sentinel2": {"offset": 0} | ({"missing": MISSING} if layout == "wide" else {})},
        "dates": {"first": str(FIRST), "every_days": EVERY_DAYS},
        "blocks": {"side_deg": 0.5, "buffer_m": 2000},
    }
    if layout != "wide":
        values["dates"] = {"column": "timestamp" if layout == "long" else "dates"}
    return {key: value for key, value in (values | changes).items() if value is not None}


TABLES = {"wide": wide_table, "long": long_table, "nested": nested_table}


def write_table(folder: Path, table: pa.Table, values: dict[str, Any]) -> Path:
    """Write a table as `values["files"]` says, and its table.yaml, whose path is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / values["files"]
    (pa_csv.write_csv if path.suffix == ".csv" else pq.write_table)(table, path)
    (folder / "table.yaml").write_text(yaml.safe_dump(values))
    return folder / "table.yaml"


def write_points(folder: Path, points: Points, layout: str = "wide", **changes: Any) -> Path:
    """Write simulated points in a layout; returns the path of the table.yaml."""
    return write_table(folder, TABLES[layout](points), description(layout, **changes))


def write_task(folder: Path, **changes: Any) -> Path:
    """Write a task for these points."""
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(TASK | changes))
    return path
