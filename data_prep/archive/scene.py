"""A scene: a folder with the image series of one place, its land cover, its labels, and `scene.yaml` that says so.

    name: delta_2021
    region: delta                  # scenes of one region always stay in one split
    split: train                   # train, validation or test
    sources:
      sentinel2: {container: zarr_cube, path: sentinel2.zarr, offset: -1000}
      landsat: {container: geotiff_scenes, path: landsat}
      modis: {container: hdf5_cube, path: modis.h5}
    land_cover: {raster: landcover.tif, legend: glc_fcs30d}
    labels:
      crop_type: {path: crop_type.tif, classes: {1: paddy_rice, 2: winter_wheat}, nodata: 0}

Land cover comes from one of
    {raster: landcover.tif, legend: glc_fcs30d}      a classified map in any CRS; or a list of rasters, or a folder with tiles
    {raster: tiles/, first_year: 2000, legend: ...}  a map of several years with a band for each, the first one of 2000; samples
                                                     of other years are rejected, or take the nearest with `nearest_year: true`
    {quality: sentinel2, legend: scl}                the quality layer of the source, counted over the year
    {label: label, legend: my.yaml}                  a dataset (H, W) in the source's own HDF5 file

A scene may also stand for very many files with one series each: `{container: hdf5_sample, path: samples/}` is all HDF5 files in
a folder and its folders, `path: samples.txt` those that a text file lists, one a line.

Paths are relative to the folder; those of sources may be fsspec URLs. What a source's container needs beside `container` and
`path` stands in the reader's docstring (`data_prep/readers/`). `compose: {every_days: 16, method: median}` makes regular steps of
any source (`data_prep/readers/composite.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SCENE_FILE = "scene.yaml"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class LandCover:
    """Where land-cover counts come from: `rasters`, or `quality`, or `label`.

    Attributes:
        legend: built-in name, or path of a YAML.
        rasters: rasters of a classified map, and folders of them.
        first_year: year of the first band of each; None for a map without years.
        nearest_year: years beyond those of the map take the nearest one, instead of being rejected.
        quality: source whose quality layer is counted over the year.
        label: name of a dataset (H, W) in the source's HDF5 file.
    """

    legend: str
    rasters: tuple[Path, ...] = ()
    first_year: int | None = None
    nearest_year: bool = False
    quality: str | None = None
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class Label:
    """A label raster: its path, the name of each code, and the code that means "not labelled"."""

    path: Path
    classes: Mapping[int, str]
    nodata: int


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The content of one `scene.yaml`, checked, with absolute paths. `sources` maps names to the options of their readers."""

    name: str
    region: str
    split: str
    folder: Path
    sources: Mapping[str, Mapping[str, Any]]
    land_cover: LandCover | None
    labels: Mapping[str, Label]

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"{self.folder / SCENE_FILE}: split is {self.split!r}; expected one of {', '.join(SPLITS)}")
        if not self.sources:
            raise ValueError(f"{self.folder / SCENE_FILE}: no sources")
        if "." in self.name or "/" in self.name:
            raise ValueError(f"{self.folder / SCENE_FILE}: name {self.name!r} must hold no dot or slash; it begins sample keys")


def load_scene(folder: Path) -> Scene:
    """The scene in `folder`. Raises ValueError that names the file and the key that is missing or unknown."""
    path = folder / SCENE_FILE
    if not path.is_file():
        raise ValueError(f"no {SCENE_FILE} in {folder}: a scene is a folder with a {SCENE_FILE} (see README, 'Your own data')")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    known = {"name", "region", "split", "sources", "land_cover", "labels"}
    if not isinstance(values, dict) or not {"name", "sources"} <= set(values) <= known:
        found = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"{path}: needs the keys name and sources and knows {sorted(known)}; found {found}")
    try:
        cover = values.get("land_cover")
        land_cover = None
        if cover is not None:
            land_cover = _land_cover(cover, folder)
        labels = {
            name: Label(path=folder / entry["path"], classes=dict(entry["classes"]), nodata=entry.get("nodata", 0))
            for name, entry in (values.get("labels") or {}).items()
        }
        sources = {name: dict(options) for name, options in values["sources"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as a scene: {type(error).__name__} {error}") from error
    return Scene(
        name=str(values["name"]),
        region=str(values.get("region", values["name"])),
        split=values.get("split", "train"),
        folder=folder,
        sources=sources,
        land_cover=land_cover,
        labels=labels,
    )


def _land_cover(values: Mapping[str, Any], folder: Path) -> LandCover:
    """The land cover that `values` describe. Raises ValueError and KeyError for what is wrong with them."""
    known = {"legend", "raster", "first_year", "nearest_year", "quality", "label"}
    if set(values) - known:
        raise ValueError(f"land_cover knows {sorted(known)}; found {sorted(set(values) - known)}")
    if len({"raster", "quality", "label"} & set(values)) != 1:
        raise ValueError("land_cover needs either `raster` (a path), `quality` (a source) or `label` (a dataset)")
    options = {name: value for name, value in values.items() if name not in ("legend", "raster")}
    if "raster" not in values and {"first_year", "nearest_year"} & set(options):
        raise ValueError("first_year and nearest_year of land_cover belong to a raster")
    rasters = values.get("raster", ())
    paths = tuple(folder / path for path in ([rasters] if isinstance(rasters, str) else rasters))
    return LandCover(legend=_legend_reference(values["legend"], folder), rasters=paths, **options)


def scene_file_sha256(scene: Scene) -> str:
    """What tells a writer that a scene was described anew since it was planned."""
    return hashlib.sha256((scene.folder / SCENE_FILE).read_bytes()).hexdigest()


def _legend_reference(legend: str, folder: Path) -> str:
    """A legend given as a YAML beside the scene is relative to the scene's folder; a built-in one is a bare name."""
    return str(folder / legend) if legend.endswith(".yaml") else legend


def find_scenes(folder: Path) -> list[Scene]:
    """All scenes in `folder` (itself or its children), by name. Raises ValueError when there is none or a name repeats."""
    if not folder.is_dir():
        raise ValueError(f"input folder {folder} does not exist")
    paths = [folder] if (folder / SCENE_FILE).is_file() else sorted(p.parent for p in folder.glob(f"*/{SCENE_FILE}"))
    if not paths:
        raise ValueError(f"no scenes in {folder}: expected {folder}/SCENE/{SCENE_FILE} (simulate.py writes such folders)")
    scenes = sorted((load_scene(path) for path in paths), key=lambda scene: scene.name)
    names = [scene.name for scene in scenes]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"scene names must be unique in {folder}; repeated: {repeated}")
    splits: dict[str, set[str]] = {}
    for scene in scenes:
        splits.setdefault(scene.region, set()).add(scene.split)
    torn = sorted(region for region, found in splits.items() if len(found) > 1)
    if torn:
        raise ValueError(f"regions {torn} lie in more than one split; neighbours in training and test make scores worthless")
    return scenes
