"""The decoder: its channels, its skip connection from the input pixels, and the sources that reach the map."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import f1_score

from finetune.model.crop_mapper import CropMapper
from finetune.model.decoder import LinearDecoder
from pretrain.model import EncoderConfig, build_encoder

BANDS = {"landsat": 6, "modis": 7, "sentinel2": 10}
SMALL = EncoderConfig(embed_dim=4, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), drop_path_rate=0.0)


@pytest.mark.parametrize("sources", [("landsat",), ("landsat", "modis"), ("sentinel2", "modis", "landsat")])
@pytest.mark.parametrize("frames", [1, 7, 13, 16])
@pytest.mark.parametrize("skip_channels", [0, 5])
def test_decoder_channels_follow_from_sources_and_frames(sources: tuple[str, ...], frames: int, skip_channels: int) -> None:
    encoder = build_encoder(replace(SMALL, sources={source: BANDS[source] for source in sources}))
    model = CropMapper(encoder, sources, frames, num_classes=3, channels=6, skip_channels=skip_channels)
    depth = [math.ceil(frames / 4)]
    for _ in range(3):
        depth.append(math.ceil(depth[-1] / 2))
    widths = [4 * 2**stage * depth[stage] for stage in range(4)]  # per source: patch embedding, three mergings
    assert model.decoder.start[0].in_channels == widths[3] * len(sources)
    assert [pair[0].in_channels for pair in model.decoder.climb] == [6 + widths[level] * len(sources) for level in (2, 1, 0)]
    # Sizes that no patch divides, and another for each source.
    sides = {"landsat": 22, "modis": 2, "sentinel2": 35}
    data = {source: torch.randn(2, frames, BANDS[source], sides[source], sides[source]) for source in sources}
    result = model(data, (22, 22))
    assert result.shape == (2, 3, 22, 22)
    result.sum().backward()
    unused = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert not unused


@pytest.mark.parametrize("skip_channels", [0, 8])
def test_the_skip_connection_draws_what_is_thinner_than_a_patch(skip_channels: int) -> None:
    """The label is a stripe of one pixel that is brighter in every image, somewhere else in each window."""
    torch.manual_seed(0)
    model = CropMapper(build_encoder(replace(SMALL, sources={"landsat": 6})), ("landsat",), 4, 2, 8, skip_channels=skip_channels)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        label = (torch.arange(16) == torch.randint(16, (8, 1))).long()[:, None].expand(-1, 16, -1)
        return torch.randn(8, 4, 6, 16, 16) * 0.3 + label[:, None, None], label

    for _ in range(60):
        pixels, label = draw()
        loss = torch.nn.functional.cross_entropy(model({"landsat": pixels}, (16, 16)), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pixels, label = draw()
    found = model.eval()({"landsat": pixels}, (16, 16)).argmax(dim=1)
    f1 = f1_score(label.flatten(), found.flatten(), zero_division=0)
    assert f1 > 0.95 if skip_channels else f1 < 0.8


def test_every_source_reaches_the_map() -> None:
    torch.manual_seed(0)
    sources = ("landsat", "modis")
    model = CropMapper(build_encoder(replace(SMALL, sources={s: BANDS[s] for s in sources})), sources, 8, 2, 8).eval()
    data = {"landsat": torch.randn(1, 8, 6, 16, 16), "modis": torch.randn(1, 8, 7, 1, 1)}
    before = model(data, (16, 16))
    for source in sources:
        changed = data | {source: data[source] + 1}
        assert not torch.allclose(before, model(changed, (16, 16)))


def test_the_linear_decoder_weighs_all_features_of_a_pixel() -> None:
    """Against the same sum written out: normalised features of five levels of two sources, resampled to the map."""
    torch.manual_seed(0)
    sources = ("landsat", "modis")
    encoder = build_encoder(replace(SMALL, sources={source: BANDS[source] for source in sources}))
    model = CropMapper(encoder, sources, 8, 3, 8, kind="linear")
    decoder = model.decoder
    assert isinstance(decoder, LinearDecoder)
    decoder.norm.running_mean = torch.randn_like(decoder.norm.running_mean)
    decoder.norm.running_var = torch.rand_like(decoder.norm.running_var) + 0.5
    data = {"landsat": torch.randn(2, 8, 6, 16, 16), "modis": torch.randn(2, 8, 7, 4, 4)}
    found = model.eval()(data, (16, 16))
    columns = []
    for source in sources:
        for level in encoder(data[source], source=source):
            columns.append(torch.nn.functional.interpolate(level, size=(16, 16), mode="bilinear", align_corners=False))
    features = torch.cat(columns, dim=1).permute(0, 2, 3, 1)
    normalised = (features - decoder.norm.running_mean) / torch.sqrt(decoder.norm.running_var + 1e-5)
    expected = normalised @ decoder.head.weight[:, :, 0, 0].T + decoder.head.bias
    torch.testing.assert_close(found.permute(0, 2, 3, 1), expected, rtol=1e-4, atol=1e-4)
