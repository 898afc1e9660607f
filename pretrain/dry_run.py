"""`--dry-run`: what a run needs and costs on this machine, before it is begun. Nothing is written."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from statistics import median

import torch
from tabulate import tabulate

from common import ranks
from pretrain.data.stream import Batch
from pretrain.log.step_report import memory_bytes
from pretrain.model.cost import duration
from pretrain.setup import TrainingRun, first_batches

_ROUNDS = 3  # over all sources; the first is slower: memory is allocated, kernels are chosen


@dataclass
class _Measured:
    """Of one source: a batch of this rank, seconds to read it in one process, seconds of forward and backward passes."""

    batch: Batch
    reading: float
    computing: list[float]


def dry_run(run: TrainingRun) -> None:
    """Take optimizer steps on a batch of each source at full size, and print memory, times, bytes, and what the run will cost.

    Every rank calls this. Times are the slowest rank's: the others wait for it.
    """
    measured: dict[str, _Measured] = {}
    begin = time.perf_counter()
    for batch in first_batches(run.stream):
        measured[batch.source] = _Measured(batch.to(run.device), time.perf_counter() - begin, [])
        begin = time.perf_counter()
    stepping: list[float] = []
    # Whole optimizer steps, so the last sources come once more.
    order = list(itertools.chain.from_iterable([list(measured)] * _ROUNDS))
    order += order[: -len(order) % run.micro_steps]
    run.engine.train()
    for number, source in enumerate(order):
        step, micro_step = divmod(number, run.micro_steps)
        begin = _now(run.device)
        run.backward(measured[source].batch, step, micro_step, run.config.objective.consistency_weight)
        measured[source].computing.append(_now(run.device) - begin)
        if micro_step == run.micro_steps - 1:
            begin = _now(run.device)
            run.optimizer_step(step, run.config.optimizer.learning_rate)
            stepping.append(_now(run.device) - begin)
    slowest = _largest_over_ranks(
        [m.reading for m in measured.values()]
        + [median(m.computing[1:]) for m in measured.values()]
        + [min(stepping), float(memory_bytes(run.device))]
    )
    if run.is_main:
        count = len(measured)
        _report(run, measured, slowest[:count], slowest[count : 2 * count], stepping=slowest[-2], memory=slowest[-1])


def _report(
    run: TrainingRun, measured: dict[str, _Measured], reading: list[float], computing: list[float], stepping: float, memory: float
) -> None:
    config, stream = run.config, run.stream
    rows = []
    for (source, of_source), read, computed in zip(measured.items(), reading, computing, strict=True):
        batch = of_source.batch
        shape = " x ".join(map(str, batch.pixels.shape[1:]))
        rows.append([source, len(batch.keys), shape, batch.nbytes / 1e6, 1e3 * read, batch.nbytes / read / 1e9, 1e3 * computed])
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

    shares = stream.shares
    seconds = dict(zip(measured, computing, strict=True))
    of_step = run.micro_steps * sum(shares[s] * seconds[s] for s in shares) + stepping
    bytes_of_step = run.micro_steps * sum(shares[s] * measured[s].batch.nbytes for s in shares)
    micro_steps = config.num_steps * run.micro_steps
    epochs = {s: shares[s] * micro_steps / stream.micro_steps_per_epoch(s) for s in shares}
    flops, peak = run.flops_a_sample, run.peak_flops
    flops_of_step = run.micro_steps * sum(shares[s] * len(measured[s].batch.keys) * flops[s] for s in shares)
    lines = [
        ["ranks", f"{run.world_size} on {run.device.type}, {config.zero.name}, {config.precision}, {config.passes} passes"],
        ["an optimizer step", f"{1e3 * of_step:.0f} ms: {run.micro_steps} micro-batches, {1e3 * stepping:.0f} ms of it to step"],
        [
            "model FLOPs",
            f"{flops_of_step / of_step / 1e12:.3g} TFLOP/s a rank"
            + (f", MFU {flops_of_step / of_step / peak:.1%}" if peak else ""),
        ],
        ["memory of a rank", f"{memory / 1e9:.2f} GB at most" + ("" if run.device.type == "cuda" else " (the whole process)")],
        [
            "to be read",
            f"{bytes_of_step / of_step / 1e9:.3f} GB/s a rank, {run.world_size * bytes_of_step / of_step / 1e9:.3f} GB/s in all",
        ],
        [
            "the run",
            f"{config.num_steps} steps: {duration(config.num_steps * of_step)} without validation; "
            f"{config.num_steps * run.world_size * bytes_of_step / 1e12:.3g} TB read",
        ],
        ["epochs", ", ".join(f"{source} {count:.2f}" for source, count in epochs.items())],
    ]
    print("\n" + tabulate(lines, tablefmt="plain"), flush=True)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _largest_over_ranks(values: list[float]) -> list[float]:
    return [max(column) for column in zip(*ranks.gather(values), strict=True)]
