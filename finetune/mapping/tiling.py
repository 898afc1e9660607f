"""A map from overlapping windows, made block by block: which windows touch a block, and how they are blended.

A block of the map is the unit of work: it needs nothing but the windows that touch it, so blocks can be made in any order, in
any process, and again after an interruption, and memory holds one block whatever the size of the map. Windows that cross an
edge of blocks are predicted once for each block they touch. With blocks of eight windows' side and half of a window overlapping
that is (1 + 1/16)^2 = 1.13 times the model's work without blocks; the alternative, to hand sums over from block to block, would
tie blocks to an order and their margins to the disk.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from finetune.data.scene_windows import origins_within

TILE = 512  # side of a tile of the GeoTIFF; blocks of whole tiles are written without touching a tile twice
WINDOWS_A_BLOCK = 8
LARGEST_BLOCK_PX = 2048  # 16 classes in float32 are 270 MB
# Weight of a pixel in the margin of its window: it counts only where no other window has more of it, at the scene's edges.
LEAST_WEIGHT = 1e-6


@dataclass(frozen=True)
class Block:
    """A rectangle of the map, in pixels."""

    row: int
    col: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Mosaic:
    """How a map is cut into blocks, and which windows are blended to it.

    Attributes:
        height, width: of the map, in pixels.
        window: side of the model's window.
        stride: distance between windows, at most `window`.
        step: windows begin at multiples of it (`SceneSeries.step`).
        block: side of a block; the last ones are what remains.
    """

    height: int
    width: int
    window: int
    stride: int
    step: int
    block: int

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"--block_px is {self.block}; expected at least 1, and best a multiple of {TILE}")

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
        """Rows and columns at which the windows that touch `block` begin: all pairs of them do."""
        return (
            self.rows[bisect_right(self.rows, block.row - self.window) : bisect_left(self.rows, block.row + block.height)],
            self.cols[bisect_right(self.cols, block.col - self.window) : bisect_left(self.cols, block.col + block.width)],
        )

    def num_windows(self, block: Block) -> int:
        """How many windows touch `block`."""
        rows, cols = self.windows_on(block)
        return len(rows) * len(cols)

    @cached_property
    def overhead(self) -> float:
        """Windows predicted for all blocks, as a multiple of the windows there are."""
        return sum(map(self.num_windows, self.blocks)) / (len(self.rows) * len(self.cols))

    @cached_property
    def _weights(self) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
        ramp = blend_ramp(self.window, self.window - self.stride)
        return axis_weights(self.rows, ramp), axis_weights(self.cols, ramp)

    def placed(self, row: int, col: int, block: Block) -> tuple[tuple[slice, slice], tuple[slice, slice], np.ndarray]:
        """Where the window that begins at (row, col) and a block meet: in the window, in the block, and with which weights.

        Weights are float32 of the common part's shape. Over all windows they add up to one at every pixel of the map.
        """
        rows_inside, rows_outside = _common(row, self.window, block.row, block.height)
        cols_inside, cols_outside = _common(col, self.window, block.col, block.width)
        by_row, by_col = self._weights
        weight = np.outer(by_row[row][rows_inside], by_col[col][cols_inside])
        return (rows_inside, cols_inside), (rows_outside, cols_outside), weight


def default_block(window: int) -> int:
    """Side of a block for windows of `window` pixels: whole tiles, some eight windows, at most `LARGEST_BLOCK_PX`."""
    return min(LARGEST_BLOCK_PX, -(-WINDOWS_A_BLOCK * window // TILE) * TILE)


def blend_ramp(window: int, overlap: int) -> np.ndarray:
    """Weight of a window's pixels along one axis, float64 (window,).

    The outer quarter of the overlap has (next to) no weight: there the model sees too little of the surroundings. So a model
    that looks no farther than that gives the map it would give in one piece. Then the weight rises as the square of a sine,
    which with that of the neighbouring window makes one everywhere as long as no more than half of a window overlaps.
    """
    margin = overlap // 4
    end = min(overlap - margin, window // 2)
    distance = np.minimum(np.arange(window), np.arange(window)[::-1]) + 0.5  # from the nearer edge to a pixel's centre
    rise = np.clip((distance - margin) / max(end - margin, 1), 0, 1)
    return np.maximum(np.sin(np.pi / 2 * rise) ** 2, LEAST_WEIGHT) if overlap else np.ones(window)


def axis_weights(origins: list[int], ramp: np.ndarray) -> dict[int, np.ndarray]:
    """Weights along one axis by a window's origin, float32 (window,), that add up to one at every pixel of the axis.

    Windows lie on a grid, so the weight of a window is the product of that of its rows and that of its columns, and so is the sum
    over all windows: each axis is divided by its own sum, at the scene's edges as elsewhere.
    """
    total = np.zeros(max(origins) + len(ramp))
    for origin in origins:
        total[origin : origin + len(ramp)] += ramp
    return {origin: (ramp / total[origin : origin + len(ramp)]).astype(np.float32) for origin in origins}


def _common(window_start: int, window: int, block_start: int, block: int) -> tuple[slice, slice]:
    """The common part of a window and a block along one axis: in the window's pixels, and in the block's."""
    first, end = max(window_start, block_start), min(window_start + window, block_start + block)
    return slice(first - window_start, end - window_start), slice(first - block_start, end - block_start)
