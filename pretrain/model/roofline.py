"""The time of a training step by the roofline model (Williams et al., Communications of the ACM, 2009), computed from its shape.

A kernel takes as long as its arithmetic at the GPU's peak rate or as its traffic at the peak of the memory, whichever is longer.
Kernels run one after the other. The host launches them one by one, which may take longer than they do. This is a lower bound of
the time, and an upper bound of the utilisation: no GPU reaches its peaks. Nothing of it was measured on a GPU.

The model is of PyTorch's operators without torch.compile, with the attention of `attention/cuda.py`. A kernel reads each of its
inputs from the memory once, and writes each of its results once. Tests compare launches and bytes with those counted while the
code itself runs on tensors without numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from pretrain.model.attention.cuda_tables import SLICES
from pretrain.model.attention.layout import Size, WindowLayout, window_layout
from pretrain.model.flops import count_windows
from pretrain.model.gpus import GPUS, LAUNCH_SECONDS
from pretrain.model.video_swin import EncoderConfig, map_sizes

# Bytes per pixel and band of the two normalised views, and launches: two flips of the student's integers and validity and two
# choices between images; both views to float32, less the mean, by the deviation, by validity; for square samples a third choice,
# between an image and the transposed one; and both views to the precision of training, if it is bf16.
VIEWS, TURNED, CAST = (81.2, 28), (6.3, 8), (12, 2)
LOSS_LAUNCHES = 39
# Tensors, and chunks of 65,536 numbers, that a kernel over lists of tensors takes, as PyTorch divides them.
TENSORS_OF_LIST, CHUNKS_OF_LIST, CHUNK = 64, 320, 65_536
# Layer norms over more rows than this sum up the gradients of weight and bias in two more kernels.
ROWS_OF_PARTS = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """One kernel, or several that move few bytes.

    Attributes:
        flops: floating-point operations of matrix products that are executed.
        nbytes: bytes that are read and written.
        launches: number of kernels.
    """

    flops: float = 0.0
    nbytes: float = 0.0
    launches: int = 1

    def seconds(self, gpu: str) -> float:
        """Time on a GPU of `GPUS`, without that of launching."""
        peak, _, bandwidth = GPUS[gpu]
        return max(self.flops / peak, self.nbytes / bandwidth)


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """The prediction for a part of a step, or for a whole one.

    Attributes:
        flops: executed FLOPs; the backward pass of the attention computes scores again.
        nbytes: bytes of memory traffic.
        launches: kernels.
        gpu_seconds: time of the kernels.
        launch_seconds: time of launching them.
    """

    flops: float
    nbytes: float
    launches: int
    gpu_seconds: float
    launch_seconds: float

    @property
    def seconds(self) -> float:
        """The longer of both times: the GPU computes while the host launches."""
        return max(self.gpu_seconds, self.launch_seconds)


def roofline(kernels: Iterable[Kernels], gpu: str) -> Roofline:
    """The prediction for some kernels on one GPU of `GPUS`."""
    listed = list(kernels)
    launches = sum(each.launches for each in listed)
    return Roofline(
        flops=sum(each.flops for each in listed),
        nbytes=sum(each.nbytes for each in listed),
        launches=launches,
        gpu_seconds=sum(each.seconds(gpu) for each in listed),
        launch_seconds=launches * LAUNCH_SECONDS,
    )


def step_kernels(
    config: EncoderConfig,
    pixels: tuple[int, int, int, int],
    batch: int,
    item: int,
    has_teacher: bool = True,
    checkpointed: tuple[int, ...] = (),
) -> dict[str, list[Kernels]]:
    """Kernels of a micro-batch on one GPU, by part: `views`, `loss`, and `stage 1, forward` and the like.

    The modules are `patch embedding`, `stage 1` to `stage 4` and `head`, each with `forward`, `backward` and `teacher`.

    Args:
        config: shape of the encoder, with at least one source.
        pixels: frames, bands, rows and columns of a sample.
        batch: samples on the GPU.
        item: bytes of a number in weights and activations: 2 for bf16, 4 for fp32.
        has_teacher: whether there is a forward pass of the teacher.
        checkpointed: stages of activation checkpointing, 1 to 4, whose blocks run forward again in the backward pass.
    """
    frames, bands, rows, cols = pixels
    values = batch * math.prod(pixels)
    steps = [VIEWS, *[TURNED] * (rows == cols), *[CAST] * (item == 2)]
    parts = {
        "views": [Kernels(nbytes=values * per_value, launches=launches) for per_value, launches in steps],
        "loss": [Kernels(launches=LOSS_LAUNCHES)],
    }
    passes = ("teacher", "forward") if has_teacher else ("forward",)
    parts |= {
        f"head, {name}": [Kernels(launches=launches)] for name, launches in {**dict.fromkeys(passes, 3), "backward": 6}.items()
    }
    sizes = map_sizes(config, frames, rows, cols)
    idle, tokens = len(config.sources) - 1, batch * math.prod(sizes[0])
    patch = bands * math.prod(config.patch_size)
    sides = zip((frames, rows, cols), config.patch_size, strict=True)
    padding = [_moved(values + 2 * tokens * patch, item, 2)] if any(side % patched for side, patched in sides) else []
    unfolding = [*padding, _moved(2 * tokens * patch, item)]
    embedding = _product(tokens, patch, config.embed_dim, item)
    # The student's transposed pixels are copied once more, and idle sources add a sum of zeros to its tokens.
    copied = [_moved(2 * tokens * patch, item)] if rows == cols and not padding else []
    zeros = [_moved(2 * tokens * config.embed_dim, item, 5 * idle + 2)] if idle else []
    by_pass = {"teacher": [*unfolding, embedding], "forward": [*copied, *unfolding, embedding, *zeros]}
    parts |= {f"patch embedding, {name}": by_pass[name] for name in passes}
    sums = [_moved(tokens * config.embed_dim, item, 2 + 2 * idle)] if idle else []
    parts["patch embedding, backward"] = [embedding, _moved(tokens * config.embed_dim, item), *sums]
    for number, size in enumerate(sizes):
        stage = _Stage(config, number, size, batch, item)
        for name in passes:
            parts[f"stage {number + 1}, {name}"] = [*stage.forward(is_scaled=name == "forward"), *stage.merging(sizes)]
        again = stage.forward(is_scaled=True) if number + 1 in checkpointed else ()
        parts[f"stage {number + 1}, backward"] = [*again, *stage.backward(), *stage.merging_backward(sizes)]
    return parts


def update_kernels(weights: Sequence[int], item: int) -> list[Kernels]:
    """Kernels of the teacher's update after an optimizer step on one GPU; those of AdamW and DeepSpeed are not counted.

    The fp32 weights are averaged, and the average is copied to one tensor, and from there to the teacher that computes. `weights`
    are the numbers of elements of all tensors.
    """
    parameters = sum(weights)
    each = max(math.ceil(len(weights) / TENSORS_OF_LIST), math.ceil(parameters / CHUNK / CHUNKS_OF_LIST))
    moved = 12, item, 4 + item, 2 * item  # averaged, filled with zeros, copied twice
    return [Kernels(nbytes=sum(moved) * parameters, launches=1 + 3 * each)]


def norm_backward_launches(rows: int, channels: int) -> int:
    """Kernels of the gradients of a layer norm: of its input, and of weight and bias, over many rows in parts that are summed."""
    return 4 if rows > ROWS_OF_PARTS and channels < 1728 else 2


def _moved(numbers: float, item: int, launches: int = 1) -> Kernels:
    return Kernels(nbytes=numbers * item, launches=launches)


def _product(rows: int, inputs: int, outputs: int, item: int) -> Kernels:
    """(rows, inputs) @ (inputs, outputs), or one of its two gradients: all three move the same numbers."""
    return Kernels(flops=2 * rows * inputs * outputs, nbytes=item * (rows * (inputs + outputs) + inputs * outputs))


@dataclass(frozen=True)
class _Stage:
    """A stage of the encoder, its blocks on a map of `size` and its merging after them. `number` counts from 0."""

    config: EncoderConfig
    number: int
    size: Size
    batch: int
    item: int

    @property
    def channels(self) -> int:
        return self.config.embed_dim * 2**self.number

    @property
    def hidden(self) -> int:
        return int(self.channels * self.config.mlp_ratio)

    @property
    def rows(self) -> int:
        """Tokens of the batch."""
        return self.batch * math.prod(self.size)

    def _passes_over(self, count: float, launches: int = 1) -> Kernels:
        """Kernels that read or write the batch's tokens `count` times together."""
        return _moved(count * self.rows * self.channels, self.item, launches)

    def _linear(self, inputs: int, outputs: int) -> Kernels:
        return _product(self.rows, inputs, outputs, self.item)

    def _norm_backward(self, rows: int, channels: int) -> Kernels:
        return _moved(3 * rows * channels, self.item, norm_backward_launches(rows, channels))

    def _layouts(self) -> Iterator[WindowLayout]:
        """The windows of each block."""
        for block in range(self.config.depths[self.number]):
            yield window_layout(self.size, self.config.window_size, block % 2 == 1, torch.device("meta"), may_join=False)

    def forward(self, is_scaled: bool) -> Iterator[Kernels]:
        """All blocks; `is_scaled`: with stochastic depth."""
        channels, hidden = self.channels, self.hidden
        is_scaled = is_scaled and self.config.drop_path_rate > 0
        scaled = [self._passes_over(2)] if is_scaled else []
        if is_scaled and self.number == 0:
            yield Kernels(launches=6)  # the draws of stochastic depth
        for layout in self._layouts():
            yield self._passes_over(2)  # norm
            yield self._linear(channels, 3 * channels)
            yield self._bias(layout)
            yield self._attention(layout, products=2, passes=4)
            yield self._linear(channels, channels)
            yield from scaled
            yield self._passes_over(3)  # residual
            yield self._passes_over(2)
            yield self._linear(channels, hidden)
            yield _moved(2 * self.rows * hidden, self.item)  # GELU
            yield self._linear(hidden, channels)
            yield from scaled
            yield self._passes_over(3)

    def backward(self) -> Iterator[Kernels]:
        """All blocks. Norms and GELU are computed again; each linear layer has two products and the sum of its bias."""
        channels, hidden = self.channels, self.hidden
        scaled = [self._passes_over(2)] if self.config.drop_path_rate > 0 else []
        for layout in self._layouts():
            yield from scaled
            yield self._passes_over(2)
            yield self._linear(channels, hidden)
            yield _moved(3 * self.rows * hidden, self.item)
            yield self._linear(hidden, channels)
            yield self._norm_backward(self.rows, channels)
            yield self._linear(channels, hidden)
            yield _moved(self.rows * hidden, self.item)
            yield _moved(2 * self.rows * hidden, self.item)
            yield self._linear(hidden, channels)
            yield self._passes_over(1)
            yield self._passes_over(3)
            yield from scaled
            yield from (self._linear(channels, channels), self._linear(channels, channels), self._passes_over(1))
            # Of queries, of keys and values, and of the bias: nine products, as each of the three computes scores again.
            yield self._attention(layout, products=3, passes=6)
            yield self._attention(layout, products=4, passes=6)
            yield self._attention(layout, products=2, passes=4)
            yield self._bias_backward(layout)
            yield self._passes_over(2)
            yield from (self._linear(3 * channels, channels), self._norm_backward(self.rows, channels))
            yield from (self._linear(channels, 3 * channels), self._passes_over(3), self._passes_over(3))

    def _attention(self, layout: WindowLayout, products: int, passes: int) -> Kernels:
        """A kernel of the attention over `passes` tensors of the size of the tokens, and the bias and its normalisers."""
        _, pairs = count_windows(layout.size, layout.window, layout.shifted, padded=False)
        heads = self.config.num_heads[self.number]
        known = 8 * self.rows * heads + _bias_numbers(layout) * heads * self.item
        flops = self.batch * pairs * 2 * self.channels * products
        return Kernels(flops=flops, nbytes=passes * self.rows * self.channels * self.item + known)

    def _bias(self, layout: WindowLayout) -> Kernels:
        """The bias of all groups of windows from its table."""
        return Kernels(nbytes=self._bias_bytes(layout, self.item), launches=1)

    def _bias_backward(self, layout: WindowLayout) -> Kernels:
        """The gradient of the table, from slices, and that of the padding: zeros, or a sum of parts, which begin as zeros."""
        return Kernels(nbytes=self._bias_bytes(layout, 4 * SLICES + self.item), launches=4 if _is_padded(layout) else 2)

    def _bias_bytes(self, layout: WindowLayout, a_number: float) -> float:
        return a_number * _bias_numbers(layout) * self.config.num_heads[self.number]

    def merging(self, sizes: list[Size]) -> Iterator[Kernels]:
        """What follows the blocks in every stage but the last."""
        if self.number == len(sizes) - 1:
            return
        rows, channels = self.batch * math.prod(sizes[self.number + 1]), self.channels
        yield from self._padding()
        yield _moved(rows * 12 * channels, self.item)  # the mean of two frames
        yield _moved(rows * 8 * channels, self.item)
        yield _moved(rows * 8 * channels, self.item)
        yield _product(rows, 4 * channels, 2 * channels, self.item)

    def merging_backward(self, sizes: list[Size]) -> Iterator[Kernels]:
        if self.number == len(sizes) - 1:
            return
        rows, channels = self.batch * math.prod(sizes[self.number + 1]), self.channels
        yield from self._padding()
        yield _moved(rows * 8 * channels, self.item)
        yield _product(rows, 4 * channels, 2 * channels, self.item)
        yield self._norm_backward(rows, 4 * channels)
        yield _product(rows, 4 * channels, 2 * channels, self.item)
        yield _moved(rows * 8 * channels, self.item)
        yield _moved(rows * 12 * channels, self.item)

    def _padding(self) -> list[Kernels]:
        return [self._passes_over(3, 2)] if any(side % 2 for side in self.size) else []


def _is_padded(layout: WindowLayout) -> bool:
    """Whether any window has padding."""
    return any(group.num_padding for group in layout.groups)


def _bias_numbers(layout: WindowLayout) -> int:
    """Pairs of queries and keys in one window of each group."""
    return sum(group.index.shape[1] * (group.index.shape[1] + bool(group.num_padding)) for group in layout.groups)
