"""What an encoder costs: parameters, FLOPs, memory, bytes read, and the time of an epoch. No GPU is needed to ask.

    python -m pretrain.model.cost --config pretrain/configs/agrifm.yaml --gpus 64 --gpu h100 --utilisation 0.25

FLOPs are those of the matrix products, two for each multiplication and addition (as MFU is counted: Chowdhery et al., PaLM,
2022, appendix B); bytes per ZeRO stage follow Rajbhandari et al. (ZeRO, 2020, section 3).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from tabulate import tabulate

from common.command_line import run_command
from data_prep.archive.sensor import load_sensors
from data_prep.corpus.dataset import load_corpus
from pretrain.config import PretrainConfig
from pretrain.model.attention.layout import Size, fit_window
from pretrain.model.video_swin import EncoderConfig, VideoSwin

# Dense bfloat16 matrix products in FLOP/s and memory in bytes, from the makers' datasheets.
GPUS = {
    "a100": (312e12, 80e9),
    "h100": (989.4e12, 80e9),
    "h200": (989.4e12, 141e9),
    "l40": (181e12, 48e9),
    "l40s": (362e12, 48e9),
    "v100": (125e12, 32e9),  # float16: it has no bfloat16
}
PUBLISHED_SAMPLES = {"modis": 1_500_000, "landsat": 13_400_000, "sentinel2": 10_300_000}


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Floating-point operations of one sample's forward pass, by part."""

    patch_embedding: float
    projections: float
    attention: float
    merging: float

    @property
    def forward(self) -> float:
        return self.patch_embedding + self.projections + self.attention + self.merging

    @property
    def training(self) -> float:
        """Forward and backward. Each product has two gradients, but nobody asks for that of the pixels."""
        return 3 * self.forward - self.patch_embedding


@dataclass(frozen=True, kw_only=True)
class CostConfig(PretrainConfig):
    """What a pretraining costs: parameters, FLOPs, memory, bytes read, time of an epoch.

    Takes every option of pretraining, and those below; what does not bear on the costs is not looked at.

    Attributes:
        data: a corpus, path or URL, whose sources, sizes and numbers of samples are taken; default: built-in sensors and the
            paper's numbers.
        output: not used.
        samples: samples of each source, for a corpus that is not there yet.
        chip_px: side of a sample in pixels by source; default: the sensors' own.
        gpus: number of GPUs.
        gpu: kind of GPU: a100, h100, h200, l40, l40s or v100.
        utilisation: share of the datasheet's matrix-product rate that a training reaches (MFU), 0 to 1.
    """

    data: str | None = None  # type: ignore[assignment]
    output: Path | None = None  # type: ignore[assignment]
    samples: dict[str, int] = field(default_factory=lambda: dict(PUBLISHED_SAMPLES))
    chip_px: dict[str, int] = field(default_factory=dict)
    gpus: int = 8
    gpu: str = "h100"
    utilisation: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpu not in GPUS:
            raise ValueError(f"gpu is {self.gpu!r}; known are {', '.join(GPUS)}")
        if self.gpus < 1 or not 0 < self.utilisation <= 1:
            raise ValueError(f"gpus is {self.gpus} and utilisation {self.utilisation}; expected at least 1, and above 0 up to 1")


def map_sizes(config: EncoderConfig, frames: int, rows: int, cols: int) -> list[Size]:
    """Frames, rows and columns, in tokens, of the maps that the four stages work on, for pixels (frames, rows, cols)."""
    size = tuple(-(-n // p) for n, p in zip((frames, rows, cols), config.patch_size, strict=True))
    sizes = [size]
    for _ in config.depths[1:]:
        size = tuple(-(-n // 2) for n in size)
        sizes.append(size)
    return sizes  # type: ignore[return-value]


def forward_flops(config: EncoderConfig, bands: int, frames: int, rows: int, cols: int, padded: bool = False) -> Flops:
    """FLOPs of one sample of (frames, bands, rows, cols) pixels.

    With `padded`, of the published way: every window padded to its full size, and its padding projected and attended from.
    Else of real tokens and of the pairs among them in each window, which is what MFU is stated over.
    """
    sizes = map_sizes(config, frames, rows, cols)
    patch = 2 * math.prod(sizes[0]) * bands * math.prod(config.patch_size) * config.embed_dim
    projections = attention = merging = 0.0
    for stage, (size, depth) in enumerate(zip(sizes, config.depths, strict=True)):
        channels = config.embed_dim * 2**stage
        tokens = math.prod(size)
        for block in range(depth):
            attended, pairs = _windows(size, config.window_size, block % 2 == 1, padded)
            projections += 2 * attended * 4 * channels**2  # qkv and output
            projections += 2 * tokens * 2 * config.mlp_ratio * channels**2
            attention += 2 * pairs * 2 * channels  # scores and weighted sums
        if stage < len(sizes) - 1:
            merging += 2 * math.prod(sizes[stage + 1]) * 4 * channels * 2 * channels
    return Flops(patch_embedding=patch, projections=projections, attention=attention, merging=merging)


def training_flops(
    config: EncoderConfig, shapes: Mapping[str, tuple[int, int, int]], num_frames: int, has_teacher: bool
) -> dict[str, float]:
    """Model FLOPs that a training step takes for one sample, by source; `shapes` are bands, rows and columns of a frame.

    Forward and backward of the student, and the forward pass of the teacher where there is one: what the method asks for, however
    it is implemented. Blocks that are computed again to save memory do not count (PaLM, appendix B), nor does the linear head.
    """
    flops = {source: forward_flops(config, shape[0], num_frames, *shape[1:]) for source, shape in shapes.items()}
    return {source: each.training + (each.forward if has_teacher else 0) for source, each in flops.items()}


def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 FLOP/s of a GPU by the name that CUDA gives it, like `NVIDIA H100 80GB HBM3`; None when it is not in `GPUS`.

    PCIe and NVL cards of a kind are slower than its SXM modules, which `GPUS` lists; only the A100 is not.
    """
    words = re.split(r"[\s_-]+", device_name.lower())
    kind = next((word for word in words if word in GPUS), None)
    slower = not {"pcie", "nvl"}.isdisjoint(words) and kind != "a100"
    return None if kind is None or slower else GPUS[kind][0]


def _windows(size: Size, window: Size, shifted: bool, padded: bool) -> tuple[int, int]:
    """Tokens in all windows of a map, and pairs of tokens that share one. Both are products over the three axes."""
    fitted, shift = fit_window(size, window, shifted)
    tokens = pairs = 1
    for side, wide, moved in zip(size, fitted, shift, strict=True):
        whole = -(-side // wide) * wide
        held = [sum(padded or (place + moved) % whole < side for place in range(s, s + wide)) for s in range(0, whole, wide)]
        tokens *= sum(held)
        pairs *= sum(count**2 for count in held)
    return tokens, pairs


def activation_bytes(
    config: EncoderConfig, bands: int, frames: int, rows: int, cols: int, item: int, checkpointed: tuple[int, ...] = ()
) -> int:
    """Bytes that one sample's forward pass keeps for the gradient, with `item` bytes a number (2 for bf16).

    A block keeps ten numbers for each token and channel: its input, queries, keys and values, what was attended, the sum
    after the attention, and the MLP's four hidden ones. In a checkpointed stage it keeps its input, and one block at a time
    the rest.
    """
    sizes = map_sizes(config, frames, rows, cols)
    kept = math.prod(sizes[0]) * bands * math.prod(config.patch_size)  # unfolded patches
    for stage, (size, depth) in enumerate(zip(sizes, config.depths, strict=True)):
        channels = config.embed_dim * 2**stage
        a_block = round(math.prod(size) * channels * (6 + config.mlp_ratio))
        kept += math.prod(size) * channels * depth + a_block if stage + 1 in checkpointed else depth * a_block
        if stage < len(sizes) - 1:
            kept += math.prod(sizes[stage + 1]) * 4 * channels
    return (kept + math.prod(sizes[-1]) * config.embed_dim * 2 ** (len(sizes) - 1)) * item


def model_bytes(parameters: int, zero_stage: int, gpus: int, bf16: bool) -> dict[str, float]:
    """Bytes a GPU for weights, gradients and AdamW's state under a ZeRO stage, and for the mean teacher.

    The teacher is whole on every GPU: an average in fp32, and with bf16 the copy that runs.
    """
    item, state = (2, 12) if bf16 else (4, 8)  # with bf16 the optimizer holds fp32 weights beside both moments
    return {
        "weights": item * parameters / (gpus if zero_stage >= 3 else 1),
        "gradients": item * parameters / (gpus if zero_stage >= 2 else 1),
        "optimizer": state * parameters / (gpus if zero_stage >= 1 else 1),
        "teacher": (6 if bf16 else 4) * parameters,
    }


def cost(config: CostConfig) -> None:
    """Print the card."""
    shapes, samples = _corpus(config)
    encoder_config = replace(config.encoder, sources={source: shape[0] for source, shape in shapes.items()})
    with torch.device("meta"):
        encoder = VideoSwin(encoder_config)
    parameters = sum(p.numel() for p in encoder.parameters())
    print(tabulate(_parameter_rows(encoder), ["parameters", "M"], floatfmt=".2f"), end="\n\n")

    frames, bf16, has_teacher = config.stream.num_frames, config.precision == "bf16", config.objective.consistency_weight > 0
    rate, memory = GPUS[config.gpu]
    rows, seconds, bytes_read, largest = [], 0.0, 0.0, 0
    for source, (bands, height, width) in shapes.items():
        pixels: Size = (frames, height, width)
        flops = forward_flops(encoder_config, bands, *pixels)
        published = forward_flops(encoder_config, bands, *pixels, padded=True)
        again = _recomputed(encoder_config, pixels, config.checkpoint_stages)
        step = flops.training + again + (flops.forward if has_teacher else 0)
        kept = activation_bytes(encoder_config, bands, *pixels, 2 if bf16 else 4, config.checkpoint_stages)
        read = math.prod(pixels) * (2 * bands + 1)  # 16-bit pixels and a byte of validity
        took = samples[source] * step / (config.gpus * rate * config.utilisation)
        costs = [flops.forward / 1e9, step / 1e9, published.training / 1e9, kept / 1e6, read / 1e6]
        rows.append([source, f"{frames} x {bands} x {height} x {width}", *costs, samples[source] / 1e6, duration(took)])
        seconds, bytes_read, largest = seconds + took, bytes_read + samples[source] * read, max(largest, kept)
    header = ["source", "sample", "GFLOP forward", "a step", "published", "MB kept", "MB read", "M samples", "an epoch"]
    print(tabulate(rows, header, floatfmt=".2f"))
    print(
        f"a step: forward, backward{', the teacher' if has_teacher else ''}{', checkpointed blocks again' if again else ''}; "
        "published: forward and backward with windows padded as the published code does\n"
    )

    stages = []
    for stage in range(4):
        parts = model_bytes(parameters, stage, config.gpus, bf16)
        fits = max(0, int((0.9 * memory - sum(parts.values())) // largest))  # a tenth for the allocator and temporary memory
        stages.append([stage, *(value / 1e9 for value in (*parts.values(), sum(parts.values()))), fits])
    header = ["ZeRO stage", *(f"GB {part}" for part in parts), "GB a GPU", f"samples that fit {memory / 1e9:.0f} GB"]
    print(tabulate(stages, header, floatfmt=".2f"))
    print(
        f"\nan epoch of {sum(samples.values()) / 1e6:.1f} M samples on {config.gpus} x {config.gpu} at {config.utilisation:.0%} "
        f"of {rate / 1e12:.0f} TFLOP/s: {duration(seconds)}, {config.gpus * seconds / 3600:.1f} GPU-hours; "
        f"{bytes_read / 1e12:.2f} TB are read, {bytes_read / seconds / config.gpus / 1e9:.2f} GB/s a GPU"
    )


def _corpus(config: CostConfig) -> tuple[dict[str, tuple[int, int, int]], dict[str, int]]:
    """Bands, rows and columns of a frame, and samples to train on, by source."""
    if config.data is not None:
        corpus = load_corpus(config.data)
        trained_on = {source: corpus.splits.get((source, "train")) for source in corpus.shapes}
        return dict(corpus.shapes), {source: split.samples if split else 0 for source, split in trained_on.items()}
    sensors = load_sensors()
    unknown = sorted((set(config.samples) | set(config.chip_px)) - set(sensors))
    if unknown:
        raise ValueError(f"samples and chip_px speak of sources {unknown}; known are {sorted(sensors)}; give --data for others")
    sides = {source: config.chip_px.get(source, sensors[source].chip_px) for source in config.samples}
    return {source: (len(sensors[source].bands), side, side) for source, side in sides.items()}, dict(config.samples)


def _parameter_rows(encoder: VideoSwin) -> Iterator[tuple[str, float]]:
    parts = {f"patch embedding, {name}": module for name, module in encoder.patch_embeds.items()}
    parts |= {f"stage {number}": stage for number, stage in enumerate(encoder.stages, 1)} | {
        "final norm": encoder.norm,
        "all": encoder,
    }
    for name, module in parts.items():
        yield name, sum(p.numel() for p in module.parameters()) / 1e6


def duration(seconds: float) -> str:
    """Seconds in the unit that people would choose: `22 s`, `3.1 min`, `5.0 h`, `2.3 d`."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def _recomputed(config: EncoderConfig, pixels: Size, stages: tuple[int, ...]) -> float:
    """FLOPs of the blocks that run a second time."""
    chosen = tuple(depth if number in stages else 0 for number, depth in enumerate(config.depths, 1))
    flops = forward_flops(replace(config, depths=chosen), 0, *pixels)  # type: ignore[arg-type]
    return flops.projections + flops.attention


if __name__ == "__main__":
    run_command(cost, config_class=CostConfig)
