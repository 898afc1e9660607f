"""A run of two ranks, started by each launcher, and all that can stop it: on one machine, on two hosts, on SLURM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.support.launching import BIN, ROOT, SCRIPT, wait_for
from tests.support.pretraining import free_port
from tests.support.slurm_cluster import SlurmCluster, slurm_cluster
from tests.support.steps_of_ranks import NUM_STEPS, SAVE_EVERY, saved_steps
from tests.support.terminal import Terminal, exit_code
from tests.support.two_hosts import ADDRESSES, HOSTS, LOGIN, TwoHosts, skip_without, two_hosts

_WAIT_S = 300.0  # against a run that hangs; on a busy machine it is slow
_SECOND_SIGNAL_S = 2.5


class Run:
    """A run of two ranks of the stand-in `steps_of_ranks`.

    Args:
        folder: for its output.
        engines: ends what the run has started.
        command: words that start the run; the options of training follow.
        hosts: machines, of which `login` starts the run.
        variables: of its environment.
    """

    def __init__(
        self, folder: Path, engines: ExitStack, command: list[str], hosts: TwoHosts | None = None, **variables: str
    ) -> None:
        self.folder, self.output, self.hosts = folder, folder / "run", hosts
        self.output.mkdir()
        self._engines, self._command = engines, command
        self._terminal: Terminal | None = None
        self.process: subprocess.Popen[str] | None = None
        self.environment = stand_in(folder) | variables

    def start(self, in_terminal: bool, options: Sequence[str] = ()) -> None:  # noqa: ARG002
        """Start the run, and wait until it has saved a first checkpoint and trained further. `options`: of a job, for SLURM."""
        prefix = self.hosts.on(LOGIN, self.folder) if self.hosts else []
        command = [*self._command, "--data", "corpus", "--output", str(self.output)]
        if in_terminal:
            self._terminal = Terminal(self.environment, self.folder, prefix)
            self._engines.callback(self._terminal.end)
            self._terminal.type_command(command, self.folder / "code", f"| tee {self.folder / 'log'}")
        else:
            with (self.folder / "log").open("w") as log:
                self.process = subprocess.Popen(
                    [*prefix, *command],
                    env=self.environment,
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    text=True,
                    start_new_session=True,
                )
            self._engines.callback(self._end)
        wait_for(lambda: self.step > 11, _WAIT_S, lambda: self.log)

    def _end(self) -> None:
        assert self.process is not None
        subprocess.run(["pkill", "-KILL", "--session", str(self.process.pid)], check=False)
        self.process.wait()

    @property
    def step(self) -> int:
        """Steps that the ranks have done."""
        file = self.output / "step.json"
        return int(json.loads(file.read_text())["step"]) if file.exists() else 0

    @property
    def kept(self) -> set[str]:
        """The newest checkpoint: of the last `step` that was done, the last regular `checkpoint`, or `done`, of all steps.

        Both of the first, when the last step that was done is that of a regular checkpoint.
        """
        saved = saved_steps(self.output)[-1]
        if saved == NUM_STEPS:
            return {"done"}
        return {
            name for name, step in (("step", self.step), ("checkpoint", self.step // SAVE_EVERY * SAVE_EVERY)) if saved == step
        }

    @property
    def log(self) -> str:
        """What the run has printed."""
        return (self.folder / "log").read_text() if (self.folder / "log").exists() else ""

    def rank(self, number: int) -> dict[str, Any]:
        """Process, parent and host of a rank."""
        values: dict[str, Any] = json.loads((self.output / f"rank-{number}.json").read_text())
        return values

    def ends(self) -> str:
        """The exit code of the run, once it has ended and no rank is left."""
        if self._terminal is not None:
            code = exit_code(self.folder / "code", _WAIT_S)
        else:
            assert self.process is not None
            code = self.process.wait(_WAIT_S)
        self._wait_for_ranks_to_end()
        return str(code if code >= 0 else 128 - code)

    def _wait_for_ranks_to_end(self) -> None:
        wait_for(lambda: not any(self._lives(number) for number in (0, 1)), _WAIT_S)

    def _lives(self, number: int) -> bool:
        rank = self.rank(number)
        if self.hosts is None:
            return _lives(rank["pid"])
        if not self.hosts.is_running(rank["host"]):
            return False
        shown = self.hosts.run(rank["host"], "ps", "-o", "stat=", "-p", str(rank["pid"]), check=False)
        return bool(shown.strip()) and not shown.startswith("Z")

    def kill(self, host: str, process: int) -> None:
        """SIGKILL to a process of a host."""
        if self.hosts is None:
            os.kill(process, signal.SIGKILL)
        else:
            self.hosts.run(host, "kill", "-KILL", str(process))

    # ---- what can happen to a run

    def is_sent_ctrl_c(self) -> None:
        """Ctrl-C is typed into its terminal."""
        assert self._terminal is not None
        self._terminal.ctrl_c()

    def is_sent_ctrl_c_twice(self) -> None:
        """Ctrl-C is typed while it saves."""
        self.is_sent_ctrl_c()
        time.sleep(_SECOND_SIGNAL_S)
        self.is_sent_ctrl_c()

    def loses_its_terminal(self) -> None:
        """The window is closed."""
        assert self._terminal is not None
        self._terminal.close()

    def is_terminated(self) -> None:
        """SIGTERM to the command that started it."""
        assert self.process is not None
        self.process.terminate()

    def loses_a_rank(self) -> None:
        """SIGKILL to a rank, as the kernel sends it when memory is short."""
        self.kill(self.rank(1)["host"], self.rank(1)["pid"])

    def loses_all_ranks(self) -> None:
        """SIGKILL to all ranks."""
        for number in (0, 1):
            self.kill(self.rank(number)["host"], self.rank(number)["pid"])

    def loses_its_launcher(self) -> None:
        """SIGKILL to the launcher that has started all ranks."""
        assert self.process is not None
        for child in psutil.Process(self.process.pid).children():
            if {"deepspeed", "mpirun"} & {Path(word).name for word in child.cmdline()}:
                child.kill()
                return
        self.process.kill()  # it is the launcher

    def loses_the_launcher_of_a_host(self) -> None:
        """SIGKILL to the process that has started the ranks of one host."""
        self.kill(self.rank(1)["host"], self.rank(1)["parent"])

    def loses_the_agent_of_a_host(self) -> None:
        """SIGKILL to the daemon through which the launcher has reached a host."""
        assert self.hosts is not None
        self.hosts.run(self.rank(1)["host"], "pkill", "-KILL", "-f", "^sshd: root@notty")

    def loses_a_host(self) -> None:
        """A host crashes: all its processes end, and its kernel closes their connections."""
        assert self.hosts is not None
        self.hosts.crash(self.rank(1)["host"])

    def loses_power(self) -> None:
        """A host is gone without a goodbye."""
        assert self.hosts is not None
        self.hosts.cut_power(self.rank(1)["host"])

    def fills_its_disk(self) -> None:
        """What it writes to its disk from now on meets `No space left on device`."""
        self._replace("disk", "/dev/full")

    def loses_its_storage(self) -> None:
        """What it reads of its samples from now on meets `Input/output error`."""
        self._replace("store", "/proc/self/mem")

    def _replace(self, name: str, target: str) -> None:
        link = self.output / f"{name}.new"
        link.symlink_to(target)
        link.rename(self.output / name)

    def nothing_happens(self) -> None:
        """It comes to its end."""


class SlurmRun(Run):
    """The same as a job of SLURM.

    Attributes:
        cluster: SLURM.
        job: number of the job.
    """

    def __init__(self, folder: Path, engines: ExitStack, cluster: SlurmCluster) -> None:
        super().__init__(folder, engines, [], cluster.hosts)
        self.cluster = cluster
        cluster.environment |= self.environment
        self.job = ""

    def start(self, in_terminal: bool, options: Sequence[str] = ()) -> None:  # noqa: ARG002
        size = ("--nodes=2", "--gpus-per-node=1", "--ntasks-per-node=1", "--cpus-per-task=1", "--mem=100")
        log = f"--output={self.folder / 'log'}"
        arguments = ["--data", "corpus", "--output", str(self.output)]
        script = ROOT / "launch/pretrain.sbatch"
        self.job = self.cluster.submit(script, *arguments, options=(*size, log, *options), AGRIFM_PROJECT=str(ROOT))
        wait_for(lambda: self.step > 11, _WAIT_S, lambda: f"{self.cluster.job(self.job)}\n{self.log}")

    def ends(self) -> str:
        """`again` when the job is queued again, `cancelled`, or its exit code."""
        wait_for(lambda: self._ending() is not None, _WAIT_S)
        ending = self._ending()
        assert ending is not None
        self._wait_for_ranks_to_end()
        return ending

    def _ending(self) -> str | None:
        job = self.cluster.job(self.job)
        if job["Restarts"] != "0":
            return "again"
        if job["JobState"] == "CANCELLED":
            return "cancelled"
        return job["ExitCode"].split(":")[0] if job["JobState"] in ("FAILED", "COMPLETED", "TIMEOUT") else None

    def is_terminated(self) -> None:
        self.cluster.command("scancel", "--signal=TERM", self.job)

    def is_cancelled(self) -> None:
        """scancel."""
        self.cluster.command("scancel", self.job)

    def loses_its_launcher(self) -> None:
        self.cluster.hosts.run("n1", "pkill", "-KILL", "-x", "srun")

    def loses_the_agent_of_a_host(self) -> None:
        self.cluster.hosts.run("n2", "pkill", "-KILL", "-x", "slurmd")

    def is_preempted(self) -> None:
        """A job of a more urgent partition needs both nodes."""
        urgent = ["--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
        self.cluster.command("sbatch", *urgent)


def stand_in(folder: Path) -> dict[str, str]:
    """An environment in which the ranks of training are those of `steps_of_ranks`, also on other hosts."""
    package = folder / "stand_in" / "pretrain"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"__path__.append({str(ROOT / 'pretrain')!r})\n")
    (package / "train.py").write_text("from tests.support.steps_of_ranks import main\n")
    (folder / ".deepspeed_env").write_text("OMP_NUM_THREADS=1\n")
    others = ("SLURM", "MASTER", "RANK", "OMPI")  # of a run around this one
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    importing = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": f"{package.parent}:{ROOT}"}
    return kept | importing | {"OMP_NUM_THREADS": "1"}


def by_bash(folder: Path, engines: ExitStack) -> Run:
    """`bash launch/pretrain.sh` on one machine."""
    return Run(folder, engines, ["bash", str(ROOT / SCRIPT)])


def by_deepspeed(folder: Path, engines: ExitStack) -> Run:
    """`deepspeed launch/pretrain.sh` on one machine."""
    return Run(folder, engines, ["deepspeed", "--num_accelerators", "2", "--master_port", free_port(), str(ROOT / SCRIPT)])


def by_hostfile(folder: Path, engines: ExitStack, launcher: str = "pdsh") -> Run:
    """`HOSTFILE=... bash launch/pretrain.sh`, with ssh and pdsh."""
    hosts = engines.enter_context(two_hosts(folder / "hosts"))
    (folder / "hostfile").write_text("".join(f"{ADDRESSES[host]} slots=1\n" for host in HOSTS))
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    variables = {"HOSTFILE": str(folder / "hostfile"), "LAUNCHER": launcher, **as_root}
    return Run(folder, engines, ["bash", str(ROOT / SCRIPT)], hosts, **variables)


def by_mpirun(folder: Path, engines: ExitStack) -> Run:
    """`LAUNCHER=openmpi HOSTFILE=... bash launch/pretrain.sh`."""
    skip_without("mpirun")
    return by_hostfile(folder, engines, "openmpi")


def by_slurm(folder: Path, engines: ExitStack) -> SlurmRun:
    """`sbatch launch/pretrain.sbatch`."""
    return SlurmRun(folder, engines, engines.enter_context(slurm_cluster(folder / "hosts")))


def _lives(process: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    return False


LAUNCHERS: dict[str, Callable[..., Run]] = {
    "bash": by_bash,
    "deepspeed": by_deepspeed,
    "HOSTFILE, pdsh": by_hostfile,
    "HOSTFILE, openmpi": by_mpirun,
    "SLURM": by_slurm,
}
