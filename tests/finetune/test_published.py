"""Fine-tuning of a checkpoint with the names of the published weights, with the published settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from finetune.model.crop_mapper import CropMapper
from finetune.model.model_file import load_model
from pretrain.model import EncoderConfig, VideoSwin
from tests.support.finetune_runs import code_of_run
from tests.support.naive_encoder import naive_encoder
from tests.support.published_checkpoint import published_state, random_encoder
from tests.support.rice_scenes import write_rice_scene

pytestmark = pytest.mark.usefixtures("one_thread")
SOURCES = {"modis": 7, "landsat": 6, "sentinel2": 10}
SMALL = EncoderConfig(sources=SOURCES, embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), drop_path_rate=0.0)
# Of the published configuration, by their names in run.json.
PUBLISHED_SETTINGS = {
    "batch_size": 4,
    "learning_rate": 6e-5,
    "weight_decay": 5e-4,
    "best": "mean_f1",
    "decoder": "fusion",
    "detail_channels": 0,
    "statistics": "plain",
    "task.frames": 32,
    "tuning.encoder_rate": 1.0,
    "tuning.decoder_rate": 1.0,
}


def fine_tuned(folder: Path, encoder: VideoSwin, *arguments: str) -> tuple[CropMapper, dict[str, object]]:
    """The model that one epoch of the published fine-tuning gives, and its run.json."""
    folder.mkdir(exist_ok=True)
    torch.save(published_state(encoder), folder / "AgriFM.pth")
    for seed, (name, split) in enumerate([("a", "train"), ("b", "validation"), ("c", "test")]):
        write_rice_scene(folder / "scenes" / name, split, side=32, seed=seed, field=16)
    command = ["--config", "agrifm", "--task", "paddy_rice", "--data", str(folder / "scenes"), "--output", str(folder / "run")]
    command += ["--checkpoint", str(folder / "AgriFM.pth"), "--override.window_px", "32", "--training.epochs", "1"]
    assert code_of_run([*command, *arguments]) == 0
    model, _ = load_model(folder / "run")
    assert isinstance(model, CropMapper)
    return model, json.loads((folder / "run" / "run.json").read_text())


def check_outputs(model: CropMapper, encoder: VideoSwin, tolerance: float) -> None:
    """The five maps of the encoder in the model are those of the naive encoder with the checkpoint's weights."""
    pixels = torch.randn(1, 32, SOURCES["landsat"], 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = model.encoder(pixels, "landsat")
        theirs = naive_encoder(dict(encoder.state_dict()), encoder.config, pixels, "landsat")
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=tolerance, rtol=tolerance)


def test_published_settings_and_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = random_encoder(SMALL)
    model, settings = fine_tuned(
        tmp_path, encoder, "--decoder.channels", "16", "--tuning.encoder_rate", "1e-20", "--tuning.decoder_rate", "1.0"
    )
    printed = capsys.readouterr().out
    assert "mapped all" in printed
    assert "normalised by the training windows" in printed  # the published weights hold no statistics
    expected = PUBLISHED_SETTINGS | {"tuning.encoder_rate": 1e-20}
    assert {name: settings[name] for name in expected} == expected
    check_outputs(model, encoder, 1e-4)


@pytest.mark.slow
def test_published_size(tmp_path: Path) -> None:
    """All 88 M parameters and a decoder of 1,024 channels, at the published rates."""
    config = EncoderConfig(sources=SOURCES)
    encoder = random_encoder(config, deviation=0.02)
    model, settings = fine_tuned(tmp_path, encoder, "--training.batch_size", "2")
    assert settings["decoder_channels"] == 1024
    weights = dict(model.encoder.state_dict())
    moved = [(weights[name] - weight).abs().max().item() for name, weight in encoder.state_dict().items()]
    assert 0 < max(moved) < 1e-3  # a few steps of at most 6e-5 each
    frozen, _ = fine_tuned(tmp_path / "frozen", encoder, "--tuning.mode", "frozen")
    check_outputs(frozen, encoder, 1e-4)
