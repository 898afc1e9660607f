"""Embeddings of the cells of one scene: blocks of a map, single cells, and features of windows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from affine import Affine

from common.grid import Grid
from data_prep.archive.scene import scene_file_sha256
from finetune.data.scene_series import SceneSeries
from finetune.embedding.features import CellGeometry, EncoderFeatures, cell_geometry
from finetune.embedding.projection import Projection
from finetune.embedding.settings import EmbeddingModel
from finetune.mapping.finished_blocks import scene_identity
from finetune.mapping.tiling import Block, Tiling, check_overlap, default_block
from finetune.mapping.windows import Progress, WindowReader, blend

MOST_NUMBERS = 2**26  # of a block, float32: 256 MB


@dataclass(frozen=True, kw_only=True)
class WindowOptions:
    """How windows cover a scene.

    Attributes:
        overlap: share of a window that its neighbour covers too, 0 to 0.9.
        batch_size: windows per batch.
        block_cells: side of a block in cells; None for as many as `default_block` says and memory holds.

    Raises ValueError for values out of range.
    """

    overlap: float = 0.5
    batch_size: int = 16
    block_cells: int | None = None

    def __post_init__(self) -> None:
        check_overlap(self.overlap)
        if self.batch_size < 1:
            raise ValueError(f"--batch_size is {self.batch_size}; expected at least 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneCells:
    """A scene as the encoder reads it.

    Attributes:
        model: the encoder and what it reads.
        features: which of its features.
        series: the scene, open where windows are read.
        geometry: its cells.
        options: how windows cover it.
    """

    model: EmbeddingModel
    features: EncoderFeatures
    series: SceneSeries
    geometry: CellGeometry
    options: WindowOptions

    @cached_property
    def grid(self) -> Grid:
        """The grid of the cells. The last row and column may extend beyond the scene."""
        own, cell = self.series.grid, self.geometry.cell_px
        height, width = -(-own.height // cell), -(-own.width // cell)
        return Grid(crs=own.crs, transform=own.transform @ Affine.scale(cell), height=height, width=width)

    @property
    def reader(self) -> WindowReader:
        """Reads windows of the scene."""
        return WindowReader(
            series=self.series,
            sources=self.features.sources,
            normalization=self.model.normalization,
            batch_size=self.options.batch_size,
            cell_px=self.geometry.cell_px,
        )

    def tiling(self, dimensions: int) -> Tiling:
        """Blocks and windows, counted in cells, of a map with so many dimensions."""
        window, step = self.geometry.window, self.geometry.step_px // self.geometry.cell_px
        stride = max(step, round(window * (1 - self.options.overlap)) // step * step)
        block = self.options.block_cells
        if block is None:
            block = default_block(window)
            while block > window and dimensions * block**2 > MOST_NUMBERS:
                block //= 2
        return Tiling(height=self.grid.height, width=self.grid.width, window=window, stride=stride, step=step, block=block)


def scene_cells(model: EmbeddingModel, features: EncoderFeatures, series: SceneSeries, options: WindowOptions) -> SceneCells:
    """A scene as the encoder reads it. Raises ValueError when its windows do not fit the grids of the scene's sources."""
    rows, cols = features.encoder.config.patch_size[1:]
    if rows != cols:
        raise ValueError(f"patches of {rows} x {cols} pixels are no squares; embeddings need an encoder with square patches")
    geometry = cell_geometry(series, rows, features.choice.levels, model.window_px(series))
    return SceneCells(model=model, features=features, series=series, geometry=geometry, options=options)


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockEmbedder:
    """Embeds the blocks of a scene.

    Attributes:
        cells: the scene.
        projection: from features to embeddings.
        in_one_byte: whether blocks are stored as int8 codes instead of float16.
    """

    cells: SceneCells
    projection: Projection
    in_one_byte: bool

    @cached_property
    def tiling(self) -> Tiling:
        """Blocks and windows of the map, in cells."""
        return self.cells.tiling(self.projection.dimensions)

    def embed(self, block: Block, progress: Progress = lambda _: None) -> dict[str, np.ndarray]:
        """A block as it is stored: `embedding` (D, height, width), int8 or float16, no data where the scene was never clear.

        And `clipped`, the number of cells with a number beyond the range of one byte, int64 ().
        """
        values, seen = self.blend(block, progress)
        if not self.in_one_byte:
            return {"embedding": np.where(seen, values, np.nan).astype(np.float16), "clipped": np.array(0)}
        codes, clipped = self.projection.quantized(values, seen)
        return {"embedding": codes, "clipped": np.array(clipped)}

    def blend(self, block: Block, progress: Progress = lambda _: None) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings float32 (D, height, width), and in which cells the finest source has a clear pixel, bool (height, width)."""
        batches = self.cells.reader.batches(*self.tiling.windows_on(block), self.tiling.window)
        return blend(self.tiling, block, batches, self._embed_windows(), self.projection.dimensions, progress)

    def at(self, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings of single cells, float32 (N, D), and whether they were seen, bool (N,); those of `blend`.

        Cells that lie near each other are embedded together, and windows without any are not read.
        """
        values = np.zeros((len(rows), self.projection.dimensions), dtype=np.float32)
        seen = np.zeros(len(rows), dtype=bool)
        near = np.stack([rows // self.tiling.stride, cols // self.tiling.stride], axis=1)
        groups, of_group = np.unique(near, axis=0, return_inverse=True)
        for number in range(len(groups)):
            chosen = np.flatnonzero(of_group.ravel() == number)
            top, left = rows[chosen].min(), cols[chosen].min()
            block = Block(int(top), int(left), int(rows[chosen].max() - top) + 1, int(cols[chosen].max() - left) + 1)
            found, clear = self.blend(block)
            inside = rows[chosen] - top, cols[chosen] - left
            values[chosen], seen[chosen] = found[:, *inside].T, clear[inside]
        return values, seen

    def _embed_windows(self) -> _WindowEmbedder:
        features, geometry = self.cells.features, self.cells.geometry
        if self.projection.components is None:
            return partial(features.on_cells, geometry=geometry)
        weight, bias = self.projection.affine()
        return partial(features.projected, geometry=geometry, weight=weight, bias=bias)


_WindowEmbedder = partial[np.ndarray]


def embedding_identity(embedder: BlockEmbedder) -> dict[str, Any]:
    """Everything that an embedding of a scene depends on, as plain values, beside how it is stored."""
    cells, projection = embedder.cells, embedder.projection
    return {
        "format": 2,  # 2: with the year and the sensors of the scene
        "weights": cells.model.digest,
        "features": cells.features.describe(),
        "components": projection.digest,
        "images": repr((cells.model.task.season, cells.model.task.compositing, dict(cells.model.task.upsample))),
        "normalization": json.dumps(cells.model.normalization, sort_keys=True),
        "scene": scene_identity(cells.series),
        "scene_file": scene_file_sha256(cells.series.scene.folder),
        "tiling": asdict(embedder.tiling),
        "cell_px": cells.geometry.cell_px,
        "device": cells.features.device.type,
        "batch_size": cells.options.batch_size,
    }


def features_of_window(cells: SceneCells, row: int, col: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Features float32 (F, n, n) of the window that begins at a cell, and which cells were seen, bool (n, n).

    None where nothing of the window was seen.
    """
    (batch,) = cells.reader.batches([row], [col], cells.geometry.window)
    if not batch.origins or not batch.clear[0].any():
        return None
    data: Mapping[str, np.ndarray] = batch.data
    return cells.features.on_cells(data, cells.geometry)[0], batch.clear[0]
