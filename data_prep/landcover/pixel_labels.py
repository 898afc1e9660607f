"""Labels of pixels that travel with samples for fine-tuning: what their codes mean, and reading them from rasters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import rasterio
from rasterio.crs import CRS

from common.grid import Grid
from data_prep.archive.scene import SCENE_FILE, Scene

TOLERANCE = 0.02  # of a pixel, by which edges of label and image may miss each other


@dataclass(frozen=True, kw_only=True)
class LabelLegend:
    """What the codes in the labels of samples mean: the name of the label, of each code, and the code for "not labelled"."""

    name: str
    classes: Mapping[int, str]
    nodata: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `label_legend_from_dict` is the inverse."""
        return {"name": self.name, "classes": {str(code): name for code, name in self.classes.items()}, "nodata": self.nodata}


def label_legend_from_dict(values: Mapping[str, Any]) -> LabelLegend:
    """From plain values."""
    return LabelLegend(
        name=values["name"], classes={int(code): name for code, name in values["classes"].items()}, nodata=values["nodata"]
    )


def label_legends(scenes: Sequence[Scene], labels: Mapping[str, str]) -> dict[str, LabelLegend]:
    """The label of each source, given their names.

    Raises ValueError when a scene with the source lacks it or names other codes.
    """
    found: dict[str, tuple[LabelLegend, str]] = {}
    for source, name in labels.items():
        for scene in scenes:
            if source not in scene.sources:
                continue
            if name not in scene.labels:
                raise ValueError(f"scene {scene.name} has no label {name!r}; it has {', '.join(scene.labels) or 'none'}")
            label = scene.labels[name]
            here = LabelLegend(name=name, classes=dict(label.classes), nodata=label.nodata)
            first, other = found.setdefault(source, (here, scene.name))
            if here != first:
                raise ValueError(
                    f"label {name!r} of scene {scene.name} has the codes {dict(here.classes)} and no data {here.nodata}; that of "
                    f"{other} {dict(first.classes)} and {first.nodata}: samples of one corpus need the same"
                )
        if source not in found:
            raise ValueError(f"--label.{source} {name}: no scene has the source {source}")
    return {source: names for source, (names, _) in found.items()}


class LabelRaster:
    """A label raster of a scene, open for reading on the grid of a source.

    Labels are never resampled: the raster's pixels must be those of the source, wherever it begins and ends. Raises ValueError
    when they are not, and when the raster cannot be read.
    """

    def __init__(self, scene: Scene, name: str, grid: Grid) -> None:
        self._label, self._stack = scene.labels[name], ExitStack()
        origin = f"{scene.folder / SCENE_FILE}, label {name}"
        try:
            self._raster = self._stack.enter_context(rasterio.open(self._label.path))
        except rasterio.errors.RasterioIOError as error:
            raise ValueError(f"{origin}: {self._label.path} cannot be read: {error}") from error
        if not np.issubdtype(np.dtype(self._raster.dtypes[0]), np.integer):
            kind = self._raster.dtypes[0]
            self.__exit__()
            raise ValueError(f"{origin}: {self._label.path} holds {kind}; expected whole numbers, the codes of classes")
        across = ~self._raster.transform @ grid.transform
        self._col, self._row = round(across.c), round(across.f)
        scale = max(abs(across.a - 1) * grid.width, abs(across.e - 1) * grid.height, abs(across.b), abs(across.d))
        miss = max(abs(across.c - self._col), abs(across.f - self._row))
        if self._raster.crs != CRS.from_user_input(grid.crs) or max(scale, miss) > TOLERANCE:
            self.__exit__()
            raise ValueError(
                f"{origin}: its pixels ({abs(self._raster.transform.a):g} from {self._raster.bounds.left:g}, "
                f"{self._raster.bounds.top:g}) are not those of the images ({abs(grid.transform.a):g} from {grid.bounds[0]:g}, "
                f"{grid.bounds[3]:g}), and labels are not resampled; name a label on the grid of the source"
            )

    def read(self, row: int, col: int, size: int) -> np.ndarray:
        """Codes (size, size) of the source's window at (row, col); no data outside the raster."""
        top, left = row + self._row, col + self._col
        rows, cols = (max(top, 0), min(top + size, self._raster.height)), (max(left, 0), min(left + size, self._raster.width))
        codes = np.full((size, size), self._label.nodata, dtype=self._raster.dtypes[0])
        if rows[1] > rows[0] and cols[1] > cols[0]:
            inside = codes[rows[0] - top : rows[1] - top, cols[0] - left : cols[1] - left]
            inside[:] = self._raster.read(1, window=(rows, cols))
        return codes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
