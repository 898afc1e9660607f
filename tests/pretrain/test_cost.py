"""The cost card against the parameters and FLOPs of the model, and the old name of its command."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pretrain.cost import CostConfig, cost
from pretrain.log.duration import duration
from pretrain.model import EncoderConfig, build_encoder
from pretrain.model.flops import forward_flops
from tests.support.pretraining import ROOT


def test_card_states_parameters_and_an_epoch(capsys):
    cost(CostConfig(samples={"sentinel2": 1000}, chip_px={"sentinel2": 128}, gpus=2, gpu="a100", utilisation=0.5))
    printed = capsys.readouterr().out
    total = sum(p.numel() for p in build_encoder(EncoderConfig(sources={"sentinel2": 10})).parameters())
    assert f"{total / 1e6:.2f}" in printed
    flops = forward_flops(EncoderConfig(sources={"sentinel2": 10}), 10, 16, 128, 128)
    assert duration(1000 * (flops.training + flops.forward) / (2 * 312e12 * 0.5)) in printed


def test_mistakes_name_what_is_known():
    with pytest.raises(ValueError, match="known are a100"):
        CostConfig(gpu="tpu")
    with pytest.raises(ValueError, match="sentinel1"):
        cost(CostConfig(samples={"sentinel1": 3}))
    assert [duration(s) for s in (3, 200, 8000, 200_000)] == ["3 s", "3.3 min", "2.2 h", "2.3 d"]


@pytest.mark.slow
def test_the_old_name_of_the_command_still_works():
    options = ["--gpus", "2", "--chip_px", "{landsat: 64, sentinel2: 64}"]
    old, new = (
        subprocess.run([sys.executable, "-m", name, *options], cwd=ROOT, capture_output=True, text=True, check=True)
        for name in ("pretrain.model.cost", "pretrain.cost")
    )
    assert old.stdout == new.stdout
    assert "an epoch of" in new.stdout
    assert new.stderr == ""
    assert len(old.stderr.splitlines()) == 1
    assert "python -m pretrain.cost" in old.stderr
