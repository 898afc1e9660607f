"""Stand-ins for training and for a cluster's commands, which record how they were called; and functions that read the records."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SCRIPT = "launch/pretrain.sh"

# Stands in for pretrain/train.py, without torch. Each rank writes a file with its arguments and environment. SIGTERM on any rank
# stops all of them, as in training. Saving takes SAVE_S seconds. CODES has, for some ranks, seconds after which they end by
# themselves, and their exit codes.
TRAINING = """
import json, os, signal, sys, time
from pathlib import Path

def main():
    folder = Path(os.environ["FOLDER"])
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    if "ENGINE" in os.environ:
        sys.path.insert(0, os.environ["ENGINE"])
        from common import ranks
        from pretrain import engine
        engine.start_ranks()
        sums = ranks.gather(ranks.announced_ranks()[0])
        ranks.leave()
        (folder / f"gathered-{os.environ['RANK']}.json").write_text(json.dumps(sums))
        sys.exit(0)
    name = next(os.environ[n] for n in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK") if n in os.environ)
    begin = time.monotonic()
    started = {"pid": os.getpid(), "parent": os.getppid(), "arguments": sys.argv[1:], "environment": dict(os.environ)}
    (folder / f"rank-{name}.tmp").write_text(json.dumps(started))
    (folder / f"rank-{name}.tmp").rename(folder / f"rank-{name}.json")
    codes = json.loads(os.environ.get("CODES", "{}"))
    while not (folder / "stop").exists() and time.monotonic() - begin < 90:
        if told:
            (folder / "stop").touch()
        if name in codes and time.monotonic() - begin > codes[name][0]:
            sys.exit(codes[name][1])
        time.sleep(0.02)
    time.sleep(float(os.environ.get("SAVE_S", "0.5")))
    (folder / f"saved-{name}").touch()
    os._exit(75)
"""

# SLURM's srun on one machine: it starts the ranks and returns the highest exit code. Once a rank has ended, it kills the others:
# at once, if that rank failed and --kill-on-bad-exit=1; else after --wait seconds (here a ninetieth of them).
SRUN = f"""#!{sys.executable}
import json, os, subprocess, sys, time
words = sys.argv[1:]
options = {{}}
while words[0].startswith("--"):
    name, _, value = words.pop(0)[2:].partition("=")
    options[name] = int(value)
open(os.environ["FOLDER"] + "/srun.json", "w").write(json.dumps([options, words]))
count = int(os.environ["SLURM_NTASKS"])
def variables(n):
    return {{"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n % 2), "SLURM_STEP_NUM_TASKS": str(count)}}
ranks = [subprocess.Popen(words, env=os.environ | variables(n)) for n in range(count)]
deadline = float("inf")
while None in (codes := [rank.poll() for rank in ranks]):
    ended = [code for code in codes if code is not None]
    if ended and deadline == float("inf"):
        deadline = time.monotonic() + options["wait"] / 90
    if (any(ended) and options["kill-on-bad-exit"]) or time.monotonic() > deadline:
        [rank.kill() for rank in ranks]
    time.sleep(0.02)
sys.exit(max(128 - rank.returncode if rank.returncode < 0 else rank.returncode for rank in ranks))
"""
SCONTROL = """#!/usr/bin/env bash
[ "$1" = show ] && printf '%s\\n' node-7 node-9 && exit
echo "$*" >> "$FOLDER/requeued"
exit "${SCONTROL_CODE:-0}"
"""
SQUEUE = '#!/usr/bin/env bash\n[ "$*" = "--noheader --jobs 20012345 --format %T" ] && echo "$STATE"\n'
# Every host is this machine, whose shell runs the command.
PDSH = """#!/usr/bin/env bash
echo "$*" >> "$FOLDER/pdsh"
echo "$PDSH_SSH_ARGS_APPEND" > "$FOLDER/pdsh-ssh"
while [ "${1#-}" != "$1" ]; do case $1 in -w) hosts=$2; shift 2;; -f) shift 2;; *) shift;; esac; done
number=0
for host in ${hosts//,/ }; do bash -c "${*//%n/$number}" & number=$((number + 1)); done
code=0
for job in $(jobs -p); do wait "$job" || code=$?; done
exit "$code"
"""
SSH = '#!/usr/bin/env bash\n[ "${*: -1}" = -I ] && echo "127.0.0.1 10.0.0.1" || true\n'


def stand_in_environment(tmp_path: Path) -> dict[str, str]:
    """Environment in which `pretrain.train` and a cluster's commands are the stand-ins, which write their files to `tmp_path`."""
    package = tmp_path / "stand_in" / "pretrain"
    package.mkdir(parents=True)
    # the rest of the package is the real one
    (package / "__init__.py").write_text(f"__path__.append({str(ROOT / 'pretrain')!r})\n")
    (package / "train.py").write_text(TRAINING)
    commands = tmp_path / "bin"
    commands.mkdir()
    stand_ins = {"srun": SRUN, "scontrol": SCONTROL, "squeue": SQUEUE, "pdsh": PDSH, "ssh": SSH}
    for name, text in stand_ins.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    others = "SLURM|RANK|WORLD|LOCAL|MASTER|OMP|CUDA|HOSTFILE|NUM_RANKS|LAUNCHER"
    kept = {name: value for name, value in os.environ.items() if not re.match(others, name)}
    return kept | {
        "PATH": f"{commands}:{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": f"{package.parent}:{ROOT}",
        "FOLDER": str(tmp_path),
    }


def ended_with_the_test() -> Iterator[list[subprocess.Popen[str]]]:
    """A list of commands, each of which is killed with all its processes, however the test ends."""
    commands: list[subprocess.Popen[str]] = []
    yield commands
    for command in commands:
        subprocess.run(["pkill", "-KILL", "--session", str(command.pid)], check=False)
        command.wait()


def start(
    command: list[str], environment: dict[str, str], commands: list[subprocess.Popen[str]], cwd: Path = ROOT
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_as_from_a_terminal,
    )
    commands.append(process)
    return process


def _as_from_a_terminal() -> None:
    """Handle Ctrl-C and a closed terminal, which processes that were started in the background ignore."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def ranks(folder: Path, count: int) -> list[dict[str, Any]]:
    """Arguments and environment of each rank, once all have started."""
    files = [folder / f"rank-{number}.json" for number in range(count)]
    deadline = time.monotonic() + 60
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline, f"only {[f.name for f in files if f.exists()]} started within a minute"
        time.sleep(0.05)
    assert len(list(folder.glob("rank-*.json"))) == count
    return [json.loads(file.read_text()) for file in files]


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def of(environments: list[dict[str, Any]], name: str) -> list[str | None]:
    return [each["environment"].get(name) for each in environments]


def wait_for(condition: Callable[[], bool], seconds: float = 180, explain: Callable[[], str] = lambda: "") -> None:
    """Wait until `condition` holds. After so many seconds raises AssertionError with what `explain` returns."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain. {explain()}"
        time.sleep(0.02)
