"""What a pretraining costs: parameters, FLOPs, memory, bytes read, and the time of an epoch. This needs no GPU.

python -m pretrain.cost --config pretrain/configs/agrifm.yaml --gpus 64 --gpu h100 --utilisation 0.25
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import torch
from tabulate import tabulate

from common.command_line import run_command
from data_prep.archive.sensor import load_sensors
from data_prep.corpus.dataset import load_corpus
from pretrain.config import CONFIGS, RENAMED_OPTIONS, PretrainConfig
from pretrain.log.duration import duration
from pretrain.model import EncoderConfig, VideoSwin
from pretrain.model.flops import forward_flops, recomputed_flops
from pretrain.model.gpus import GPUS
from pretrain.model.memory import activation_bytes, model_bytes

# Samples of each source in the paper.
PUBLISHED_SAMPLES = {"modis": 1_500_000, "landsat": 13_400_000, "sentinel2": 10_300_000}

Shape = tuple[int, int, int]  # bands, rows and columns of a frame


@dataclass(frozen=True, kw_only=True)
class CostConfig(PretrainConfig):
    """State what a pretraining costs: parameters, FLOPs, memory, bytes read, time of an epoch.

    The command accepts every option of pretraining, and those below. Options that do not change the costs are ignored.

    Attributes:
        data: corpus, a path or URL, that gives sources, sizes and numbers of samples; default: the built-in sensors and the
            numbers of samples of the paper.
        output: ignored.
        samples: samples of each source, when there is no corpus yet.
        chip_px: side of a sample in pixels, by source; default: that of the sensor.
        gpus: number of GPUs.
        gpu: kind of GPU: a100, h100, h200, l40, l40s or v100.
        utilisation: share of the datasheet's rate of matrix products that the training reaches (MFU), 0 to 1.
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


def cost(config: CostConfig) -> None:
    """Print parameters, costs by source, memory by ZeRO stage, and time and bytes of an epoch."""
    shapes, samples = _shapes_and_samples(config)
    encoder_config = replace(config.encoder, sources={source: shape[0] for source, shape in shapes.items()})
    with torch.device("meta"):
        encoder = VideoSwin(encoder_config)
    print(tabulate(_parameter_rows(encoder), ["parameters", "M"], floatfmt=".2f"), end="\n\n")
    costs = {source: _source_cost(config, encoder_config, shape, samples[source]) for source, shape in shapes.items()}
    _print_sources(config, costs)
    parameters = sum(p.numel() for p in encoder.parameters())
    _print_zero_stages(config, parameters, max(each.kept for each in costs.values()))
    _print_epoch(config, costs)


@dataclass(frozen=True, kw_only=True)
class _SourceCost:
    """Costs of one source.

    Attributes:
        pixels: frames, bands, rows and columns of a sample.
        samples: samples of an epoch.
        forward: FLOPs of a forward pass of one sample.
        step: FLOPs of a training step for one sample, with the teacher and the blocks that are computed again.
        recomputed: FLOPs of the blocks that activation checkpointing computes again.
        published: FLOPs of a forward and backward pass in the published code.
        kept, read: bytes of one sample that are kept for the gradient, and that are read.
        seconds: time of an epoch on all GPUs.
    """

    pixels: tuple[int, int, int, int]
    samples: int
    forward: float
    step: float
    recomputed: float
    published: float
    kept: int
    read: int
    seconds: float


def _source_cost(config: CostConfig, encoder: EncoderConfig, shape: Shape, samples: int) -> _SourceCost:
    (bands, rows, cols), frames = shape, config.stream.num_frames
    flops = forward_flops(encoder, bands, frames, rows, cols)
    recomputed = recomputed_flops(encoder, (frames, rows, cols), config.activation_checkpointing)
    step = flops.training + recomputed + (flops.forward if _has_teacher(config) else 0)
    item = 2 if config.precision == "bf16" else 4
    return _SourceCost(
        pixels=(frames, bands, rows, cols),
        samples=samples,
        forward=flops.forward,
        step=step,
        recomputed=recomputed,
        published=forward_flops(encoder, bands, frames, rows, cols, padded=True).training,
        kept=activation_bytes(encoder, bands, frames, rows, cols, item, config.activation_checkpointing),
        read=frames * rows * cols * (2 * bands + 1),  # 16-bit pixels and a byte of validity
        seconds=samples * step / (config.gpus * GPUS[config.gpu][0] * config.utilisation),
    )


def _has_teacher(config: CostConfig) -> bool:
    return config.objective.consistency_weight > 0


def _print_sources(config: CostConfig, costs: dict[str, _SourceCost]) -> None:
    rows = []
    for source, each in costs.items():
        numbers = [
            each.forward / 1e9,
            each.step / 1e9,
            each.published / 1e9,
            each.kept / 1e6,
            each.read / 1e6,
            each.samples / 1e6,
        ]
        rows.append([source, " x ".join(map(str, each.pixels)), *numbers, duration(each.seconds)])
    header = ["source", "sample", "GFLOP forward", "a step", "published", "MB kept", "MB read", "M samples", "an epoch"]
    print(tabulate(rows, header, floatfmt=".2f"))
    teacher = ", the teacher" if _has_teacher(config) else ""
    again = ", checkpointed blocks again" if any(each.recomputed for each in costs.values()) else ""
    print(
        f"a step: forward, backward{teacher}{again}; "
        "published: forward and backward with windows padded as the published code does\n"
    )


def _print_zero_stages(config: CostConfig, parameters: int, largest: int) -> None:
    """`largest`: bytes that a sample of the largest source keeps for the gradient."""
    memory, rows = GPUS[config.gpu][1], []
    for stage in range(4):
        parts = model_bytes(parameters, stage, config.gpus, config.precision == "bf16")
        fits = max(0, int((0.9 * memory - sum(parts.values())) // largest))  # a tenth for the allocator and temporary memory
        rows.append([stage, *(value / 1e9 for value in (*parts.values(), sum(parts.values()))), fits])
    header = ["ZeRO stage", *(f"GB {part}" for part in parts), "GB a GPU", f"samples that fit {memory / 1e9:.0f} GB"]
    print(tabulate(rows, header, floatfmt=".2f"))


def _print_epoch(config: CostConfig, costs: dict[str, _SourceCost]) -> None:
    seconds, samples = sum(each.seconds for each in costs.values()), sum(each.samples for each in costs.values())
    bytes_read = sum(each.samples * each.read for each in costs.values())
    print(
        f"\nan epoch of {samples / 1e6:.1f} M samples on {config.gpus} x {config.gpu} at {config.utilisation:.0%} "
        f"of {GPUS[config.gpu][0] / 1e12:.0f} TFLOP/s: {duration(seconds)}, {config.gpus * seconds / 3600:.1f} GPU-hours; "
        f"{bytes_read / 1e12:.2f} TB are read, {bytes_read / seconds / config.gpus / 1e9:.2f} GB/s a GPU"
    )


def _shapes_and_samples(config: CostConfig) -> tuple[dict[str, Shape], dict[str, int]]:
    """Shapes of frames, and numbers of samples to train on, by source. Raises ValueError for an unknown source."""
    if config.data is not None:
        corpus = load_corpus(config.data)
        trained_on = {source: corpus.splits.get((source, "train")) for source in corpus.shapes}
        return dict(corpus.shapes), {source: split.samples if split else 0 for source, split in trained_on.items()}
    sensors = load_sensors()
    unknown = sorted((set(config.samples) | set(config.chip_px)) - set(sensors))
    if unknown:
        raise ValueError(
            f"samples and chip_px name sources {unknown}; known are {sorted(sensors)}; for other sources give --data"
        )
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


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(cost, config_class=CostConfig, renamed=RENAMED_OPTIONS, built_in=CONFIGS)


if __name__ == "__main__":
    main()
