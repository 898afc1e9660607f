"""A scene: a folder with the image series of one location, its land cover and labels, and `scene.yaml`, which describes them.

    name: delta_2021
    region: delta                  # scenes of one region always stay in one split
    split: train                   # train, validation or test
    sources:
      sentinel2: {container: zarr_cube, path: sentinel2.zarr, offset: -1000}
      landsat: {container: geotiff_scenes, path: landsat}
      modis: {container: hdf5_cube, path: modis.h5}
    land_cover: {raster: landcover.tif, legend: glc_fcs30d}
    labels:
      crop_type: {path: crop_type.tif, classes: {1: paddy_rice, 2: winter_wheat}, nodata: 0, year: 2021}

A label may also be the polygons of a vector file, or points (`data_prep/archive/label.py`). In a label, `nodata` is the code of
pixels that are not labelled. Without it that is the no-data number that the raster itself states, and 0 unless 0 is one of the
`classes`. `year` is the year of the label: that in which its season ends. Without it fine-tuning uses the year with most images,
and says so where another has many.

Labels of all scenes may stand in one file `labels.yaml` in the folder of scenes: the same entries by name, with paths that begin
there. An entry of the same name in scene.yaml replaces it.

`simulated: true` says that the images are not real: pictures and pages of the scene then say so, too. Scenes of simulate.py say
it by their `simulation.json`.

`land_cover` is one of
    {raster: landcover.tif, legend: glc_fcs30d}      a classified map in any CRS: a raster, a list, or a folder of tiles
    {raster: tiles/, band_years: 2000-2022, legend: ...}  a map with a band per year; samples use the band of their year. Samples
                                                     of other years are rejected, or use the nearest with `nearest_year: true`
    {quality: sentinel2, legend: scl}                the quality layer of a source, counted over the year
    {label: label, legend: my.yaml}                  a dataset (H, W) in the HDF5 file of the source

A scene may also be a collection of many files with one series each: with `{container: hdf5_sample, path: samples/}` it has all
HDF5 files in a folder and its subfolders, and with `path: samples.txt` those that a text file lists, one per line.

The years of bands are read from the descriptions of bands (`2000`, `lc_2000`) and from names with the first and last year that
fit the number of bands (`GLC_FCS30D_20002022_E110N30_Annual_V1.1.tif`). Otherwise `band_years` must state them: a list
`[1985, 1990, 1995]` or `2000-2022` for all rasters, or one of these for each number of bands or pattern of names,
`{3: [1985, 1990, 1995], 23: 2000-2022}`. `first_year: 2000` stands for one band per year from 2000 on.

Paths are relative to the folder of the scene, which may lie at a URL. Paths of sources, rasters and labels may be fsspec URLs,
with `storage_options` such as `{anon: true}` beside them. The docstring of each reader (`data_prep/readers/`) explains the
options of its container beside `container` and `path`. With
`compose: {every_days: 16, method: median}` any source becomes a series of regular steps (`data_prep/readers/composite.py`).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from common.errors import RefusedError, is_data_error, portable_text
from common.storage import AnyPath, joined, subfolders_with
from common.value_types import check_value
from common.yaml_files import read_yaml
from data_prep.archive.label import Label, label_from_values

SCENE_FILE = "scene.yaml"
SIMULATION_RECORD = "simulation.json"  # in the folder of a scene: the settings that simulate.py made it with
LABELS_FILE = "labels.yaml"  # in the folder of scenes: labels that all of them have
SPLITS = ("train", "validation", "test")
_STORAGE_OPTIONS: Any = Mapping[str, Any] | None
# Types of the keys of scene.yaml. Names may look like numbers or dates.
_NAME: Any = str | int | float | date
_KEYS: dict[str, Any] = {
    "name": _NAME,
    "region": _NAME,
    "split": str,
    "sources": Mapping[str, Mapping[str, Any]],
    "land_cover": Mapping[str, Any] | None,
    "labels": Mapping[str, Mapping[str, Any]] | None,
    "simulated": bool,
}
_LAND_COVER_KEYS: dict[str, Any] = {
    "legend": str,
    "raster": str | Sequence[str],
    "first_year": int,
    "band_years": Sequence[int] | str | Mapping[int | str, Sequence[int] | str],
    "nearest_year": bool,
    "quality": str,
    "label": str,
    "storage_options": _STORAGE_OPTIONS,
}


@dataclass(frozen=True, kw_only=True)
class LandCover:
    """Where the land cover of a scene comes from: `rasters`, `quality` or `label`.

    Attributes:
        legend: name of a built-in legend, or path of a YAML file.
        rasters: rasters of a classified map, and folders of rasters.
        first_year: year of the first band of each raster, if its bands are of consecutive years; None where it is not stated.
        band_years: the years of the bands of rasters, by number of bands or by pattern of file names; empty where not stated.
        nearest_year: True when samples of years that the map lacks use the nearest year, instead of being rejected.
        quality: source whose quality layer is counted over the year.
        label: name of a dataset (H, W) in the HDF5 file of the source.
    """

    legend: str
    rasters: tuple[AnyPath, ...] = ()
    first_year: int | None = None
    band_years: tuple[tuple[int | str, tuple[int, ...]], ...] = ()
    nearest_year: bool = False
    quality: str | None = None
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The content of a `scene.yaml`, checked.

    Attributes:
        name: unique name, the prefix of sample keys.
        region: scenes of one region always belong to one split.
        split: train, validation or test.
        split_stated: whether scene.yaml states the split; else it is train.
        folder: folder of the scene.
        sources: options of the reader by source name; paths as in the file.
        land_cover: land cover with paths that start at the current folder; None without land cover.
        labels: labels by name, those of labels.yaml among them.
        stated_simulated: whether scene.yaml says that the images are simulated; see `is_simulated`.
    """

    name: str
    region: str
    split: str
    folder: AnyPath
    sources: Mapping[str, Mapping[str, Any]]
    land_cover: LandCover | None
    labels: Mapping[str, Label]
    stated_simulated: bool = False
    split_stated: bool = True

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"{self.folder / SCENE_FILE}: split is {self.split!r}; expected one of {', '.join(SPLITS)}")
        if not self.sources:
            raise ValueError(f"{self.folder / SCENE_FILE}: has no sources")
        if "." in self.name or "/" in self.name:
            raise ValueError(f"{self.folder / SCENE_FILE}: name {self.name!r} must hold no dot or slash; it begins sample keys")


def load_scene(folder: AnyPath, shared: Mapping[str, Label] | None = None) -> Scene:
    """Read the scene in `folder`. Raises ValueError that names the file and the missing, unknown or wrong key.

    `shared`: labels of all scenes; None reads those of the labels.yaml beside the scene.
    """
    path = folder / SCENE_FILE
    if not path.is_file():
        raise ValueError(f"no {SCENE_FILE} in {folder}: a scene is a folder with a {SCENE_FILE} (see README, 'Your own data')")
    values = read_yaml(path)
    if not isinstance(values, dict) or not {"name", "sources"} <= set(values) <= set(_KEYS):
        found = sorted(map(str, values)) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"{path}: needs the keys name and sources and knows {sorted(_KEYS)}; found {found}")
    origin = f"{path}:"
    _check_types(values, _KEYS, origin)
    for source, options in values["sources"].items():
        check_value(options.get("storage_options"), _STORAGE_OPTIONS, f"{origin} storage_options of source {source}")
    cover = values.get("land_cover")
    shared = shared_labels(folder) if shared is None else shared
    own = values.get("labels") or {}
    return Scene(
        name=str(values["name"]),
        region=str(values.get("region", values["name"])),
        split=values.get("split", "train"),
        split_stated="split" in values,
        folder=folder,
        sources={name: dict(options) for name, options in values["sources"].items()},
        land_cover=None if cover is None else _land_cover(cover, folder, f"{origin} land_cover"),
        labels={**shared, **{name: label_from_values(entry, folder, f"{origin} label {name}") for name, entry in own.items()}},
        stated_simulated=values.get("simulated", False),
    )


def is_simulated(scene: Scene) -> bool | None:
    """Whether the images of a scene are simulated: its scene.yaml says so, or the record of simulate.py lies beside it.

    None where its storage does not tell a missing file from a secret one.
    """
    try:
        return scene.stated_simulated or (scene.folder / SIMULATION_RECORD).is_file()
    except RefusedError:
        return None


def labels_file(folder: AnyPath) -> AnyPath | None:
    """The labels.yaml beside the scene in `folder`; None where there is none."""
    path = _folder_above(folder) / LABELS_FILE
    try:
        return path if path.is_file() else None
    except RefusedError:  # a storage that does not tell whether a file is missing or secret
        return None


def shared_labels(folder: AnyPath) -> dict[str, Label]:
    """The labels of the labels.yaml beside the scene in `folder`, which all scenes there have; none without such a file.

    Raises ValueError as `load_scene` does.
    """
    path = labels_file(folder)
    if path is None:
        return {}
    values = read_yaml(path)
    if values is not None and not (isinstance(values, dict) and all(isinstance(entry, dict) for entry in values.values())):
        raise ValueError(f"{path}: expected the entries of labels by name, as under `labels` in {SCENE_FILE}")
    return {str(name): label_from_values(entry, path.parent, f"{path}: label {name}") for name, entry in (values or {}).items()}


def _check_types(values: Mapping[str, Any], types: Mapping[str, Any], origin: str) -> None:
    """Raise ValueError that names the first key whose value is not of its type."""
    for key, value in values.items():
        if key in types:
            check_value(value, types[key], f"{origin} {key}")


def _land_cover(values: Mapping[str, Any], folder: AnyPath, origin: str) -> LandCover:
    """Build a LandCover from the values in scene.yaml. Raises ValueError, which `origin` begins, for wrong values."""
    if set(values) - set(_LAND_COVER_KEYS):
        raise ValueError(f"{origin} knows {sorted(_LAND_COVER_KEYS)}; found {sorted(set(values) - set(_LAND_COVER_KEYS))}")
    _check_types(values, _LAND_COVER_KEYS, origin)
    if "legend" not in values or len({"raster", "quality", "label"} & set(values)) != 1:
        raise ValueError(
            f"{origin} needs `legend`, and either `raster` (a path), `quality` (a source) or `label` (a dataset); it has "
            f"{sorted(values)}"
        )
    options = {name: value for name, value in values.items() if name not in ("legend", "raster", "storage_options")}
    if "raster" not in values and {"first_year", "band_years", "nearest_year", "storage_options"} & set(values):
        raise ValueError(f"{origin}: first_year, band_years, nearest_year and storage_options belong to a raster")
    if {"first_year", "band_years"} <= set(values):
        raise ValueError(f"{origin} states first_year and band_years; give one of them")
    if "band_years" in values:
        options["band_years"] = stated_band_years(values["band_years"], f"{origin} band_years")
    rasters = values.get("raster", ())
    storage_options = values.get("storage_options")
    paths = tuple(joined(folder, path, storage_options) for path in ([rasters] if isinstance(rasters, str) else rasters))
    return LandCover(legend=_legend_reference(values["legend"], folder), rasters=paths, **options)


def stated_band_years(
    stated: Sequence[int] | str | Mapping[Any, Sequence[int] | str], origin: str
) -> tuple[tuple[int | str, tuple[int, ...]], ...]:
    """The years of bands by number of bands or pattern of file names, as `LandCover` holds them.

    `stated`: the option `band_years`; without a mapping it holds for all rasters. Raises ValueError, which `origin` begins, for
    years that repeat, and for a text other than `2000-2022`.
    """
    by_key = stated if isinstance(stated, Mapping) else {"*": stated}
    found: list[tuple[int | str, tuple[int, ...]]] = []
    for key, value in by_key.items():
        if isinstance(value, str):
            span = re.fullmatch(r"\s*(\d{4})\s*-\s*(\d{4})\s*", value)
            years = list(range(int(span[1]), int(span[2]) + 1)) if span else []
        else:
            years = list(value)
        if not years or len(set(years)) != len(years):
            raise ValueError(
                f"{origin} of {key} is {value!r}; expected a list of distinct years, or the first and last: 2000-2022"
            )
        found.append((int(key) if str(key).isdecimal() else str(key), tuple(years)))
    return tuple(found)


def scene_file_sha256(folder: AnyPath) -> str:
    """sha256 of the bytes of the scene.yaml in `folder`: shows whether it has changed since it was planned."""
    return hashlib.sha256((folder / SCENE_FILE).read_bytes()).hexdigest()


def _legend_reference(legend: str, folder: AnyPath) -> str:
    """The name of a built-in legend, or the path of a YAML file, which is relative to the folder of the scene."""
    return str(joined(folder, legend)) if legend.endswith(".yaml") else legend


@dataclass(frozen=True, kw_only=True)
class UnreadableScene:
    """A folder whose scene.yaml does not describe a scene, and why."""

    folder: AnyPath
    reason: str


@dataclass(frozen=True, kw_only=True)
class FoundScenes:
    """The scenes of an archive.

    Attributes:
        scenes: sorted by name.
        unreadable: folders whose scene.yaml does not describe a scene, sorted by path.
    """

    scenes: tuple[Scene, ...]
    unreadable: tuple[UnreadableScene, ...]


def home_of_scenes(folder: AnyPath) -> AnyPath:
    """The folder of scenes, beside which their sensors lie: `folder`, or the folder above it where `folder` is one scene."""
    return _folder_above(folder) if (folder / SCENE_FILE).is_file() else folder


def _folder_above(folder: AnyPath) -> AnyPath:
    """The parent as the path is written, also of "." and "..": of a linked scene the folder that holds the link."""
    return Path(os.path.abspath(folder)).parent if isinstance(folder, Path) and folder.name in ("", "..") else folder.parent


def find_scenes(folder: AnyPath) -> list[Scene]:
    """Find all scenes in `folder` as `scan_archive` does, sorted by name.

    Raises ValueError as `scan_archive` does, and for a scene.yaml that does not describe a scene. So use it for few scenes, which
    somebody chose: fine-tuning without one of them would give scores of other data.
    """
    found = scan_archive(folder)
    for broken in found.unreadable:
        raise ValueError(f"{broken.folder}: {broken.reason}")
    return list(found.scenes)


def scan_archive(folder: AnyPath) -> FoundScenes:
    """Find all scenes in `folder`: the folder itself, or its subfolders with a scene.yaml.

    A scene.yaml that does not describe a scene stops no other. Raises ValueError for what concerns all: there is no scene, a name
    repeats, or the scenes of a region have different splits.
    """
    if not folder.is_dir():
        raise ValueError(f"input folder {folder} does not exist")
    paths = [folder] if (folder / SCENE_FILE).is_file() else subfolders_with(folder, SCENE_FILE)
    if not paths:
        raise ValueError(f"no scenes in {folder}: expected {folder}/SCENE/{SCENE_FILE} (simulate.py writes such folders)")
    scenes, unreadable = [], []
    shared = shared_labels(paths[0])
    for path in paths:
        try:
            scenes.append(load_scene(path, shared))
        except ValueError as error:
            if not is_data_error(error):
                raise
            unreadable.append(UnreadableScene(folder=path, reason=portable_text(error, path)))
    scenes.sort(key=lambda scene: scene.name)
    counts = Counter(scene.name for scene in scenes)
    repeated = sorted(name for name, count in counts.items() if count > 1)
    if repeated:
        raise ValueError(f"scene names must be unique in {folder}; repeated: {repeated}")
    splits: dict[str, set[str]] = {}
    for scene in scenes:
        splits.setdefault(scene.region, set()).add(scene.split)
    torn = sorted(region for region, found in splits.items() if len(found) > 1)
    if torn:
        raise ValueError(f"regions {torn} lie in more than one split; neighbours in training and test would inflate the scores")
    return FoundScenes(scenes=tuple(scenes), unreadable=tuple(unreadable))
