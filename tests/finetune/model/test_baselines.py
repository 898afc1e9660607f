"""The baselines against the same networks written another way, and through the command."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import torch.nn.functional as F
from torch import nn

from common.command_line import parse
from data_prep.archive.sensor import load_sensors
from finetune.config import TINY_ENCODER, FinetuneConfig
from finetune.model.baselines import BASELINES, TemporalCNN, UNet
from finetune.model.model_file import load_model, save_model
from finetune.model.recipe import Recipe, build_model
from finetune.predict import predict
from finetune.task import load_task
from tests.support.finetune_runs import run, run_arguments
from tests.support.rice_scenes import write_rice_scene

BANDS = {"landsat": 6, "modis": 7}
NETWORKS = ("unet", "temporal_cnn")  # tests/finetune/model/test_random_forest.py has the forest


def shaken(model: nn.Module) -> nn.Module:
    """The model in evaluation mode with random statistics and offsets, so that no layer of it may be left out unseen."""
    for name, values in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            values.copy_(torch.rand_like(values) + 0.5 if name.endswith("running_var") else torch.randn_like(values) * 0.3)
    return model.eval()


def normalised(maps: torch.Tensor, weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    values = [weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    mean, var, scale, offset = (value.view(1, -1, 1, 1) for value in values)
    return (maps - mean) / torch.sqrt(var + 1e-5) * scale + offset


def test_unet_is_the_one_of_the_paper() -> None:
    torch.manual_seed(0)
    model = shaken(UNet({"sentinel2": 3}, frames=2, num_classes=4, channels=2))
    weights = model.state_dict()

    def pair(maps: torch.Tensor, name: str) -> torch.Tensor:
        for conv, norm in ((0, 1), (3, 4)):
            maps = F.relu(normalised(F.conv2d(maps, weights[f"{name}.{conv}.weight"], padding=1), weights, f"{name}.{norm}"))
        return maps

    def below(maps: torch.Tensor, level: int) -> torch.Tensor:
        """What a U of the levels from `level` on makes of its input."""
        left = pair(maps, f"down.{level}")
        if level == 4:
            return left
        halves = left.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).amax(dim=(-3, -1))
        lower = below(halves, level + 1)
        step = 3 - level
        # A transposed convolution with kernel = stride puts one 2 x 2 tile for each pixel.
        tiles = torch.einsum("bihw,ioyx->bohywx", lower, weights[f"up.{step}.weight"])
        wide = tiles.flatten(4, 5).flatten(2, 3) + weights[f"up.{step}.bias"].view(1, -1, 1, 1)
        return pair(torch.cat([left, wide], dim=1), f"merge.{step}")

    pixels = torch.randn(2, 2, 3, 32, 48)
    expected = torch.einsum("bchw,kc->bkhw", below(pixels.reshape(2, 6, 32, 48), 0), weights["head.weight"][:, :, 0, 0])
    expected = expected + weights["head.bias"].view(1, -1, 1, 1)
    torch.testing.assert_close(model({"sentinel2": pixels}, (32, 48)), expected, rtol=1e-4, atol=1e-4)


def test_unet_has_the_size_of_the_paper() -> None:
    """31 M parameters at 64 channels, counted layer by layer."""
    total, widths = 0, [3, 64, 128, 256, 512, 1024]
    for i, o in pairwise(widths):
        total += 9 * i * o + 9 * o * o + 4 * o
    for o in widths[1:-1]:
        total += 4 * 2 * o * o + o + 9 * 2 * o * o + 9 * o * o + 4 * o
    total += 64 * 2 + 2
    assert sum(weight.numel() for weight in UNet({"rgb": 3}, 1, 2, 64).parameters()) == total == 31_037_698


def test_temporal_cnn_is_conv1d_on_each_pixel() -> None:
    torch.manual_seed(0)
    frames, channels, classes = 7, 5, 3
    model = shaken(TemporalCNN({"landsat": 2, "modis": 4}, frames, classes, channels))
    plain = nn.Sequential()
    for width in (6, channels, channels):
        plain.extend([nn.Conv1d(width, channels, 5, padding=2, bias=False), nn.BatchNorm1d(channels), nn.ReLU(), nn.Dropout(0.5)])
    dense = [nn.Linear(channels * frames, 4 * channels, bias=False), nn.BatchNorm1d(4 * channels), nn.ReLU(), nn.Dropout(0.5)]
    plain.extend([nn.Flatten(), *dense, nn.Linear(4 * channels, classes)]).eval()
    own = list(model.state_dict().values())
    theirs = plain.state_dict()
    assert len(own) == len(theirs)
    plain.load_state_dict({name: value.reshape(theirs[name].shape) for name, value in zip(theirs, own, strict=True)})
    data = {"landsat": torch.randn(2, frames, 2, 4, 6), "modis": torch.randn(2, frames, 4, 4, 6)}
    found = model(data, (4, 6))
    for sample, row, col in np.ndindex(2, 4, 6):
        series = torch.cat([data[source][sample, :, :, row, col] for source in ("landsat", "modis")], dim=1)  # (T, C)
        torch.testing.assert_close(found[sample, :, row, col], plain(series.T[None])[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("frames", [1, 3, 16])
@pytest.mark.parametrize("size", [(1, 1), (22, 35), (64, 64)])
def test_any_sources_frames_and_sizes(name: str, frames: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = BASELINES[name](BANDS, frames, 3, 8)  # fewer might all be below zero, and the ReLU lets nothing through
    data = {"landsat": torch.randn(2, frames, 6, *size), "modis": torch.randn(2, frames, 7, -(-size[0] // 16), -(-size[1] // 16))}
    model.eval()
    before = model(data, size)
    assert before.shape == (2, 3, *size)
    for source in BANDS:
        assert not torch.allclose(before, model(data | {source: data[source] + 1}, size)), f"{source} does not reach the map"
    before.square().sum().backward()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None]


def test_what_a_pixel_sees() -> None:
    """The temporal CNN sees the pixel alone, the U-Net what lies around it."""
    pixels = torch.randn(1, 4, 6, 64, 64, requires_grad=True)
    for name, reach in (("temporal_cnn", 0), ("unet", 20)):
        torch.manual_seed(0)
        model = BASELINES[name]({"landsat": 6}, 4, 2, 4).eval()
        (seen,) = torch.autograd.grad(model({"landsat": pixels}, (64, 64))[0, 1, 32, 32], pixels)
        rows, cols = torch.nonzero(seen[0].abs().sum(dim=(0, 1)), as_tuple=True)
        spread = max(int((rows - 32).abs().max()), int((cols - 32).abs().max()))
        assert spread == 0 if reach == 0 else spread >= reach


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_holds_all_that_is_needed(tmp_path: Path, name: str) -> None:
    task = replace(load_task("paddy_rice"), frames=5)
    sensors = {source: load_sensors()[source] for source in task.sources}
    unit = {source: {"mean": [0.0] * len(s.bands), "std": [1.0] * len(s.bands)} for source, s in sensors.items()}
    recipe = Recipe(
        task=task, sensors=sensors, normalization=unit, pixel=30.0, encoder=name, channels=3, origin="scratch"
    )  # fmt: skip
    model = build_model(recipe).eval()
    save_model(tmp_path / "model.safetensors", model, recipe)
    again, found = load_model(tmp_path)
    assert found == recipe
    assert isinstance(again, BASELINES[name])
    data = {source: torch.randn(1, 5, len(sensors[source].bands), 16, 16) for source in task.sources}
    torch.testing.assert_close(again(data, (16, 16)), model(data, (16, 16)), rtol=0, atol=0)
    wider = build_model(replace(recipe, channels=4))
    save_model(tmp_path / "model.safetensors", wider, recipe)
    with pytest.raises(ValueError, match="weights do not fit the recipe"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="unknown baseline 'vgg'; expected one of unet, temporal_cnn, random_forest"):
        build_model(replace(recipe, encoder="vgg"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for seed, (name, split) in enumerate([("a", "train"), ("b", "train"), ("c", "validation"), ("d", "test")]):
        write_rice_scene(folder / name, split, side=128, seed=seed, field=16)
    return folder


@pytest.mark.parametrize("name", ["unet", pytest.param("temporal_cnn", marks=pytest.mark.slow)])
def test_the_command_trains_and_maps_with_a_baseline(
    scenes: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "override.frames": 8,
        "training.epochs": 12,
        "training.batch_size": 4,
        "decoder.channels": 8,
        "training.learning_rate": 3e-3,
    }
    arguments = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    folders = ["--data", str(scenes), "--output", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stopped:
        run_arguments(["--task", "paddy_rice", *folders, "--encoder", name, *arguments])
    assert stopped.value.code == 0
    assert f"{name} from scratch" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["encoder"] == name
    assert metrics["score"]["value"] > 0.85  # a map of rice everywhere has 0.5
    predict(model=tmp_path / "run", input=[scenes / "d"], output=tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as again, rasterio.open(tmp_path / "run" / "maps" / "d.tif") as first:
        np.testing.assert_array_equal(again.read(1), first.read(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": Path("runs/tiny")}, "is a baseline without pretrained layers; leave --checkpoint"),
        ({"decoder.kind": "linear"}, "is a baseline without pretrained layers"),
        ({"tuning.mode": "frozen"}, "is a baseline without pretrained layers"),
        ({"tuning.layer_decay": 0.75}, "is a baseline without pretrained layers"),
    ],
)
def test_a_baseline_starts_from_nothing(scenes: Path, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(task="paddy_rice", data=scenes, output=tmp_path / "run", encoder="unet", **changes)
    assert not (tmp_path / "run").exists()


def test_encoder_is_a_shape_or_the_name_of_a_baseline() -> None:
    needed = ["--task", "paddy_rice", "--data", "scenes", "--output", "run"]
    for words in (
        ["--encoder.embed-dim", "64", "--encoder.depths=[1,1,2,1]"],
        ["--encoder", "{embed_dim: 64, depths: [1, 1, 2, 1]}"],
    ):
        assert parse(FinetuneConfig, [*needed, *words], config_class=FinetuneConfig).encoder == replace(
            TINY_ENCODER, embed_dim=64, depths=(1, 1, 2, 1)
        )
    assert parse(FinetuneConfig, needed, config_class=FinetuneConfig).encoder == TINY_ENCODER
    assert parse(FinetuneConfig, [*needed, "--encoder", "temporal_cnn"], config_class=FinetuneConfig).encoder == "temporal_cnn"


def test_unknown_encoders_are_refused(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_arguments(["--task", "paddy_rice", "--data", str(scenes), "--output", str(tmp_path / "run"), "--encoder", "resnet"])
    assert stopped.value.code == 2
    assert "'unet', 'temporal_cnn'" in capsys.readouterr().err
