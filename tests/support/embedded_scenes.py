"""Small encoders and scenes for the tests of embeddings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from finetune.embedding import EmbedConfig, embed
from pretrain.model import VideoSwin, build_encoder, save_encoder
from tests.support.rice_scenes import write_rice_scene
from tests.support.stand_in_models import SMALL

NORMALIZATION = {source: {"mean": [2000.0] * bands, "std": [1000.0] * bands} for source, bands in (("landsat", 6), ("modis", 7))}
STRIPE = slice(40, 60)  # columns of Landsat that were never clear: the cells 10 to 14


def small_encoder(seed: int = 0) -> VideoSwin:
    """An encoder of Landsat and MODIS with random weights."""
    torch.manual_seed(seed)
    return build_encoder(replace(SMALL, sources={"landsat": 6, "modis": 7}), NORMALIZATION).eval()


def write_encoder(path: Path, seed: int = 0) -> Path:
    """`small_encoder` as a file; returns its path."""
    save_encoder(small_encoder(seed), path)
    return path


def write_striped_scenes(folder: Path, side: int = 112) -> Path:
    """Two scenes, `a` and `b`, without clouds but for a stripe in `a` that was never clear; returns their folder."""
    for seed, name in enumerate(("a", "b")):
        write_rice_scene(folder / name, "train", side=side, seed=seed, frames=8, cloudy=0.0)
    zarr.open_group(folder / "a" / "landsat.zarr")["Fmask"][:, :, STRIPE] = 2
    return folder


def run_embed(model: Path, scenes: Path, output: Path, **options: Any) -> list[Path]:
    """Embed scenes of Landsat of 2021 in 12 dimensions."""
    known: dict[str, Any] = {"year": 2021, "dimensions": 12} if "pca" not in options else {"year": 2021}
    return embed(EmbedConfig(model=model, input=scenes, output=output, **(known | options)))


def bilinear(values: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Values (D, H, W) at fractional rows and columns (N,), counted from the centre of the first, by scipy: (D, N)."""
    from scipy.ndimage import map_coordinates

    return np.stack([map_coordinates(band.astype(np.float64), [rows, cols], order=1, mode="nearest") for band in values])
