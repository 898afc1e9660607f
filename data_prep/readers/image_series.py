"""A series of images with one file or array per band and date, on one grid or nested grids."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from common.grid import Grid, nesting_factor
from common.north_up import Flips, ReadWindow
from common.threads import in_threads
from data_prep.archive.sensor import Sensor
from data_prep.readers.base import Series
from data_prep.readers.file_names import ImageFiles
from data_prep.readers.georeference import check_pixel_size
from data_prep.readers.offsets import offset_in_effect
from data_prep.readers.open_files import OpenFiles
from data_prep.readers.radiometry import harmonised_series
from data_prep.readers.resampling import check_resampling, read_nested
from data_prep.readers.same_day import ImageDays

AT_ONCE = 16  # images that are read at the same time from a storage


@dataclass(frozen=True, kw_only=True)
class OpenLayer:
    """A band or quality layer of one image, open for reading.

    Attributes:
        stored: reads windows (row, col, height, width) of the pixels as they are stored. Pixels that were not observed have the
            no-data number of the sensor, or the code for it.
        grid: its grid, north-up.
        flips: how its pixels are flipped for that.
        chunk: (rows, columns) of its pixels that are stored together.
        offset: additive offset of the stored numbers that it states; None where it states none.
        close: closes it.
        factor: number of pixels of the series that one of its pixels covers along each axis.
    """

    stored: ReadWindow
    grid: Grid
    flips: Flips
    chunk: tuple[int, int]
    offset: float | None = None
    close: Callable[[], object] = lambda: None
    factor: int = 1

    def read(self, window: tuple[int, int, int, int], bilinear_nodata: int | None) -> np.ndarray:
        """Read a window (row, col, height, width) of the grid of the series: (height, width)."""
        return read_nested(self.flips.reader(self.stored, self.grid.shape), self.grid, self.factor, window, bilinear_nodata)


class ImageSeries(ABC):
    """Images with one layer per band, on the finest of the grids of their layers. A subclass opens layers.

    Args:
        origin: begins error messages.
        sensor: meaning of the numbers.
        images: N images in the order of dates; those of one day become one by `mosaicked`, which prefers the first.
        offsets: (N,) or (N, C), added to the stored numbers. None: each layer states its own.
        resampling: how coarser reflectance is resampled to the finest grid, `nearest` or `bilinear`; quality is always
            resampled with nearest neighbours. `nearest` is the default, since it keeps the measured numbers, does not spread
            clouds to clear neighbours, and is how most published series resample bands of 20 m to 10 m.
        max_open: number of layers that stay open between reads.
        at_once: number of images that are read at the same time: 1 where reading takes this processor's time, `AT_ONCE` where it
            waits for a storage.
    """

    def __init__(
        self,
        origin: str,
        sensor: Sensor,
        images: Sequence[ImageFiles],
        offsets: np.ndarray | None,
        resampling: str,
        max_open: int,
        at_once: int,
    ) -> None:
        check_resampling(resampling, origin)
        self.sensor = sensor
        self._days = ImageDays(np.array([image.image.date for image in images], dtype="datetime64[D]"))
        self.dates = self._days.dates
        self._origin, self._images = origin, images
        self._offsets = None if offsets is None else np.broadcast_to(offsets.T, (len(sensor.bands), len(images))).T
        self._bilinear_nodata = sensor.nodata if resampling == "bilinear" else None
        self._open, self._at_once = OpenFiles(self._opened, lambda layer: layer.close(), max_open), at_once
        self._first: dict[str, OpenLayer] = {}  # layers of the first image, which are opened once, before the grid is known
        self._bands = {path: band for image in images for band, path in zip(sensor.bands, image.bands, strict=True)}
        first = (*images[0].bands, *images[0].quality)
        try:  # the first image already shows an error that concerns all
            for path in first:
                self._first[path] = self._open_layer(path, self._bands.get(path))
            self.grid = min((self._first[path].grid for path in first), key=lambda grid: abs(grid.transform.determinant))
            check_pixel_size(self.grid, sensor, origin)
            chunks = []
            for channel, path in enumerate(first):
                with self._open.using(path) as layer:
                    chunks.append(np.multiply(layer.chunk, layer.factor))
                    if channel < len(sensor.bands):
                        self._offset(0, channel, path, layer)
        except ValueError:
            for layer in self._first.values():
                layer.close()
            self._open.close()
            raise
        rows, cols = np.max(chunks, axis=0).tolist()
        self.chunk = min(rows, self.grid.height), min(cols, self.grid.width)

    @abstractmethod
    def _open_layer(self, path: str, band: str | None) -> OpenLayer:
        """Open the layer at `path`, which holds `band`, or quality codes (None). Raises ValueError unless it fits the sensor."""

    @abstractmethod
    def _where(self, path: str) -> str:
        """The whole path or URL of a layer, for messages."""

    def read(self, row: int, col: int, height: int, width: int, times: slice | np.ndarray) -> Series:
        """The window that starts at (row, col), at the given indices of `dates`."""
        self.grid.window(row, col, height, width)
        chosen = np.arange(len(self._images))[self._days.images(times)]
        if not len(chosen):
            raise ValueError(f"{self._origin}: no dates chosen to read")
        window = row, col, height, width
        pixels = np.empty((len(chosen), len(self.sensor.bands), height, width), dtype=self.sensor.dtype)
        offsets = np.empty(pixels.shape[:2], dtype=np.int64)

        def read(frame: int) -> np.ndarray:
            return self._read_image(chosen[frame], window, pixels[frame], offsets[frame])

        codes = in_threads(read, range(len(chosen)), self._at_once)
        return harmonised_series(pixels, np.stack(codes), self._days.image_dates[chosen], self.sensor, offsets)

    def _read_image(self, number: int, window: tuple[int, int, int, int], pixels: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Read a window of an image into `pixels` (C, H, W), and its offsets into `offsets` (C,); return quality codes (H, W)."""
        image = self._images[number]
        for channel, path in enumerate(image.bands):
            with self._open.using(path) as layer:
                pixels[channel] = layer.read(window, self._bilinear_nodata)
                offsets[channel] = self._offset(number, channel, path, layer)
        codes = []
        for path in image.quality:
            with self._open.using(path) as layer:
                codes.append(layer.read(window, None))
        return self.sensor.quality.worst(codes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def _offset(self, number: int, channel: int, path: str, layer: OpenLayer) -> int:
        """The offset of a band of an image. Raises ValueError when it is not known, or the layer states another."""
        stated = None if self._offsets is None else int(self._offsets[number, channel])
        return offset_in_effect(stated, layer.offset, self.sensor, self._where(path))

    def _opened(self, path: str) -> OpenLayer:
        """Open a layer. Raises ValueError unless its grid nests in that of the series."""
        layer = self._first.pop(path, None) or self._open_layer(path, self._bands.get(path))
        try:
            return replace(layer, factor=nesting_factor(layer.grid, self.grid, self._where(path)))
        except ValueError:
            layer.close()
            raise
