"""Starting ranks: by bash, deepspeed, a hostfile, SLURM. A stand-in for training says where it was started and how it ended."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deepspeed.launcher.runner import fetch_hostfile

from pretrain import engine

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
SCRIPT = "launch/pretrain.sh"

# In place of pretrain/train.py, without torch: a file for each rank says what it was given; SIGTERM on any rank stops all of
# them, as training agrees on it; saving takes SAVE_S; CODES has codes that ranks end with by themselves, after so many seconds.
TRAINING = """
import json, os, signal, sys, time
from pathlib import Path

def main():
    folder = Path(os.environ["FOLDER"])
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    if "ENGINE" in os.environ:
        sys.path.insert(0, os.environ["ENGINE"])
        from pretrain import engine
        engine.start_ranks()
        sums = engine.gather(engine.announced_ranks()[0])
        engine.leave()
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
    sys.exit(75)
"""

# SLURM's srun on one machine: starts the ranks and returns the highest code of all. After the first one has ended, the others are
# killed: at once, if it failed and --kill-on-bad-exit=1; else after --wait seconds (here a thirtieth of them).
SRUN = f"""#!{sys.executable}
import json, os, subprocess, sys, time
words = sys.argv[1:]
options = {{}}
while words[0].startswith("--"):
    name, _, value = words.pop(0)[2:].partition("=")
    options[name] = int(value)
open(os.environ["FOLDER"] + "/srun.json", "w").write(json.dumps([options, words]))
count = int(os.environ["SLURM_NTASKS"])
def place(n):
    return {{"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n % 2), "SLURM_STEP_NUM_TASKS": str(count)}}
ranks = [subprocess.Popen(words, env=os.environ | place(n)) for n in range(count)]
deadline = float("inf")
while None in (codes := [rank.poll() for rank in ranks]):
    ended = [code for code in codes if code is not None]
    if ended and deadline == float("inf"):
        deadline = time.monotonic() + options["wait"] / 30
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
SQUEUE = '#!/usr/bin/env bash\n[ "$*" = "--noheader --jobs 20012345 --states RUNNING --format %T" ] && echo "$STATE"\n'
# Every host is this machine, whose shell runs what would be run there.
PDSH = """#!/usr/bin/env bash
echo "$*" >> "$FOLDER/pdsh"
while [ "${1#-}" != "$1" ]; do case $1 in -w) hosts=$2; shift 2;; -f) shift 2;; *) shift;; esac; done
number=0
for host in ${hosts//,/ }; do bash -c "${*//%n/$number}" & number=$((number + 1)); done
code=0
for job in $(jobs -p); do wait "$job" || code=$?; done
exit "$code"
"""
SSH = '#!/usr/bin/env bash\n[ "${*: -1}" = -I ] && echo "127.0.0.1 10.0.0.1" || true\n'
MPIRUN = f"""#!{sys.executable}
import os, subprocess, sys
words, exported, count = sys.argv[1:], {{}}, 0
while words[0].startswith("-"):
    option = words.pop(0)
    values = [words.pop(0) for _ in range(2 if option == "--mca" else 1)]
    exported |= dict([values[0].split("=")]) if option == "-x" else {{}}
    count = int(values[0]) if option == "-n" else count
def place(n):
    return {{"OMPI_COMM_WORLD_RANK": str(n), "OMPI_COMM_WORLD_SIZE": str(count), "OMPI_COMM_WORLD_LOCAL_RANK": str(n % 2)}}
sys.exit(max([rank.wait() for rank in [subprocess.Popen(words, env=os.environ | exported | place(n)) for n in range(count)]]))
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a command: `pretrain.train` and a cluster's commands are stand-ins, which write their files into `tmp_path`."""
    package = tmp_path / "stand_in" / "pretrain"
    package.mkdir(parents=True)
    # the rest of the package is the real one
    (package / "__init__.py").write_text(f"__path__.append({str(ROOT / 'pretrain')!r})\n")
    (package / "train.py").write_text(TRAINING)
    commands = tmp_path / "bin"
    commands.mkdir()
    stand_ins = {"srun": SRUN, "scontrol": SCONTROL, "squeue": SQUEUE, "pdsh": PDSH, "ssh": SSH, "mpirun": MPIRUN}
    for name, text in (stand_ins | {"ompi_info": "#!/bin/sh\n"}).items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not re.match("SLURM|RANK|WORLD|LOCAL|MASTER|OMP|CUDA|HOSTFILE|NUM_RANKS", k)}
    return kept | {
        "PATH": f"{commands}:{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": f"{package.parent}:{ROOT}",
        "FOLDER": str(tmp_path),
    }


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Commands to end with all that they started, however the test ends."""
    commands: list[subprocess.Popen[str]] = []
    yield commands
    for command in commands:
        subprocess.run(["pkill", "-KILL", "--session", str(command.pid)], check=False)
        command.wait()


def start(
    command: list[str], environment: dict[str, str], commands: list[subprocess.Popen[str]], cwd: Path = ROOT
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    commands.append(process)
    return process


def ranks(folder: Path, count: int) -> list[dict[str, Any]]:
    """What each rank was given, once all have started."""
    files = [folder / f"rank-{number}.json" for number in range(count)]
    deadline = time.monotonic() + 60
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline, f"only {[f.name for f in files if f.exists()]} started within a minute"
        time.sleep(0.05)
    assert len(list(folder.glob("rank-*.json"))) == count
    return [json.loads(file.read_text()) for file in files]


def alive(pid: int) -> bool:
    """Whether the process runs (one that has ended and that nobody asked about does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def of(environments: list[dict[str, Any]], name: str) -> list[str | None]:
    return [each["environment"].get(name) for each in environments]


# ---- one machine


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_bash_lets_ranks_save_and_passes_their_code(
    tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]], stop: signal.Signals
) -> None:
    process = start(["bash", SCRIPT, "--config", "a b.yaml", "--data", "c"], environment, started)
    each = ranks(tmp_path, 2)
    assert [rank["arguments"] for rank in each] == [[f"--local_rank={n}", "--config", "a b.yaml", "--data", "c"] for n in (0, 1)]
    assert of(each, "RANK") == of(each, "LOCAL_RANK") == ["0", "1"]
    assert of(each, "WORLD_SIZE") == ["2", "2"]
    assert of(each, "OMP_NUM_THREADS") == [str(max(1, len(os.sched_getaffinity(0)) // 2))] * 2
    port, other = of(each, "MASTER_PORT")
    assert port == other != "29500"
    os.killpg(process.pid, stop)  # as Ctrl-C does: all that the terminal's group holds
    assert process.wait(30) == 75
    assert (tmp_path / "saved-0").exists()
    assert (tmp_path / "saved-1").exists()
    assert not any(alive(rank["pid"]) for rank in each)


@pytest.mark.slow
def test_bash_gives_ranks_all_the_time_they_need(
    tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    process = start(["bash", SCRIPT], environment | {"SAVE_S": "40"}, started)  # deepspeed alone kills after 30
    ranks(tmp_path, 2)
    process.terminate()
    assert process.wait(90) == 75
    assert (tmp_path / "saved-0").exists()
    assert (tmp_path / "saved-1").exists()


def test_a_second_signal_kills(tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]]) -> None:
    process = start(["bash", SCRIPT], environment | {"SAVE_S": "80"}, started)
    each = ranks(tmp_path, 2)
    process.send_signal(signal.SIGINT)
    while not (tmp_path / "stop").exists():
        time.sleep(0.05)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(10) > 128
    assert not list(tmp_path.glob("saved-*"))
    deadline = time.monotonic() + 5
    while any(alive(rank[who]) for rank in each for who in ("pid", "parent")):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("command", [["bash", SCRIPT], ["deepspeed", "--num_accelerators", "2", "--master_port", "0", SCRIPT]])
def test_codes_of_ranks_come_out(
    tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]], command: list[str]
) -> None:
    process = start(command, environment | {"CODES": json.dumps({"1": [0, 2]})}, started)
    assert process.wait(60) == 2, process.communicate()
    assert not alive(ranks(tmp_path, 2)[0]["pid"])


def test_what_deepspeed_alone_does_when_it_is_to_end(
    tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    """The reasons for what pretrain.sh does; when this fails, DeepSpeed has become better and pretrain.sh can be shorter."""
    process = start(["deepspeed", "--num_accelerators", "2", "--master_port", "0", SCRIPT], environment, started)
    each = ranks(tmp_path, 2)
    process.terminate()
    assert process.wait(10) == -signal.SIGTERM
    assert all(alive(rank["pid"]) for rank in each), "it ends, its ranks go on"
    launcher = each[0]["parent"]
    os.kill(launcher, signal.SIGTERM)
    while alive(launcher):
        time.sleep(0.05)
    assert (tmp_path / "saved-0").exists(), "its launcher tells them, for 30 seconds"


def test_options_for_deepspeed(tmp_path: Path, environment: dict[str, str]) -> None:
    """How many ranks, and where they meet: what `deepspeed` is called with on machines that this one is not."""
    (tmp_path / "bin" / "deepspeed").write_text('#!/usr/bin/env bash\necho "$OMP_NUM_THREADS: $*"\n')
    (tmp_path / "bin" / "nvidia-smi").write_text('#!/usr/bin/env bash\nfor ((n = 0; n < GPUS; n++)); do echo "GPU $n"; done\n')
    (tmp_path / "bin" / "nproc").write_text("#!/usr/bin/env bash\necho 24\n")
    for command in ("deepspeed", "nvidia-smi", "nproc"):
        (tmp_path / "bin" / command).chmod(0o755)

    def called(**more: str) -> str:
        done = subprocess.run(
            ["bash", SCRIPT, "--x"], cwd=ROOT, env=environment | more, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    given = {"MASTER_PORT": "4711"}
    assert called(**given) == f"12: --log_level error --master_port 4711 --num_accelerators 2 {SCRIPT} --x"
    assert called(**given, GPUS="8") == f"3: --log_level error --master_port 4711 --num_accelerators 8 {SCRIPT} --x"
    assert called(**given, GPUS="8", NUM_RANKS="3").startswith("8: --log_level error --master_port 4711 --num_accelerators 3 ")
    assert called(**given, NUM_RANKS="48", OMP_NUM_THREADS="5").startswith("5: --log_level")
    assert called(**given, NUM_RANKS="48").startswith("1: --log_level")
    # deepspeed itself takes the GPUs of CUDA_VISIBLE_DEVICES, but ignores it when it is told a number
    assert called(**given, GPUS="8", CUDA_VISIBLE_DEVICES="2,3,6") == f"8: --log_level error --master_port 4711 {SCRIPT} --x"
    hosts = called(**given, GPUS="8", HOSTFILE="hosts", MASTER_ADDR="node-0")
    assert hosts == f": --log_level error --master_port 4711 --hostfile hosts --master_addr node-0 {SCRIPT} --x"
    assert called(**given, HOSTFILE="hosts", NUM_RANKS="4").endswith(f"--hostfile hosts --num_accelerators 4 {SCRIPT} --x")
    ports = {re.search(r"--master_port (\d+)", called())[1] for _ in range(3)}  # type: ignore[index]
    assert len(ports) == 3, "runs on one machine do not meet each other"


# ---- several machines by a hostfile


def test_hostfile_by_pdsh(tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]]) -> None:
    (tmp_path / "hosts").write_text("worker-0 slots=2\nworker-1 slots=1\n")
    codes = json.dumps({str(number): [1, 75] for number in range(3)})
    extended = environment | {"HOSTFILE": str(tmp_path / "hosts"), "CODES": codes, "NCCL_DEBUG": "WARN", "MASTER_PORT": "4711"}
    # the folder it is started in comes first on the path of remote ranks, so it must not be that of the real training
    process = start(["bash", str(ROOT / SCRIPT), "--output", "out put"], extended, started, cwd=tmp_path)
    assert process.wait(60) == 75, process.communicate()
    each = ranks(tmp_path, 3)
    assert of(each, "RANK") == ["0", "1", "2"]
    assert of(each, "LOCAL_RANK") == ["0", "1", "0"]
    assert of(each, "WORLD_SIZE") == ["3"] * 3
    assert of(each, "MASTER_ADDR") == ["127.0.0.1"] * 3  # what `hostname -I` says on the first
    assert of(each, "MASTER_PORT") == ["4711"] * 3
    assert [rank["arguments"][1:] for rank in each] == [["--output", "out put"]] * 3
    called = (tmp_path / "pdsh").read_text()
    assert "-w worker-0,worker-1 " in called
    assert f"cd {tmp_path};" in called


def test_hostfile_by_mpirun(tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]]) -> None:
    """As the example says; the ranks of mpirun find each other, and know that they are two and not twice one."""
    example = (ROOT / "launch/hostfile.example").read_text()
    options = re.search(r"deepspeed --hostfile FILE (--launcher openmpi) --launcher_args \"(.*)\"", example)
    assert options is not None
    (tmp_path / "hosts").write_text("worker-0 slots=1\nworker-1 slots=1\n")
    joining = environment | {"ENGINE": str(ROOT), "OMP_NUM_THREADS": "1"}
    meeting = options[2].replace("worker-0", "127.0.0.1").replace("29500", free_port())
    command = [
        "deepspeed",
        "--hostfile",
        str(tmp_path / "hosts"),
        *options[1].split(),
        "--launcher_args",
        meeting,
        str(ROOT / SCRIPT),
    ]
    process = start(command, joining, started, cwd=tmp_path)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert [json.loads((tmp_path / f"gathered-{n}.json").read_text()) for n in range(2)] == [[0, 1]] * 2


def test_the_example_of_a_hostfile() -> None:
    assert dict(fetch_hostfile(ROOT / "launch/hostfile.example")) == {"worker-0": 8, "worker-1": 8}


def free_port() -> str:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


# ---- SLURM


def job(tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]], **more: str) -> subprocess.Popen[str]:
    """A job as SLURM starts it: a copy of the script elsewhere, with what SLURM tells it."""
    script = shutil.copy(ROOT / "launch/pretrain.sbatch", tmp_path / "slurm_script")
    told = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "20012345", "SLURM_JOB_NODELIST": "node-[7,9]", "SLURM_NTASKS": "4"}
    told |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_CPUS_PER_TASK": "3", "STATE": "RUNNING"}
    return start(["bash", str(script), "--config", "a b.yaml"], environment | told | more, started)


def requeued(tmp_path: Path) -> list[str]:
    file = tmp_path / "requeued"
    return file.read_text().splitlines() if file.exists() else []


def test_slurm_ranks_are_told_to_save_and_the_job_goes_on(
    tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    process = job(tmp_path, environment, started)
    each = ranks(tmp_path, 4)
    assert of(each, "MASTER_ADDR") == ["node-7"] * 4
    assert of(each, "MASTER_PORT") == ["22345"] * 4
    assert of(each, "OMP_NUM_THREADS") == ["3"] * 4
    assert [rank["arguments"] for rank in each] == [["--config", "a b.yaml"]] * 4
    options, command = json.loads((tmp_path / "srun.json").read_text())
    assert options == {"kill-on-bad-exit": 0, "wait": 60, "cpus-per-task": 3}
    assert command[:3] == ["python", "-u", str(ROOT / SCRIPT)]
    os.kill(each[2]["pid"], signal.SIGTERM)  # the first that hears of it
    assert process.wait(30) == 75, process.communicate()
    assert len(list(tmp_path.glob("saved-*"))) == 4
    assert requeued(tmp_path) == ["requeue 20012345"]


@pytest.mark.parametrize(
    ("codes", "expected", "again"),
    [
        ({"0": [0, 75], "1": [0.2, 75], "2": [0.4, 75], "3": [1, 75]}, 75, True),  # not all at once: none is killed
        ({"0": [0, 0], "1": [0, 0], "2": [0, 0], "3": [0.5, 0]}, 0, False),
        ({"0": [0, 2], "1": [0, 2], "2": [0, 2], "3": [0, 2]}, 2, False),
        ({"0": [0.5, 1], "1": [0.5, 1], "2": [0.5, 1], "3": [0.5, 1]}, 1, False),
        ({"1": [0, 1]}, 137, False),  # the others wait for it for ever, and are killed
        ({"1": [0, 75]}, 137, False),  # ranks that did not agree on stopping are a failure
    ],
)
def test_slurm_goes_on_after_75_alone(
    tmp_path: Path,
    environment: dict[str, str],
    started: list[subprocess.Popen[str]],
    codes: dict[str, Any],
    expected: int,
    again: bool,
) -> None:
    process = job(tmp_path, environment, started, CODES=json.dumps(codes))
    assert process.wait(60) == expected, process.communicate()
    assert requeued(tmp_path) == ["requeue 20012345"] * again


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"SLURM_RESTART_COUNT": "99"}, ""),
        ({"SLURM_RESTART_COUNT": "100"}, "not queued again after 100 restarts"),
        ({"SLURM_RESTART_COUNT": "3", "MAX_RESTARTS": "3"}, "not queued again after 3 restarts"),
        ({"STATE": ""}, "cancelled"),  # squeue finds it not running
        ({"SCONTROL_CODE": "1"}, "could not be queued again"),
    ],
)
def test_slurm_does_not_go_on_for_ever(
    tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]], more: dict[str, str], said: str
) -> None:
    process = job(tmp_path, environment, started, CODES=json.dumps({str(n): [0, 75] for n in range(4)}), **more)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert said in output
    assert len(requeued(tmp_path)) == ("cancelled" not in said and "restarts" not in said)


def test_slurm_script_outlives_a_signal_to_itself(
    tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    """A preemption may tell the script as well as the ranks."""
    process = job(tmp_path, environment, started)
    each = ranks(tmp_path, 4)
    process.terminate()
    time.sleep(0.3)
    assert process.poll() is None
    os.kill(each[0]["pid"], signal.SIGTERM)
    assert process.wait(30) == 75
    assert requeued(tmp_path) == ["requeue 20012345"]


def test_slurm_directives() -> None:
    text = (ROOT / "launch/pretrain.sbatch").read_text()
    options = dict(line.split()[1].lstrip("-").partition("=")[::2] for line in text.splitlines() if line.startswith("#SBATCH"))
    assert options["gpus-per-node"] == options["ntasks-per-node"], "one rank a GPU"
    assert options["signal"] == "TERM@180", "to the ranks; with B: it would be to the script"
    assert {"requeue", "open-mode", "time", "nodes", "cpus-per-task"} <= options.keys()
    before = text[: text.index("\nproject=")]
    assert all(line.startswith("#") or not line for line in before.splitlines()), "SLURM reads directives up to the first command"


def test_ranks_of_srun_find_each_other(tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]]) -> None:
    (tmp_path / "bin" / "scontrol").write_text("#!/usr/bin/env bash\necho 127.0.0.1\n")
    more = {"ENGINE": str(ROOT), "SLURM_NTASKS": "2", "OMP_NUM_THREADS": "1", "MASTER_PORT": free_port()}
    process = job(tmp_path, environment, started, **more)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert [json.loads((tmp_path / f"gathered-{n}.json").read_text()) for n in range(2)] == [[0, 1], [0, 1]]


# ---- what a rank makes of it

PLACES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SLURM_STEP = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8"}
MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*PLACES, *SLURM_STEP, *MPI):
        monkeypatch.setenv(name, "")  # so that what the code sets goes when the test ends
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("told", "place"),
    [
        ({}, (0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "2"}, (2, 3)),
        (SLURM_STEP, (5, 8)),
        (MPI, (3, 4)),
        (SLURM_STEP | {"RANK": "0", "WORLD_SIZE": "2"}, (0, 2)),  # deepspeed on a node of a job
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, (0, 1)),  # a job's script, which is no rank
    ],
)
def test_announced_ranks(clean: pytest.MonkeyPatch, told: dict[str, str], place: tuple[int, int]) -> None:
    for name, value in told.items():
        clean.setenv(name, value)
    assert engine.announced_ranks() == place
    assert engine.announced_ranks() == place


def test_ranks_that_nobody_told_where_to_meet(clean: pytest.MonkeyPatch) -> None:
    for name, value in SLURM_STEP.items():
        clean.setenv(name, value)
    with pytest.raises(ValueError, match=r"8 ranks without MASTER_ADDR and MASTER_PORT.*pretrain\.sbatch"):
        engine.start_ranks()
