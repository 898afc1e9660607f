"""FLOPs and memory against counters: FLOPs of the naive model, and bytes that autograd keeps."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pretrain.model import EncoderConfig, build_encoder
from pretrain.model.flops import (
    activation_bytes,
    forward_flops,
    map_sizes,
    model_bytes,
    peak_flops,
    training_flops,
)
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
    for source, (bands, rows, cols) in shapes.items():
        flops = forward_flops(SMALL, bands, 16, rows, cols)
        alone = training_flops(SMALL, shapes, 16, has_teacher=False)[source]
        assert alone == flops.training == 3 * flops.forward - flops.patch_embedding  # nobody asks for the pixels' gradient
        assert training_flops(SMALL, shapes, 16, has_teacher=True)[source] == alone + flops.forward


def test_peak_is_that_of_the_card_or_unknown():
    known = {
        "NVIDIA H100 80GB HBM3": 989.4e12,
        "NVIDIA A100-SXM4-80GB": 312e12,
        "NVIDIA A100-PCIE-40GB": 312e12,
        "NVIDIA L40S": 362e12,
        "NVIDIA L40": 181e12,
        "Tesla V100-SXM2-32GB": 125e12,
    }
    assert {name: peak_flops(name) for name in known} == known
    unknown = ["NVIDIA H100 PCIe", "NVIDIA H100 NVL", "Tesla V100-PCIE-16GB", "NVIDIA GH200 480GB", "NVIDIA L4", "cpu"]
    assert [peak_flops(name) for name in unknown] == [None] * len(unknown)


def test_without_padding_both_ways_cost_the_same():
    sizes = map_sizes(SMALL, 128, 144, 144)
    assert all(side % window == 0 for size in sizes[:3] for side, window in zip(size, (4, 3, 3), strict=True))
    config = dataclasses.replace(SMALL, depths=(1, 1, 1, 0))  # unshifted
    assert forward_flops(config, 10, 128, 144, 144) == forward_flops(config, 10, 128, 144, 144, padded=True)


@pytest.mark.parametrize("stages", [(), (1,), (1, 2, 3, 4)])
def test_kept_bytes_are_those_that_autograd_keeps(stages):
    """Of two batch sizes, so that what does not grow with the batch (weights, biases) drops out."""

    def kept(batch):
        encoder = build_encoder(dataclasses.replace(SMALL, mlp_ratio=4.0))
        encoder.checkpoint_activations(stages)
        weights = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
        found = {}

        def keep(tensor):
            if tensor.is_floating_point() and tensor.untyped_storage().data_ptr() not in weights:
                found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        pixels = torch.randn(batch, 16, 10, 64, 64)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            tokens = encoder.tokens(pixels, "sentinel2")[-1]
        del tokens
        return sum(found.values())

    a_sample = (kept(6) - kept(2)) / 4
    stated = activation_bytes(SMALL, 10, 16, 64, 64, 4, stages)
    if not stages:
        assert a_sample == pytest.approx(stated, rel=0.02)
    else:  # what the blocks keep while they run again is not seen here
        assert a_sample < stated < activation_bytes(SMALL, 10, 16, 64, 64, 4)


def test_zero_stages_divide_what_the_paper_says():
    # ZeRO, section 3.2 with its 7.5 B parameters on 64 GPUs: 120, 31.4, 16.6 and 1.9 GB, before the teacher
    for stage, gigabytes in enumerate((120, 31.4, 16.6, 1.9)):
        parts = model_bytes(7_500_000_000, stage, 64, bf16=True)
        assert (sum(parts.values()) - parts["teacher"]) / 1e9 == pytest.approx(gigabytes, rel=0.02)
