"""Stands in for pretrain/train.py where launchers are tested: ranks in step, which save a number, without a model.

Signals, errors, exit codes, process group and the names of checkpoints are those of the real training, so a lost rank, a second
signal, output that nobody reads or a full disk do here what they do there; but a start takes a third of the time. It takes the
options of pretraining. Each rank reads `RUN/store` in each step, and saving writes to `RUN/disk`. The environment variable SAVE_S
is how many seconds saving takes when asked to stop, 5 without it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from functools import partial
from pathlib import Path

from common import ranks
from common.errors import InfrastructureError, while_running
from common.exit_codes import STOPPED
from common.rank_process import StopSignals, end_when_asked, end_with, read_arguments

NUM_STEPS, SAVE_EVERY, STEP_S = 600, 10, 0.1


def main() -> None:
    output = Path(read_arguments(lambda words: words[words.index("--output") + 1]))
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    end_with(lambda: train(output))


def train(output: Path) -> int:
    """Count steps, saving every ten of them, until asked to stop."""
    end_when_asked()
    ranks.start_ranks(device_type="cpu")
    stop = StopSignals().listen()
    rank, world_size = ranks.rank_and_world_size()
    checkpoints = output / "checkpoints"
    first = max((int(path.name[5:]) for path in checkpoints.glob("step-????????")), default=0)
    about = {"pid": os.getpid(), "parent": os.getppid(), "host": socket.gethostname(), "first": first, "world_size": world_size}
    _write(output / f"rank-{rank}.json", about)
    if rank == 0 and not (output / "store").exists():
        (output / "store").touch()
    ranks.barrier()
    for step in range(first + 1, NUM_STEPS + 1):
        error = None
        try:
            with while_running(f"rank {rank} on {about['host']} cannot read its next batch"):
                (output / "store").read_bytes()
        except InfrastructureError as raised:
            error = raised
        is_lost, is_asked = ranks.any_rank([error is not None, stop.received])
        if is_lost:
            ranks.on_main(partial(_save, output, step - 1))
            ranks.raise_together(error)
        if is_asked:
            time.sleep(float(os.environ.get("SAVE_S", "5")))
        if rank == 0:
            print(f"step {step}", flush=True)
        if is_asked or step % SAVE_EVERY == 0:
            ranks.on_main(partial(_save, output, step))
        if rank == 0:
            _write(output / "step.json", {"step": step})
        if is_asked:
            ranks.barrier()
            return STOPPED
        time.sleep(STEP_S)
    return 0


def _save(output: Path, step: int) -> None:
    with while_running(f"the checkpoint of step {step} cannot be written"), (output / "disk").open("a") as disk:
        disk.write(f"{step}\n")
    (output / "checkpoints" / f"step-{step:08d}").mkdir(parents=True, exist_ok=True)


def _write(path: Path, values: dict[str, object]) -> None:
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(values))
    unfinished.rename(path)


def saved_steps(output: Path) -> list[int]:
    """Steps of the run's checkpoints, in order."""
    return sorted(int(path.name[5:]) for path in (output / "checkpoints").glob("step-????????"))
