"""Starting ranks by bash, deepspeed and a hostfile. A stand-in for training records how it was started and how it ended."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from deepspeed.launcher.runner import fetch_hostfile

from common.ranks import announced_ranks
from pretrain import engine
from tests.support.launching import ROOT, SCRIPT, alive, ended_with_the_test, of, ranks, stand_in_environment, start, wait_for


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return stand_in_environment(tmp_path)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    yield from ended_with_the_test()


# ---- one machine


@pytest.mark.parametrize(
    "stop", [signal.SIGTERM, *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGHUP))]
)
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


@pytest.mark.slow
def test_a_second_signal_kills(tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]]) -> None:
    process = start(["bash", SCRIPT], environment | {"SAVE_S": "80"}, started)
    each = ranks(tmp_path, 2)
    process.send_signal(signal.SIGINT)
    wait_for((tmp_path / "stop").exists)
    process.send_signal(signal.SIGTERM)  # at once: some senders send one signal twice
    time.sleep(2.1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(20) > 128
    assert not list(tmp_path.glob("saved-*"))
    wait_for(lambda: not any(alive(rank[who]) for rank in each for who in ("pid", "parent")), 5)


@pytest.mark.slow
def test_no_moment_of_signals_hides_the_exit_code(
    tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    launcher = tmp_path / "bin" / "mpirun"
    # It ends a second after the last signal, however long the others took to start.
    waits = 'until [ -e "$FOLDER/signalled" ]; do sleep 0.1; done; sleep 1'
    launcher.write_text(f'#!/usr/bin/env bash\ntouch "$FOLDER/$STARTED"\n{waits}\nexit 75\n')
    launcher.chmod(0o755)
    hostfile = tmp_path / "hosts"
    hostfile.write_text("a slots=1\n")
    environment |= {"HOSTFILE": str(hostfile), "LAUNCHER": "openmpi", "MASTER_PORT": "20001"}
    several = [start(["bash", SCRIPT], environment | {"STARTED": f"started-{number}"}, started) for number in range(25)]
    wait_for(lambda: len(list(tmp_path.glob("started-*"))) == len(several))
    for number, process in enumerate(several):
        process.send_signal(signal.SIGHUP)
        time.sleep(number / 10_000)
        process.send_signal(signal.SIGHUP)
    (tmp_path / "signalled").touch()
    assert [process.wait(30) for process in several] == [75] * len(several)
    assert all("asked to stop" in process.communicate()[0] for process in several)


@pytest.mark.slow
@pytest.mark.parametrize("command", [["bash", SCRIPT], ["deepspeed", "--num_accelerators", "2", "--master_port", "0", SCRIPT]])
def test_codes_of_ranks_come_out(
    tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]], command: list[str]
) -> None:
    process = start(command, environment | {"CODES": json.dumps({"1": [0, 2]})}, started)
    assert process.wait(60) == 2, process.communicate()
    assert not alive(ranks(tmp_path, 2)[0]["pid"])


@pytest.mark.slow
def test_what_deepspeed_alone_does_when_it_is_to_end(
    tmp_path: Path, environment: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    """The reasons for ranks.sh: when this test fails, DeepSpeed has improved and ranks.sh can be shorter."""
    process = start(["deepspeed", "--num_accelerators", "2", "--master_port", "0", SCRIPT], environment, started)
    each = ranks(tmp_path, 2)
    process.terminate()
    assert process.wait(10) == -signal.SIGTERM
    assert all(alive(rank["pid"]) for rank in each), "it ends, its ranks go on"
    launcher = each[0]["parent"]
    os.kill(launcher, signal.SIGTERM)
    wait_for(lambda: not alive(launcher))
    assert (tmp_path / "saved-0").exists(), "its launcher tells them, for 30 seconds"


def test_options_for_deepspeed(tmp_path: Path, environment: dict[str, str]) -> None:
    """The options of `deepspeed` for number of ranks and port, on other machines than this one."""
    (tmp_path / "bin" / "deepspeed").write_text('#!/usr/bin/env bash\necho "$OMP_NUM_THREADS: $*"\n')
    (tmp_path / "bin" / "nvidia-smi").write_text('#!/usr/bin/env bash\nfor ((n = 0; n < GPUS; n++)); do echo "GPU $n"; done\n')
    (tmp_path / "bin" / "nproc").write_text("#!/usr/bin/env bash\necho 24\n")
    (tmp_path / "bin" / "mpirun").write_text('#!/usr/bin/env bash\necho "$*"\n')
    for command in ("deepspeed", "mpirun", "nvidia-smi", "nproc"):
        (tmp_path / "bin" / command).chmod(0o755)
    # a project without an environment of its own, which would come before the stand-ins
    (tmp_path / "launch").mkdir()
    for script in (SCRIPT, "launch/ranks.sh"):
        shutil.copy(ROOT / script, tmp_path / script)

    def called(**more: str) -> str:
        done = subprocess.run(
            ["bash", SCRIPT, "--x"], cwd=tmp_path, env=environment | more, capture_output=True, text=True, check=True
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
    (tmp_path / "hosts").write_text("# two machines\n\nnode-0 slots=8\nnode-1 slots=8  # the second\n")
    given["HOSTFILE"] = "hosts"
    hosts = called(**given, GPUS="8", MASTER_ADDR="10.0.0.1")
    assert hosts == f": --log_level error --master_port 4711 --hostfile hosts --force_multi --master_addr 10.0.0.1 {SCRIPT} --x"
    assert called(**given, NUM_RANKS="4").endswith(f"--hostfile hosts --force_multi --num_accelerators 4 {SCRIPT} --x")
    mpi = called(**given, LAUNCHER="openmpi", NUM_RANKS="4", NCCL_DEBUG="WARN")
    assert mpi.startswith("--hostfile hosts --map-by ppr:4:node ")
    assert "-x MASTER_ADDR=node-0 -x MASTER_PORT=4711 -x NCCL_DEBUG " in mpi
    assert mpi.endswith(f"/python3 -u {SCRIPT} --x")
    del given["HOSTFILE"]
    with pytest.raises(subprocess.CalledProcessError) as raised:
        called(LAUNCHER="openmpi")
    assert raised.value.returncode == 2
    assert "expected pdsh, or openmpi with a HOSTFILE" in raised.value.stderr
    ports = {re.search(r"--master_port (\d+)", called())[1] for _ in range(3)}  # type: ignore[index]
    assert len(ports) == 3, "runs on one machine do not meet each other"


# ---- several machines by a hostfile


@pytest.mark.slow
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
    assert "ServerAliveInterval" in (tmp_path / "pdsh-ssh").read_text()
    assert f"cd {tmp_path};" in called


def test_the_example_of_a_hostfile() -> None:
    assert dict(fetch_hostfile(ROOT / "launch/hostfile.example")) == {"worker-0": 8, "worker-1": 8}


# ---- what a rank reads from its environment

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SLURM_STEP = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8"}
MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*RANK_VARIABLES, *SLURM_STEP, *MPI):
        monkeypatch.setenv(name, "")  # so that what the code sets goes when the test ends
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "2"}, (2, 3)),
        (SLURM_STEP, (5, 8)),
        (MPI, (3, 4)),
        (SLURM_STEP | {"RANK": "0", "WORLD_SIZE": "2"}, (0, 2)),  # deepspeed on a node of a job
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, (0, 1)),  # a job's script, which is no rank
    ],
)
def test_announced_ranks(clean: pytest.MonkeyPatch, variables: dict[str, str], expected: tuple[int, int]) -> None:
    for name, value in variables.items():
        clean.setenv(name, value)
    assert announced_ranks() == expected
    assert announced_ranks() == expected


def test_ranks_without_an_address_to_meet_at(clean: pytest.MonkeyPatch) -> None:
    for name, value in SLURM_STEP.items():
        clean.setenv(name, value)
    with pytest.raises(ValueError, match=r"8 ranks without MASTER_ADDR and MASTER_PORT.*a script of launch"):
        engine.start_ranks()
