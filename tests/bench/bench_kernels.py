"""What the attention kernels take of a GPU, read from their machine code: registers, spills, shared memory. This needs no GPU.

    python tests/bench/bench_kernels.py --output tests/bench/results/kernels.json

Each kernel is compiled ahead of time for three architectures, float32 and bfloat16, and windows of the published model on maps of
16, 8, 4 and 2 frames in tokens; NVIDIA's cuobjdump, which Triton carries, reads what the code takes.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # what Triton did before one had to say
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from report import write_report  # noqa: E402

from common.command_line import run_command  # noqa: E402
from tests.support.compiled_kernels import ARCHITECTURES, TYPES, WINDOWS, rows  # noqa: E402


def bench_kernels(output: Path | None = None, architectures: list[int] | None = None) -> None:
    """Compile the attention kernels and print what they take.

    Args:
        output: JSON file to write; default: print only.
        architectures: CUDA's compute capabilities without the point; default: 80, 90, 100 (A100, H100 and H200, B200).
    """
    found: list[dict[str, Any]] = []
    for architecture in tqdm(architectures or ARCHITECTURES, desc="kernels", unit="architecture"):
        found += rows((architecture,))
    kinds = defaultdict(list)
    for row in found:
        kinds[row["kernel"], f"sm_{row['architecture']}", row["type"]].append(row)
    columns = ["registers", "stack", "shared", "programs_on_an_sm"]
    table = [[*kind, *(_range([row[column] for row in of_kind]) for column in columns)] for kind, of_kind in kinds.items()]
    print(tabulate(table, ["kernel", "for", "type", "registers", "spilled bytes", "shared bytes", "programs on an SM"]))
    windows = {"tokens_of_windows": list(WINDOWS), "types": list(TYPES)}
    write_report(output, ["torch", "triton"], {**windows, "kernels": found})


def _range(values: list[int]) -> str:
    """The smallest and the largest, over windows."""
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


if __name__ == "__main__":
    run_command(bench_kernels)
