"""Blocks in worker processes: one that outlives a command, as those of a running Dask cluster do, never mixes models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.mapping import workers
from finetune.mapping.blocks import BlockPredictor
from finetune.mapping.model_series import series_for_model
from finetune.mapping.tiling import Tiling
from finetune.mapping.workers import Workers
from finetune.model.model_file import load_model, save_model
from tests.support.rice_scenes import write_rice_scene
from tests.support.stand_in_models import random_mapper

pytestmark = pytest.mark.usefixtures("one_thread")


@contextmanager
def in_this_process(*_: Any) -> Iterator[Callable[..., Any]]:
    def run(work: Callable[[int], Any], numbers: Iterable[int]) -> Iterator[tuple[int, Any]]:
        return ((number, work(number)) for number in numbers)

    yield run


def predictor_of(model: Path, scene: Path) -> BlockPredictor:
    mapper, recipe = load_model(model)
    series = series_for_model(recipe, scene, 2021)
    side = recipe.task.window_px
    tiling = Tiling(height=64, width=64, window=side, stride=side, step=series.step, block=64)
    return BlockPredictor(
        model=mapper, recipe=recipe, series=series, tiling=tiling, device=torch.device("cpu"), batch_size=4, probabilities=True
    )


def test_a_worker_that_outlives_a_command_takes_the_model_of_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "open_executor", in_this_process)
    write_rice_scene(tmp_path / "a", "test", side=64, seed=5, frames=8)
    model, found = tmp_path / "model.safetensors", []
    for seed in (0, 1):
        save_model(model, *random_mapper(seed))
        predictor = predictor_of(model, tmp_path / "a")
        ((_, arrays),) = Workers(count=2, model=model).predict(predictor, [0])
        with predictor.series.open():
            expected = predictor.predict(predictor.tiling.blocks[0])
        np.testing.assert_array_equal(arrays["probabilities"], expected["probabilities"])
        found.append(arrays["probabilities"])
    assert (found[0] != found[1]).any()

    earlier = predictor_of(model, tmp_path / "a")
    save_model(model, *random_mapper(2))
    workers._opened.clear()
    with pytest.raises(ValueError, match=r"has changed since its map was begun; start the command again"):
        list(Workers(count=2, model=model).predict(earlier, [0]))
