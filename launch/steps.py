"""Steps of a quickstart: commands run one after the other, each shown with its number and the time so far."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent
PYTHON = str(Path(sys.executable))
ROOT = Path(__file__).resolve().parent.parent


def run_steps(steps: list[tuple[str, list[str]]]) -> None:
    """Run each (title, command) from the project's root; exit with the code of the first that fails."""
    begin = time.monotonic()
    for number, (title, command) in enumerate(steps, 1):
        shown = shlex.join([Path(command[0]).name, *command[1:]])
        print(
            f"\n\033[1m[{number}/{len(steps)}] {title}\033[0m  ({time.monotonic() - begin:.0f} s so far)\n$ {shown}", flush=True
        )
        # One thread for each of two ranks or workers: more would compete for the cores of a small machine.
        environment = os.environ | {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            "NUM_RANKS": os.environ.get("NUM_RANKS", "2"),
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        if code:
            print(f"step {number} ({title}) ended with code {code}", file=sys.stderr)
            sys.exit(code)


def pretraining(config: str, data: Path, output: Path, *more: str) -> list[str]:
    """The pretraining command, with further options `more`."""
    return ["bash", "launch/pretrain.sh", "--config", config, "--data", str(data), "--output", str(output), *more]
