"""Costs of the decoder against products counted by hand, the bytes that autograd keeps, and the counter of kernels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pretrain.model import EncoderConfig, MapDecoder, MapDecoderConfig, build_encoder
from pretrain.model.decoder_cost import DecoderCost, decoder_cost
from pretrain.model.roofline import roofline
from pretrain.model.video_swin import as_maps

ENCODER = EncoderConfig(sources={"modis": 7, "sentinel2": 10}, embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
DECODER = MapDecoderConfig(frames=8, num_classes=5, channels=16, pixel_channels=8)
PIXELS, BATCH = (8, 10, 40, 52), 3


def cost_of(batch: int = BATCH) -> DecoderCost:
    return decoder_cost(build_encoder(ENCODER), DECODER, "sentinel2", PIXELS, batch, torch.float32)


def test_flops_are_those_of_the_convolutions() -> None:
    """Two for each multiplication: forward; and backward for the weights, and for the inputs but the pixels."""
    encoder = build_encoder(ENCODER)
    decoder = MapDecoder(encoder, ["sentinel2"], DECODER)
    forward: dict[nn.Module, int] = {}

    def note(module: nn.Module, _: object, out: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        forward[module] = 2 * out.numel() * module.in_channels * module.kernel_size[0] * module.kernel_size[1]

    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    pixels = torch.randn(BATCH, *PIXELS)
    decoder({"sentinel2": encoder(pixels, "sentinel2")}, PIXELS[2:], {"sentinel2": pixels})
    of_pixels = forward[decoder.sources["sentinel2"].pixels[0][0]]  # type: ignore[union-attr, index]
    cost = cost_of()
    assert cost.forward_flops == sum(forward.values())
    assert cost.training_flops == 3 * sum(forward.values()) - of_pixels


def test_kept_bytes_are_those_that_autograd_keeps() -> None:
    encoder = build_encoder(ENCODER)
    decoder = MapDecoder(encoder, ["sentinel2"], DECODER).eval()  # in training, it also calls the decoders of other sources
    weights = {parameter.untyped_storage().data_ptr() for parameter in decoder.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    pixels = torch.randn(BATCH, *PIXELS)
    with torch.no_grad():
        tokens = encoder.tokens(pixels, "sentinel2")
    for each in tokens:
        each.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scores = decoder({"sentinel2": as_maps(tokens)}, PIXELS[2:], {"sentinel2": pixels})
    assert scores.shape == (BATCH, 5, *PIXELS[2:])
    assert cost_of().kept == pytest.approx(sum(kept.values()), rel=0.02)
    assert cost_of(2 * BATCH).kept == 2 * cost_of().kept


def test_kernels_are_those_counted() -> None:
    """By the counter that the tests of the encoder's kernels use."""
    pytest.importorskip("triton", reason="Triton is made for Linux only")
    from tests.support.counted_kernels import KernelCounter

    encoder = build_encoder(ENCODER)
    with torch.no_grad():
        maps = encoder.tokens(torch.randn(BATCH, *PIXELS), "sentinel2")
    with torch.device("meta"):
        decoder = MapDecoder(encoder, ["sentinel2"], DECODER)
        tokens = [torch.empty(each.shape, requires_grad=True) for each in maps]
        pixels = torch.empty(BATCH, *PIXELS)
    with KernelCounter() as counter:
        counter.part = "forward"
        scores = decoder({"sentinel2": as_maps(tokens)}, PIXELS[2:], {"sentinel2": pixels})
        counter.part = "backward"
        torch.autograd.backward(scores, torch.empty_like(scores), inputs=[*decoder.parameters(), *tokens])
    cost = cost_of()
    for part, kernels in (("forward", cost.forward), ("backward", cost.backward)):
        launches, nbytes = counter.total(part)
        stated = roofline(kernels, "h100")
        assert stated.launches == launches, part
        assert stated.nbytes == pytest.approx(nbytes, rel=0.03), part
