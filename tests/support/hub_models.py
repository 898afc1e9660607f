"""Models for the tests of the hub, and huggingface_hub set to a stand-in and to a cache of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from data_prep.archive.sensor import load_sensors
from finetune.model.model_file import save_model
from finetune.model.recipe import Recipe, build_model
from finetune.task import load_task
from pretrain.model import EncoderConfig, VideoSwin, build_encoder, save_encoder
from tests.support.hub_server import Hub

SHAPE = EncoderConfig(
    sources={"landsat": 6}, embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), drop_path_rate=0.0
)
NORMALIZATION = {"landsat": {"mean": [1500.0] * 6, "std": [900.0] * 6}}


def use_hub(hub: Hub | str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub in this process ask `hub`, and keep what it fetches in `cache`, without a token."""
    url = hub if isinstance(hub, str) else hub.url
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no_token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)


def write_encoder(path: Path, seed: int = 0) -> VideoSwin:
    """An encoder of random weights, also as a file."""
    torch.manual_seed(seed)
    encoder = build_encoder(SHAPE)
    encoder.normalization = NORMALIZATION
    path.parent.mkdir(parents=True, exist_ok=True)
    save_encoder(encoder, path)
    return encoder


def rice_recipe() -> Recipe:
    """A small model of paddy rice from Landsat alone."""
    task = replace(load_task("paddy_rice"), sources=("landsat",), frames=4, window_px=16)
    return Recipe(
        task=task,
        sensors={"landsat": load_sensors()["landsat"]},
        normalization=NORMALIZATION,
        pixel=30.0,
        encoder=SHAPE.to_dict(),
        channels=4,
        origin="scratch",
        detail_channels=2,
    )


def write_model(path: Path, seed: int = 0) -> Recipe:
    """A fine-tuned model of random weights as a file; returns its recipe."""
    torch.manual_seed(seed)
    recipe = rice_recipe()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(path, build_model(recipe), recipe)
    return recipe
