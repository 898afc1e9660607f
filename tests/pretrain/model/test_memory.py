"""Memory against the bytes that autograd keeps and those of the ZeRO paper."""

import dataclasses

import pytest
import torch

from pretrain.model import EncoderConfig, build_encoder
from pretrain.model.memory import activation_bytes, model_bytes

SMALL = EncoderConfig(
    sources={"sentinel2": 10},
    embed_dim=16,
    depths=(2, 2, 3, 1),
    num_heads=(1, 2, 4, 8),
    window_size=(4, 3, 3),
    drop_path_rate=0.0,
)


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
    # ZeRO, section 3.2 with its 7.5 B parameters on 64 GPUs: 120, 31.4, 16.6 and 1.9 GB, before the teacher. Gradients of the
    # paper have 2 bytes.
    for stage, gigabytes in enumerate((120, 31.4, 16.6, 1.9)):
        parts = model_bytes(7_500_000_000, stage, 64, bf16=True)
        of_paper = sum(parts.values()) - parts["teacher"] - parts["gradients"] / 2
        assert of_paper / 1e9 == pytest.approx(gigabytes, rel=0.02)
