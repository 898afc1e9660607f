"""Fine-tuning on several ranks: the same weights and scores as of one process, and errors that are said once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rasterio
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from common.ranks import leave, sum_over_ranks
from finetune.model.baselines import UNet
from finetune.model.batch_norm import BatchNorm2d
from finetune.task import IGNORE
from finetune.training.loop import shared
from finetune.training.losses import MapLoss
from pretrain.model import EncoderConfig
from tests.support.launching import ROOT
from tests.support.pretraining import free_port, options
from tests.support.rice_scenes import write_label, write_rice_scene

ENCODER = EncoderConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), drop_path_rate=0.3)
# Eight windows in batches of 3, 3 and 2: of two ranks one gets more than the other.
SETTINGS = ["--task", "paddy_rice", "--frames", "4", "--window_px", "48", "--batch_size", "3", "--epochs", "2", "--seed", "5"]
SETTINGS += ["--decoder_channels", "8", "--learning_rate", "1e-3", "--shift_days", "10"]


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


def start(ranks: int, scenes: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    """The command as a user types it: launch/finetune.sh for several ranks, finetune/run.py for one."""
    command = ["bash", "launch/finetune.sh"] if ranks > 1 else [sys.executable, "finetune/run.py"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"NUM_RANKS": str(ranks), "OMP_NUM_THREADS": "1", "PATH": path, "PYTHONPATH": str(ROOT)}
    arguments = [*SETTINGS, "--data", str(scenes), "--output", str(output), *more]
    return subprocess.Popen(
        [*command, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    output, errors = process.communicate(timeout=240)
    assert process.returncode == code, output[-2000:] + errors[-3000:]
    return output, errors


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


def test_two_ranks_learn_what_one_process_learns(scenes: Path, tmp_path: Path) -> None:
    chosen = options(ENCODER, "encoder")
    finish(start(1, scenes, tmp_path / "one", *chosen))
    output, errors = finish(start(2, scenes, tmp_path / "two", *chosen))
    assert_same_runs(tmp_path / "two", tmp_path / "one")
    assert output.count("paddy rice F1") == 1
    assert "Traceback" not in errors
    assert errors.count("training paddy_rice:   0%") == 1
    assert len(list((tmp_path / "two").glob("events*"))) == 1


LOSS = {"cross_entropy": 1.0, "balanced_cross_entropy": 0.5, "dice": 1.0, "focal": 0.7}
PARTS = {1: [slice(0, 5)], 2: [slice(0, 2), slice(2, 5)], 3: [slice(0, 1), slice(1, 2), slice(2, 5)]}


def learn(rank: int, world_size: int, port: str, folder: Path) -> None:
    """Steps in float64, where rounding does not hide a mistake: U-Net, all losses, uneven parts, one without any label."""
    if world_size > 1:
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device("cpu")
    model = UNet({"landsat": 3}, 2, 3, 4).double().train()
    learner = shared(model, device) if world_size > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loss_of = MapLoss(LOSS, torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64))
    losses = []
    for _ in range(4):
        pixels = torch.randn(5, 2, 3, 32, 32, dtype=torch.float64)
        label = torch.randint(-1, 3, (5, 32, 32))
        label[2, :20] = label[:2] = IGNORE
        mine = PARTS[world_size][rank]
        loss = loss_of(learner({"landsat": pixels[mine]}, (32, 32)), label[mine], sum_over_ranks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    torch.save({"losses": losses, **model.state_dict()}, folder / f"{world_size}-{rank}.pt")
    leave()


@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_take_the_steps_of_one_process(world_size: int, tmp_path: Path) -> None:
    learn(0, 1, "", tmp_path)
    torch.multiprocessing.spawn(learn, (world_size, free_port(), tmp_path), nprocs=world_size)
    alone, *each = (torch.load(tmp_path / f"{count}-{rank}.pt") for count in (1, world_size) for rank in range(count))
    for found in each:
        assert found.pop("losses") == pytest.approx(alone["losses"], abs=1e-12)
        for name, values in found.items():
            torch.testing.assert_close(values, alone[name], rtol=0, atol=1e-10, msg=name)


def test_a_single_value_is_normalised_as_it_will_be_in_use() -> None:
    torch.manual_seed(0)
    norm, theirs = BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    for values in torch.randn(5, 4, 3, 2, 2):
        torch.testing.assert_close(norm(values), theirs(values))
    before = {name: values.clone() for name, values in norm.state_dict().items()}
    single = torch.randn(1, 3, 1, 1, requires_grad=True)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):  # when PyTorch allows it, this can go
        theirs(single)
    found = norm(single)
    torch.testing.assert_close(found, theirs.eval()(single))
    found.sum().backward()
    assert (single.grad != 0).all()
    assert all(torch.equal(values, before[name]) for name, values in norm.state_dict().items())


@pytest.mark.parametrize("model", [[], ["--encoder", "unet"]])
def test_batches_of_one_small_window(scenes: Path, tmp_path: Path, model: list[str]) -> None:
    more = ["--window_px", "16", "--batch_size", "1", "--epochs", "1", *(model or options(ENCODER, "encoder"))]
    finish(start(1, scenes, tmp_path / "run", *more))
    assert all(values.isfinite().all() for values in load_file(tmp_path / "run" / "model.safetensors").values())
