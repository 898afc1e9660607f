"""The runs of a comparison: what each is told, which have finished, and a queue of processes that works them off."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from common.command_line import as_arguments
from common.json_files import write_json
from finetune import run as one_run
from finetune.comparison.summary import Outcome, share
from finetune.model.initial_weights import fingerprint
from finetune.task import Task
from pretrain.model import load_encoder

RUN = Path(one_run.__file__).resolve()
OF_A_CHECKPOINT = ("pretrained", "frozen", "lora")
# What the comparison itself says to run.py.
OURS = ("task", "data", "output", "encoder", "checkpoint", "tune", "label_fraction", "min_steps", "seed")
LOG, FINISHED = "log.txt", "finished.json"
POLL_S = 0.2


class Options:
    """What run.py is told of each task and encoder.

    Attributes:
        weights: fingerprint of the checkpoint.

    Raises ValueError for an encoder without the checkpoint that it needs, and for options that are the comparison's own.
    """

    def __init__(
        self,
        checkpoint: Path | None,
        encoders: Sequence[str],
        tasks: Sequence[str],
        everywhere: dict[str, Any],
        only: dict[str, dict[str, Any]],
    ) -> None:
        pretrained = [encoder for encoder in encoders if encoder in OF_A_CHECKPOINT]
        if pretrained and checkpoint is None:
            raise ValueError(f"--encoders {', '.join(pretrained)} need a --checkpoint")
        stray = sorted(set(only) - set(encoders) - set(tasks))
        if stray:
            raise ValueError(f"--only names {', '.join(stray)}; expected one of {', '.join([*encoders, *tasks])}")
        ours = sorted({name for options in (everywhere, *only.values()) for name in options} & set(OURS))
        if ours:
            raise ValueError(f"--run and --only must leave {', '.join(ours)} to the comparison's own options")
        self.weights = fingerprint(checkpoint)
        self._checkpoint = checkpoint
        self._shape = load_encoder(checkpoint).config.to_dict() if checkpoint and "scratch" in encoders else None
        self._everywhere, self._only = everywhere, only

    def of(self, task: str, encoder: str) -> dict[str, Any]:
        """Options of run.py; those of a task or an encoder win over those of all, an encoder's over a task's."""
        model: dict[str, Any]
        if encoder == "scratch":
            model = {"encoder": self._shape}
        elif encoder in OF_A_CHECKPOINT:
            model = {"checkpoint": str(self._checkpoint), "tune": "full" if encoder == "pretrained" else encoder}
        else:
            model = {"encoder": encoder}
        return {"maps": False} | model | self._everywhere | self._only.get(task, {}) | self._only.get(encoder, {})


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One combination: its place, what run.py is told, and the fingerprint of the checkpoint that it starts from."""

    task: Task
    encoder: str
    label_fraction: float
    seed: int
    folder: Path
    options: dict[str, Any]
    weights: str | None

    @property
    def name(self) -> str:
        """The run for people."""
        return f"{self.task.name}, {self.encoder}, {share(self.label_fraction)} of the labels, seed {self.seed}"

    @property
    def arguments(self) -> list[str]:
        """The command line of run.py."""
        return as_arguments(self.options | {"output": str(self.folder / "run")})

    @property
    def identity(self) -> dict[str, Any]:
        """Equal for runs that would give the same scores; plain values for JSON."""
        known = {"options": self.options, "task": self.task.to_dict(), "weights": self.weights}
        return dict(json.loads(json.dumps(known)))

    def outcome(self, error: str | None = "not run yet") -> Outcome:
        """What is known of the run: its scores if this very run has finished, else `error`."""
        missing = Outcome(
            task=self.task.name,
            title=self.task.title,
            encoder=self.encoder,
            label_fraction=self.label_fraction,
            seed=self.seed,
            error=error,
        )
        path = self.folder / FINISHED
        finished = json.loads(path.read_text()) if path.is_file() else {}
        metrics = self.folder / "run" / one_run.METRICS_FILE
        if finished.get("identity") != self.identity or not metrics.is_file():
            return missing
        return replace(missing, metrics=json.loads(metrics.read_text()), seconds=finished["seconds"], error=None)


def work_off(waiting: Sequence[Run], jobs: int) -> Generator[tuple[Run, str | None]]:
    """Run all, so many at a time; yields each as it ends, with why it failed or None. When left early, what runs is ended."""
    rest = list(waiting)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # tqdm's bars go into the log: a line of them each half minute is enough.
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, cores // jobs)), "TQDM_MININTERVAL": "30"}
    running: dict[subprocess.Popen[bytes], tuple[Run, float, int]] = {}
    try:
        while rest or running:
            while rest and len(running) < jobs:
                one = rest.pop(0)
                one.folder.mkdir(parents=True, exist_ok=True)
                command = [sys.executable, str(RUN), *one.arguments]
                with (one.folder / LOG).open("ab") as log:
                    alone(log, one.folder)
                    before = log.tell()
                    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
                running[process] = one, time.monotonic(), before
            for process in [process for process in running if process.poll() is not None]:
                one, begin, before = running.pop(process)
                if process.returncode == 0:
                    write_json(one.folder / FINISHED, {"identity": one.identity, "seconds": time.monotonic() - begin})
                    yield one, None
                else:
                    yield one, why(process.returncode, (one.folder / LOG).read_bytes()[before:])
            time.sleep(POLL_S)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def alone(log: BinaryIO, folder: Path) -> None:
    """Hold a run's log, as the process that gets it does until it ends, even where the comparison was killed.

    Raises ValueError while another process works in the folder.
    """
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"another process still works in {folder}; wait for it, or end it, then start again") from None


def why(code: int, printed: bytes) -> str:
    """The last error that a failed process printed, else its last line, or the signal that killed it."""
    if code < 0:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    lines = [line.strip() for line in re.split(r"[\r\n]", printed.decode(errors="replace")) if line.strip()]
    # A progress bar may show itself once more after the error.
    errors = [line for line in lines if re.match(r"(\w+\.py: )?error:|[\w.]+(Error|Exception|Interrupt)\b", line)]
    return (errors or lines or [f"exit code {code}"])[-1]
