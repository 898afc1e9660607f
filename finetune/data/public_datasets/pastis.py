"""PASTIS: Sentinel-2 series of French patches with the crops of their parcels (Garnot and Landrieu, ICCV 2021).

    PASTIS/
      metadata.geojson               of each patch ID_PATCH, Fold (1 to 5), TILE and dates-S2 {"0": 20180924, ...}
      DATA_S2/S2_10000.npy           int16 (T, 10, 128, 128): B02 to B08, B8A, B11, B12 in ascending order
      ANNOTATIONS/TARGET_10000.npy   uint8 (3, 128, 128): first the crop of each pixel, 0 to 19

Layout, codes and names are those of https://github.com/VSainteuf/pastis-benchmark. PASTIS-R and PASTIS-HD have the same folders
beside others. The numbers are those of level 2A, reflectance times 10,000; the images are of 2018 and 2019, before products had
an additive offset. Negative numbers count as not observed: -10000 fills what was not seen, and others lie between it and the
ground. There is no mask of clouds: a pixel under a cloud counts as clear.

A patch has no transform, only an outline in metadata.geojson, so it is a sample without a place. The folds keep a distance of a
kilometre between their patches; patches of one fold may touch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import portable_text
from common.storage import AnyPath, listed, local_copy
from data_prep.archive.scene import SPLITS, Label
from data_prep.archive.sensor import Sensor
from finetune.data.public_datasets.description import PastisDescription
from finetune.task import Task

SOURCE, LABEL = "sentinel2", "crop_type"
METADATA, IMAGES, TARGETS = "metadata.geojson", "DATA_S2", "ANNOTATIONS"
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")  # in the order of the files
VOID = 19  # of parcels that lie mostly outside of their patch
CLASSES = dict(
    enumerate(
        (
            *("background", "meadow", "soft_winter_wheat", "corn", "winter_barley", "winter_rapeseed", "spring_barley"),
            *("sunflower", "grapevine", "beet", "winter_triticale", "winter_durum_wheat", "fruits_vegetables_flowers"),
            *("potatoes", "leguminous_fodder", "soybeans", "orchard", "mixed_cereal", "sorghum"),
        )
    )
)
PIXEL_M = 10.0


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A patch: its number, fold and tile, and the dates of its images, datetime64[D] (T,)."""

    number: int
    fold: int
    tile: str
    dates: np.ndarray


def read_patches(folder: AnyPath) -> list[Patch]:
    """The patches of metadata.geojson by ascending number. Raises ValueError that names what is wrong with the file."""
    path = folder / METADATA
    if not path.is_file():
        raise ValueError(f"no {METADATA} in {folder}: expected the unpacked folder of PASTIS, with {IMAGES} and {TARGETS} in it")
    try:
        features = json.loads(path.read_bytes())["features"]
        patches = [_patch(feature["properties"]) for feature in features]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not that of PASTIS ({type(error).__name__}: {portable_text(error, folder)}); expected features with "
            "ID_PATCH, Fold, TILE and dates-S2"
        ) from error
    numbers = [patch.number for patch in patches]
    if not patches or len(set(numbers)) < len(numbers):
        raise ValueError(f"{path} describes {len(patches)} patches, {len(set(numbers))} different ones; expected each once")
    return sorted(patches, key=lambda patch: patch.number)


def _patch(values: Mapping[str, Any]) -> Patch:
    dates = values["dates-S2"]
    dates = json.loads(dates) if isinstance(dates, str) else dates  # as some GIS write nested values
    days = [str(dates[key]) for key in sorted(dates, key=int)]
    stamps = np.array([f"{day[:4]}-{day[4:6]}-{day[6:]}" for day in days], "datetime64[D]")
    return Patch(number=int(values["ID_PATCH"]), fold=int(values["Fold"]), tile=str(values.get("TILE", "")), dates=stamps)


def splits_of(patches: list[Patch], description: PastisDescription) -> dict[str, list[Patch]]:
    """The patches of each split by its folds. Raises ValueError for folds that no patch has, and for an empty split."""
    known = {patch.fold for patch in patches}
    held_out = {"validation": set(description.validation_folds), "test": set(description.test_folds)}
    missing = sorted(set().union(*held_out.values()) - known)
    if missing:
        raise ValueError(f"{description.folder}: no patch is of fold {', '.join(map(str, missing))}; there are {sorted(known)}")
    of_fold = {fold: split for split, folds in held_out.items() for fold in folds}
    found = {split: [patch for patch in patches if of_fold.get(patch.fold, "train") == split] for split in SPLITS}
    empty = [split for split in SPLITS if not found[split]]
    if empty:
        raise ValueError(f"{description.folder}: no patch is left for {' and '.join(empty)}; the folds are {sorted(known)}")
    return found


def files_of(folder: AnyPath, patch: Patch) -> tuple[AnyPath, AnyPath]:
    """The files of the images and of the target of a patch."""
    return folder / IMAGES / f"S2_{patch.number}.npy", folder / TARGETS / f"TARGET_{patch.number}.npy"


def check_files(folder: AnyPath, patches: list[Patch]) -> None:
    """Raises ValueError when patches have no file."""
    held = {(name, path.name) for name in (IMAGES, TARGETS) for path in listed(folder / name, "*.npy")}
    missing = [str(path) for patch in patches for path in files_of(folder, patch) if (path.parent.name, path.name) not in held]
    if missing:
        raise ValueError(f"{len(missing)} files of {len(patches)} patches are missing, first {missing[0]}; unpack all of PASTIS")


def pastis_label(path: AnyPath) -> Label:
    """What the codes of a target mean; `path` is for messages."""
    return Label(path=path, classes=CLASSES, nodata=VOID)


class PastisSamples:
    """The samples of one split of PASTIS; `finetune/data/labelled_sample.py` says what an item holds.

    Raises ValueError when the task reads another label or other sources, and when files are missing.
    """

    def __init__(self, description: PastisDescription, split: str, task: Task, sensor: Sensor) -> None:
        if task.label != LABEL:
            raise ValueError(f"PASTIS has label {LABEL}, task {task.name} reads {task.label!r}: give --override.label {LABEL}")
        if SOURCE not in task.sources:
            raise ValueError(f"PASTIS has {SOURCE} images, and task {task.name} reads {', '.join(task.sources)}")
        self._folder, self._task, self._sensor = description.folder, task, sensor
        self._patches = splits_of(read_patches(description.folder), description)[split]
        check_files(self._folder, self._patches)

    def __len__(self) -> int:
        return len(self._patches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        patch = self._patches[index]
        images, target = files_of(self._folder, patch)
        pixels = _Pixels(images, self._sensor)
        if pixels.shape[0] != len(patch.dates):
            raise ValueError(f"{images} holds {pixels.shape[0]} images, and {METADATA} states {len(patch.dates)} dates")
        codes = _array(target)
        if codes.ndim != 3 or codes.shape[0] != 3 or codes.shape[1:] != pixels.shape[2:]:
            raise ValueError(f"{target} has shape {codes.shape}; expected (3, rows, columns) as its images have {pixels.shape}")
        return {
            "file_name": f"{patch.tile}_{patch.number}" if patch.tile else str(patch.number),
            "pixel": PIXEL_M,
            "data": {SOURCE: pixels},
            "dates": {SOURCE: patch.dates},
            "label": self._task.class_indices(codes[0].astype(np.int64), pastis_label(target)),
        }


class _Pixels:
    """The images of a patch in the order of the sensor's bands, read when they are sliced along rows and columns."""

    def __init__(self, path: AnyPath, sensor: Sensor) -> None:
        self._array = _array(path)
        if self._array.ndim != 4 or self._array.shape[1] != len(BANDS) or not np.issubdtype(self._array.dtype, np.integer):
            raise ValueError(f"{path} is {self._array.dtype}{self._array.shape}; expected whole numbers (T, {len(BANDS)}, H, W)")
        unknown = sorted(set(sensor.bands) - set(BANDS))
        if unknown:
            raise ValueError(f"PASTIS has no band {', '.join(unknown)} of source {sensor.name}; it has {', '.join(BANDS)}")
        self._order, self._sensor = [BANDS.index(band) for band in sensor.bands], sensor
        self.shape = (self._array.shape[0], len(self._order), *self._array.shape[2:])

    def __getitem__(self, part: tuple[Any, slice, slice]) -> np.ndarray:
        *_, rows, cols = part
        pixels = np.asarray(self._array[:, :, rows, cols])[:, self._order]
        return np.where(pixels > 0, pixels, self._sensor.nodata).astype(self._sensor.dtype)


def _array(path: AnyPath) -> np.ndarray:
    """The array of a .npy file, mapped into memory where it lies on this machine. Raises ValueError when it is none."""
    with local_copy(path) as file:
        try:
            mapped: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is no array of numpy, or not all of it: {error}") from error
        return mapped if file == path else np.array(mapped)


def pastis_fingerprint(description: PastisDescription) -> str:
    """sha256 of the folds, the metadata and all targets: whether labels have changed."""
    folder = description.folder
    digest = hashlib.sha256(f"{description.validation_folds} {description.test_folds}".encode())
    digest.update((folder / METADATA).read_bytes())
    for patch in read_patches(folder):
        digest.update(files_of(folder, patch)[1].read_bytes())
    return digest.hexdigest()
