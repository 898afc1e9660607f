"""Whether a compiled run learns what an eager one learns, over thousands of steps.

    make bench-data && python tests/bench/bench_compiled.py --output tests/bench/results/compiled.json

Three pretrainings of a small encoder on the same samples, at the same time: compiled, eager, and eager once more. The last tells
how far two equal runs drift apart by rounding alone, as GPUs do not add in a fixed order everywhere. OlmoEarth (2025) saw that a
gap opened only after 2,500 to 3,000 steps. The losses of all three are compared over tenths of the run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from bench_encoder import device_and_threads  # noqa: E402
from report import write_report  # noqa: E402
from tabulate import tabulate  # noqa: E402

from common.command_line import run_command  # noqa: E402
from pretrain.log.monitor import METRICS_LINES  # noqa: E402

ROOT = Path(__file__).parents[2]
RUNS = {"compiled": True, "eager": False, "eager again": False}
PARTS = 10
ENCODER = ["--encoder.depths", "[1, 1, 1, 1]", "--encoder.drop_path_rate", "0.1"]
ONE_SOURCE = ["--stream.mixture", "{sentinel2: 1}"]  # each other source would take as many micro-steps again


def bench_compiled(
    output: Path | None = None, data: Path = ROOT / "bench-data" / "corpus", steps: int = 3_000, batch: int = 32
) -> None:
    """Compare losses of compiled and eager runs.

    Args:
        output: JSON file to write; default: print only.
        data: corpus to pretrain on.
        steps: optimizer steps of each run.
        batch: samples of a micro-batch.
    """
    on_gpu = torch.cuda.is_available()
    precision = "bf16" if on_gpu else "fp32"
    with tempfile.TemporaryDirectory() as folder:
        started = {name: _start(Path(folder), name, data, steps, batch, precision) for name in RUNS}
        for name, process in started.items():
            if process.wait():
                last = Path(folder, f"{name}.log").read_text()[-4000:]
                raise RuntimeError(f"the run {name!r} ended with {process.returncode}:\n{last}")
        losses = {name: _losses(Path(folder, name)) for name in RUNS}
    parts = {name: [float(part.mean()) for part in np.array_split(of_run, PARTS)] for name, of_run in losses.items()}
    rows = [
        {"steps": f"{steps * part // PARTS} to {steps * (part + 1) // PARTS}"}
        | {name: round(of_run[part], 5) for name, of_run in parts.items()}
        | {
            "compiled from eager": _gap(parts["compiled"][part], parts["eager"][part]),
            "eager from eager": _gap(parts["eager again"][part], parts["eager"][part]),
        }
        for part in range(PARTS)
    ]
    print(tabulate(rows, headers="keys"))
    device = torch.device("cuda" if on_gpu else "cpu")
    content: dict[str, Any] = {"steps": steps, "batch": batch, "precision": precision, "rows": rows}
    write_report(output, ["torch", "deepspeed"], content, device_and_threads(device))


def _gap(one: float, other: float) -> float:
    """Relative difference."""
    return round((one - other) / other, 5)


def _start(folder: Path, name: str, data: Path, steps: int, batch: int, precision: str) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).parent / "deepspeed"), "--log_level", "error"]
    command += ["--num_accelerators", "1", "--master_port", str(29_620 + list(RUNS).index(name)), "launch/pretrain.sh"]
    command += ["--config", "tiny", "--data", str(data.resolve()), "--output", str(folder / name), *ENCODER, *ONE_SOURCE]
    command += ["--num_steps", str(steps), "--stream.global_batch_size", str(batch), "--precision", precision]
    command += ["--log_every", str(max(1, steps // 300))]  # each line of the log waits for the device
    command += ["--save_every", str(steps), "--validate_every", str(steps), "--zero", "launch/zero1.json"]
    command += ["--compile", "true"] if RUNS[name] else []
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def _losses(run: Path) -> np.ndarray:
    """The mean loss of the steps between two lines of the log."""
    lines = map(json.loads, (run / METRICS_LINES).read_text().splitlines())
    return np.array([line["loss/total"] for line in lines if "loss/total" in line])


if __name__ == "__main__":
    run_command(bench_compiled)
