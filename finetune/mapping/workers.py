"""Prediction of blocks in worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from common.executors import open_executor
from common.storage import AnyPath
from finetune.data.scene_series import SceneSeries
from finetune.mapping.blocks import BlockPredictor
from finetune.mapping.model_series import series_for_model
from finetune.mapping.tiling import Tiling
from finetune.model.model_file import load_model
from finetune.model.recipe import Recipe
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
        model: folder of a run or its `model.safetensors`.
        scene: the scene's folder.
        year: year in which the season ends.
        device: `cpu` or `cuda`.
        missing_sources, compositing: see `Task`.
        tiling, batch_size, probabilities: see `BlockPredictor`.
    """

    model: Path
    scene: AnyPath
    year: int
    device: str
    missing_sources: str
    compositing: Compositing
    tiling: Tiling
    batch_size: int
    probabilities: bool


def predict_in_worker(job: BlockJob, number: int) -> dict[str, np.ndarray]:
    """Block `number` of `job.tiling`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the workers share the cores
    try:
        model, recipe, series = _model_and_series(
            job.model, job.scene, job.year, job.device, job.missing_sources, job.compositing
        )
        predictor = BlockPredictor(
            model=model,
            recipe=recipe,
            series=series,
            tiling=job.tiling,
            device=torch.device(job.device),
            batch_size=job.batch_size,
            probabilities=job.probabilities,
        )
        return predictor.predict(job.tiling.blocks[number])
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def _model_and_series(
    model: Path, scene: AnyPath, year: int, device: str, missing_sources: str, compositing: Compositing
) -> tuple[nn.Module, Recipe, SceneSeries]:
    """Model and open scene; the worker process keeps them until it ends."""
    mapper, recipe = load_model(model)
    recipe = replace(recipe, task=replace(recipe.task, missing_sources=missing_sources, compositing=compositing))
    return mapper.to(device), recipe, series_for_model(recipe, scene, year).open()
