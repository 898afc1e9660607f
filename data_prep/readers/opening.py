"""Opens the reader of a source: one reader per container.

A reader gives the grid and the dates of a series and reads windows of it. Open it in the process that uses it: handles of fsspec,
h5py and GDAL do not survive a fork.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, get_type_hints

from common.storage import AnyPath, joined
from common.value_types import check_value
from data_prep.archive.scene import SCENE_FILE, Scene
from data_prep.archive.sensor import Sensor
from data_prep.readers.base import SeriesReader
from data_prep.readers.composite import Composite
from data_prep.readers.crop import Crop

CONTAINERS = (
    "zarr_cube",
    "geotiff_scenes",
    "sentinel2_safe",
    "sentinel2_eopf",
    "stac",
    "modis_hdf4",
    "hdf5_cube",
    "hdf5_sample",
)
TAKES_SEVERAL_PATHS = ("sentinel2_eopf", "hdf5_cube")


def reader_class(container: str) -> Callable[..., Any]:
    """The class that reads one of CONTAINERS. It is imported on first use, since each class loads a library of its own."""
    match container:
        case "zarr_cube":
            from data_prep.readers.zarr_cube import ZarrCube

            return ZarrCube
        case "geotiff_scenes":
            from data_prep.readers.geotiff_scenes import GeoTiffScenes

            return GeoTiffScenes
        case "sentinel2_safe":
            from data_prep.readers.sentinel2_safe import Sentinel2Safe

            return Sentinel2Safe
        case "sentinel2_eopf":
            from data_prep.readers.sentinel2_eopf import Sentinel2Eopf

            return Sentinel2Eopf
        case "stac":
            from data_prep.readers.stac_scenes import StacScenes

            return StacScenes
        case "modis_hdf4":
            from data_prep.readers.modis_hdf4 import ModisHdf4

            return ModisHdf4
        case "hdf5_cube":
            from data_prep.readers.hdf5_cube import Hdf5Cube

            return Hdf5Cube
        case _:
            from data_prep.readers.hdf5_sample import Hdf5Sample

            assert container == "hdf5_sample", container
            return Hdf5Sample


def open_reader(scene: Scene, source: str, sensors: Mapping[str, Sensor]) -> SeriesReader:
    """The reader of one source of a scene, with the options of scene.yaml. Close it, or use it in a `with` statement.

    The option `container` names one of CONTAINERS; the docstring of its class explains the other options. Every container takes
    the option `compose`: without it the dates stay as they are, and `{every_days: 16, method: median}` makes one image of each
    16 days (see Composite). And every container takes the option `bbox`, which cuts out a part (see Crop).

    Raises ValueError for an unknown source, container or option, and when the reader cannot read the files.
    """
    origin = f"{scene.folder / SCENE_FILE}, source {source}"
    if source not in scene.sources:
        raise ValueError(f"{origin}: the scene has only the sources {sorted(scene.sources)}")
    if source not in sensors:
        raise ValueError(
            f"{origin}: unknown source; known are {sorted(sensors)}, and any YAML in a folder sources/ beside the scenes"
        )
    options = dict(scene.sources[source])
    container = options.pop("container", None)
    if not isinstance(container, str) or container not in CONTAINERS:
        raise ValueError(f"{origin}: container is {container!r}; expected one of {', '.join(CONTAINERS)}")
    compose, bbox = options.pop("compose", None), options.pop("bbox", None)
    several = container in TAKES_SEVERAL_PATHS
    paths = _pop_paths(options, scene.folder, origin, several)
    reader = reader_class(container)
    _check_options(options, reader, origin)
    opened: SeriesReader = reader(paths if several else paths[0], sensors[source], **options)
    try:
        if bbox is not None:
            opened = Crop(opened, bbox, origin)
        return opened if compose is None else Composite(opened, compose, origin)
    except ValueError:
        opened.__exit__()
        raise


def _pop_paths(options: dict[str, Any], folder: AnyPath, origin: str, several_allowed: bool) -> list[str]:
    """Remove `path` or `paths` from `options`; relative paths start at the folder of the scene, URLs stay as they are."""
    one, several = options.pop("path", None), options.pop("paths", None)
    found = [one] if isinstance(one, str) else several
    if not isinstance(found, list) or not found or (one is not None and several is not None):
        raise ValueError(f"{origin}: needs `path`" + (" or a list `paths`" if several_allowed else ""))
    if several is not None and not several_allowed:
        raise ValueError(f"{origin}: takes one `path`, not `paths`")
    return [str(joined(folder, path)) for path in map(str, found)]


def _check_options(options: Mapping[str, Any], reader: Callable[..., SeriesReader], origin: str) -> None:
    """Raises ValueError that names the valid options unless the reader knows all of `options`, and their values fit its types."""
    parameters = inspect.signature(reader).parameters.values()
    known = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(
            f"{origin}: unknown options {unknown}; valid ones: container, path, bbox, compose, {', '.join(sorted(known))}"
        )
    types = get_type_hints(reader.__init__)
    for name, value in options.items():
        check_value(value, types[name], f"{origin}: option {name}")


def open_file_or_scene(scene: Scene, source: str, file: str | None, sensors: Mapping[str, Sensor]) -> SeriesReader:
    """Open the reader of a source of a scene, or of `file` where the scene is a collection of files."""
    if file is not None:
        scene = replace(scene, sources={**scene.sources, source: {**scene.sources[source], "path": file}})
    return open_reader(scene, source, sensors)
