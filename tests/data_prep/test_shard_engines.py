"""Writing shards by real engines: SLURM and Dask on two hosts, which are lost, and ssh. The bytes are those of a local run."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.exit_codes import STOPPED, USER_ERROR
from tests.support.archives import CHIPS, write_archive
from tests.support.interruptions import SHARD, contents
from tests.support.launching import BIN, ROOT, wait_for
from tests.support.sharding import run_shard, without_progress
from tests.support.slurm_cluster import SlurmCluster, slurm_cluster
from tests.support.two_hosts import ADDRESSES, HOSTS, LOGIN, MORTAL

SETTINGS = [*CHIPS, "--sources", "sentinel2"]  # 2 shards
MANY = ["--shard_mb", "0.1"]  # 9 shards
# As if a shard took some seconds: a module that Python imports when it starts.
SLOW = """
import os, time
_replace = os.replace
def replace(source, target, **options):
    if str(target).endswith(".tar"):
        time.sleep(float(os.environ.get("SECONDS_PER_SHARD", "0")))
    _replace(source, target, **options)
os.replace = os.rename = replace
"""
JOBQUEUE = {"CORES": "1", "MEMORY": "500MB", "WALLTIME": "0:40:00", "DEATH_TIMEOUT": "60", "LOG_DIRECTORY": "logs"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive") / "scenes"
    write_archive(folder)
    return folder


@pytest.fixture(scope="module")
def whole(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a local run."""
    output = tmp_path_factory.mktemp("whole") / "corpus"
    assert run_shard("--input", scenes, "--output", output, *SETTINGS) == 0
    return contents(output)


@pytest.fixture(scope="module")
def whole_many(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a local run with `MANY` shards."""
    output = tmp_path_factory.mktemp("many") / "corpus"
    assert run_shard("--input", scenes, "--output", output, *SETTINGS, *MANY) == 0
    return contents(output)


@pytest.fixture
def command(scenes: Path, tmp_path: Path) -> list[str]:
    """shard.py, which writes `corpus` in the folder of the test."""
    return [*SHARD, "--input", str(scenes), "--output", str(tmp_path / "corpus"), *SETTINGS]


def slowly(folder: Path, seconds: float) -> dict[str, str]:
    """Environment variables with which a shard takes so many seconds more."""
    (folder / "sitecustomize.py").write_text(SLOW)
    return {"PYTHONPATH": f"{folder}:{ROOT}", "SECONDS_PER_SHARD": str(seconds)}


def environment(cluster: SlurmCluster, **more: str) -> dict[str, str]:
    own = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SBATCH_MEM_PER_CPU": "500"}
    return cluster.environment | own | {f"DASK_JOBQUEUE__SLURM__{name}": value for name, value in JOBQUEUE.items()} | more


def on_login(
    cluster: SlurmCluster, folder: Path, command: Sequence[str], seconds: float = 120, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command on the login machine, in a folder."""
    words = [*cluster.hosts.on(LOGIN, folder), *command]
    return subprocess.run(
        words,
        env=environment(cluster, **more),
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        stdin=subprocess.DEVNULL,
    )


def submitted(cluster: SlurmCluster, folder: Path, command: Sequence[str], **more: str) -> tuple[str, str]:
    """Submit with `--engine slurm` and two jobs; return the numbers of the array and of the last job."""
    done = on_login(cluster, folder, [*command, "--engine", "slurm", "--workers", "2"], **more)
    assert done.returncode == 0, done.stderr
    numbers = re.fullmatch(r"job (\d+) writes \d shards, job (\d+) finishes; .*\n", done.stdout)
    assert numbers, done.stdout
    return numbers[1], numbers[2]


def wait_until_queued_again(cluster: SlurmCluster, *jobs: str) -> None:
    """Wait until SLURM has ended each job once, and start it again without the two minutes that SLURM waits."""
    for job in jobs:
        cluster.wait_for_job(job, seconds=240, Restarts="1")
        cluster.wait_for_job(job, JobState="PENDING")
        cluster.command("scontrol", "update", f"jobid={job}", "StartTime=now")


def tars(folder: Path) -> int:
    return len(list((folder / "corpus").glob("*.tar")))


def logs(folder: Path) -> str:
    return "\n".join(f"{log.name}: {log.read_text()}" for log in sorted(folder.glob("*.log")))


# ---- SLURM


def test_slurm_array_and_last_job(cluster: SlurmCluster, whole: dict[str, bytes], command: list[str], tmp_path: Path) -> None:
    array, last = submitted(cluster, tmp_path, command)
    cluster.wait_for_job(last, JobState="COMPLETED")
    assert contents(tmp_path / "corpus") == whole
    expected = {f"shard-{array}_0.log", f"shard-{array}_1.log", f"shard-finish-{last}.log"}
    assert {log.name for log in tmp_path.glob("*.log")} == expected
    assert "write: 1 of 1 shards" in (tmp_path / f"shard-{array}_1.log").read_text()


@pytest.mark.parametrize(
    ("engine", "variable"),
    [
        (["--engine", "slurm"], "SBATCH_PARTITION"),
        pytest.param(["--engine", "dask", "--scheduler", "slurm"], "DASK_JOBQUEUE__SLURM__QUEUE", marks=pytest.mark.slow),
    ],
)
def test_a_queue_that_does_not_exist(
    cluster: SlurmCluster, command: list[str], tmp_path: Path, engine: list[str], variable: str
) -> None:
    done = on_login(cluster, tmp_path, [*command, *engine], **{variable: "nowhere"})
    assert done.returncode == USER_ERROR
    (line,) = without_progress(done.stderr)
    assert line.startswith("error: SLURM refused the job; sbatch said: sbatch: error: ")
    assert "invalid partition specified: nowhere" in line


@pytest.mark.slow
def test_a_time_limit(cluster: SlurmCluster, whole_many: dict[str, bytes], command: list[str], tmp_path: Path) -> None:
    """Each job of the array, which writes four shards at a time, has time for some of its own."""
    slow = slowly(tmp_path, 25) | {"SBATCH_TIMELIMIT": "2"}  # a signal after 40 to 60 s
    array, last = submitted(cluster, tmp_path, [*command, *MANY], **slow)
    wait_until_queued_again(cluster, f"{array}_1")
    cluster.wait_for_job(last, seconds=900, JobState="COMPLETED")
    assert contents(tmp_path / "corpus") == whole_many
    log = (tmp_path / f"shard-{array}_1.log").read_text()
    assert "asked to stop: what is finished stays" in log
    done, of = re.findall(r"write: (\d) of (\d) shards", log)[-1]
    assert done == of > "4", "queued again, the job did the rest"


@pytest.mark.slow
@pytest.mark.parametrize(("partition", "seconds"), [("batch", 75), ("abrupt", 15)])
def test_preemption(
    cluster: SlurmCluster, whole_many: dict[str, bytes], command: list[str], tmp_path: Path, partition: str, seconds: float
) -> None:
    """With a minute of grace, in which no shard gets done, and without; the urgent job needs both nodes."""
    slow = slowly(tmp_path, seconds) | {"SBATCH_PARTITION": partition}
    array, last = submitted(cluster, tmp_path, [*command, *MANY], **slow)
    wait_for(lambda: any((tmp_path / "corpus").glob(".*.tmp")))
    cluster.command("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    wait_until_queued_again(cluster, f"{array}_0", f"{array}_1")
    assert "dataset.json" not in contents(tmp_path / "corpus")
    cluster.wait_for_job(last, seconds=500, JobState="COMPLETED")
    assert contents(tmp_path / "corpus") == whole_many


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["host", "slurmd"])
def test_a_lost_node(cluster: SlurmCluster, whole_many: dict[str, bytes], command: list[str], tmp_path: Path, lost: str) -> None:
    """A host's power is cut, or its slurmd is killed, and its job goes on unseen while another node does the same."""
    array, last = submitted(cluster, tmp_path, [*command, *MANY], **slowly(tmp_path, 20))
    wait_for(lambda: tars(tmp_path) > 0)
    victim = cluster.job(f"{array}_1")["NodeList"]
    try:
        if lost == "host":
            cluster.hosts.cut_power(victim)
        else:
            cluster.hosts.run(victim, "pkill", "-KILL", "-x", "slurmd")
        wait_until_queued_again(cluster, f"{array}_1")
    finally:
        if lost == "host":
            cluster.hosts.restart(victim)
        cluster.start_node(victim)
    cluster.wait_for_job(last, seconds=500, JobState="COMPLETED")
    assert contents(tmp_path / "corpus") == whole_many


# ---- Dask


@pytest.mark.slow
def test_dask_workers_as_slurm_jobs(cluster: SlurmCluster, whole: dict[str, bytes], command: list[str], tmp_path: Path) -> None:
    done = on_login(cluster, tmp_path, [*command, "--engine", "dask", "--scheduler", "slurm", "--workers", "2"])
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "corpus") == whole
    assert len(list((tmp_path / "logs").glob("dask-worker-*.err"))) == 2
    assert [line for line in without_progress(done.stderr) if not line.startswith("waiting for Dask workers, ")] == []


@contextmanager
def dask_on_hosts(cluster: SlurmCluster, folder: Path, **more: str) -> Iterator[str]:
    """A Dask scheduler on the login machine and a worker with its nanny on each host; yields the address."""
    module, own = [str(BIN / "python"), "-m"], environment(cluster, **more)
    started: dict[str, subprocess.Popen[bytes]] = {}

    def start(machine: str, *words: str) -> None:
        with log(machine).open("wb") as file:
            command = [*MORTAL, *cluster.hosts.on(machine, folder), *module, *words]
            started[machine] = subprocess.Popen(command, env=own, stdout=file, stderr=file)

    def log(machine: str) -> Path:
        return folder / f"dask-{machine}.txt"

    def said() -> str:
        return "".join(f"{machine}: {log(machine).read_text()}\n" for machine in started)

    def wait_for_scheduler_to_say(*words: str) -> None:
        def has_said_all() -> bool:
            assert all(process.poll() is None for process in started.values()), said()
            return all(text in log(LOGIN).read_text() for text in words)

        wait_for(has_said_all, explain=said)

    try:
        start(LOGIN, "distributed.cli.dask_scheduler", "--no-dashboard", "--host", ADDRESSES[LOGIN], "--port", "0")
        wait_for_scheduler_to_say("Scheduler at:")
        found = re.search(r"Scheduler at:\s*(tcp://\S+)", log(LOGIN).read_text())
        assert found
        for host in HOSTS:
            start(host, "distributed.cli.dask_worker", found[1], "--no-dashboard", "--nthreads", "1", "--death-timeout", "60")
        # the scheduler, since workers do not always log that they are registered
        wait_for_scheduler_to_say(*(f"Register worker addr: tcp://{ADDRESSES[host]}:" for host in HOSTS))
        yield found[1]
    finally:
        for machine in HOSTS:
            cluster.hosts.run(machine, "pkill", "-KILL", "-f", "distributed.cli.dask_worker|spawn_main", check=False)
        for process in started.values():
            process.kill()
            process.wait()


@pytest.mark.slow
def test_dask_workers_on_hosts_of_which_one_is_killed(
    cluster: SlurmCluster, whole_many: dict[str, bytes], command: list[str], tmp_path: Path
) -> None:
    """The worker and its nanny are killed while they write; the other worker does the rest."""
    with dask_on_hosts(cluster, tmp_path, **slowly(tmp_path, 2)) as address:
        words = [*cluster.hosts.on(LOGIN, tmp_path), *command, *MANY, "--engine", "dask", "--scheduler", address]
        run = subprocess.Popen(words, env=environment(cluster), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        wait_for(lambda: tars(tmp_path) > 1)
        cluster.hosts.run("n2", "pkill", "-KILL", "-f", "distributed.cli.dask_worker|spawn_main")
        _, errors = run.communicate(timeout=120)
    assert run.returncode == 0, errors
    assert without_progress(errors) == []
    assert contents(tmp_path / "corpus") == whole_many


# ---- ssh


@pytest.mark.slow
def test_two_hosts_that_are_stopped_and_resume(
    cluster: SlurmCluster, whole_many: dict[str, bytes], command: list[str], tmp_path: Path
) -> None:
    """Each host writes a part of the shards; a run without parts finishes."""
    slow = slowly(tmp_path, 2)
    assert on_login(cluster, tmp_path, [*command, *MANY, "--plan_only", "true"]).returncode == 0

    def by_ssh(seconds: float) -> list[subprocess.Popen[str]]:
        variables = [f"{name}={value}" for name, value in {**slow, "SECONDS_PER_SHARD": str(seconds)}.items()]
        started = []
        for host, part in zip(HOSTS, ("0-3", "4-8"), strict=True):
            remote = ["env", "OMP_NUM_THREADS=1", *variables, *command, *MANY, "--shards", part]
            words = [*cluster.hosts.on(LOGIN, tmp_path), "ssh", host, *remote]
            started.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
        return started

    runs = by_ssh(seconds=3)
    wait_for(lambda: tars(tmp_path) > 1)
    for host in HOSTS:
        cluster.hosts.run(host, "pkill", "-TERM", "-f", "shard.py")
    for run in runs:
        _, errors = run.communicate(timeout=60)
        assert run.returncode == STOPPED, errors
    assert 1 < tars(tmp_path) < 9
    for run in by_ssh(seconds=0):
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors
    assert tars(tmp_path) == 9
    assert on_login(cluster, tmp_path, [*command, *MANY]).returncode == 0
    assert contents(tmp_path / "corpus") == whole_many
