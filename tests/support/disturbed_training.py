"""Pretraining on a cluster: it is started, killed, and started again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

from common.json_files import read_json_lines

Start = Callable[[Path], "subprocess.Popen[str]"]
WAIT_S = 300.0  # against a run that hangs; on a busy machine it is slow


def log_of(run: Path) -> dict[int, dict[str, float | str]]:
    """Losses, gradient norm and digest of the samples of each step, from `metrics.jsonl`."""
    steps = {}
    for values in read_json_lines(run / "metrics.jsonl"):
        if "loss/total" in values:
            kept = ("loss/", "samples_digest", "optimizer/gradient_norm")
            steps[values["step"]] = {name: value for name, value in values.items() if name.startswith(kept)}
    return steps


def checkpoint_tensors(run: Path, step: int) -> dict[str, dict[str, object]]:
    folder = run / "checkpoints" / f"step-{step:08d}"
    return {name: load_file(folder / f"{name}.safetensors") for name in ("student", "teacher", "optimizer")}


def assert_same_bits(run: Path, other: Path, step: int) -> None:
    """The checkpoints of two runs after a step are the same bit for bit."""
    theirs = checkpoint_tensors(other, step)
    for file, tensors in checkpoint_tensors(run, step).items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, theirs[file][name]), f"{file} {name}"  # type: ignore[arg-type]


def copy_until(run: Path, copy: Path, step: int) -> Path:
    """The run as it was when the checkpoint after `step` was the newest."""
    shutil.copytree(run, copy)
    for path in (copy / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    for name in ("metrics.json", "encoder.safetensors"):
        (copy / name).unlink(missing_ok=True)
    return copy


def rank_processes(launcher: int) -> list[psutil.Process]:
    """The processes of a launcher's ranks, in order of ranks."""
    found = {}
    for process in psutil.Process(launcher).children(recursive=True):
        try:
            command = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        local = [word for word in command if word.startswith("--local_rank=")]
        if local and any("pretrain.sh" in word for word in command) and "launcher" not in " ".join(command[:4]):
            found[int(local[0].split("=")[1])] = process
    return [found[rank] for rank in sorted(found)]


def kill_all(process: subprocess.Popen[str], chance: random.Random) -> None:  # noqa: ARG001
    """Send SIGKILL to launcher and ranks, as if the machine were lost."""
    os.killpg(process.pid, signal.SIGKILL)


def kill_one_rank(process: subprocess.Popen[str], chance: random.Random) -> None:
    """Send SIGKILL to one rank; the launcher ends the others."""
    ranks = rank_processes(process.pid)
    if ranks:
        chance.choice(ranks).kill()


def ask_one_rank(process: subprocess.Popen[str], chance: random.Random) -> None:
    """Send SIGTERM to one rank, as schedulers do; all ranks save and stop."""
    ranks = rank_processes(process.pid)
    if ranks:
        chance.choice(ranks).terminate()


def disturb(start: Start, run: Path, ways: Sequence[Callable[..., None]], seed: int) -> list[str]:
    """Start a run and disturb it in each of the `ways`, at random moments of its training; then let it finish.

    Returns lines on each disturbance: how and when, and what the run printed when it was started again; at last, where the run
    that finished had resumed.
    """
    chance = random.Random(seed)
    story = []
    for way in ways:
        process = start(run)
        begun = len(log_of(run))
        until = chance.randint(begun + 1, begun + 4)
        deadline = time.monotonic() + WAIT_S
        while process.poll() is None and len(log_of(run)) < until and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.2)  # anywhere within a step, or while a checkpoint is written
        if process.poll() is not None:
            raise RuntimeError(
                "\n".join([*story, f"ended by itself with exit code {process.returncode}", *process.communicate()])
            )
        way(process, chance)
        output, errors = process.communicate(timeout=WAIT_S)
        said = [line for line in output.splitlines() if line.startswith(("resuming", "checkpoint ", "asked"))]
        story.append(f"{way.__name__} after step {len(log_of(run))}: exit code {process.returncode}; {'; '.join(said)}")
        story += [line for line in errors.splitlines() if line.startswith("error")]
    process = start(run)
    output, errors = process.communicate(timeout=3 * WAIT_S)
    if process.returncode:
        raise RuntimeError("\n".join(story) + output[-2000:] + errors[-2000:])
    return [*story, *(line for line in output.splitlines() if line.startswith("resuming"))]
