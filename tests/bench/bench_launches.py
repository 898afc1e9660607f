"""How many kernels a training step launches on a GPU, and how many bytes they move: counted without a GPU.

    python tests/bench/bench_launches.py --output tests/bench/results/launches.json

The step of the published encoder in bf16 runs on tensors without numbers: normalised views of the batch, the student's forward
and backward pass, the teacher's forward pass, the loss, and the teacher's update. What AdamW and DeepSpeed do is not counted.
Variants:

- `operators`: attention in the operators of `pretrain/model/attention/cpu.py`, as a GPU without Triton would run it;
- `kernels`: attention in the kernels of `pretrain/model/attention/cuda.py`;
- `compiled`: the same with `--compile`. The kernels of a block are those in the schedule that torch.compile's inductor makes for
  a CPU: a stand-in, since it makes none for a GPU that is not there. It tells how far fusing reaches, not the exact number.

`tests/support/counted_kernels.py` says what counts as a launch and as a byte, `tests/support/compiled_blocks.py` how close the
stand-in is. Nothing here was measured on a GPU.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from report import write_report  # noqa: E402

from common.command_line import run_command  # noqa: E402
from pretrain.model import EncoderConfig  # noqa: E402
from pretrain.model.video_swin import map_sizes  # noqa: E402
from tests.support.compiled_blocks import schedules_of_block  # noqa: E402
from tests.support.counted_kernels import ATTENTION, KernelCounter  # noqa: E402
from tests.support.counted_step import BESIDE_THE_MODEL, PARTS, count_step  # noqa: E402

BUDGET = {"launches": 900, "gb_per_sample": 1.5}  # of student and teacher together; bytes at 224 px
PUBLISHED = EncoderConfig(sources={"modis": 7, "landsat": 6, "sentinel2": 10})
DTYPE = torch.bfloat16
Counts = dict[str, tuple[int, float]]  # launches and bytes by part


def counts_of(counter: KernelCounter) -> Counts:
    return {part: counter.total(part) for part in PARTS}


def compiled_counts(pixels: tuple[int, int, int, int, int], kernels: KernelCounter) -> Counts:
    """Launches and bytes with compiled blocks: those outside of blocks, of the attention, and of inductor's schedules."""
    without_blocks = replace(PUBLISHED, depths=(0, 0, 0, 0))
    outside = count_step(without_blocks, "sentinel2", pixels, DTYPE, kernels=True, is_normalize_fused=True)
    counts = {part: outside.total(part) for part in PARTS}
    counts |= {part: kernels.total(part) for part in BESIDE_THE_MODEL if part != "views"}
    batch, frames, _, rows, cols = pixels
    for stage, size in enumerate(tqdm(map_sizes(PUBLISHED, frames, rows, cols), desc="compiling", unit="stage")):
        for shifted in (False, True):
            number = len(range(shifted, PUBLISHED.depths[stage], 2))
            for part, schedule in schedules_of_block(PUBLISHED, stage, size, batch, DTYPE, shifted).items():
                name = f"stage {stage + 1}, {part}"
                launches, nbytes = counts[name]
                counts[name] = (
                    launches + number * (schedule.generated + schedule.products),
                    nbytes + number * schedule.nbytes,
                )
    for part in PARTS:
        (launches, nbytes), (of_attention, its_bytes) = counts[part], kernels.total(part, ATTENTION)
        counts[part] = launches + of_attention, nbytes + its_bytes
    return counts


def table(counts: dict[str, Counts], batch: int) -> list[list[Any]]:
    """Rows of launches and MB per sample of each variant: of the parts, of student and teacher, and of all."""

    def row(name: str, parts: list[str]) -> list[Any]:
        sums = [[sum(column) for column in zip(*(each[part] for part in parts), strict=True)] for each in counts.values()]
        return [name, *(number for launches, nbytes in sums for number in (launches, nbytes / batch / 1e6))]

    model = [part for part in PARTS if part not in BESIDE_THE_MODEL]
    return [*(row(part, [part]) for part in PARTS), row("student and teacher", model), row("all", list(PARTS))]


def largest(counter: KernelCounter, batch: int, number: int = 12) -> dict[str, dict[str, float]]:
    """The operators of student and teacher with the most launches, and with the most MB per sample."""
    launches: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    for (part, name), count in counter.launches.items():
        if part not in BESIDE_THE_MODEL:
            launches[name] += count
            nbytes[name] += counter.nbytes[part, name]
    return {
        "launches": dict(launches.most_common(number)),
        "mb_per_sample": {name: round(count / batch / 1e6, 1) for name, count in nbytes.most_common(number)},
    }


def bench_launches(output: Path | None = None, sides: list[int] | None = None, batch: int = 32, compiled: bool = True) -> None:
    """Count the kernels and bytes of a training step of 16 frames and 10 bands.

    Args:
        output: JSON file to write; default: print only.
        sides: pixels along rows and columns; default: 128 and 224.
        batch: samples.
        compiled: also with torch.compile, which takes minutes.
    """
    results, operators = [], {}
    for side in sides or [128, 224]:
        pixels = batch, 16, 10, side, side
        attentions = {"operators": False, "kernels": True}
        variants = {name: count_step(PUBLISHED, "sentinel2", pixels, DTYPE, kernels) for name, kernels in attentions.items()}
        counts = {name: counts_of(counter) for name, counter in variants.items()}
        if compiled:
            counts["compiled"] = compiled_counts(pixels, variants["kernels"])
        rows = table(counts, batch)
        print(f"{batch} x 16 x 10 x {side} x {side}, bf16: launches and MB per sample")
        print(tabulate(rows, ["part", *(f"{name}, {what}" for name in counts for what in ("launches", "MB"))], floatfmt=".1f"))
        for part, *numbers in rows:
            for number, name in enumerate(counts):
                launches, megabytes = numbers[2 * number : 2 * number + 2]
                entry = {"side": side, "variant": name, "part": part, "launches": launches}
                results.append(entry | {"mb_per_sample": round(megabytes, 2)})
        operators[str(side)] = {name: largest(counter, batch) for name, counter in variants.items()}
    print(f"budget: {BUDGET['launches']} launches, {BUDGET['gb_per_sample']} GB per sample at 224 px, of student and teacher")
    write_report(output, ["torch", "triton"], {"batch": batch, "budget": BUDGET, "results": results, "largest": operators})


if __name__ == "__main__":
    run_command(bench_launches)
