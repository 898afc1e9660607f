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
    "year": int                         Year of the label, in which its season ends.
                                        Default: the year with most images.
    "scene": str                        Samples of one scene are not independent; intervals of scores are over scenes.
                                        Default: each sample is a scene.
    "pixel": float                      Side of the label's pixels in units of the CRS.
                                        Default: the usual pixel size of the sources.

Pixels obey the rules of scenes, by the same code. An observation is complete if all its bands are finite and in the sensor's
valid range, and no band holds its no-data number; without "valid" it must also not be zero in all bands. Pixels are numbers as
the product stores them, without an additive offset, also where their type is a float, and are rounded; reflectance is an error.

Of an h5py dataset the attributes count as in scenes (`data_prep/readers/hdf5_images.py`): `bands` puts the bands into the order
of the sensor, `add_offset` is added, a scale or no-data number that is not the sensor's is an error, what was never written was
not observed, and `dates` in its file are used where the item gives none. The `_FillValue` or `missing_value` of a label, and what
was never written of it, means not labelled, and its attribute `year` is used where the item gives none.
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
from data_prep.readers.hdf5_files import WrittenParts, attribute
from data_prep.readers.hdf5_images import Hdf5Images, stored_dates
from data_prep.readers.offsets import offset_in_effect
from data_prep.readers.radiometry import add_offset, as_stored
from finetune.data.hdf5_samples import PUBLISHED_NAMES
from finetune.task import CLASS_DTYPE, IGNORE, Task

UNSIGNED_IGNORE = 255  # -1 in eight bits


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
        label: class indices int16 (H, W), `IGNORE` where not labelled.
        pixel_size: side of the label's pixels in units of the CRS.
        year: year of the label, in which its season ends; None where it is not stated.
    """

    name: str
    scene: str
    data: Mapping[str, Any]
    valid: Mapping[str, Any]
    dates: Mapping[str, np.ndarray]
    label: np.ndarray
    pixel_size: float
    year: int | None = None

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
    stored = _sources_of_task(item["data"], name, task)
    data = {source: _checked_pixels(pixels, label, f"{name}: {source}", sensors[source]) for source, pixels in stored.items()}
    for key in ("valid", "dates"):
        strangers = set(item.get(key) or {}) - set(item["data"]) - set(task.sources)  # a sample may lack a source
        if strangers:
            raise ValueError(
                f"{name}: {key} are given for {', '.join(sorted(strangers))}, which data does not hold; it holds "
                f"{', '.join(item['data'])}"
            )
    valid = {source: mask for source, mask in (item.get("valid") or {}).items() if source in data}
    for source, mask in valid.items():
        expected = (data[source].shape[0], *data[source].shape[2:])
        if tuple(mask.shape) != tuple(expected):
            raise ValueError(f"{name}: valid of {source} has shape {tuple(mask.shape)}; expected {tuple(expected)}")
    dates = {}
    for source, pixels in stored.items():
        of_source: Any = (item.get("dates") or {}).get(source)
        if of_source is None and isinstance(pixels, h5py.Dataset):
            of_source = stored_dates(pixels, name, names=(source, *PUBLISHED_NAMES.get(source, ())))
        if of_source is not None:
            dates[source] = _days(of_source, data[source].shape[0], f"{name}: dates of {source}")
    if task.cut_dates and set(dates) != set(data):
        raise ValueError(f"{name}: has no dates, and task {task.name} scores by date; give dates of each source")
    year = item.get("year")
    if year is None and isinstance(item["label"], h5py.Dataset):
        year = attribute(item["label"], "year")
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
        year=None if year is None else int(year),
    )


def _class_indices(label: Any, name: str, task: Task) -> np.ndarray:
    """A sample's label as int16 (H, W), `IGNORE` where not labelled. Raises ValueError for anything but the task's classes."""
    fill = None
    if isinstance(label, h5py.Dataset) and np.issubdtype(label.dtype, np.integer):
        fill = cf_encoding(label.dtype, label.attrs, f"{name}: label").nodata
        # What was never written is not labelled, though HDF5 reads it as a class.
        unsigned = np.issubdtype(label.dtype, np.unsignedinteger)
        label = WrittenParts(label, UNSIGNED_IGNORE if unsigned else IGNORE).read(tuple(slice(0, n) for n in label.shape))
    label = np.asarray(label)
    if label.ndim != 2 or not np.issubdtype(label.dtype, np.integer):
        raise ValueError(f"{name}: label is {label.dtype}{label.shape}; expected whole numbers (H, W)")
    ignored = (label == IGNORE) | ((label == UNSIGNED_IGNORE) & np.issubdtype(label.dtype, np.unsignedinteger))
    if fill is not None:
        if fill in range(len(task.classes)):
            raise ValueError(
                f"{name}: an attribute of label says that {fill:g} means no data, but it is the index of class "
                f"{task.classes[int(fill)].name!r} of task {task.name}; remove the attribute, or write -1 for pixels without a "
                "label"
            )
        ignored |= label == fill
    unknown = np.unique(label[~ignored & ((label < 0) | (label >= len(task.classes)))])
    if len(unknown):
        raise ValueError(
            f"{name}: label holds {unknown[:5].tolist()}; task {task.name} has the classes "
            f"{dict(enumerate(c.name for c in task.classes))}; expected these, or -1 for pixels without a label"
        )
    return np.where(ignored, np.array(IGNORE), label).astype(CLASS_DTYPE)


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


def _checked_pixels(pixels: Any, label: np.ndarray, where: str, sensor: Sensor) -> Any:
    """Pixels (T, C, H, W) of the sensor's bands, read when they are sliced.

    Raises ValueError unless they have its bands and the aspect ratio of the label, and their attributes fit the sensor.
    """
    if len(pixels.shape) != 4:
        raise ValueError(f"{where} has shape {tuple(pixels.shape)}; expected (T, C, H, W)")
    if isinstance(pixels, h5py.Dataset):
        pixels = _DatasetPixels(pixels, sensor, where)
    if pixels.shape[1] != len(sensor.bands):
        raise ValueError(f"{where} has {pixels.shape[1]} bands; expected {len(sensor.bands)}: {', '.join(sensor.bands)}")
    rows, cols = (Fraction(part, whole) for part, whole in zip(pixels.shape[-2:], label.shape, strict=True))
    if rows != cols:
        raise ValueError(
            f"{where} is {pixels.shape[-2]} x {pixels.shape[-1]} px, the label {label.shape[0]} x {label.shape[1]}; "
            "both must cover the same area"
        )
    return pixels


class _DatasetPixels:
    """The pixels of an h5py dataset, with its offset added, read as scenes are when they are sliced along rows and columns."""

    def __init__(self, dataset: h5py.Dataset, sensor: Sensor, where: str) -> None:
        self._images, self._sensor, self._where = Hdf5Images(dataset, sensor, where), sensor, where
        in_file = check_numbers(self._images.encoding, sensor, where)
        self._offset = 0 if in_file is None else offset_in_effect(None if sensor.offset_varies else 0, in_file, sensor, where)
        self.shape = self._images.shape

    def __getitem__(self, part: tuple[Any, slice, slice]) -> np.ndarray:
        *_, rows, cols = part
        inside = (slice(*axis.indices(length)) for axis, length in zip((rows, cols), self.shape[2:], strict=True))
        pixels = as_stored(self._images.read(*inside), self._sensor, self._where)
        if self._offset:
            for image in pixels:
                add_offset(image, np.array([[[self._offset]]]), self._sensor)
        return pixels


def _days(dates: Any, images: int, where: str) -> np.ndarray:
    """Dates as datetime64[D] (T,). Raises ValueError unless there is a known date for each image."""
    found = decode_days(np.asarray(dates), {}, where)
    if found.shape != (images,):
        raise ValueError(f"{where}: {found.size} dates for {images} images; each needs one")
    return found
