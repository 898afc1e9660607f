"""CropHarvest as a table of pixel series: points with crops and 12 time steps of Sentinel-2.

The data set (Tseng et al. 2021, https://github.com/nasaharvest/cropharvest) has `labels.geojson`, a row per point, and for most
points `features/arrays/INDEX_DATASET.h5` with a dataset `array` of 12 time steps and 18 numbers: two of Sentinel-1, eleven bands
of Sentinel-2, two of ERA5, two of SRTM, and NDVI. A step is 30 days long, and the last one ends at the point's `export_end_date`.
Only Sentinel-2 is read. Its numbers are top-of-atmosphere reflectance times 10,000, of the clearest image of a step.

What was missing was filled with the point's mean before the files were made, so that it cannot be told from what was observed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import h5py
import numpy as np
import pandas as pd
from tqdm import tqdm

LABELS, ARRAYS = "labels.geojson", Path("features", "arrays")
SOURCE = "sentinel2_toa"
SENSOR_FILE = Path(__file__).with_name(f"{SOURCE}.yaml")
STEPS, DAYS_PER_STEP = 12, 30
# Columns of an array. B1 and B10 were left out of it.
COLUMNS = (
    *("VV", "VH"),
    *("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12"),
    *("temperature_2m", "total_precipitation", "elevation", "slope", "NDVI"),
)
BANDS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")  # of the sensor
INDEX_COLUMNS = ("dataset_index", "index")  # of present and earlier versions
LABEL_COLUMNS = ("label", "classification_label", "is_crop")
CROP_NAMES = {1: "crop", 0: "not_crop"}
POINTS_FILE = "points.parquet"
MOST_NAMES = 3
_INTEGERS = np.iinfo(np.uint16)


@dataclass(frozen=True, kw_only=True)
class HarvestPoints:
    """The points of CropHarvest that have an array.

    Attributes:
        table: a row per point: id, lon, lat, dataset, crop (None without a label), first (date of the first step) and, for each
            band, the list of its numbers.
        without_array: number of points without an array.
    """

    table: pd.DataFrame
    without_array: int

    @property
    def crops(self) -> Counter[str]:
        """Number of points by class."""
        return Counter(self.table["crop"].dropna())


def read_points(folder: Path, column: str) -> HarvestPoints:
    """The points of the data set in `folder`. `column`: the column of labels.geojson that becomes the class.

    Raises ValueError when files or columns are missing, and for arrays of another form.
    """
    labels = _labels(folder / LABELS, column)
    paths = [folder / ARRAYS / f"{row.number}_{row.dataset}.h5" for row in labels.itertuples()]
    there = np.array([path.is_file() for path in paths], dtype=bool)
    if not there.any():
        raise ValueError(f"{folder / ARRAYS} has no array of a point of {LABELS}; expected files such as {paths[0].name}")
    kept = [path for path, is_there in zip(paths, there, strict=True) if is_there]
    labels = labels[there].reset_index(drop=True)
    numbers = np.stack([_sentinel2(path) for path in tqdm(kept, desc="reading arrays", unit="point")])
    first = labels["export_end_date"] - pd.Timedelta(days=STEPS * DAYS_PER_STEP)
    table = pd.DataFrame(
        {
            "id": [path.stem for path in kept],
            "lon": labels["lon"],
            "lat": labels["lat"],
            "dataset": labels["dataset"],
            "crop": labels["crop"],
            "first": first.dt.strftime("%Y-%m-%d"),
            **{band: list(numbers[..., number]) for number, band in enumerate(BANDS)},
        }
    )
    return HarvestPoints(table=table, without_array=int((~there).sum()))


def table_values() -> dict[str, Any]:
    """The content of table.yaml. Blocks are 50 km wide, as points of one survey lie close to each other."""
    return {
        "files": POINTS_FILE,
        "layout": "nested",
        "columns": {"id": "id", "lon": "lon", "lat": "lat", "label": "crop"},
        "sources": {SOURCE: {}},
        "dates": {"first_column": "first", "every_days": DAYS_PER_STEP},
        "blocks": {"side_m": 50_000, "buffer_m": 1_000},
    }


def _labels(path: Path, column: str) -> pd.DataFrame:
    """The rows of labels.geojson: number, dataset, lon, lat, export_end_date and crop."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; --input is the folder that holds {LABELS} and {ARRAYS}/")
    try:
        table = geopandas.read_file(path)
    except (ValueError, OSError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    number = next((name for name in INDEX_COLUMNS if name in table), None)
    missing = [name for name in ("dataset", "lon", "lat", "export_end_date", column) if name not in table]
    if number is None or missing:
        wanted = ", ".join([*missing, *([] if number else [" or ".join(INDEX_COLUMNS)])])
        raise ValueError(f"{path} has no column {wanted}; it has {', '.join(map(str, table.columns))}")
    ends = pd.to_datetime(table["export_end_date"], errors="coerce")
    if ends.isna().any():
        raise ValueError(f"{path}: export_end_date of {int(ends.isna().sum())} points is no date, so their steps have none")
    return pd.DataFrame(
        {
            "number": table[number].astype(int),
            "dataset": table["dataset"],
            "lon": table["lon"].astype(float),
            "lat": table["lat"].astype(float),
            "export_end_date": ends.dt.tz_localize(None),
            "crop": _crops(table[column], column, path),
        }
    )


def _crops(values: pd.Series, column: str, path: Path) -> list[str | None]:
    """The class of each point; None without one."""
    if column != "is_crop":
        return [None if pd.isna(value) or not str(value).strip() else str(value).strip() for value in values]
    unknown = sorted({str(value) for value in values.dropna() if value not in CROP_NAMES})
    if unknown:
        raise ValueError(f"{path}: is_crop holds {', '.join(unknown[:MOST_NAMES])}; expected 0 or 1")
    return [None if pd.isna(value) else CROP_NAMES[int(value)] for value in values]


def _sentinel2(path: Path) -> np.ndarray:
    """The bands of Sentinel-2 in an array, uint16 (steps, bands), in the order of `BANDS`; 0 where nothing was observed."""
    try:
        with h5py.File(path, "r") as file:
            array = np.asarray(file["array"][()], dtype=np.float64)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as an array of CropHarvest: {error}") from error
    if array.shape != (STEPS, len(COLUMNS)):
        raise ValueError(f"{path}: the array has shape {array.shape}; expected {(STEPS, len(COLUMNS))}, {', '.join(COLUMNS)}")
    found = array[:, _columns(BANDS)]
    if np.nanmax(found, initial=0) > _INTEGERS.max or np.nanmin(found, initial=0) < 0:
        raise ValueError(
            f"{path}: bands of Sentinel-2 hold {np.nanmin(found):g} to {np.nanmax(found):g}; expected reflectance times 10,000"
        )
    return np.nan_to_num(np.rint(found), nan=0.0).astype(np.uint16)


def _columns(bands: Sequence[str]) -> list[int]:
    """Columns of an array that hold bands, which it names B2 where the sensor says B02."""
    return [COLUMNS.index(band.replace("B0", "B")) for band in bands]
