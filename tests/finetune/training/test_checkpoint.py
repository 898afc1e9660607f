"""Checkpoints of a run: damaged ones, and those of another model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from finetune.training.checkpoint import NEWEST_CHECKPOINT, PREVIOUS_CHECKPOINT, Progress, load_newest_checkpoint, save_checkpoint


def small() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(20, 20)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] = 255 - content[len(content) // 3]
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    model, optimizer = small()
    weights = []
    for epoch in (1, 2, 3):
        model(torch.ones(20)).sum().backward()
        optimizer.step()
        weights.append(model.weight.detach().clone())
        save_checkpoint(tmp_path, Progress(epoch=epoch, history=[{"loss": 0.1 + 0.2}] * epoch), model, optimizer)
    for epoch in (3, 2):
        again, its_optimizer = small()
        found = load_newest_checkpoint(tmp_path, again, its_optimizer, torch.device("cpu"))
        assert (found.epoch, found.history) == (epoch, [{"loss": 0.1 + 0.2}] * epoch)
        assert torch.equal(again.weight, weights[epoch - 1])
        assert its_optimizer.state_dict()["state"][0]["step"] == epoch
        if epoch == 3:
            damage(tmp_path / NEWEST_CHECKPOINT)
    assert f"checkpoint {tmp_path / NEWEST_CHECKPOINT} is damaged and is not used" in capsys.readouterr().out
    damage(tmp_path / PREVIOUS_CHECKPOINT)
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged; remove the folder"):
        load_newest_checkpoint(tmp_path, *small(), torch.device("cpu"))


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Progress(epoch=1), *small())
    other = nn.Linear(20, 3)
    with pytest.raises(ValueError, match="does not continue this run"):
        load_newest_checkpoint(tmp_path, other, torch.optim.AdamW(other.parameters()), torch.device("cpu"))
