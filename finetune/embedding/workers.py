"""Embedding of blocks in worker processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from common.executors import open_executor
from common.json_files import json_bytes
from common.storage import AnyPath
from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import Sensor
from finetune.data.normalization import BandStatistics
from finetune.embedding.features import EncoderFeatures, FeatureChoice
from finetune.embedding.projection import load_projection
from finetune.embedding.scene_blocks import BlockEmbedder, WindowOptions, embedding_identity, scene_cells
from finetune.embedding.settings import EmbeddingModel, load_weights
from finetune.mapping.finished_blocks import weights_digest
from finetune.task import Task


@dataclass(frozen=True, kw_only=True)
class EmbedWorkers:
    """Processes that embed blocks.

    Attributes:
        count: number of processes.
        engine: see common/executors.py.
        scheduler: address of a running Dask cluster, or `slurm`.
    """

    count: int
    engine: Literal["local", "dask"] = "local"
    scheduler: str | None = None

    def embed(
        self, embedder: BlockEmbedder, components: Path, numbers: Sequence[int]
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Numbers and arrays of blocks of `embedder.tiling`, as processes finish them. `components`: file of the projection."""
        cells = embedder.cells
        job = EmbedJob(
            identity=hashlib.sha256(json_bytes(embedding_identity(embedder))).hexdigest(),
            weights=cells.model.digest,
            model=Path(cells.model.origin).resolve(),
            task=cells.model.task,
            normalization=cells.model.normalization,
            sensors=cells.model.sensors,
            pixel=cells.model.pixel,
            scene=cells.series.scene.folder.resolve(),
            year=cells.series.year,
            choice=cells.features.choice,
            options=cells.options,
            components=components.resolve(),
            in_one_byte=embedder.in_one_byte,
            device=cells.features.device.type,
        )
        with open_executor(self.engine, self.count, self.scheduler) as map_jobs:
            yield from map_jobs(partial(embed_in_worker, job), numbers)


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbedJob:
    """What a worker process needs to embed blocks of a scene. It opens model and scene once, and computes in one thread.

    Attributes:
        identity: digest of everything that the blocks depend on.
        weights: digest of the weights.
        model: path of the weights.
        task, sensors, normalization, pixel: see `EmbeddingModel`.
        scene: the scene's folder.
        year: year in which the season ends.
        choice, options: features, and how windows cover the scene.
        components: file of the projection.
        in_one_byte: see `BlockEmbedder`.
        device: `cpu` or `cuda`.
    """

    identity: str
    weights: str
    model: Path
    task: Task
    sensors: Mapping[str, Sensor]
    normalization: Mapping[str, BandStatistics]
    pixel: float | None
    scene: AnyPath
    year: int
    choice: FeatureChoice
    options: WindowOptions
    components: Path
    in_one_byte: bool
    device: str

    def open(self) -> BlockEmbedder:
        """The embedder of the scene, which is open. Raises ValueError if the model's file holds other weights by now."""
        encoder = load_weights(self.model).encoder
        if weights_digest(encoder) != self.weights:
            raise ValueError(f"{self.model} has changed since its embedding was begun; start the command again")
        model = EmbeddingModel(
            encoder=encoder,
            task=self.task,
            sensors=self.sensors,
            normalization=self.normalization,
            pixel=self.pixel,
            origin=str(self.model),
            digest=self.weights,
        )
        features = EncoderFeatures(encoder, self.task.sources, self.task.frames, self.choice, torch.device(self.device))
        cells = scene_cells(model, features, model.series(load_scene(self.scene), self.year).open(), self.options)
        return BlockEmbedder(cells=cells, projection=load_projection(self.components), in_one_byte=self.in_one_byte)


_opened: dict[str, BlockEmbedder] = {}  # the embedder of the last job, by its identity; the process keeps it until it ends


def embed_in_worker(job: EmbedJob, number: int) -> dict[str, np.ndarray]:
    """Block `number` of the map that `job` is about."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the workers share the cores
    try:
        if job.identity not in _opened:
            for embedder in _opened.values():
                embedder.cells.series.close()
            _opened.clear()
            _opened[job.identity] = job.open()
        embedder = _opened[job.identity]
        return embedder.embed(embedder.tiling.blocks[number])
    finally:
        torch.set_num_threads(threads)
