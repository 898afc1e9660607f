"""Stand-ins for trained models whose maps can be computed by hand, and a small random model."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from data_prep.archive.sensor import load_sensors
from finetune.model.crop_mapper import CropMapper
from finetune.model.recipe import Recipe
from finetune.task import load_task
from pretrain.model import EncoderConfig, build_encoder

SMALL = EncoderConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), drop_path_rate=0.0)


class Pixelwise(nn.Module):
    """Class scores from the mean of a pixel's own frames: a model whose map cannot depend on windows."""

    def forward(self, data: dict[str, torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        near_infrared = data["landsat"][:, :, 3].mean(dim=1)
        assert near_infrared.shape[-2:] == size
        return torch.stack([-near_infrared, near_infrared], dim=1)


class Convolutional(nn.Module):
    """Class scores from all pixels within `radius`, with zeros beyond the window as convolutions have it."""

    def __init__(self, radius: int, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(radius)
        self.convolution = nn.Conv2d(6, 2, 2 * radius + 1, padding="same", bias=bias)

    def forward(self, data: dict[str, torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        assert data["landsat"].shape[-2:] == size
        return 4 * self.convolution(data["landsat"].mean(dim=1))


def make_recipe(window_px: int, sources: tuple[str, ...] = ("landsat", "modis")) -> Recipe:
    task = replace(load_task("paddy_rice"), window_px=window_px, frames=24, season=("01-01", "12-31"), sources=sources)
    sensors = {source: load_sensors()[source] for source in task.sources}
    unit = {name: {"mean": [2000.0] * len(s.bands), "std": [1000.0] * len(s.bands)} for name, s in sensors.items()}
    return Recipe(task=task, sensors=sensors, normalization=unit, pixel=30.0, encoder={}, channels=8, origin="test")


def random_mapper(seed: int = 0, sources: tuple[str, ...] = ("landsat", "modis")) -> tuple[CropMapper, Recipe]:
    """A small model with random weights, and the recipe to save it with."""
    torch.manual_seed(seed)
    encoder = build_encoder(replace(SMALL, sources={"landsat": 6, "modis": 7}))
    recipe = replace(make_recipe(32, sources), encoder=encoder.config.to_dict())
    return CropMapper(encoder, recipe.task.sources, recipe.task.frames, 2, recipe.channels).eval(), recipe
