"""FLOPs against those counted on the naive model."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pretrain.model import EncoderConfig, build_encoder
from pretrain.model.flops import forward_flops
from pretrain.model.training_flops import training_flops
from pretrain.model.video_swin import map_sizes
from tests.support.naive_encoder import naive_encoder

SMALL = EncoderConfig(
    sources={"sentinel2": 10},
    embed_dim=16,
    depths=(2, 2, 3, 1),
    num_heads=(1, 2, 4, 8),
    window_size=(4, 3, 3),
    drop_path_rate=0.0,
)
SHAPES = [(16, 48, 48), (7, 50, 35), (1, 4, 4), (33, 97, 64)]  # whole windows and patches, and not


def weights_of(config):
    return {name: tensor.requires_grad_() for name, tensor in build_encoder(config).state_dict().items()}


@pytest.mark.parametrize("shape", SHAPES)
def test_padded_flops_are_those_counted_on_the_naive_model(shape):
    frames, rows, cols = shape
    pixels = torch.randn(1, frames, 10, rows, cols)
    flops = forward_flops(SMALL, 10, frames, rows, cols, padded=True)
    with FlopCounterMode(display=False) as forward:
        last = naive_encoder(weights_of(SMALL), SMALL, pixels, "sentinel2")[-1]
    assert forward.get_total_flops() == flops.forward
    with FlopCounterMode(display=False) as backward:
        last.sum().backward()
    assert forward.get_total_flops() + backward.get_total_flops() == flops.training


@pytest.mark.parametrize("shape", SHAPES)
def test_flops_of_real_tokens_are_those_of_our_projections(shape):
    """The attention is an operator that the counter does not look into; all else is counted."""
    frames, rows, cols = shape
    flops = forward_flops(SMALL, 10, frames, rows, cols)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        build_encoder(SMALL).tokens(torch.randn(1, frames, 10, rows, cols), "sentinel2")
    attention = counter.get_flop_counts()["Global"].get(torch.ops.aten.bmm, 0)
    assert counter.get_total_flops() - attention == flops.forward - flops.attention


def test_a_training_step_is_the_students_passes_and_the_teachers():
    shapes = {"sentinel2": (10, 48, 48), "modis": (7, 8, 8)}
    encoder = build_encoder(SMALL)
    for source, (bands, rows, cols) in shapes.items():
        flops = forward_flops(SMALL, bands, 16, rows, cols)
        alone = training_flops(encoder, shapes, 16, has_teacher=False)[source]
        assert alone == flops.training == 3 * flops.forward - flops.patch_embedding  # nobody asks for the pixels' gradient
        assert training_flops(encoder, shapes, 16, has_teacher=True)[source] == alone + flops.forward


def test_without_padding_both_ways_cost_the_same():
    sizes = map_sizes(SMALL, 128, 144, 144)
    assert all(side % window == 0 for size in sizes[:3] for side, window in zip(size, (4, 3, 3), strict=True))
    config = dataclasses.replace(SMALL, depths=(1, 1, 1, 0))  # unshifted
    assert forward_flops(config, 10, 128, 144, 144) == forward_flops(config, 10, 128, 144, 144, padded=True)
