"""Splits of labelled ground by square blocks, for scenes that state no split.

One scene that serves for training, validation and test must not be divided by random windows: neighbours look alike. Instead its
ground is divided into blocks, each of which belongs to one split as a whole, and ground in a buffer between blocks of different
splits is not used. A block is a place on the globe, so that scenes of other years or tiles there are divided alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from common.grid import GEOGRAPHIC, Grid, apply, reprojected, unwrapped
from data_prep.archive.scene import SPLITS
from data_prep.plan.splits import IN_BUFFER, EqualAreaCells, completed_shares, draw, with_buffer

DEFAULT_SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}
LATTICE_PX = 16  # between points whose place is computed; those between them are right to some thousandths of a pixel
ROWS_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class SplitBlocks:
    """Divide the ground of scenes that state no split by square blocks.

    Attributes:
        side_m: side in metres of the blocks, each of which belongs to one split as a whole; default: the scenes state their
            splits.
        buffer_m: labels nearer than this, in metres, to a block of another split are not used; at most half a block.
        shares: share of the labelled pixels of each split (--split_blocks.shares.test 0.3); default: train 0.6, validation 0.2,
            test 0.2.
        seed: seed of the order in which blocks are dealt to the splits.
    """

    side_m: float | None = None
    buffer_m: float = 0.0
    shares: dict[str, float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.side_m is None:
            if self.buffer_m or self.shares:
                raise ValueError("--split_blocks: buffer_m and shares work only with side_m, the side of the blocks")
            return
        EqualAreaCells(side_km=self.side_m / 1000)
        if not 0 <= self.buffer_m <= self.side_m / 2:
            raise ValueError(
                f"--split_blocks.buffer_m is {self.buffer_m:g}; expected 0 to {self.side_m / 2:g}, half the side of a block"
            )
        shares = self.all_shares
        if min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
            raise ValueError(f"--split_blocks.shares are {shares}; expected a share above 0 of each split, which sum to 1")

    @property
    def all_shares(self) -> dict[str, float]:
        """The share of each split."""
        return completed_shares(self.shares or {}, DEFAULT_SHARES)


class LabelledGround:
    """Counts the labelled pixels of blocks, and deals the blocks to the splits."""

    def __init__(self, blocks: SplitBlocks) -> None:
        assert blocks.side_m is not None
        self._blocks, self._cells = blocks, EqualAreaCells(side_km=blocks.side_m / 1000)
        self._pixels: Counter[int] = Counter()

    def add(self, grid: Grid, labelled: np.ndarray) -> None:
        """Add the labelled pixels of a scene, bool (H, W). Raises ValueError for a grid without a place on the globe."""
        if not grid.georeferenced:
            raise ValueError("--split_blocks needs scenes whose place on the globe is known")
        for lon, lat, *_ in _places(grid, labelled, 0, 0):
            cells, numbers = np.unique(self._cells.of_places(lon, lat), return_counts=True)
            self._pixels.update(dict(zip(cells.tolist(), numbers.tolist(), strict=True)))

    def divided(self) -> tuple[SplitGround, SplitGround, SplitGround]:
        """The ground of each split.

        Blocks are dealt in an order drawn by the seed, each to the split that has the smallest part of its share. Raises
        ValueError when there are fewer blocks than splits.
        """
        side, shares = self._blocks.side_m, self._blocks.all_shares
        if len(self._pixels) < len(SPLITS):
            raise ValueError(
                f"--split_blocks.side_m {side:g}: the labels lie in {len(self._pixels)} blocks, and each of "
                f"{', '.join(SPLITS)} needs at least one; state smaller blocks, or give more scenes"
            )
        given = dict.fromkeys(SPLITS, 0)
        split_of: dict[int, int] = {}
        for cell in sorted(self._pixels, key=lambda cell: (draw(f"{self._blocks.seed} {cell}"), cell)):
            split = min(SPLITS, key=lambda name: given[name] / shares[name])
            given[split] += self._pixels[cell]
            split_of[cell] = SPLITS.index(split)
        cells = np.array(sorted(split_of), dtype=np.int64)
        splits = np.array([split_of[cell] for cell in cells.tolist()], dtype=np.int8)
        train, validation, test = (
            SplitGround(blocks=self._blocks, cells=cells, splits=splits, split=number) for number in range(len(SPLITS))
        )
        return train, validation, test


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitGround:
    """The ground of one split.

    Attributes:
        blocks: how the ground is divided.
        cells: numbers of the blocks with labels, int64 (n,), ascending.
        splits: index into SPLITS of each, int8 (n,).
        split: index of this ground's split.
    """

    blocks: SplitBlocks
    cells: np.ndarray
    splits: np.ndarray
    split: int

    @property
    def num_blocks(self) -> int:
        """Number of blocks of this split."""
        return int((self.splits == self.split).sum())

    def of_split(self, grid: Grid, labelled: np.ndarray, row: int = 0, col: int = 0) -> np.ndarray:
        """Whether labelled pixels lie on this ground and outside of the buffer, bool (H, W); False for others.

        `labelled`: bool (H, W), a window that begins at (row, col) of the grid.
        """
        return self.splits_of(grid, labelled, row, col) == self.split

    def splits_of(self, grid: Grid, labelled: np.ndarray, row: int = 0, col: int = 0) -> np.ndarray:
        """Index into SPLITS of labelled pixels, int8 (H, W), IN_BUFFER for those in the buffer and for all others."""
        found = np.full(labelled.shape, IN_BUFFER, np.int8)
        for lon, lat, rows, cols in _places(grid, labelled, row, col):
            found[rows, cols] = with_buffer(self._splits_at, lon, lat, self.blocks.buffer_m / 1000)
        return found

    def _splits_at(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """Index into SPLITS of the block of each point, IN_BUFFER in blocks without labels."""
        assert self.blocks.side_m is not None
        cells = EqualAreaCells(side_km=self.blocks.side_m / 1000).of_places(lon, lat)
        at = np.minimum(np.searchsorted(self.cells, cells), len(self.cells) - 1)
        return np.where(self.cells[at] == cells, self.splits[at], np.int8(IN_BUFFER))


def _places(
    grid: Grid, labelled: np.ndarray, row: int, col: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield longitudes, latitudes, rows and columns of the labelled pixels of a window, (n,) each, some rows at a time."""
    for top in range(0, len(labelled), ROWS_AT_ONCE):
        rows, cols = np.nonzero(labelled[top : top + ROWS_AT_ONCE])
        if len(rows):
            lon, lat = _lon_lat(grid, rows + top + row + 0.5, cols + col + 0.5)
            yield lon, lat, rows + top, cols


def _lon_lat(grid: Grid, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `Grid.lon_lat`, interpolated between points of a lattice: there may be a hundred million pixels."""
    first_row, first_col = rows.min(), cols.min()
    lattice_rows = first_row + LATTICE_PX * np.arange(2 + int((rows.max() - first_row) // LATTICE_PX))
    lattice_cols = first_col + LATTICE_PX * np.arange(2 + int((cols.max() - first_col) // LATTICE_PX))
    x, y = apply(grid.transform, *(at.ravel() for at in np.meshgrid(lattice_cols, lattice_rows)))
    lon, lat = (x, y) if grid.crs == GEOGRAPHIC else reprojected(grid.crs, GEOGRAPHIC, x, y)
    lon = unwrapped(lon, lon[0])
    row, col = (rows - first_row) / LATTICE_PX, (cols - first_col) / LATTICE_PX
    top, left = row.astype(np.int64), col.astype(np.int64)
    down, right = row - top, col - left
    found = []
    for values in (lon.reshape(len(lattice_rows), -1), lat.reshape(len(lattice_rows), -1)):
        upper = values[top, left] * (1 - right) + values[top, left + 1] * right
        lower = values[top + 1, left] * (1 - right) + values[top + 1, left + 1] * right
        found.append(upper * (1 - down) + lower * down)
    return found[0], found[1]
