"""What the decoder of the map costs: counted while it runs on tensors without numbers, which takes no time and no memory.

The encoder's costs are formulas, since its attention runs in kernels of its own. The decoder consists of PyTorch's operators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from pretrain.model.map_decoder import MapDecoder, MapDecoderConfig
from pretrain.model.roofline import Kernels, norm_backward_launches
from pretrain.model.video_swin import VideoSwin, as_maps, map_sizes

aten = torch.ops.aten
ALLOCATING = {aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten.new_empty_strided, aten._unsafe_view}


@dataclass(frozen=True, kw_only=True)
class DecoderCost:
    """Costs of the decoder for samples of one source.

    Attributes:
        forward, backward: kernels of each pass. No gradient of the pixels is computed.
        kept: bytes of activations that the forward pass keeps for the gradient.
    """

    forward: list[Kernels]
    backward: list[Kernels]
    kept: int

    @property
    def forward_flops(self) -> float:
        """FLOPs of the forward pass."""
        return sum(kernel.flops for kernel in self.forward)

    @property
    def training_flops(self) -> float:
        """FLOPs of the forward and backward pass."""
        return self.forward_flops + sum(kernel.flops for kernel in self.backward)


def decoder_cost(
    encoder: VideoSwin, config: MapDecoderConfig, source: str, pixels: tuple[int, int, int, int], batch: int, dtype: torch.dtype
) -> DecoderCost:
    """Costs of decoding samples of one source.

    Args:
        encoder: the encoder whose maps are decoded.
        config: shape of the decoder.
        source: a source of the encoder.
        pixels: frames, bands, rows and columns of a sample.
        batch: number of samples.
        dtype: of weights and activations.
    """
    frames, _, rows, cols = pixels
    with torch.device("meta"):
        decoder = MapDecoder(encoder, [source], config).to(dtype).train()
        images = torch.empty(batch, *pixels, dtype=dtype)
        sizes = map_sizes(encoder.config, frames, rows, cols)
        # Five maps: the patch embedding, and each stage after its merging, which the last one does not have.
        widths = [encoder.config.embed_dim * 2 ** min(level, len(sizes) - 1) for level in range(len(sizes) + 1)]
        tokens = [
            torch.empty(batch, *size, width, dtype=dtype, requires_grad=True)
            for size, width in zip([*sizes, sizes[-1]], widths, strict=True)
        ]
    weights = {id(parameter) for parameter in decoder.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with _Recorder() as forward, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scores = decoder({source: as_maps(tokens)}, (rows, cols), {source: images})
    with _Recorder() as backward:
        torch.autograd.backward(scores, torch.empty_like(scores))
    return DecoderCost(
        forward=forward.kernels,
        backward=backward.kernels,
        kept=sum(tensor.untyped_storage().nbytes() for tensor in kept.values()),
    )


class _Recorder(TorchDispatchMode):
    """Records the operators that launch kernels. Each reads its inputs and writes its results once."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernels] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:  # an operator that consists of others is recorded as these
            if (result := func.decompose(*args, **kwargs)) is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        packet = func.overloadpacket
        if not func.is_view and packet not in ALLOCATING:
            flops = flop_registry[packet](*args, **kwargs, out_val=result) if packet in flop_registry else 0
            moved = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            launches = 1
            if packet is aten.native_layer_norm_backward:
                channels = args[1].shape[-1]
                launches = norm_backward_launches(args[1].numel() // channels, channels)
            self.kernels.append(Kernels(flops=flops, nbytes=sum(tensor.nbytes for tensor in moved), launches=launches))
        return result
