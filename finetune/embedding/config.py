"""Configuration of an embedding: the options of `finetune/embed.py`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from common.storage import AnyPath
from finetune.config import TaskOverride
from finetune.data.normalization import CHECKPOINT
from finetune.embedding.components import SampleOptions
from finetune.embedding.features import LEVELS, TimeAxis
from finetune.embedding.options import EmbeddingOptions
from finetune.embedding.scene_blocks import WindowOptions
from finetune.embedding.scene_map import Format, StoredType
from finetune.embedding.workers import EmbedWorkers


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(EmbeddingOptions):
    """Embed scenes of one year: the features of an encoder as maps, or for points as a table.

    Attributes:
        model: a pretraining run, an encoder.safetensors or AgriFM.pth; or a fine-tuning run, whose encoder is used.
        input: a scene, or a folder of scenes, also at a URL.
        output: folder of the embeddings, of their components (pca.safetensors) and of a STAC item for each.
        year: year in which the season ends.
        task: a task, by name or path, whose sources, season, frames and windows an encoder reads; without one it reads 16 images
            of the whole year, in windows of 64 pixels. A fine-tuned model knows its own.
        season: first and last day, MM-DD, in place of the task's season.
        normalization: checkpoint, the mean and standard deviation of each band that are stored with the weights; or the path or
            URL of a JSON file with others, such as the dataset.json of a corpus. AgriFM.pth stores none.
        levels: levels of the encoder whose features are joined, 0 to 4; cells are patches of the first one, of 4, 8, 16, 32 and
            32 pixels.
        time: keep, the frames that a level keeps lie side by side; or mean, their mean.
        dimensions: number of principal components that are kept, or 0 for the features themselves.
        pca: a pca.safetensors of an earlier embedding, whose components are used, so that the two are comparable.
        pca_windows: random windows from which the components are computed.
        seed: seed of these windows.
        format: cog or zarr.
        dtype: int8, with a scale and offset for each dimension; float16; or auto, int8 in a GeoTIFF and float16 in Zarr.
        points: a CSV with lon and lat, or a vector file of points: their embeddings are written as Parquet, and no maps.
        overlap: share of a window that its neighbour covers too, 0 to 0.9.
        batch_size: windows per batch.
        workers: number of processes that embed maps; if there are several, each computes with one thread.
        engine: local or dask, for several workers.
        scheduler: address of a running Dask cluster, or slurm to start one in SLURM jobs.
        block_cells: side of the blocks in which a map is made, in cells; the default is as many as memory holds.
        device: auto, cpu or cuda.
        override: values that replace those of the task; its label does not count.
    """

    model: Path
    input: AnyPath
    output: Path
    year: int
    task: str | None = None
    season: tuple[str, str] | None = None
    normalization: str = CHECKPOINT
    levels: list[int] = field(default_factory=lambda: list(LEVELS))
    time: TimeAxis = "keep"
    dimensions: int = SampleOptions.dimensions
    pca: Path | None = None
    pca_windows: int = SampleOptions.pca_windows
    seed: int = SampleOptions.seed
    format: Format = "cog"
    dtype: StoredType = "auto"
    points: Path | None = None
    overlap: float = 0.5
    batch_size: int = 16
    workers: int = 1
    engine: Literal["local", "dask"] = "local"
    scheduler: str | None = None
    block_cells: int | None = None
    device: str = "auto"
    override: TaskOverride = field(default_factory=TaskOverride)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"--workers is {self.workers}; expected at least 1")
        if self.block_cells is not None and self.block_cells < 1:
            raise ValueError(f"--block_cells is {self.block_cells}; expected at least 1")
        self.check_embedding()

    @property
    def processes(self) -> EmbedWorkers | None:
        """Processes that embed; None for this process alone."""
        if self.workers == 1 and self.scheduler is None and self.engine == "local":
            return None
        return EmbedWorkers(count=self.workers, engine=self.engine, scheduler=self.scheduler)

    @property
    def options(self) -> WindowOptions:
        """How windows and blocks cover a scene. Raises ValueError for values out of range."""
        return replace(super().options, block_cells=self.block_cells)
