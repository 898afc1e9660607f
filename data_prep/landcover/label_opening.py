"""Opens a label of a scene, whatever it is made of, and reads it on the grid of a source."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from affine import Affine

from common.grid import Grid, corner_distance_px, grid_in_crs, grid_summary
from common.storage import RemotePath
from data_prep.archive.label import Label, Points
from data_prep.archive.scene import SCENE_FILE, Scene
from data_prep.archive.sensor import Sensor
from data_prep.landcover.label_base import LabelCounts, LabelReader
from data_prep.landcover.label_parcels import ParcelLabel
from data_prep.landcover.label_points import PointLabel
from data_prep.landcover.label_raster import ResampledRaster, StoredRaster
from data_prep.readers.opening import open_reader

TOLERANCE = 0.02  # largest distance, in pixels, between edges of label and image that count as equal


def open_label(
    scene: Scene,
    name: str,
    sources: Sequence[str],
    grid_of: Callable[[str], Grid],
    season_begin: tuple[int, int] | None = None,
) -> LabelReader:
    """Open a label of a scene. Close it, or use it in a `with` statement.

    Args:
        scene, name: scene and name of its label.
        sources: sources that are used with the label, of which that with the finest pixels gives features their grid where
            scene.yaml names none (`grid`).
        grid_of: the grid of a source of the scene.
        season_begin: month and day of a season that begins in the year before; see `load_features`.

    Raises ValueError when the scene has no such label, when it cannot be read, and when scene.yaml names a source that the scene
    lacks.
    """
    origin = f"{scene.folder / SCENE_FILE}, label {name}"
    if name not in scene.labels:
        raise ValueError(f"{origin}: scene {scene.name} has no label {name!r}; it has {', '.join(scene.labels) or 'none'}")
    label = scene.labels[name]
    if label.is_stored_raster:
        return StoredRaster(label, f"{origin}: label raster")
    if label.grid is not None and label.grid not in scene.sources:
        raise ValueError(f"{origin}: grid is {label.grid!r}; the scene has the sources {', '.join(scene.sources)}")
    if label.grid is not None:
        grid = grid_of(label.grid)
    else:
        grid = min((grid_of(source) for source in sources), key=lambda one: one.pixel_side)
    if label.features is None:
        return ResampledRaster(label, grid, f"{origin}: label raster")
    kind = PointLabel if isinstance(label.features, Points) else ParcelLabel
    return kind(label, grid, origin, season_begin, own_file=is_file_of_scene(label, scene))


def is_file_of_scene(label: Label, scene: Scene) -> bool:
    """Whether the file of a label lies in the folder of the scene, so that no other scene is expected to use it."""
    path, folder = label.path, scene.folder
    if isinstance(path, RemotePath):
        return path.is_relative_to(folder)
    return isinstance(folder, Path) and path.is_relative_to(folder)


def grid_of_source(scene: Scene, source: str, sensors: Mapping[str, Sensor]) -> Grid:
    """The grid of a source of a scene. Raises ValueError when it cannot be read."""
    with open_reader(scene, source, sensors) as reader:
        return reader.grid


class LabelOnSource:
    """A label of a scene, open for reading on the grid of a source.

    A raster is never resampled in silence: its pixels must coincide with those of the source, but its extent may differ. Features
    get the grid of the source.

    Args:
        scene, name: scene and name of its label.
        source, grid: source and its grid.
        sensors: known sensors.

    Raises ValueError as `open_label` does, when the pixels do not coincide, and when a raster holds no whole numbers.
    """

    def __init__(self, scene: Scene, name: str, source: str, grid: Grid, sensors: Mapping[str, Sensor]) -> None:
        origin = f"{scene.folder / SCENE_FILE}, label {name}"
        self._scene = scene

        def grid_of(other: str) -> Grid:
            return grid if other == source else grid_of_source(scene, other, sensors)

        self._label = open_label(scene, name, (source,), grid_of)
        try:
            label, dtype = self._label.label, self._label.dtype
            if not np.issubdtype(dtype, np.integer):
                raise ValueError(f"{origin}: {label.path} holds {dtype}; expected whole numbers, the codes of classes")
            limits = np.iinfo(dtype)
            if not limits.min <= label.nodata <= limits.max:
                raise ValueError(
                    f"{origin}: no data is {label.nodata}, a number that {label.path} of {dtype} does not hold; state one from "
                    f"{limits.min} to {limits.max}"
                )
            self._row, self._col = _first_pixel(self._label.grid, grid, origin)
            height, width = self._label.grid.shape
            is_apart = not (-grid.height < self._row < height and -grid.width < self._col < width)
            if is_apart and is_file_of_scene(label, scene):  # a file of many scenes may end before this one
                raise ValueError(
                    f"{origin}: {label.path} ({grid_summary(self._label.grid)}) shares no pixel with the images "
                    f"({grid_summary(grid)}); give the file of this scene"
                )
        except ValueError:
            self.__exit__()
            raise

    def read(self, row: int, col: int, size: int, year: int) -> np.ndarray:
        """Codes (size, size) of the window of the source that starts at (row, col); no data outside the label.

        `year`: that of the images. A label that is of another year has no data there.
        """
        top, left = row + self._row, col + self._col
        height, width = self._label.grid.shape
        rows, cols = (max(top, 0), min(top + size, height)), (max(left, 0), min(left + size, width))
        codes = np.full((size, size), self._label.label.nodata, dtype=self._label.dtype)
        if rows[1] > rows[0] and cols[1] > cols[0]:
            inside = codes[rows[0] - top : rows[1] - top, cols[0] - left : cols[1] - left]
            inside[:] = self._label.read(rows[0], cols[0], inside.shape[0], inside.shape[1], year)
        return codes

    def notes(self, years: Collection[int]) -> list[str]:
        """What people should know of the label beside images of some years; see `label_notes`.

        Pixels of features are those of all years together.
        """
        label = self._label.label
        notes = label_notes(label, self._label.counts(), self._scene)
        if len(years) > 1 and label.year is None and not (label.features is not None and label.features.has_years):
            notes.append(
                f"scene {self._scene.name}: {label.path.name} states no year, and its classes are written with the images of "
                f"{', '.join(map(str, sorted(years)))}; where they are of one of these, state it in {SCENE_FILE} (`year`)"
            )
        return notes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._label.__exit__()


def _first_pixel(label: Grid, grid: Grid, origin: str) -> tuple[int, int]:
    """Row and column of the label at the first pixel of `grid`. Raises ValueError unless the pixels of both coincide."""
    placed = grid_in_crs(label, grid.crs)
    if placed is not None:
        first = ~placed.transform @ grid.transform
        row, col = round(first.f), round(first.c)
        there = placed.transform @ Affine.translation(col, row)
        if corner_distance_px(Grid(crs=grid.crs, transform=there, height=grid.height, width=grid.width), grid) <= TOLERANCE:
            return row, col
    raise ValueError(
        f"{origin}: its pixels ({grid_summary(label)}) are not those of the images ({grid_summary(grid)}), and labels are not "
        "resampled; name a label on the grid of the source, or say how to resample it (`grid` and `resample`)"
    )


def label_notes(label: Label, counts: LabelCounts, scene: Scene) -> list[str]:
    """What people should know of the features of a label that are not as they might expect, one line each."""
    what = f"scene {scene.name}: {label.path.name}"
    inside = sum(counts.objects.values())
    notes = []
    if counts.features and not inside:
        notes.append(f"{what}: none of its {counts.features} features labels a pixel of the scene in the year")
    elif counts.outside and is_file_of_scene(label, scene):
        notes.append(f"{what}: {counts.outside} of {counts.features} features lie outside of the scene")
    if counts.left_out:
        some = ", ".join(f"{number} {reason}" for reason, number in sorted(counts.left_out.items()))
        notes.append(f"{what}: features that are not used: {some}")
    if counts.repaired:
        notes.append(f"{what}: the geometry of {counts.repaired} features was invalid and has been repaired")
    if counts.overlap_px:
        notes.append(f"{what}: {counts.overlap_px} pixels lie in features of different classes and are not labelled")
    return notes
