"""Label rasters: as they are stored, or on the grid of a source where scene.yaml asks for that."""

from __future__ import annotations

from typing import Self

import numpy as np
from pyproj import CRS

from common.crs import same_crs
from common.grid import LARGEST_FACTOR, Grid, apply, grid_summary, unwrapped
from common.rasters import Raster
from data_prep.archive.scene import Label
from data_prep.landcover.label_base import LabelCounts, is_of_other_year
from data_prep.landcover.label_features import transformed
from data_prep.landcover.label_votes import Votes

SAMPLES_AT_ONCE = 4_000_000
WHOLE = 1e-3  # of a pixel, by which edges of pixels may differ that are the same


class StoredRaster:
    """A label raster on its own grid; see `LabelReader`.

    Raises ValueError, which `what` begins, when the raster is missing, cannot be read or is not georeferenced.
    """

    def __init__(self, label: Label, what: str) -> None:
        self.label, self._raster = label, Raster(label.path, what)
        self.grid, self.dtype = self._raster.grid, self._raster.dtype
        self.years: tuple[int, ...] = () if label.year is None else (label.year,)

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None, year: int | None = None
    ) -> np.ndarray:
        """See `LabelReader`."""
        if is_of_other_year(self.label, year):
            return np.full((height or self.grid.height, width or self.grid.width), self.label.nodata, self.dtype)
        return read_codes(self._raster, self.label, row, col, height, width)

    def counts(self, year: int | None = None) -> LabelCounts:  # noqa: ARG002
        """None: a raster has no features."""
        return LabelCounts()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._raster.__exit__()


class ResampledRaster:
    """A label raster of any grid, on the grid of a source; see `LabelReader`.

    `nearest`: a pixel gets the code of the label's pixel in which its centre lies. `mode`: it gets the code of most of the points
    of a lattice that is as dense as the label's pixels; none where two codes have as many, and where most are not labelled.

    Raises ValueError, which `what` begins, as `StoredRaster` does, and for pixels that are too large or small.
    """

    def __init__(self, label: Label, grid: Grid, what: str) -> None:
        self.label, self.grid, self._raster = label, grid, Raster(label.path, what)
        self.dtype = self._raster.dtype
        self.years: tuple[int, ...] = () if label.year is None else (label.year,)
        try:
            if not np.issubdtype(self.dtype, np.integer):
                raise ValueError(f"{what} {label.path} holds {self.dtype}; expected whole numbers, the codes of classes")
            if not (grid.georeferenced and self._raster.grid.georeferenced):
                raise ValueError(f"{what} {label.path} cannot be resampled: the place of the images or of the label is not known")
            self._points = self._points_per_side() if label.resample == "mode" else 1
        except ValueError:
            self.__exit__()
            raise

    def _points_per_side(self) -> int:
        """Points of the lattice along a side of a pixel, so that none of the label's pixels is passed over."""
        centre = np.array([self.grid.width / 2, self.grid.width / 2 + 1, self.grid.width / 2])
        middle = np.array([self.grid.height / 2, self.grid.height / 2, self.grid.height / 2 + 1])
        cols, rows = self._pixels_at(centre, middle)
        if not (np.isfinite(cols).all() and np.isfinite(rows).all()):
            return 1
        steps = np.hypot(cols[1:] - cols[0], rows[1:] - rows[0])
        if steps.max() > LARGEST_FACTOR:
            raise ValueError(
                f"label {self.label.path} ({grid_summary(self._raster.grid)}) has pixels that are more than {LARGEST_FACTOR} "
                f"times smaller than those of the images ({grid_summary(self.grid)}); is its coordinate reference system right?"
            )
        return max(1, self._whole_ratio() or 2 * int(np.ceil(float(steps.max()))))

    def _whole_ratio(self) -> int | None:
        """How many of the label's pixels lie side by side in a pixel of the grid, if the pixels of the grid are made of them."""
        if not same_crs(self.grid.crs, self._raster.grid.crs):
            return None
        a, b, c, d, e, f = tuple(~self._raster.grid.transform @ self.grid.transform)[:6]
        is_whole = all(abs(value - round(value)) < WHOLE for value in (a, c, e, f))
        return round(a) if is_whole and round(a) == round(e) >= 1 and abs(b) + abs(d) < WHOLE else None

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None, year: int | None = None
    ) -> np.ndarray:
        """See `LabelReader`."""
        height, width = height or self.grid.height, width or self.grid.width
        codes = np.full((height, width), self.label.nodata, self.dtype)
        if is_of_other_year(self.label, year):
            return codes
        at_once = max(1, SAMPLES_AT_ONCE // (width * self._points**2))
        for top in range(0, height, at_once):
            rows = min(at_once, height - top)
            codes[top : top + rows] = self._most_frequent(self._samples(row + top, col, rows, width))
        return codes

    def counts(self, year: int | None = None) -> LabelCounts:  # noqa: ARG002
        """None: a raster has no features."""
        return LabelCounts()

    def _samples(self, row: int, col: int, height: int, width: int) -> np.ndarray:
        """Codes (height, width, points) at the lattice in each pixel."""
        shift = (np.arange(self._points) + 0.5) / self._points
        rows = (row + np.arange(height)[:, None] + shift).ravel()
        cols = (col + np.arange(width)[:, None] + shift).ravel()
        at_cols, at_rows = self._pixels_at(np.tile(cols, len(rows)), np.repeat(rows, len(cols)))
        grid = self._raster.grid
        inside = (at_cols >= 0) & (at_cols < grid.width) & (at_rows >= 0) & (at_rows < grid.height)  # NaN is not
        codes = np.full(len(at_cols), self.label.nodata, self.dtype)
        if inside.any():
            c, r = at_cols[inside].astype(np.int64), at_rows[inside].astype(np.int64)
            left, top = int(c.min()), int(r.min())
            part = read_codes(self._raster, self.label, top, left, int(r.max()) - top + 1, int(c.max()) - left + 1)
            codes[inside] = part[r - top, c - left]
        lattice = codes.reshape(height, self._points, width, self._points).swapaxes(1, 2)
        return lattice.reshape(height, width, self._points**2)

    def _pixels_at(self, cols: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows of the label at columns and rows of the source; infinite outside of the domain of its CRS."""
        label = self._raster.grid
        x, y = transformed(*apply(self.grid.transform, cols, rows), self.grid.crs, label.crs)
        if CRS.from_user_input(label.crs).is_geographic:
            x = unwrapped(x, (label.transform @ (label.width / 2, label.height / 2))[0])
        return apply(~label.transform, x, y)

    def _most_frequent(self, samples: np.ndarray) -> np.ndarray:
        if samples.shape[2] == 1:
            return samples[..., 0]
        votes = Votes(samples.shape[:2], self.label.nodata)
        for code in np.unique(samples).tolist():
            votes.add(code, (samples == code).mean(axis=2))
        return votes.winners().astype(self.dtype)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._raster.__exit__()


def read_codes(
    raster: Raster, label: Label, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
) -> np.ndarray:
    """A window (height, width) of the codes of a label, by default all; `label.nodata` where the raster has no data.

    Raises ValueError when the no-data number that the raster states is a class, and scene.yaml does not say what no data is; and
    for codes that are no class.
    """
    codes = raster.read(label.nodata, row, col, height, width)
    if raster.nodata is not None and raster.nodata != label.nodata:
        codes = _without_nodata(codes, raster.nodata, label)
    label.check_codes(codes)
    return codes


def _without_nodata(codes: np.ndarray, nodata: float, label: Label) -> np.ndarray:
    """Codes with `label.nodata` in place of the no-data number that the raster states."""
    if nodata in label.classes:
        if label.nodata_stated:
            return codes
        raise ValueError(
            f"{label.path} states that {nodata:g} means no data, but scene.yaml names it as class "
            f"{label.classes[int(nodata)]!r}; say there which code means not labelled (`nodata: {label.nodata}` if every "
            "pixel is labelled), or remove the class"
        )
    missing = np.isnan(codes) if np.isnan(nodata) else codes == nodata
    return np.where(missing, np.array(label.nodata), codes)
