"""The cost card against the parameters and FLOPs of the model, and the old name of its command."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
import yaml

from pretrain.config import ObjectiveConfig
from pretrain.cost import CostConfig, cost
from pretrain.data.config import StreamConfig
from pretrain.log.duration import duration
from pretrain.model import EncoderConfig, MapDecoder, build_encoder
from pretrain.model.decoder_cost import decoder_cost
from pretrain.model.flops import forward_flops
from pretrain.model.roofline import roofline, step_kernels, update_kernels
from pretrain.objective.model import LandCoverModel
from tests.support.pretraining import ROOT


def test_card_states_parameters_and_an_epoch(capsys):
    cost(
        CostConfig(samples={"sentinel2": 1000}, chip_px={"sentinel2": 128}, gpus=2, gpu="a100", utilisation=0.5, storage_gb_s=1e3)
    )
    printed = capsys.readouterr().out
    total = sum(p.numel() for p in model_of().parameters())
    assert f"{total / 1e6:.2f}" in printed
    flops = forward_flops(EncoderConfig(sources={"sentinel2": 10}), 10, 16, 128, 128)
    assert duration(1000 * (flops.training + flops.forward) / (2 * 312e12 * 0.5)) in printed


def model_of(config: EncoderConfig = EncoderConfig(sources={"sentinel2": 10})) -> LandCoverModel:  # noqa: B008
    """Encoder and linear head of the fractions of eight classes."""
    return LandCoverModel(build_encoder(config), 8)


def printed_by(capsys: pytest.CaptureFixture[str], **options: object) -> str:
    cost(CostConfig(samples={"sentinel2": 10**6}, chip_px={"sentinel2": 128}, gpus=8, gpu="h100", **options))  # type: ignore[arg-type]
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("bound", "storage", "batch"),
    [
        pytest.param("storage", 1.0, 32, marks=pytest.mark.slow),
        ("kernels", 1000.0, 32),
        pytest.param("launches", 1000.0, 2, marks=pytest.mark.slow),
    ],
)
def test_the_time_is_that_of_the_roofline_or_of_storage(
    bound: str, storage: float, batch: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """32 samples of 5.5 MB on a GPU take 0.18 s at 1 GB/s; two give the kernels less to do than launching them takes."""
    encoder = EncoderConfig(sources={"sentinel2": 10})
    update = update_kernels([p.numel() for p in model_of(encoder).parameters()], 2)
    kernels = [*(k for part in step_kernels(encoder, (16, 10, 128, 128), batch, 2).values() for k in part), *update]
    predicted, read = roofline(kernels, "h100"), batch * 16 * 128 * 128 * 21
    seconds = max(predicted.gpu_seconds, predicted.launch_seconds, read / (storage * 1e9))
    printed = printed_by(capsys, stream=StreamConfig(global_batch_size=8 * batch), storage_gb_s=storage)
    assert re.search(rf"{bound} +{re.escape(duration(10**6 / (8 * batch) * seconds))}", printed)
    assert "predicted, never measured" in printed
    flops = forward_flops(encoder, 10, 16, 128, 128)
    assert f"at {batch * (flops.training + flops.forward) / 989.4e12 / seconds:.1%} of 989 TFLOP/s" in printed


def test_a_utilisation_that_was_measured_is_told_as_given(capsys: pytest.CaptureFixture[str]) -> None:
    printed = printed_by(capsys, utilisation=0.3, storage_gb_s=1000.0)
    assert "at 30.0% of 989 TFLOP/s (as given" in printed
    slow = printed_by(capsys, utilisation=0.3, storage_gb_s=0.01)
    assert "at 30.0%" not in slow
    assert "0.01 GB/s a GPU" in slow


def test_recommended_batches_cost_alike_and_are_shared_equally(capsys):
    sides = {"modis": 8, "landsat": 64, "sentinel2": 128}
    stream = StreamConfig(global_batch_size={"modis": 16, "landsat": 16, "sentinel2": 64})
    config = CostConfig(samples=dict.fromkeys(sides, 1000), chip_px=sides, gpus=4, gradient_accumulation_steps=2, stream=stream)
    cost(config)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("micro-batches that cost alike"))
    sizes = yaml.safe_load(line.split("'")[1])
    flops = {
        source: forward_flops(EncoderConfig(sources={source: 10}), 10, 16, side, side).forward for source, side in sides.items()
    }
    assert sizes["sentinel2"] == 64
    assert all(size % 8 == 0 for size in sizes.values())
    for source in ("modis", "landsat"):
        assert sizes[source] * flops[source] == pytest.approx(64 * flops["sentinel2"], rel=0.1)


def test_sources_beyond_the_mixture_cost_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, object] = {"samples": {"sentinel2": 10**6, "modis": 10**6}, "chip_px": {"sentinel2": 32, "modis": 8}}
    stream = StreamConfig(mixture={"modis": 1.0}, global_batch_size={"modis": 64})
    cost(CostConfig(stream=stream, **options))  # type: ignore[arg-type]
    printed = capsys.readouterr().out
    assert "an epoch of 1.0 M samples" in printed
    assert "sentinel2" not in printed
    with pytest.raises(ValueError, match="global_batch_size has no entry for sentinel2, only for modis"):
        cost(CostConfig(stream=StreamConfig(global_batch_size={"modis": 64}), **options))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"stream.mixture names sources \['landsat'\]; there are \['modis', 'sentinel2'\]"):
        cost(CostConfig(stream=StreamConfig(mixture={"landsat": 1.0}), **options))  # type: ignore[arg-type]


def test_dates_of_the_teachers_own_are_read_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    read = []
    for dates in ("same", "own"):
        stream = StreamConfig(teacher_dates=dates, global_batch_size=64)  # type: ignore[arg-type]
        cost(CostConfig(samples={"modis": 10**9}, chip_px={"modis": 8}, stream=stream))
        printed = capsys.readouterr().out
        read.append(float(re.search(r"([\d.]+) TB are read", printed)[1]))  # type: ignore[index]
    assert read == pytest.approx([15.36, 30.72])  # 16 frames of 8 x 8 px, with 7 bands of two bytes and one of validity


def test_the_decoder_of_the_map_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Parameters and FLOPs of the card are those of the model that a training with this legend has."""
    groupings = {"glc_fcs30d": "glc_fcs30d_fine"}
    flops = {}
    for predict in ("fractions", "map"):
        printed = printed_by(capsys, objective=ObjectiveConfig(predict=predict, groupings=groupings))  # type: ignore[arg-type]
        found = re.search(r"sentinel2 +16 x 10 x 128 x 128 +([\d.]+) +([\d.]+)", printed)
        assert found is not None
        flops[predict] = [float(number) for number in found.groups()]
    shape = ObjectiveConfig(predict="map").decoder(16, 15)
    assert shape is not None
    encoder = model_of().encoder
    model = LandCoverModel(encoder, 15, MapDecoder(encoder, ["sentinel2"], shape))
    assert f"all {sum(p.numel() for p in model.parameters()) / 1e6:.2f}" in re.sub(" +", " ", printed)
    decoder = decoder_cost(encoder, shape, "sentinel2", (16, 10, 128, 128), 2, torch.bfloat16)
    added = [(of_map - of_fractions) * 1e9 for of_map, of_fractions in zip(flops["map"], flops["fractions"], strict=True)]
    assert added == pytest.approx([decoder.forward_flops / 2, (decoder.training_flops + decoder.forward_flops) / 2], abs=0.02e9)
    assert "map decoder" in printed.split("GB moved")[1]


def test_mistakes_name_what_is_known():
    with pytest.raises(ValueError, match="known are a100"):
        CostConfig(gpu="tpu")
    for wrong in ({"gpus": 0}, {"utilisation": 0.0}, {"utilisation": 1.1}, {"storage_gb_s": 0.0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*expected"):
            CostConfig(**wrong)
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
