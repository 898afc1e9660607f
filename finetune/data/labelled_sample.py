"""Labelled samples: what a dataset of your own, the HDF5 samples and the shards give to fine-tuning.

Write a class with `__len__` and `__getitem__`, such as a `torch.utils.data.Dataset`, and pass it as `--data FILE.py:CLASS`. As in
the published code (https://github.com/flyakon/AgriFM, "Custom Dataset Preparation"), each item is a dictionary:

    {"data": {source: (T, C, H, W)}, "label": (H, W), "file_name": str}

An array may be a tensor, a NumPy array, or anything with a shape that is sliced like one, such as an h5py dataset. Sources may
differ in T, and in H and W, which count the source's own pixels; samples may differ in T as well. The label holds the index of
the task's class in each pixel, and -1 (or 255 in an unsigned label) where the pixel is not labelled. These keys are optional:

    "valid": {source: (T, H, W) bool}   True for clear observations. Default: every complete observation.
    "dates": {source: (T,)}             ISO dates, datetime64, or days since 1970-01-01.
                                        Default: images are evenly spread over the season.
    "scene": str                        Samples of one scene are not independent; intervals of scores are over scenes.
                                        Default: each sample is a scene.
    "pixel": float                      Side of the label's pixels in units of the CRS.
                                        Default: the usual pixel size of the sources.

An observation is complete if all its bands are finite, no band holds the sensor's no-data number, and not all bands are zero.
Pixels are numbers as the product stores them, without an additive offset, also where their type is a float; reflectance is an
error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import h5py
import numpy as np

from data_prep.archive.sensor import Sensor
from data_prep.readers.encoding import cf_encoding, check_numbers
from data_prep.readers.file_metadata import decode_days
from finetune.task import IGNORE, Task

UNSIGNED_IGNORE = 255  # -1 in eight bits
DARKEST = 0.002  # reflectance below which no land is in all bands and images


class Samples(Protocol):
    """A dataset of samples: a `torch.utils.data.Dataset` or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A labelled sample that `check_sample` accepted.

    Attributes:
        name: its "file_name", or `sample N`.
        scene: the scene it belongs to.
        data: pixels (T, C, H, W) of each source; read only when they are sliced.
        valid: clear observations (T, H, W) of those sources that have them.
        dates: datetime64[D] (T,) of those sources that have dates.
        label: class indices int8 (H, W), `IGNORE` where not labelled.
        pixel_size: side of the label's pixels in units of the CRS.
    """

    name: str
    scene: str
    data: Mapping[str, Any]
    valid: Mapping[str, Any]
    dates: Mapping[str, np.ndarray]
    label: np.ndarray
    pixel_size: float

    def scale(self, source: str) -> Fraction:
        """Pixels of a source per pixel of the label, along a side."""
        return Fraction(self.data[source].shape[-1], self.label.shape[1])


def check_sample(item: Any, number: int, task: Task, sensors: Mapping[str, Sensor]) -> Sample:
    """Item `number` of a dataset as a labelled sample of the task. Raises ValueError that says what is wrong with the item."""
    name = str(item.get("file_name", f"sample {number}")) if isinstance(item, Mapping) else f"sample {number}"
    if not isinstance(item, Mapping) or "data" not in item or "label" not in item:
        found = sorted(item) if isinstance(item, Mapping) else type(item).__name__
        raise ValueError(
            f"{name}: is {found}; expected a dictionary with data, label and file_name (finetune/data/labelled_sample.py)"
        )
    label = _class_indices(item["label"], name, task)
    data = _sources_of_task(item["data"], name, task)
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
        label=label,
        pixel_size=float(item.get("pixel", usual)),
    )


def _class_indices(label: Any, name: str, task: Task) -> np.ndarray:
    """A sample's label as int8 (H, W), `IGNORE` where not labelled. Raises ValueError for anything but the task's classes."""
    label = np.asarray(label)
    if label.ndim != 2 or not np.issubdtype(label.dtype, np.integer):
        raise ValueError(f"{name}: label is {label.dtype}{label.shape}; expected whole numbers (H, W)")
    ignored = (label == IGNORE) | ((label == UNSIGNED_IGNORE) & np.issubdtype(label.dtype, np.unsignedinteger))
    unknown = np.unique(label[~ignored & ((label < 0) | (label >= len(task.classes)))])
    if len(unknown):
        raise ValueError(
            f"{name}: label holds {unknown[:5].tolist()}; task {task.name} has the classes "
            f"{dict(enumerate(c.name for c in task.classes))}; expected these, or -1 for pixels without a label"
        )
    return np.where(ignored, IGNORE, label).astype(np.int8)


def _sources_of_task(data: Mapping[str, Any], name: str, task: Task) -> dict[str, Any]:
    """The sources of the task that a sample has. Raises ValueError if it lacks a source and the task does not allow that."""
    missing = [source for source in task.sources if source not in data]
    if missing and (task.missing_sources == "error" or len(missing) == len(task.sources)):
        raise ValueError(
            f"{name}: has no {' and no '.join(missing)}, which the task needs; it has {', '.join(data) or 'nothing'}; "
            "choose others with --override.sources"
            + ("" if len(missing) == len(task.sources) else ", or allow missing sources with --missing_sources allow")
        )
    return {source: data[source] for source in task.sources if source in data}


def _check_pixels(pixels: Any, label: np.ndarray, where: str, sensor: Sensor) -> None:
    """Raises ValueError unless pixels (T, C, H, W) have the sensor's bands and the aspect ratio of the label.

    Also for an HDF5 dataset whose attributes state an offset, or another scale or no-data number than the sensor has.
    """
    if len(pixels.shape) != 4:
        raise ValueError(f"{where} has shape {tuple(pixels.shape)}; expected (T, C, H, W)")
    if pixels.shape[1] != len(sensor.bands):
        raise ValueError(f"{where} has {pixels.shape[1]} bands; expected {len(sensor.bands)}: {', '.join(sensor.bands)}")
    if isinstance(pixels, h5py.Dataset):
        offset = check_numbers(cf_encoding(pixels.dtype, pixels.attrs, where), sensor, where)
        if offset:
            raise ValueError(
                f"{where}: the file states the offset {offset:g}, but samples are read without one: add it to the numbers"
            )
    rows, cols = (Fraction(part, whole) for part, whole in zip(pixels.shape[-2:], label.shape, strict=True))
    if rows != cols:
        raise ValueError(
            f"{where} is {pixels.shape[-2]} x {pixels.shape[-1]} px, the label {label.shape[0]} x {label.shape[1]}; "
            "both must cover the same area"
        )


def check_stored_numbers(pixels: np.ndarray, valid: np.ndarray, sensor: Sensor, where: str) -> None:
    """Raises ValueError when pixels (T, C, H, W) of a float type hold reflectance where `valid` (T, H, W), not stored numbers.

    A model that learned reflectance would map scenes, whose pixels are stored numbers, to nonsense.
    """
    if not np.issubdtype(pixels.dtype, np.floating) or not valid.any():
        return
    largest = float(np.abs(np.where(valid[:, None], pixels, 0)).max())
    if largest * sensor.scale < DARKEST:
        raise ValueError(
            f"{where}: its largest number is {largest:g}, as of reflectance; expected numbers as the product stores them, which "
            f"are reflectance / {sensor.scale:g}"
        )


def _days(dates: Any, images: int, where: str) -> np.ndarray:
    """Dates as datetime64[D] (T,). Raises ValueError unless there is a known date for each image."""
    found = decode_days(np.asarray(dates), {}, where)
    if found.shape != (images,):
        raise ValueError(f"{where}: {found.size} dates for {images} images; each needs one")
    return found
