"""Readers: one file a container. Each gives the grid and dates of a series and reads windows of it.

A reader is opened where it is used (fsspec, h5py and GDAL handles do not survive a fork) and knows nothing of shards.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.storage import is_url
from data_prep.archive.scene import SCENE_FILE, Scene
from data_prep.archive.sensor import Sensor
from data_prep.readers.base import SeriesReader
from data_prep.readers.composite import Composite
from data_prep.readers.geotiff_scenes import GeoTiffScenes
from data_prep.readers.hdf5_cube import Hdf5Cube
from data_prep.readers.hdf5_sample import Hdf5Sample
from data_prep.readers.modis_hdf4 import ModisHdf4
from data_prep.readers.sentinel2_safe import Sentinel2Safe
from data_prep.readers.zarr_cube import ZarrCube

CONTAINERS: dict[str, Callable[..., Any]] = {
    "zarr_cube": ZarrCube,
    "geotiff_scenes": GeoTiffScenes,
    "sentinel2_safe": Sentinel2Safe,
    "modis_hdf4": ModisHdf4,
    "hdf5_cube": Hdf5Cube,
    "hdf5_sample": Hdf5Sample,
}


def open_reader(scene: Scene, source: str, sensors: Mapping[str, Sensor]) -> SeriesReader:
    """The reader of one source of a scene, with the options that scene.yaml gives it; close it or use it in a `with`.

    `container` names one of `CONTAINERS`, whose docstrings explain their options. `compose` goes with all of them: by default
    the dates stay as they are, `{every_days: 16, method: median}` makes one image of each 16 days (see Composite).

    Raises ValueError for an unknown source, container or option, and for what the reader finds wrong with the files.
    """
    origin = f"{scene.folder / SCENE_FILE}, source {source}"
    if source not in scene.sources:
        raise ValueError(f"{origin}: the scene has only the sources {sorted(scene.sources)}")
    if source not in sensors:
        raise ValueError(
            f"{origin}: unknown source; known are {sorted(sensors)}, and any YAML in a folder sources/ beside the scenes"
        )
    options = dict(scene.sources[source])
    sensor = sensors[source]
    container = options.pop("container", None)
    if not isinstance(container, str) or container not in CONTAINERS:
        raise ValueError(f"{origin}: container is {container!r}; expected one of {', '.join(CONTAINERS)}")
    reader = CONTAINERS[container]
    compose = options.pop("compose", None)
    paths = _paths(options, scene.folder, origin, at_most_one=reader is not Hdf5Cube)
    place: Any = paths if reader is Hdf5Cube else paths[0]
    opened: SeriesReader = reader(place, sensor, **_checked(options, reader, origin))
    if compose is None:
        return opened
    try:
        return Composite(opened, compose, origin)
    except ValueError:
        opened.__exit__()
        raise


def _paths(options: dict[str, Any], folder: Path, origin: str, at_most_one: bool = False) -> list[str]:
    """`path` or `paths`, taken out of `options`; relative ones start at the scene's folder, URLs stay as they are."""
    one, several = options.pop("path", None), options.pop("paths", None)
    found = [one] if isinstance(one, str) else several
    if not isinstance(found, list) or not found or (one is not None and several is not None):
        raise ValueError(f"{origin}: needs `path`" + ("" if at_most_one else " or a list `paths`"))
    if at_most_one and several is not None:
        raise ValueError(f"{origin}: takes one `path`, not `paths`")
    return [path if is_url(path) else str(folder / path) for path in map(str, found)]


def _checked(options: dict[str, Any], reader: Callable[..., SeriesReader], origin: str) -> dict[str, Any]:
    """`options` when the reader knows all of them. Raises ValueError that names those it knows."""
    parameters = inspect.signature(reader).parameters.values()
    known = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(f"{origin}: unknown options {unknown}; valid ones: container, path, compose, {', '.join(sorted(known))}")
    return options
