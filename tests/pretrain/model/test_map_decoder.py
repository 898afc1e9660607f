"""The map decoder: sizes, what it can draw, the sources that reach the map, and its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import f1_score

from pretrain.model import (
    EncoderConfig,
    MapDecoder,
    MapDecoderConfig,
    VideoSwin,
    build_encoder,
    load_decoder,
    load_encoder,
    save_encoder,
)

BANDS = {"landsat": 6, "modis": 7, "sentinel2": 10}
SMALL = EncoderConfig(
    sources=BANDS, embed_dim=4, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), drop_path_rate=0.0
)
SIDES = {"landsat": 22, "modis": 2, "sentinel2": 35}  # which no patch divides


def models(
    sources: tuple[str, ...] = tuple(BANDS), frames: int = 8, patch: tuple[int, int, int] = (4, 4, 4)
) -> tuple[VideoSwin, MapDecoder]:
    torch.manual_seed(0)
    encoder = build_encoder(replace(SMALL, patch_size=patch))
    config = MapDecoderConfig(frames=frames, num_classes=3, channels=16, pixel_channels=16)
    return encoder, MapDecoder(encoder, sources, config)


def pixels_of(*sources: str, frames: int = 8) -> dict[str, torch.Tensor]:
    return {source: torch.randn(2, frames, BANDS[source], SIDES[source], SIDES[source]) for source in sources}


def scores(encoder: VideoSwin, decoder: MapDecoder, data: dict[str, torch.Tensor], side: int = 22) -> torch.Tensor:
    return decoder({source: encoder(pixels, source) for source, pixels in data.items()}, (side, side), data)


@pytest.mark.parametrize("frames", [1, 7, 16])
@pytest.mark.parametrize("patch", [(4, 4, 4), (4, 2, 2)])
def test_any_sizes_frames_and_patches_give_a_map_of_the_size_that_is_asked_for(frames: int, patch: tuple[int, int, int]) -> None:
    encoder, decoder = models(frames=frames, patch=patch)
    result = scores(encoder, decoder, pixels_of(*BANDS, frames=frames))
    assert result.shape == (2, 3, 22, 22)
    result.sum().backward()
    assert all(weight.grad is not None for weight in decoder.parameters())
    data = pixels_of("landsat", frames=frames)["landsat"]
    assert decoder.sources["landsat"](encoder(data, "landsat"), data).shape == (2, 8, 22, 22)


@pytest.mark.parametrize("patch", [(4, 4, 4), (4, 2, 2)])
def test_it_draws_what_is_thinner_than_a_patch(patch: tuple[int, int, int]) -> None:
    """The label is a stripe of one pixel that is brighter in every image, somewhere else in each window."""
    encoder, decoder = models(("landsat",), 4, patch)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 0.005)

    def draw() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        label = (torch.arange(16) == torch.randint(16, (8, 1))).long()[:, None].expand(-1, 16, -1)
        return {"landsat": torch.randn(8, 4, 6, 16, 16) * 0.3 + label[:, None, None]}, label

    for _ in range(60):
        data, label = draw()
        loss = torch.nn.functional.cross_entropy(scores(encoder, decoder, data, 16), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    data, label = draw()
    found = scores(encoder, decoder, data, 16).argmax(dim=1)
    assert f1_score(label.flatten(), found.flatten(), zero_division=0) > 0.95


def test_the_head_reads_the_mean_over_sources_whichever_there_are() -> None:
    encoder, decoder = models()
    decoder.eval()
    data = pixels_of("landsat", "sentinel2")
    each = [
        torch.nn.functional.interpolate(
            decoder.sources[source](encoder(pixels, source), pixels), size=(22, 22), mode="bilinear", align_corners=False
        )
        for source, pixels in data.items()
    ]
    torch.testing.assert_close(scores(encoder, decoder, data), decoder.head((each[0] + each[1]) / 2))
    torch.testing.assert_close(scores(encoder, decoder, {"landsat": data["landsat"]}), decoder.head(each[0]))


def test_a_sample_does_not_depend_on_the_others_of_its_batch() -> None:
    encoder, decoder = models(("landsat",))
    pixels = pixels_of("landsat")["landsat"]
    whole = scores(encoder, decoder, {"landsat": pixels})
    alone = torch.cat([scores(encoder, decoder, {"landsat": one}) for one in pixels.split(1)])
    torch.testing.assert_close(alone, whole, rtol=1e-4, atol=1e-5)


def test_decoders_that_a_batch_does_not_use_get_a_gradient_of_zeros_and_change_nothing() -> None:
    encoder, decoder = models()
    data = pixels_of("modis")
    found = scores(encoder, decoder, data)
    torch.testing.assert_close(found, scores(encoder, decoder.eval(), data))
    found.sum().backward()
    for source, of_source in decoder.sources.items():
        used = [bool(weight.grad.any()) for weight in of_source.parameters()]
        assert any(used) if source == "modis" else not any(used)


def test_encoder_and_decoder_share_a_file_and_the_names_of_the_encoder_stay(tmp_path: Path) -> None:
    encoder, decoder = models()
    path = tmp_path / "encoder.safetensors"
    save_encoder(encoder, path, decoder)
    names = load_file(path).keys()
    assert {name for name in names if not name.startswith("decoder.")} == encoder.state_dict().keys()
    found = load_encoder(path)
    of_file = load_decoder(path, found)
    assert of_file is not None
    assert of_file.config == decoder.config
    data = pixels_of(*BANDS)
    torch.testing.assert_close(scores(found.eval(), of_file.eval(), data), scores(encoder.eval(), decoder.eval(), data))
    save_encoder(encoder, path)
    assert load_decoder(path, load_encoder(path)) is None


def test_a_decoder_of_another_shape_is_refused(tmp_path: Path) -> None:
    encoder, decoder = models()
    path = tmp_path / "encoder.safetensors"
    decoder.head[2] = torch.nn.Conv2d(8, 4, 1)
    save_encoder(encoder, path, decoder)
    with pytest.raises(ValueError, match=r"does not fit the decoder: .* misshapen: head.2.bias \(4,\) for \(3,\)"):
        load_decoder(path, load_encoder(path))
    with pytest.raises(ValueError, match="has 25 channels and 16 pixel_channels; expected an even number"):
        MapDecoderConfig(frames=8, num_classes=3, channels=25)
