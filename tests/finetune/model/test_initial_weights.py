"""The decoder that fine-tuning takes over from a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from finetune.model.crop_mapper import CropMapper
from finetune.model.initial_weights import check_decoder, take_over
from finetune.task import load_task
from pretrain.model import EncoderConfig, MapDecoder, MapDecoderConfig, build_encoder

ENCODER = EncoderConfig(
    sources={"landsat": 6, "modis": 7, "sentinel2": 10}, embed_dim=4, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)
)


def test_all_but_the_last_layer_is_taken_over_for_the_sources_of_the_task() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(ENCODER)
    pretrained = MapDecoder(encoder, tuple(ENCODER.sources), MapDecoderConfig(frames=8, num_classes=5, channels=16))
    model = CropMapper(encoder, ("sentinel2", "landsat"), 8, 3, 16, 16, kind="map")
    fresh = {name: weight.clone() for name, weight in model.decoder.state_dict().items()}
    take_over(pretrained, model)
    ours, theirs = model.decoder.state_dict(), pretrained.state_dict()
    assert {name.split(".")[1] for name in ours if name.startswith("sources.")} == {"landsat", "sentinel2"}
    assert [name for name in ours if torch.equal(ours[name], fresh[name]) and ours[name].ndim > 1] == ["head.2.weight"]
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if not name.startswith("head.2."))
    assert ours["head.2.weight"].shape[0] == 3


@pytest.mark.parametrize(
    ("shape", "option"),
    [
        ({"frames": 8}, "--override.frames 8 instead of 16"),
        ({"channels": 32}, "--decoder.channels 32 instead of 64"),
        ({"pixel_channels": 32}, "--decoder.skip_channels 32 instead of 16"),
    ],
)
def test_a_decoder_of_another_shape_is_refused(shape: dict[str, int], option: str) -> None:
    there = replace(MapDecoderConfig(frames=16, num_classes=5), **shape)
    decoder = MapDecoder(build_encoder(ENCODER), ("landsat",), there)
    with pytest.raises(ValueError, match=option):
        check_decoder(decoder, load_task("paddy_rice"), 64, 16, Path("runs/map"))
