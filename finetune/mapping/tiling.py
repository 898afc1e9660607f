"""Tiling of a map: which blocks it is made in, which windows overlap a block, and how windows are blended.

A block is the unit in which a map is predicted and written. It needs only the windows that overlap it. So blocks can be predicted
in any order, in any process, and again after an interruption, and memory holds one block however large the map is. A window on
the border of two blocks is predicted once for each of them. With blocks as large as eight windows, and windows that overlap by
half, this costs (1 + 1/16)^2 = 1.13 times the model's work without blocks. The alternative, to pass sums from block to block,
would fix the order of the blocks and store their margins on disk.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from finetune.data.window_origins import origins_within

TILE_PX = 512  # side of a tile of the GeoTIFF; blocks of whole tiles are written without writing a tile twice
WINDOWS_PER_BLOCK = 8  # along a side
LARGEST_BLOCK_PX = 2048  # 16 classes in float32 take 270 MB
# Weight of pixels in the margin of a window: they count only where no other window covers them, at the edges of the scene.
LEAST_WEIGHT = 1e-6


@dataclass(frozen=True)
class Block:
    """A rectangle of the map, in pixels."""

    row: int
    col: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """The blocks and windows of a map.

    Attributes:
        height, width: size of the map in pixels.
        window: side of the model's window.
        stride: distance between windows, at most `window`.
        step: windows begin at multiples of it (`SceneSeries.step`).
        block: side of a block; the blocks at the lower and right edge may be smaller.

    Raises ValueError for a block side below 1.
    """

    height: int
    width: int
    window: int
    stride: int
    step: int
    block: int

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"--block_px is {self.block}; expected at least 1, and best a multiple of {TILE_PX}")

    @cached_property
    def rows(self) -> list[int]:
        """Rows at which windows begin."""
        return origins_within(self.height, self.window, self.stride, self.step)

    @cached_property
    def cols(self) -> list[int]:
        """Columns at which windows begin."""
        return origins_within(self.width, self.window, self.stride, self.step)

    @cached_property
    def blocks(self) -> list[Block]:
        """All blocks, row by row."""
        return [
            Block(row, col, min(self.block, self.height - row), min(self.block, self.width - col))
            for row in range(0, self.height, self.block)
            for col in range(0, self.width, self.block)
        ]

    def windows_on(self, block: Block) -> tuple[list[int], list[int]]:
        """Rows and columns at which the windows that overlap `block` begin; every pair of a row and a column is such a window."""
        return (
            self.rows[bisect_right(self.rows, block.row - self.window) : bisect_left(self.rows, block.row + block.height)],
            self.cols[bisect_right(self.cols, block.col - self.window) : bisect_left(self.cols, block.col + block.width)],
        )

    def num_windows(self, block: Block) -> int:
        """Number of windows that overlap `block`."""
        rows, cols = self.windows_on(block)
        return len(rows) * len(cols)

    @cached_property
    def overhead(self) -> float:
        """Windows that are predicted for all blocks, as a multiple of the number of different windows."""
        return sum(map(self.num_windows, self.blocks)) / (len(self.rows) * len(self.cols))

    @cached_property
    def _weights(self) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
        ramp = blend_ramp(self.window, self.window - self.stride)
        return axis_weights(self.rows, ramp), axis_weights(self.cols, ramp)

    def overlap_with(self, row: int, col: int, block: Block) -> tuple[tuple[slice, slice], tuple[slice, slice], np.ndarray]:
        """The common pixels of a block and the window at (row, col): their slices in the window, in the block, and their weights.

        Weights are float32. Over all windows they add up to one at every pixel of the map.
        """
        rows_in_window, rows_in_block = _common(row, self.window, block.row, block.height)
        cols_in_window, cols_in_block = _common(col, self.window, block.col, block.width)
        by_row, by_col = self._weights
        weight = np.outer(by_row[row][rows_in_window], by_col[col][cols_in_window])
        return (rows_in_window, cols_in_window), (rows_in_block, cols_in_block), weight


def check_overlap(overlap: float) -> None:
    """Raises ValueError unless windows may overlap by this share: 0 <= overlap <= 0.9."""
    if not 0 <= overlap <= 0.9:
        raise ValueError(f"--overlap is {overlap}; expected a share from 0 to 0.9")


def default_block(window: int) -> int:
    """Side of a block for windows of `window` pixels: about eight windows in whole tiles, at most `LARGEST_BLOCK_PX`."""
    return min(LARGEST_BLOCK_PX, -(-WINDOWS_PER_BLOCK * window // TILE_PX) * TILE_PX)


def blend_ramp(window: int, overlap: int) -> np.ndarray:
    """Weight of a window's pixels along one axis, float64 (window,).

    The outer quarter of the overlap has almost no weight, because there the model sees too little of the surroundings. So a model
    that sees no farther than this margin gives the same map as one window over the whole scene. From there the weight rises as
    the square of a sine. With that of the neighbouring window it adds up to one, as long as windows overlap by at most half.
    """
    margin = overlap // 4
    end = min(overlap - margin, window // 2)
    distance = np.minimum(np.arange(window), np.arange(window)[::-1]) + 0.5  # from the nearer edge to the centre of the pixel
    rise = np.clip((distance - margin) / max(end - margin, 1), 0, 1)
    return np.maximum(np.sin(np.pi / 2 * rise) ** 2, LEAST_WEIGHT) if overlap else np.ones(window)


def axis_weights(origins: list[int], ramp: np.ndarray) -> dict[int, np.ndarray]:
    """Weights along one axis by origin of the window, float32 (window,); they add up to one at every pixel of the axis.

    Windows lie on a grid, so a weight is the product of the weights of its row and its column, and so is the sum over all
    windows. Therefore each axis can be divided by its own sum, at the edges of the scene as elsewhere.
    """
    total = np.zeros(max(origins) + len(ramp))
    for origin in origins:
        total[origin : origin + len(ramp)] += ramp
    return {origin: (ramp / total[origin : origin + len(ramp)]).astype(np.float32) for origin in origins}


def _common(window_start: int, window: int, block_start: int, block: int) -> tuple[slice, slice]:
    """The common pixels of a window and a block along one axis: their slice in the window, and in the block."""
    first, end = max(window_start, block_start), min(window_start + window, block_start + block)
    return slice(first - window_start, end - window_start), slice(first - block_start, end - block_start)
