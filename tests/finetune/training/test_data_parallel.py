"""Data parallelism against one process: losses, gradients and batch normalisation of the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from common.ranks import leave, sum_over_ranks
from finetune.model.baselines import UNet
from finetune.task import IGNORE
from finetune.training.data_parallel import data_parallel
from finetune.training.losses import MapLoss
from tests.support.pretraining import free_port

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
    learner = data_parallel(model, device) if world_size > 1 else model
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
