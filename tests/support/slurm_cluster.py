"""A real SLURM over the machines of two_hosts.py: controller on `login`, one node on each host, two pretended GPUs a node."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.two_hosts import ADDRESSES, HOSTS, LOGIN, MORTAL, TwoHosts, skip_without, two_hosts

_WAIT_S = 30.0
_CONFIG = """
ClusterName=test
SlurmctldHost=login({login})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdParameters=config_overrides
SlurmdTimeout=10
KillWait=30
MinJobAge=3600
ReturnToService=2
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2,requeue_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
NodeName=n1 NodeAddr={n1} CPUs=4 RealMemory=8000 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeAddr={n2} CPUs=4 RealMemory=8000 Gres=gpu:2 State=UNKNOWN
PartitionName=batch Nodes=n1,n2 Default=YES PriorityTier=1 GraceTime=60
PartitionName=abrupt Nodes=n1,n2 PriorityTier=1 GraceTime=0
PartitionName=urgent Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF
"""


class SlurmCluster:
    """SLURM's daemons and commands.

    Attributes:
        hosts: the machines.
        environment: variables for SLURM's commands.
    """

    def __init__(self, hosts: TwoHosts) -> None:
        self.hosts = hosts
        # Not in the folder of the test: slurmd refuses jobs when the path of a socket has more than 108 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {**os.environ, "SLURM_CONF": str(self._folder / "slurm.conf")}

    def start(self) -> None:
        """Start the daemons, and wait until both nodes are idle."""
        folder = self._folder
        for name in ("state", *(f"spool-{host}" for host in HOSTS)):
            (folder / name).mkdir(parents=True)
        (folder / "gpu0").touch()
        (folder / "gpu1").touch()
        (folder / "slurm.conf").write_text(_CONFIG.format(folder=folder, **ADDRESSES))
        (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-1] Flags=nvidia_gpu_env\n")
        (folder / "cgroup.conf").write_text("CgroupPlugin=autodetect\n")
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        own = [f"--{what}={folder}/munge.{end}" for what, end in _MUNGE_FILES.items()]
        self._daemon("munged", LOGIN, ["munged", "--foreground", "--force", *own])
        while not (folder / "munge.socket").exists():
            assert self._daemons["munged"].poll() is None, self._log("munged")
            time.sleep(0.02)
        self._daemon("slurmctld", LOGIN, ["slurmctld", "-D"])
        for host in HOSTS:
            self.start_node(host)
        deadline = time.monotonic() + _WAIT_S
        while self.states() != dict.fromkeys(HOSTS, "idle"):
            if time.monotonic() > deadline:
                raise TimeoutError("\n".join(self._log(name) for name in self._daemons))
            time.sleep(0.1)

    def start_node(self, host: str) -> None:
        """Start a node's slurmd."""
        self._daemon(f"slurmd-{host}", host, ["slurmd", "-D", "-N", host])

    def states(self) -> dict[str, str]:
        """The state of each node, as `sinfo` shows it."""
        shown = self.command("sinfo", "--noheader", "--Node", "--partition", "batch", "--format", "%N %t", check=False)
        return dict(line.split() for line in shown.splitlines())

    def command(self, *words: str, check: bool = True) -> str:
        """Run one of SLURM's commands on the login machine, and return its output."""
        command = [*self.hosts.on(LOGIN), *words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0 or not check, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, script: Path, *arguments: str, options: tuple[str, ...] = (), **variables: str) -> str:
        """Submit a job with environment variables of its own, and return its number."""
        exported = ",".join(["ALL", *(f"{name}={value}" for name, value in variables.items())])
        words = ["sbatch", "--parsable", f"--export={exported}", *options, str(script), *arguments]
        return self.command(*words).strip()

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says of a job."""
        shown = self.command("scontrol", "--oneliner", "show", "job", number)
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def wait_for_job(self, number: str, seconds: float = 180, **expected: str) -> dict[str, str]:
        """Wait until a job has these values (JobState="COMPLETED", Restarts="1"), and return all of its values."""
        deadline = time.monotonic() + seconds
        while not expected.items() <= (job := self.job(number)).items():
            assert time.monotonic() < deadline, f"expected {expected}, after {seconds} s the job is {job}"
            time.sleep(0.2)
        return job

    def end(self) -> None:
        """End all daemons."""
        for daemon in reversed(self._daemons.values()):
            daemon.kill()
            daemon.wait()
        shutil.rmtree(self._folder)

    def _daemon(self, name: str, machine: str, command: list[str]) -> None:
        with self._log_file(name).open("wb") as log:
            words = [*MORTAL, *self.hosts.on(machine), *command]
            environment = {"PATH": f"{os.environ['PATH']}:/usr/sbin", "SLURM_CONF": self.environment["SLURM_CONF"]}
            self._daemons[name] = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _log_file(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _log(self, name: str) -> str:
        return f"{name}: {self._log_file(name).read_text(errors='replace')[-2000:]}"


_MUNGE_FILES = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """A SLURM cluster of two nodes, which are down when they do not answer for 10 s; skips the test where it cannot be made.

    Jobs of the partition `urgent` preempt those of `batch`, which get a minute of grace, and of `abrupt`, which get none.
    """
    skip_without("slurmctld", "slurmd", "munged", "sbatch")
    with two_hosts(folder) as hosts:
        cluster = SlurmCluster(hosts)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.end()
