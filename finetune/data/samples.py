"""Labelled samples: of HDF5 files, of shards, or of a dataset of one's own, all of one interface.

A sample is what indexing a dataset gives, as in the published code (https://github.com/flyakon/AgriFM, "Custom Dataset
Preparation"):

    {"data": {source: (T, C, H, W)}, "label": (H, W), "file_name": str}

Tensors, arrays, or anything that is sliced like them, such as a dataset of h5py. T, and H and W in numbers of the source's own
pixels, may differ between sources, T between samples, too. Labels are indices of the task's classes, -1 (255 in unsigned ones)
where there is none. What else a sample may hold:

    "valid": {source: (T, H, W) bool}   where observations are clear; without it all that are complete
    "dates": {source: (T,)}             ISO dates, datetime64, or days since 1970-01-01; without them images are taken to be
                                        spread evenly over the season
    "scene": str                        samples of one scene are no independent ones; intervals of scores are over scenes
    "pixel": float                      side of the label's pixels in units of the CRS; by default the usual one of the sources

An observation is complete when all its bands are finite, none is the sensor's no-data number, and not all are zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from data_prep.archive.sensor import Sensor
from finetune.task import IGNORE, Task

UNSIGNED_IGNORE = 255  # -1 in eight bits


class Samples(Protocol):
    """What samples come from: a `torch.utils.data.Dataset` or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A checked sample. `data` and `valid` are read when they are sliced; `dates` datetime64[D]; `label` int8 (H, W)."""

    name: str
    scene: str
    data: Mapping[str, Any]
    valid: Mapping[str, Any]
    dates: Mapping[str, np.ndarray]
    label: np.ndarray
    pixel: float

    def scale(self, source: str) -> Fraction:
        """Pixels of a source along a side of a pixel of the label."""
        return Fraction(self.data[source].shape[-1], self.label.shape[1])


def checked(item: Any, number: int, task: Task, sensors: Mapping[str, Sensor]) -> Sample:
    """Item `number` of a dataset as a sample of the task. Raises ValueError that says what is wrong with it."""
    name = str(item.get("file_name", f"sample {number}")) if isinstance(item, Mapping) else f"sample {number}"
    if not isinstance(item, Mapping) or "data" not in item or "label" not in item:
        found = sorted(item) if isinstance(item, Mapping) else type(item).__name__
        raise ValueError(f"{name}: is {found}; expected a dictionary with data, label and file_name (finetune/data/samples.py)")
    label = np.asarray(item["label"])
    if label.ndim != 2 or not np.issubdtype(label.dtype, np.integer):
        raise ValueError(f"{name}: label is {label.dtype}{label.shape}; expected whole numbers (H, W)")
    ignored = (label == IGNORE) | ((label == UNSIGNED_IGNORE) & np.issubdtype(label.dtype, np.unsignedinteger))
    strange = np.unique(label[~ignored & ((label < 0) | (label >= len(task.classes)))])
    if len(strange):
        raise ValueError(
            f"{name}: label holds {strange[:5].tolist()}; task {task.name} has the classes "
            f"{dict(enumerate(c.name for c in task.classes))}, and -1 for what is not labelled"
        )
    data, missing = item["data"], [source for source in task.sources if source not in item["data"]]
    if missing and (task.missing_sources == "error" or len(missing) == len(task.sources)):
        raise ValueError(
            f"{name}: has no {' and no '.join(missing)}, which the task needs; it has {', '.join(data) or 'nothing'}; "
            "choose others with --sources"
            + ("" if len(missing) == len(task.sources) else ", or do without with --missing_sources allow")
        )
    data = {source: data[source] for source in task.sources if source in data}
    for source, pixels in data.items():
        _check_pixels(pixels, label, f"{name}: {source}", sensors[source])
    valid = {source: mask for source, mask in (item.get("valid") or {}).items() if source in data}
    for source, mask in valid.items():
        expected = (data[source].shape[0], *data[source].shape[2:])
        if tuple(mask.shape) != tuple(expected):
            raise ValueError(f"{name}: valid of {source} has shape {tuple(mask.shape)}; expected {tuple(expected)}")
    dates = {s: _days(of, len(data[s]), f"{name}: dates of {s}") for s, of in (item.get("dates") or {}).items() if s in data}
    if task.cut_dates and set(dates) != set(data):
        raise ValueError(f"{name}: has no dates, and task {task.name} scores by date; give dates of each source")
    finest = min(data, key=lambda source: sensors[source].gsd_m)
    usual = sensors[finest].gsd_m * data[finest].shape[-1] / label.shape[1]
    return Sample(
        name=name,
        scene=str(item.get("scene", name)),
        data=data,
        valid=valid,
        dates=dates,
        label=np.where(ignored, IGNORE, label).astype(np.int8),
        pixel=round(float(item.get("pixel", usual)), 6),
    )


def _check_pixels(pixels: Any, label: np.ndarray, where: str, sensor: Sensor) -> None:
    if len(pixels.shape) != 4:
        raise ValueError(f"{where} has shape {tuple(pixels.shape)}; expected (T, C, H, W)")
    if pixels.shape[1] != len(sensor.bands):
        raise ValueError(f"{where} has {pixels.shape[1]} bands; expected {len(sensor.bands)}: {', '.join(sensor.bands)}")
    rows, cols = (Fraction(part, whole) for part, whole in zip(pixels.shape[-2:], label.shape, strict=True))
    if rows != cols:
        raise ValueError(
            f"{where} is {pixels.shape[-2]} x {pixels.shape[-1]} px, the label {label.shape[0]} x {label.shape[1]}; "
            "both must show the same ground"
        )


def _days(dates: Any, images: int, where: str) -> np.ndarray:
    """datetime64[D] (T,)."""
    found = np.asarray(dates)
    try:
        found = found.astype("datetime64[D]")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}; expected ISO dates, or days since 1970-01-01") from error
    if found.shape != (images,) or np.isnat(found).any():
        raise ValueError(f"{where}: {int(np.isnat(found).sum())} unknown of {found.size} for {images} images; each needs one")
    return found


def observed(pixels: np.ndarray, nodata: float) -> np.ndarray:
    """Complete observations: pixels (T, C, H, W) -> bool (T, H, W)."""
    missing: np.ndarray = (~np.isfinite(pixels) | (pixels == nodata)).any(axis=1) | (pixels == 0).all(axis=1)
    return ~missing
