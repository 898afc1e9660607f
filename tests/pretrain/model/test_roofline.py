"""The roofline against launches and bytes counted while the code runs, and against FLOPs of matrix products."""

from __future__ import annotations

import pytest
import torch

from pretrain.model import EncoderConfig
from pretrain.model.flops import forward_flops
from pretrain.model.gpus import GPUS, LAUNCH_SECONDS
from pretrain.model.roofline import Kernels, roofline, step_kernels, update_kernels

SOURCES = {"modis": 7, "landsat": 6, "sentinel2": 10}
SMALL = EncoderConfig(sources={"sentinel2": 10}, embed_dim=32, depths=(2, 2, 3, 1), num_heads=(1, 2, 4, 8), window_size=(4, 3, 3))
ITEM = {torch.bfloat16: 2, torch.float32: 4}


@pytest.mark.parametrize(
    ("config", "pixels", "batch", "dtype"),
    [
        (EncoderConfig(sources=SOURCES), (16, 10, 128, 128), 32, torch.bfloat16),
        (EncoderConfig(sources=SOURCES), (16, 10, 224, 224), 4, torch.bfloat16),
        (EncoderConfig(sources=SOURCES), (16, 10, 96, 96), 8, torch.float32),
        (EncoderConfig(sources=SOURCES), (16, 10, 8, 8), 64, torch.bfloat16),
        (SMALL, (7, 10, 50, 35), 16, torch.bfloat16),
    ],
    ids=["128 px", "224 px", "96 px in fp32", "8 px", "odd sides"],
)
def test_launches_and_bytes_are_those_counted(
    config: EncoderConfig, pixels: tuple[int, int, int, int], batch: int, dtype: torch.dtype
) -> None:
    """Of the whole step and of each pass of each module: launches within 3 and 10 %, bytes within 5 and 15 %."""
    pytest.importorskip("triton", reason="Triton is made for Linux only")
    from tests.support.counted_step import PARTS, count_step

    frames, bands, rows, cols = pixels
    counter = count_step(config, "sentinel2", (batch, frames, bands, rows, cols), dtype, kernels=True)
    stated = step_kernels(config, pixels, batch, ITEM[dtype])
    assert {*stated, "teacher's update"} == set(PARTS)
    found = {part: counter.total(part) for part in stated}
    for part, (launches, nbytes) in found.items():
        predicted = roofline(stated[part], "h100")
        assert predicted.launches == pytest.approx(launches, rel=0.1, abs=1), part
        if part not in ("loss", "head, forward", "head, teacher", "head, backward"):  # their bytes are too few to be stated
            assert predicted.nbytes == pytest.approx(nbytes, rel=0.15), part
    whole = roofline((kernel for part in stated.values() for kernel in part), "h100")
    assert whole.launches == pytest.approx(sum(launches for launches, _ in found.values()), rel=0.03)
    assert whole.nbytes == pytest.approx(sum(nbytes for _, nbytes in found.values()), rel=0.05)
    weights = [p.numel() for p in _model_of(config).parameters()]
    update = roofline(update_kernels(weights, ITEM[dtype]), "h100")
    assert (update.launches, pytest.approx(update.nbytes, rel=1e-3)) == counter.total("teacher's update")


def _model_of(config: EncoderConfig) -> torch.nn.Module:
    from pretrain.model import build_encoder
    from pretrain.objective.model import LandCoverModel
    from tests.support.counted_step import CLASSES

    with torch.device("meta"):
        return LandCoverModel(build_encoder(config), CLASSES)


@pytest.mark.parametrize("pixels", [(16, 10, 128, 128), (7, 10, 50, 35)])
def test_flops_are_those_of_the_encoder(pixels: tuple[int, int, int, int]) -> None:
    """A forward pass executes the model's FLOPs. The attention's gradient takes nine products, where the model has four."""
    frames, bands, rows, cols = pixels
    parts = step_kernels(SMALL, pixels, 5, 2)
    flops = forward_flops(SMALL, bands, frames, rows, cols)
    executed = {
        name: sum(kernel.flops for part, kernels in parts.items() if part.endswith(name) for kernel in kernels)
        for name in ("teacher", "forward", "backward")
    }
    assert executed["teacher"] == executed["forward"] == 5 * flops.forward
    again = (9 - 4) * flops.attention / 2
    assert executed["backward"] == 5 * (flops.training - flops.forward + again)
    checkpointed = step_kernels(SMALL, pixels, 5, 2, checkpointed=(1, 2, 3, 4))
    in_all = sum(kernel.flops for kernels in checkpointed.values() for kernel in kernels)
    assert in_all == sum(executed.values()) + 5 * (flops.projections + flops.attention)
    assert not any("teacher" in part for part in step_kernels(SMALL, pixels, 5, 2, has_teacher=False))


def test_time_is_that_of_what_bounds_it() -> None:
    peak, _, bandwidth = GPUS["h100"]
    product, passing = Kernels(flops=2 * peak, nbytes=bandwidth), Kernels(flops=peak, nbytes=3 * bandwidth, launches=4)
    predicted = roofline([product, passing], "h100")
    assert predicted.gpu_seconds == predicted.seconds == 5
    assert predicted.launch_seconds == pytest.approx(5 * LAUNCH_SECONDS)
    assert roofline([Kernels(launches=3)], "a100").seconds == pytest.approx(3 * LAUNCH_SECONDS)
