"""Prediction of blocks in worker processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from common.executors import open_executor
from common.json_files import json_bytes
from common.storage import AnyPath
from finetune.mapping.blocks import BlockPredictor
from finetune.mapping.finished_blocks import map_identity, weights_digest
from finetune.mapping.model_series import series_for_model
from finetune.mapping.tiling import Tiling
from finetune.model.model_file import load_model
from finetune.task import Compositing


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Processes that predict blocks.

    Attributes:
        count: number of processes.
        engine: see common/executors.py.
        scheduler: address of a running Dask cluster, or `slurm`.
        model: file or folder from which each process loads the model.
    """

    count: int
    engine: Literal["local", "dask"] = "local"
    scheduler: str | None = None
    model: Path

    def predict(self, predictor: BlockPredictor, numbers: Sequence[int]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Numbers and arrays of blocks of `predictor.tiling`, as processes finish them."""
        job = BlockJob(
            identity=hashlib.sha256(json_bytes(map_identity(predictor))).hexdigest(),
            weights=weights_digest(predictor.model),
            model=self.model.resolve(),
            scene=predictor.series.scene.folder.resolve(),
            year=predictor.series.year,
            device=predictor.device.type,
            missing_sources=predictor.recipe.task.missing_sources,
            compositing=predictor.recipe.task.compositing,
            tiling=predictor.tiling,
            batch_size=predictor.batch_size,
            probabilities=predictor.probabilities,
        )
        with open_executor(self.engine, self.count, self.scheduler) as map_jobs:
            yield from map_jobs(partial(predict_in_worker, job), numbers)


@dataclass(frozen=True, kw_only=True)
class BlockJob:
    """What a worker process needs to predict blocks. It opens model and scene once, and computes in one thread.

    Attributes:
        identity: digest of everything that the blocks depend on.
        weights: digest of the model's weights.
        model: folder of a run or its `model.safetensors`.
        scene: the scene's folder.
        year: year in which the season ends.
        device: `cpu` or `cuda`.
        missing_sources, compositing: see `Task`.
        tiling, batch_size, probabilities: see `BlockPredictor`.
    """

    identity: str
    weights: str
    model: Path
    scene: AnyPath
    year: int
    device: str
    missing_sources: str
    compositing: Compositing
    tiling: Tiling
    batch_size: int
    probabilities: bool

    def open(self) -> BlockPredictor:
        """The predictor, whose scene is open. Raises ValueError if the model's file holds other weights by now."""
        model, recipe = load_model(self.model)
        if weights_digest(model) != self.weights:
            raise ValueError(f"{self.model} has changed since its map was begun; start the command again")
        task = replace(recipe.task, missing_sources=self.missing_sources, compositing=self.compositing)
        recipe = replace(recipe, task=task)
        return BlockPredictor(
            model=model.to(self.device),
            recipe=recipe,
            series=series_for_model(recipe, self.scene, self.year).open(),
            tiling=self.tiling,
            device=torch.device(self.device),
            batch_size=self.batch_size,
            probabilities=self.probabilities,
        )


_opened: dict[str, BlockPredictor] = {}  # that of the last job, by its identity; the process keeps it until it ends


def predict_in_worker(job: BlockJob, number: int) -> dict[str, np.ndarray]:
    """Block `number` of `job.tiling`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the workers share the cores
    try:
        if job.identity not in _opened:
            for predictor in _opened.values():
                predictor.series.close()
            _opened.clear()
            _opened[job.identity] = job.open()
        return _opened[job.identity].predict(job.tiling.blocks[number])
    finally:
        torch.set_num_threads(threads)
