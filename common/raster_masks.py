"""Which pixels of a raster were not observed by what GDAL knows of it beside its no-data number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window


@dataclass(frozen=True)
class RasterMask:
    """The mask of a band: a mask in the file or beside it (.msk), an alpha band, and tiles or strips that are not stored.

    Attributes:
        dataset: rasterio dataset.
        alpha: number of the alpha band; None without one.
        has_mask: whether there is a mask in the file or beside it.
        may_be_sparse: whether tiles that are not stored would read as 0.
    """

    dataset: Any
    alpha: int | None
    has_mask: bool
    may_be_sparse: bool

    @classmethod
    def of(cls, dataset: Any) -> Self:
        """The mask of a dataset. Without a no-data number, GDAL reads tiles of sparse GeoTIFFs as 0.

        GDAL calls four bands of bytes red, green, blue and alpha unless their writer says otherwise: that is no alpha band.
        """
        meanings = dataset.colorinterp
        is_alpha = dataset.count > 1 and meanings[-1] == ColorInterp.alpha and meanings[0] != ColorInterp.red
        alpha = dataset.count if is_alpha else None
        has_mask = alpha is None and MaskFlags.per_dataset in dataset.mask_flag_enums[0]
        return cls(dataset, alpha, has_mask, may_be_sparse=dataset.driver == "GTiff" and dataset.nodata is None)

    @property
    def num_bands(self) -> int:
        """The number of bands without the alpha band."""
        return int(self.dataset.count) - (self.alpha is not None)

    def unobserved(self, window: Window, values: np.ndarray, band: int = 1) -> np.ndarray | None:
        """Which of the `values` (H, W) of a window of a band were not observed; None when all were."""
        masks = []
        if self.alpha is not None:
            masks.append(self.dataset.read(self.alpha, window=window) == 0)
        elif self.has_mask:
            masks.append(self.dataset.read_masks(1, window=window) == 0)
        if self.may_be_sparse and np.count_nonzero(values) < values.size:  # counting is the fastest way to find a 0
            height, width = values.shape
            absent = self._absent_tiles(window.row_off, window.col_off, height, width, band)
            masks += [] if absent is None else [absent]
        return np.logical_or.reduce(masks) if masks else None

    def _absent_tiles(self, row: int, col: int, height: int, width: int, band: int) -> np.ndarray | None:
        """Which pixels of a window lie in tiles or strips that are not stored; None when all are."""
        tile_height, tile_width = self.dataset.block_shapes[band - 1]
        rows, cols = np.arange(row, row + height) // tile_height, np.arange(col, col + width) // tile_width
        absent = np.array(
            [
                [
                    self.dataset.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=band) is None
                    for x in range(cols[0], cols[-1] + 1)
                ]
                for y in range(rows[0], rows[-1] + 1)
            ]
        )
        return absent[np.ix_(rows - rows[0], cols - cols[0])] if absent.any() else None
