"""Opens a planned series, and checks that it is as it was when the corpus was planned."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Self

import numpy as np

from common.errors import is_data_error
from common.storage import AnyPath, version_of
from data_prep.archive.scene import SCENE_FILE, Scene, load_scene, scene_file_sha256
from data_prep.archive.sensor import Sensor
from data_prep.plan.plan import PlannedSeries
from data_prep.readers.base import Series, SeriesReader
from data_prep.readers.opening import open_file_or_scene, open_reader


def load_planned_scene(archive: AnyPath, planned: PlannedSeries) -> Scene:
    """Read the scene of a planned series. Raises ValueError when it is missing or its scene.yaml changed since the plan."""
    path = archive / planned.folder / SCENE_FILE
    version = version_of(path)
    if version is None:
        raise ValueError(f"scene {path.parent} is gone since the corpus was planned; put it back, or use a new output folder")
    scene, sha256 = _scene_and_sha256(path.parent, version)
    if sha256 != planned.scene_file_sha256:
        raise ValueError(f"{path} changed since the corpus was planned; use a new output folder")
    return scene


@lru_cache(maxsize=8)
def _scene_and_sha256(folder: AnyPath, _version: Hashable) -> tuple[Scene, str]:
    """Return a scene and the sha256 of its scene.yaml; cached, because a collection of files needs it for each file."""
    scene = load_scene(folder)
    return scene, scene_file_sha256(folder)


def open_planned_reader(scene: Scene, planned: PlannedSeries, sensors: Mapping[str, Sensor]) -> SeriesReader:
    """Open the reader of a planned series. Raises ValueError when its grid or dates changed since the plan.

    A file of a collection that is damaged, changed or missing does not stop the others: its reader opens, and its `read` raises.
    """
    if planned.file is None:
        reader = open_reader(scene, planned.source, sensors)
    else:
        try:
            reader = open_file_or_scene(scene, planned.source, planned.file, sensors)
        except Exception as error:
            if not (is_data_error(error) or isinstance(error, FileNotFoundError)):
                raise
            return _UnreadableFile(planned, sensors[planned.source], error)
    if planned.matches(reader):
        return reader
    reader.__exit__()
    if planned.file is None:
        what = f"{planned.source} of scene {scene.folder}"
        raise ValueError(f"{what} changed since the corpus was planned; use a new output folder")
    changed = ValueError(f"{planned.file}: its grid or dates changed since the corpus was planned")
    return _UnreadableFile(planned, sensors[planned.source], changed)


class _UnreadableFile:
    """The reader of a file that cannot be opened: `read` raises `error`."""

    def __init__(self, planned: PlannedSeries, sensor: Sensor, error: Exception) -> None:
        self.sensor, self.grid, self.chunk = sensor, planned.grid, planned.chunk
        self.dates = np.array(planned.dates, dtype=np.int64).astype("datetime64[D]")
        self._error = error

    def read(self, row: int, col: int, height: int, width: int, times: slice | np.ndarray) -> Series:  # noqa: ARG002
        raise ValueError(str(self._error)) from self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass
