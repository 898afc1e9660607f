"""Fields of The World: two Sentinel-2 images of each chip, with fields and their boundaries (Kerner et al., AAAI 2025).

    FTW/
      austria/
        chips_austria.parquet             of each chip aoi_id and split (train, val, test; none for chips that are left out)
        s2_images/window_a/AOI.tif        four bands: B04, B03, B02, B08
        s2_images/window_b/AOI.tif        the same in another part of the growing season
        label_masks/semantic_3class/AOI.tif    0 background, 1 field, 2 boundary, 3 not labelled
        label_masks/semantic_2class/AOI.tif    0 background, 1 field, 3 not labelled
      kenya/ ...

The layout is that of https://github.com/fieldsoftheworld/ftw-datasets-list. Chips without imagery are part of the data set:
they are listed, and left out. The files state neither dates nor the offset of their numbers: the two images count as those of the
first and the second half of the season, and whoever imports the data must state the offset. Chips are samples without a place.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

from common.storage import AnyPath, listed, local_copy
from common.threads import in_threads
from common.yaml_files import read_yaml
from data_prep.archive.scene import SPLITS, Label
from data_prep.archive.sensor import Sensor, sensor_from_dict
from data_prep.readers.radiometry import add_offset
from finetune.data.public_datasets.description import FieldsDescription
from finetune.task import Task

SENSOR_FILE = Path(__file__).parent / "sentinel2_rgbn.yaml"
SOURCE = "sentinel2_rgbn"
WINDOWS = ("window_a", "window_b")
LABELS = {"semantic_3class": {0: "background", 1: "field", 2: "boundary"}, "semantic_2class": {0: "background", 1: "field"}}
NOT_LABELLED = 3  # of countries where only some fields are known
_SPLITS = {"train": "train", "val": "validation", "test": "test", "none": None}
_READERS = 16  # files that are looked at at a time


def rgbn_sensor() -> Sensor:
    """The sensor of the images."""
    return sensor_from_dict(read_yaml(SENSOR_FILE), origin=str(SENSOR_FILE))


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A chip: its country and name, and its split; None for chips that the data set leaves out."""

    country: str
    name: str
    split: str | None

    def image(self, folder: AnyPath, window: str) -> AnyPath:
        """The file of one of its images."""
        return folder / self.country / "s2_images" / window / f"{self.name}.tif"

    def label(self, folder: AnyPath, label: str) -> AnyPath:
        """The file of one of its labels."""
        return folder / self.country / "label_masks" / label / f"{self.name}.tif"


def read_chips(description: FieldsDescription) -> list[Chip]:
    """All chips of the countries, in the order of their names. Raises ValueError for what is wrong with a table of chips."""
    chips = []
    for country in description.countries:
        path = description.folder / country / f"chips_{country}.parquet"
        if not path.is_file():
            countries = ", ".join(description.countries)
            raise ValueError(
                f"no {path}: expected the unpacked folder of Fields of The World, with a folder for each of {countries}"
            )
        with local_copy(path) as file:
            try:
                table = pyarrow.parquet.read_table(file, columns=["aoi_id", "split"])
            except (pyarrow.ArrowException, ValueError, OSError) as error:
                raise ValueError(f"{path} is no table of chips with aoi_id and split: {error}") from error
        names, splits = ([str(value) for value in table[column].to_pylist()] for column in ("aoi_id", "split"))
        unknown = sorted(set(splits) - set(_SPLITS))
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if unknown or repeated:
            raise ValueError(f"{path}: unknown splits {unknown}, repeated chips {repeated[:3]}; expected {', '.join(_SPLITS)}")
        chips += [Chip(country=country, name=name, split=_SPLITS[split]) for name, split in zip(names, splits, strict=True)]
    return sorted(chips, key=lambda chip: (chip.country, chip.name))


def whole_chips(description: FieldsDescription, label: str) -> tuple[list[Chip], list[Chip]]:
    """The chips of a split whose images and label are there, and those of which some file is missing.

    Raises ValueError for an unknown label.
    """
    if label not in LABELS:
        raise ValueError(f"Fields of The World has the labels {' and '.join(LABELS)}, not {label!r}: give --override.label")
    folder = description.folder
    held: set[tuple[str, str, str]] = set()
    for country in description.countries:
        places = {name: folder / country / "s2_images" / name for name in WINDOWS}
        places[label] = folder / country / "label_masks" / label
        held |= {(country, name, path.stem) for name, place in places.items() for path in listed(place, "*.tif")}
    chips = [chip for chip in read_chips(description) if chip.split is not None]
    whole: list[Chip] = []
    others: list[Chip] = []
    for chip in chips:
        is_whole = all((chip.country, name, chip.name) in held for name in (*WINDOWS, label))
        (whole if is_whole else others).append(chip)
    return whole, others


def check_splits(description: FieldsDescription, chips: list[Chip]) -> None:
    """Raises ValueError when a split has no chip."""
    empty = [split for split in SPLITS if not any(chip.split == split for chip in chips)]
    if empty:
        raise ValueError(f"{description.folder}: no chip of {', '.join(description.countries)} is left for {' and '.join(empty)}")


def fields_label(path: AnyPath, label: str) -> Label:
    """What the codes of a label mean; `path` is for messages."""
    return Label(path=path, classes=LABELS[label], nodata=NOT_LABELLED)


class FieldsSamples:
    """The samples of one split of Fields of The World; `finetune/data/labelled_sample.py` says what an item holds.

    Raises ValueError when the task reads another label or other sources.
    """

    def __init__(self, description: FieldsDescription, split: str, task: Task, sensor: Sensor) -> None:
        if SOURCE not in task.sources:
            raise ValueError(f"Fields of The World has {SOURCE} images, and task {task.name} reads {', '.join(task.sources)}")
        whole, _ = whole_chips(description, task.label)
        check_splits(description, whole)
        self._description, self._task, self._sensor = description, task, sensor
        self._chips = [chip for chip in whole if chip.split == split]

    def __len__(self) -> int:
        return len(self._chips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        chip, folder = self._chips[index], self._description.folder
        path = chip.label(folder, self._task.label)
        codes = _read(path, None)
        if codes.shape[0] != 1:
            raise ValueError(f"{path} has {codes.shape[0]} bands; expected one")
        images = [chip.image(folder, window) for window in WINDOWS]
        label = self._task.class_indices(codes[0].astype(np.int64), fields_label(path, self._task.label))
        pixels = _Images(images, codes.shape[1:], self._description.offset, self._sensor)
        return {"file_name": f"{chip.country}_{chip.name}", "data": {SOURCE: pixels}, "label": label}


class _Images:
    """The two images of a chip, (2, bands, H, W), read when they are sliced along rows and columns."""

    def __init__(self, paths: list[AnyPath], size: tuple[int, ...], offset: int, sensor: Sensor) -> None:
        self._paths, self._offset, self._sensor = paths, offset, sensor
        self.shape = (len(paths), len(sensor.bands), *size)

    def __getitem__(self, part: tuple[Any, slice, slice]) -> np.ndarray:
        *_, rows, cols = part
        (top, bottom, _), (left, right, _) = (axis.indices(n) for axis, n in zip((rows, cols), self.shape[2:], strict=True))
        window = Window(left, top, max(right - left, 0), max(bottom - top, 0))
        images = []
        for path in self._paths:
            pixels = _read(path, window, self.shape[1:])
            nodata = self._sensor.nodata
            pixels = np.where(pixels > 0, pixels, nodata).astype(self._sensor.dtype)
            if self._offset:
                add_offset(pixels, np.array([[[self._offset]]]), self._sensor)
            images.append(pixels)
        return np.stack(images)


def _read(path: AnyPath, window: Window | None, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A window of all bands of a GeoTIFF, zero where the file says that there is no data.

    Raises ValueError when it cannot be read, or is not of `shape` (bands, rows, columns).
    """
    with local_copy(path) as file:
        try:
            with rasterio.open(file) as raster:
                if shape is not None and (raster.count, raster.height, raster.width) != shape:
                    found = (raster.count, raster.height, raster.width)
                    raise ValueError(f"{path} has bands, rows and columns {found}; expected {tuple(shape)}, as its label")
                if not all(np.issubdtype(np.dtype(kind), np.integer) for kind in raster.dtypes):
                    raise ValueError(f"{path} holds {raster.dtypes[0]}; expected whole numbers as the product stores them")
                pixels: np.ndarray = raster.read(window=window)
                if shape is not None and raster.nodata is not None:
                    pixels[pixels == raster.nodata] = 0
        except RasterioError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
    return pixels


def fields_fingerprint(description: FieldsDescription) -> str:
    """sha256 of the chips, their splits, the offset and all labels: whether they have changed."""
    digest = hashlib.sha256(str(description.offset).encode())
    for label in LABELS:
        whole, _ = whole_chips(description, label)
        contents = in_threads(partial(_label_digest, description, label), whole, _READERS)
        for chip, content in zip(whole, contents, strict=True):
            digest.update(f"{label} {chip.country} {chip.name} {chip.split} {content}\n".encode())
    return digest.hexdigest()


def _label_digest(description: FieldsDescription, label: str, chip: Chip) -> str:
    return hashlib.sha256(chip.label(description.folder, label).read_bytes()).hexdigest()
