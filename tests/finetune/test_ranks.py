"""Fine-tuning on several ranks: the same weights and scores as in one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import rasterio
from safetensors.torch import load_file

from tests.support.finetune_runs import SMALL_ENCODER, code_of_run, finish, start
from tests.support.pretraining import options
from tests.support.rice_scenes import write_label, write_rice_scene

# Eight windows in batches of 3, 3 and 2: of two ranks one gets more than the other.
SETTINGS = ["--task", "paddy_rice", "--override.frames", "4", "--override.window_px", "48", "--seed", "5"]
SETTINGS += ["--training.batch_size", "3", "--training.epochs", "2", "--training.learning_rate", "1e-3"]
SETTINGS += ["--decoder.channels", "8", "--augmentation.shift_days", "10"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for seed, (name, split) in enumerate([("a", "train"), ("b", "train"), ("c", "validation"), ("d", "test")]):
        write_rice_scene(folder / name, split, side=96, seed=seed, frames=8)
    # Windows with few labelled pixels beside full ones: a mean over ranks would count their pixels more.
    with rasterio.open(folder / "a" / "crop_type.tif") as raster:
        codes = raster.read(1)
    codes[3:48, :] = 0
    write_label(folder / "a" / "crop_type.tif", codes)
    return folder


def assert_same_runs(one: Path, other: Path) -> None:
    """Weights to 1e-5, scores of each epoch and of the test scenes the same."""
    ours, theirs = (load_file(run / "model.safetensors") for run in (one, other))
    assert ours.keys() == theirs.keys()
    for name in ours:
        # As in tests/pretrain/test_train.py: sums in another order, and AdamW divides a vanishing gradient by its own size.
        difference = (ours[name].double() - theirs[name].double()).abs()
        assert difference.max() < 1e-5, (name, difference.max())
    first, second = (json.loads((run / "metrics.json").read_text()) for run in (one, other))
    assert first["best_epoch"] == second["best_epoch"]
    assert first["test"] == second["test"]
    for epoch, same in zip(first["history"], second["history"], strict=True):
        assert epoch == pytest.approx(same, abs=1e-5)


@pytest.mark.slow  # `training/test_data_parallel.py` compares a few steps
def test_two_ranks_learn_what_one_process_learns(scenes: Path, tmp_path: Path) -> None:
    chosen = options(SMALL_ENCODER, "encoder")
    finish(start([*SETTINGS, "--data", str(scenes), "--output", str(tmp_path / "one"), *chosen], ranks=1))
    output, errors = finish(start([*SETTINGS, "--data", str(scenes), "--output", str(tmp_path / "two"), *chosen], ranks=2))
    assert_same_runs(tmp_path / "two", tmp_path / "one")
    assert output.count("paddy rice F1") == 1
    assert "Traceback" not in errors
    assert errors.count("training paddy_rice:   0%") == 1
    assert len(list((tmp_path / "two").glob("events*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("model", [[], ["--encoder", "unet"]])
def test_batches_of_one_small_window(scenes: Path, tmp_path: Path, model: list[str]) -> None:
    more = ["--override.window_px", "16", "--training.batch_size", "1", "--training.epochs", "1"]
    more += model or options(SMALL_ENCODER, "encoder")
    assert code_of_run([*SETTINGS, "--data", str(scenes), "--output", str(tmp_path / "run"), *more]) == 0
    assert all(values.isfinite().all() for values in load_file(tmp_path / "run" / "model.safetensors").values())
