"""`--dry-run`: what a run needs and costs on this machine, measured before it starts. Nothing is written."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from tabulate import tabulate

from common import ranks
from pretrain.data.batch import Batch
from pretrain.log.duration import duration
from pretrain.log.step_report import peak_memory_bytes
from pretrain.setup import TrainingRun

_ROUNDS = 3  # over all sources; the first round is slower, as it allocates memory and chooses kernels


@dataclass
class _Measured:
    """Measurements of one source.

    Attributes:
        batch: of this rank, on its device.
        reading: seconds to read it in one process.
        computing: seconds of each forward and backward pass.
    """

    batch: Batch
    reading: float
    computing: list[float]


@dataclass(frozen=True, kw_only=True)
class _Slowest:
    """Measurements of the slowest rank, for which the others wait.

    Attributes:
        reading, computing: seconds for a batch, by source.
        stepping: seconds of the optimizer's and the teacher's step.
        memory: bytes of the rank with the highest peak.
    """

    reading: dict[str, float]
    computing: dict[str, float]
    stepping: float
    memory: float


def dry_run(
    run: TrainingRun,
    forward_backward: Callable[[TrainingRun, Batch, int, int, float], object],
    optimizer_step: Callable[[TrainingRun, int, float], object],
) -> None:
    """Train on a batch of each source at full size, and print memory, times, bytes, and what the run will cost.

    `forward_backward` and `optimizer_step` are those of `pretrain/train.py`. Every rank calls this.
    """
    measured: dict[str, _Measured] = {}
    begin = time.perf_counter()
    for batch in run.stream.first_batches():
        measured[batch.source] = _Measured(batch.to(run.device), time.perf_counter() - begin, [])
        begin = time.perf_counter()
    stepping: list[float] = []
    run.engine.train()
    for number, source in enumerate(micro_batches(list(measured), run.micro_steps)):
        step, micro_step = divmod(number, run.micro_steps)
        begin = _now(run.device)
        forward_backward(run, measured[source].batch, step, micro_step, run.config.objective.consistency_weight)
        measured[source].computing.append(_now(run.device) - begin)
        if micro_step == run.micro_steps - 1:
            begin = _now(run.device)
            optimizer_step(run, step, run.config.optimizer.learning_rate)
            stepping.append(_now(run.device) - begin)
    slowest = _slowest_over_ranks(measured, min(stepping), float(peak_memory_bytes(run.device)))
    if run.is_main:
        _print_sources(measured, slowest)
        _print_run(run, measured, slowest)


def micro_batches(sources: Sequence[str], micro_steps: int) -> list[str]:
    """The source of each micro-batch: each source a few times, to whole optimizer steps of so many micro-steps."""
    steps = math.ceil(_ROUNDS * len(sources) / micro_steps)
    return list(itertools.islice(itertools.cycle(sources), steps * micro_steps))


def _print_sources(measured: dict[str, _Measured], slowest: _Slowest) -> None:
    rows = []
    for source, of_source in measured.items():
        batch, read = of_source.batch, slowest.reading[source]
        shape = " x ".join(map(str, batch.pixels.shape[1:]))
        speed = batch.nbytes / read / 1e9
        rows.append([source, len(batch.keys), shape, batch.nbytes / 1e6, 1e3 * read, speed, 1e3 * slowest.computing[source]])
    header = [
        "source",
        "samples a rank",
        "frames x bands x rows x cols",
        "MB",
        "ms to read",
        "GB/s, 1 process",
        "ms to compute",
    ]
    print(tabulate(rows, header, floatfmt=".3g"))


def _print_run(run: TrainingRun, measured: dict[str, _Measured], slowest: _Slowest) -> None:
    config, draws, shares = run.config, run.stream.draws, run.stream.draws.mixture_shares
    step_s = run.micro_steps * sum(shares[s] * slowest.computing[s] for s in shares) + slowest.stepping
    step_bytes = run.micro_steps * sum(shares[s] * measured[s].batch.nbytes for s in shares)
    step_flops = run.micro_steps * sum(shares[s] * len(measured[s].batch.keys) * run.flops_per_sample[s] for s in shares)
    micro_steps = config.num_steps * run.micro_steps
    epochs = {s: shares[s] * micro_steps / draws.micro_steps_per_epoch(s) for s in shares}
    parts = f"{config.gradient_accumulation_steps} gradient accumulation steps"
    flops = f"{step_flops / step_s / 1e12:.3g} TFLOP/s a rank"
    if run.peak_flops:
        flops += f", MFU {step_flops / step_s / run.peak_flops:.1%}"
    of_all = run.world_size * step_bytes
    lines = [
        ["ranks", f"{run.world_size} on {run.device.type}, {config.zero.name}, {config.precision}, {parts}"],
        [
            "an optimizer step",
            f"{1e3 * step_s:.0f} ms: {run.micro_steps} micro-batches, {1e3 * slowest.stepping:.0f} ms of it to step",
        ],
        ["model FLOPs", flops],
        [
            "memory of a rank",
            f"{slowest.memory / 1e9:.2f} GB at most" + ("" if run.device.type == "cuda" else " (the whole process)"),
        ],
        ["to be read", f"{step_bytes / step_s / 1e9:.3f} GB/s a rank, {of_all / step_s / 1e9:.3f} GB/s in all"],
        [
            "the run",
            f"{config.num_steps} steps: {duration(config.num_steps * step_s)} without validation; "
            f"{config.num_steps * of_all / 1e12:.3g} TB read",
        ],
        ["epochs", ", ".join(f"{source} {count:.2f}" for source, count in epochs.items())],
    ]
    print("\n" + tabulate(lines, tablefmt="plain"), flush=True)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _slowest_over_ranks(measured: dict[str, _Measured], stepping: float, memory: float) -> _Slowest:
    mine = [m.reading for m in measured.values()] + [median(m.computing[1:]) for m in measured.values()] + [stepping, memory]
    largest = [max(column) for column in zip(*ranks.gather(mine), strict=True)]
    count = len(measured)
    return _Slowest(
        reading=dict(zip(measured, largest[:count], strict=True)),
        computing=dict(zip(measured, largest[count : 2 * count], strict=True)),
        stepping=largest[-2],
        memory=largest[-1],
    )
