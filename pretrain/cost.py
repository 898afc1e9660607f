"""What a pretraining costs: parameters, FLOPs, memory, bytes read, and the time of a step and of an epoch. This needs no GPU.

python -m pretrain.cost --config pretrain/configs/agrifm.yaml --gpus 64 --gpu h100
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import torch
from tabulate import tabulate
from torch import nn

from common.command_line import run_command
from data_prep.archive.sensor import load_sensors
from data_prep.corpus.dataset import load_corpus
from data_prep.landcover.legend import load_legend
from pretrain.config import CONFIGS, RENAMED_OPTIONS, PretrainConfig
from pretrain.log.duration import duration
from pretrain.model import MapDecoder, VideoSwin
from pretrain.model.decoder_cost import DecoderCost, decoder_cost
from pretrain.model.flops import forward_flops, recomputed_flops
from pretrain.model.gpus import GPUS, LAUNCH_SECONDS
from pretrain.model.memory import activation_bytes, model_bytes
from pretrain.model.roofline import Kernels, roofline, step_kernels, update_kernels
from pretrain.objective.model import LandCoverModel

# Samples of each source in the paper.
PUBLISHED_SAMPLES = {"modis": 1_500_000, "landsat": 13_400_000, "sentinel2": 10_300_000}

BUILT_IN_LEGEND = "glc_fcs30d"

Shape = tuple[int, int, int]  # bands, rows and columns of a frame
PREDICTED_ON = ("a100", "h100", "h200")


@dataclass(frozen=True, kw_only=True)
class CostConfig(PretrainConfig):
    """State what a pretraining costs: parameters, FLOPs, memory, bytes read, time of a step and of an epoch.

    The command accepts every option of pretraining, and those below. Options that do not change the costs are ignored.

    Attributes:
        data: corpus, a path or URL, that gives sources, sizes, legends and numbers of samples; default: the built-in sensors, the
            built-in legend of the groupings, and the numbers of samples of the paper.
        output: ignored.
        samples: samples of each source, when there is no corpus yet.
        chip_px: side of a sample in pixels, by source; default: that of the sensor.
        gpus: number of GPUs.
        gpu: kind of GPU: a100, h100, h200, l40, l40s or v100.
        utilisation: share of the datasheet's rate of matrix products that the training was measured to reach (MFU), 0 to 1;
            default: what a roofline model predicts for each source, an upper bound that was never measured.
        storage_gb_s: GB per second that storage gives each GPU; the default is an assumption.
    """

    data: str | None = None  # type: ignore[assignment]
    output: Path | None = None  # type: ignore[assignment]
    samples: dict[str, int] = field(default_factory=lambda: dict(PUBLISHED_SAMPLES))
    chip_px: dict[str, int] = field(default_factory=dict)
    gpus: int = 8
    gpu: str = "h100"
    utilisation: float | None = None
    storage_gb_s: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpu not in GPUS:
            raise ValueError(f"gpu is {self.gpu!r}; known are {', '.join(GPUS)}")
        if self.gpus < 1:
            raise ValueError(f"gpus is {self.gpus}; expected at least 1")
        if self.utilisation is not None and not 0 < self.utilisation <= 1:
            raise ValueError(f"utilisation is {self.utilisation}; expected above 0 up to 1")
        if not self.storage_gb_s > 0:
            raise ValueError(f"storage_gb_s is {self.storage_gb_s}; expected above 0")


def cost(config: CostConfig) -> None:
    """Print parameters, costs and predicted times by source, memory by ZeRO stage, and time and bytes of an epoch."""
    shapes, samples = _shapes_and_samples(config)
    model = _model_without_numbers(config, {source: shape[0] for source, shape in shapes.items()})
    print(tabulate(_parameter_rows(model), ["parameters", "M"], floatfmt=".2f"), end="\n\n")
    costs = {source: _source_cost(config, model, source, shape, samples[source]) for source, shape in shapes.items()}
    _print_sources(config, costs)
    print(_batch_sizes_line(config, {source: each.step for source, each in costs.items()}) + "\n")
    _print_steps(config, costs)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    _print_zero_stages(config, parameters, max(each.kept for each in costs.values()))
    _print_epoch(config, costs)


@dataclass(frozen=True, kw_only=True)
class _SourceCost:
    """Costs of one source.

    Attributes:
        pixels: frames, bands, rows and columns of a sample.
        samples: samples of an epoch.
        batch: samples of a micro-batch, or of a part of it with gradient accumulation, on one GPU.
        forward: FLOPs of a forward pass of one sample.
        step: FLOPs of a training step for one sample, with the teacher and the blocks that are computed again.
        recomputed: FLOPs of the blocks that activation checkpointing computes again.
        published: FLOPs of a forward and backward pass in the published code.
        kept, read: bytes of one sample that are kept for the gradient, and that are read.
        kernels: those of a micro-batch on one GPU, by part; with its share of the teacher's update.

    All but `published` contain the decoder of the map, if there is one.
    """

    pixels: tuple[int, int, int, int]
    samples: int
    batch: int
    forward: float
    step: float
    recomputed: float
    published: float
    kept: int
    read: int
    kernels: dict[str, list[Kernels]]

    def predicted_times(self, config: CostConfig, gpu: str) -> dict[str, float]:
        """Seconds that a micro-batch takes on one GPU at least, by what bounds it."""
        storage = self.batch * self.read / config.stream.data_echoing / (config.storage_gb_s * 1e9)
        predicted = roofline((kernel for part in self.kernels.values() for kernel in part), gpu)
        return {"kernels": predicted.gpu_seconds, "launches": predicted.launch_seconds, "storage": storage}

    def times(self, config: CostConfig) -> dict[str, float]:
        """The same on the GPU that is asked for, at the utilisation that was measured, if it is given."""
        times = self.predicted_times(config, config.gpu)
        if config.utilisation is None:
            return times
        return {"utilisation": self.model_flops / (GPUS[config.gpu][0] * config.utilisation), "storage": times["storage"]}

    def epoch_seconds(self, config: CostConfig) -> float:
        """Time of an epoch on all GPUs."""
        return self.samples / (config.gpus * self.batch) * max(self.times(config).values())

    @property
    def model_flops(self) -> float:
        """FLOPs of a micro-batch that count in MFU: not those that are computed again."""
        return self.batch * (self.step - self.recomputed)


def _model_without_numbers(config: CostConfig, bands: dict[str, int]) -> LandCoverModel:
    """The model of a training on sources with so many bands, on the meta device."""
    groupings = config.objective.groupings
    legends = {BUILT_IN_LEGEND: load_legend(BUILT_IN_LEGEND)} if config.data is None else load_corpus(config.data).legends
    # A training wants the same classes of all legends, and says so.
    grouped = [load_legend(groupings[name]) if name in groupings else legend for name, legend in legends.items()]
    num_classes = max(len(legend.classes) for legend in grouped)
    shape = config.objective.decoder(config.stream.num_frames, num_classes)
    with torch.device("meta"):
        encoder = VideoSwin(replace(config.encoder, sources=bands))
        return LandCoverModel(encoder, num_classes, None if shape is None else MapDecoder(encoder, list(bands), shape))


def _source_cost(config: CostConfig, model: LandCoverModel, source: str, shape: Shape, samples: int) -> _SourceCost:
    (bands, rows, cols), frames, encoder = shape, config.stream.num_frames, model.encoder.config
    flops = forward_flops(encoder, bands, frames, rows, cols)
    recomputed = recomputed_flops(encoder, (frames, rows, cols), config.activation_checkpointing)
    forward, step = flops.forward, flops.training + recomputed
    item = 2 if config.precision == "bf16" else 4
    kept = activation_bytes(encoder, bands, frames, rows, cols, item, config.activation_checkpointing)
    size = config.stream.global_batch_size
    in_all = size[source] if isinstance(size, dict) else size
    batch = max(1, in_all // (config.gpus * config.gradient_accumulation_steps))
    pixels = frames, bands, rows, cols
    kernels = step_kernels(encoder, pixels, batch, item, _has_teacher(config), config.activation_checkpointing)
    if model.decoder is not None:
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        decoding = decoder_cost(model.encoder, model.decoder.config, source, pixels, batch, dtype)
        forward, step = forward + decoding.forward_flops / batch, step + decoding.training_flops / batch
        kept += decoding.kept // batch
        kernels |= _decoder_kernels(decoding, _has_teacher(config))
    micro_batches = (config.micro_steps or len(encoder.sources)) * config.gradient_accumulation_steps
    # One update follows all micro-batches of a step; a share of its launches and bytes counts for each.
    kernels["teacher's update"] = [
        Kernels(nbytes=each.nbytes / micro_batches, launches=round(each.launches / micro_batches))
        for each in update_kernels([parameter.numel() for parameter in model.parameters()], item)
    ]
    return _SourceCost(
        pixels=pixels,
        samples=samples,
        batch=batch,
        forward=forward,
        step=step + (forward if _has_teacher(config) else 0),
        recomputed=recomputed,
        published=forward_flops(encoder, bands, frames, rows, cols, padded=True).training,
        kept=kept,
        read=_draws(config) * frames * rows * cols * (2 * bands + 1),  # 16-bit pixels and a byte of validity
        kernels=kernels,
    )


def _decoder_kernels(cost: DecoderCost, has_teacher: bool) -> dict[str, list[Kernels]]:
    """Kernels of a micro-batch by part, as `step_kernels` names them."""
    passes = {"teacher": cost.forward} if has_teacher else {}
    passes |= {"forward": cost.forward, "backward": cost.backward}
    return {f"map decoder, {name}": kernels for name, kernels in passes.items()}


def _has_teacher(config: CostConfig) -> bool:
    return config.objective.consistency_weight > 0


def _draws(config: CostConfig) -> int:
    """Draws of the frames of a sample that are read at once."""
    return 2 if config.stream.teacher_dates == "own" else 1


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
        times = each.times(config)
        reached = [f"{each.model_flops / GPUS[config.gpu][0] / max(times.values()):.2%}", max(times, key=times.__getitem__)]
        rows.append([source, " x ".join(map(str, each.pixels)), *numbers, *reached, duration(each.epoch_seconds(config))])
    header = ["source", "sample", "GFLOP forward", "a step", "published", "MB kept", "MB read", "M samples"]
    print(tabulate(rows, [*header, "MFU", "bound by", "an epoch"], floatfmt=".2f"))
    teacher = ", the teacher" if _has_teacher(config) else ""
    again = ", checkpointed blocks again" if any(each.recomputed for each in costs.values()) else ""
    print(
        f"a step: forward, backward{teacher}{again}; "
        "published: forward and backward of the encoder with windows padded as the published code does\n"
    )


def _print_steps(config: CostConfig, costs: dict[str, _SourceCost]) -> None:
    """The roofline of each source: work of each part, times on three kinds of GPU, and the utilisation that they allow."""
    for source, each in costs.items():
        modules = [part.split(",")[0] for part in each.kernels]
        rows: list[list[str | float | None]] = []
        for module in dict.fromkeys(modules):
            parts = (part for of, part in zip(modules, each.kernels.values(), strict=True) if of == module)
            rows.append(_roofline_row(module, [kernel for part in parts for kernel in part]))
        rows.append(_roofline_row("kernels", [kernel for part in each.kernels.values() for kernel in part]))
        times = {gpu: each.predicted_times(config, gpu) for gpu in PREDICTED_ON}
        for bound in ("launches", "storage"):
            rows.append([bound, None, None, None, *(1e3 * of_gpu[bound] for of_gpu in times.values())])
        rows.append(["the longest", None, None, None, *(1e3 * max(of_gpu.values()) for of_gpu in times.values())])
        for name, bounds in (("MFU, %", ("kernels", "launches", "storage")), ("MFU, % by kernels alone", ("kernels",))):
            longest = {gpu: max(times[gpu][bound] for bound in bounds) for gpu in PREDICTED_ON}
            rows.append([name, None, None, None, *(100 * each.model_flops / GPUS[g][0] / longest[g] for g in PREDICTED_ON)])
        header = [f"{source}, {each.batch} a GPU", "GFLOP", "GB moved", "launches", *(f"ms {gpu}" for gpu in PREDICTED_ON)]
        print(tabulate(rows, header, floatfmt=".2f"), end="\n\n")
    print(
        "predicted by a roofline model, never measured, an upper bound of the utilisation: kernels at the datasheet's peaks,\n"
        f"{LAUNCH_SECONDS * 1e6:.0f} us for each launch, without torch.compile; without AdamW, DeepSpeed and communication\n"
    )


def _roofline_row(name: str, kernels: list[Kernels]) -> list[str | float | None]:
    by_gpu = [roofline(kernels, gpu) for gpu in PREDICTED_ON]
    work = by_gpu[0]
    return [name, work.flops / 1e9, work.nbytes / 1e9, work.launches, *(1e3 * each.gpu_seconds for each in by_gpu)]


def _batch_sizes_line(config: CostConfig, flops: dict[str, float]) -> str:
    """Sizes with which micro-batches of all sources cost as much as those of the source with the most FLOPs for a sample.

    They are only recommended. The size is a hyperparameter, and the draws depend on it: a run must not get another one when it
    moves to other GPUs, or when the FLOPs are counted in another way.
    """
    costliest = max(flops, key=lambda source: flops[source])
    sizes = config.stream.global_batch_size
    size = sizes[costliest] if isinstance(sizes, dict) else sizes
    equal_parts = config.gpus * config.gradient_accumulation_steps
    alike = {s: max(1, round(size * flops[costliest] / of_s / equal_parts)) * equal_parts for s, of_s in flops.items()}
    shown = ", ".join(f"{source}: {number}" for source, number in alike.items())
    return f"micro-batches that cost alike: --stream.global_batch_size '{{{shown}}}'"


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
    seconds = sum(each.epoch_seconds(config) for each in costs.values())
    samples = sum(each.samples for each in costs.values())
    bytes_read = sum(each.samples * each.read for each in costs.values()) / config.stream.data_echoing
    model_flops = sum(each.samples * (each.step - each.recomputed) for each in costs.values())
    reached = model_flops / (seconds * config.gpus * GPUS[config.gpu][0])
    told = "predicted, never measured" if config.utilisation is None else "as given, or less where storage is slower"
    print(
        f"\nan epoch of {samples / 1e6:.1f} M samples on {config.gpus} x {config.gpu} at {reached:.1%} "
        f"of {GPUS[config.gpu][0] / 1e12:.0f} TFLOP/s ({told}), storage of {config.storage_gb_s:g} GB/s a GPU: "
        f"{duration(seconds)}, {config.gpus * seconds / 3600:.1f} GPU-hours; "
        f"{bytes_read / 1e12:.2f} TB are read, {bytes_read / seconds / config.gpus / 1e9:.2f} GB/s a GPU"
    )


def _shapes_and_samples(config: CostConfig) -> tuple[dict[str, Shape], dict[str, int]]:
    """Shapes of frames, and numbers of samples to train on, by source of the mixture.

    Raises ValueError for an unknown source, and for one without a batch size.
    """
    shapes, samples = _all_sources(config)
    mixture = shapes if config.stream.mixture is None else config.stream.mixture
    unknown = sorted(set(mixture) - set(shapes))
    if unknown:
        raise ValueError(f"stream.mixture names sources {unknown}; there are {sorted(shapes)}")
    sizes = config.stream.global_batch_size
    sized = set(sizes) if isinstance(sizes, dict) else set(mixture)
    if unsized := sorted(set(mixture) - sized):
        raise ValueError(f"stream.global_batch_size has no entry for {', '.join(unsized)}, only for {', '.join(sorted(sized))}")
    return {source: shapes[source] for source in shapes if source in mixture}, samples


def _all_sources(config: CostConfig) -> tuple[dict[str, Shape], dict[str, int]]:
    """The same of all sources of the corpus, or of those that are given."""
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


def _parameter_rows(model: LandCoverModel) -> Iterator[tuple[str, float]]:
    encoder, decoder = model.encoder, model.decoder
    parts: dict[str, nn.Module] = {f"patch embedding, {name}": module for name, module in encoder.patch_embeds.items()}
    parts |= {f"stage {number}": stage for number, stage in enumerate(encoder.stages, 1)}
    parts |= {"final norm": encoder.norm, "encoder": encoder, "head of the fractions": model.head}
    if decoder is not None:
        parts |= {f"map decoder, {name}": module for name, module in decoder.sources.items()}
        parts |= {"map decoder, head": decoder.head}
    for name, module in {**parts, "all": model}.items():
        yield name, sum(p.numel() for p in module.parameters()) / 1e6


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(cost, config_class=CostConfig, renamed=RENAMED_OPTIONS, built_in=CONFIGS)


if __name__ == "__main__":
    main()
