"""A run of two hosts that is disturbed at random moments, and started again each time, as a person or a scheduler would."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from launch.stop_ranks import ranks_of_run
from tests.support.launching import BIN, ROOT, wait_for
from tests.support.pretraining import free_port
from tests.support.two_hosts import ADDRESSES, HOSTS, LOGIN, TwoHosts

_WAIT_S = 900.0  # against a run that hangs; on a busy machine a whole run takes minutes


class HostsRun:
    """`HOSTFILE=... bash SCRIPT ARGUMENTS` on the login machine, with one rank on each of two hosts.

    Args:
        hosts: the machines.
        script: launch/pretrain.sh, launch/finetune.sh, or one like them.
        arguments: of the run.
        log: file to which its output is appended.
    """

    def __init__(self, hosts: TwoHosts, script: Path, arguments: Sequence[str], log: Path) -> None:
        self.hosts, self._port = hosts, free_port()
        hostfile = hosts.folder / "hostfile"
        hostfile.write_text("".join(f"{ADDRESSES[host]} slots=1\n" for host in HOSTS))
        (hosts.folder / ".deepspeed_env").write_text("OMP_NUM_THREADS=1\n")
        given = {"HOSTFILE": str(hostfile), "MASTER_PORT": self._port, "PYTHONPATH": str(ROOT), "HOME": str(hosts.folder)}
        with log.open("a") as file:
            self.process = subprocess.Popen(
                [*hosts.on(LOGIN), "bash", str(script), *arguments],
                env=os.environ | given | {"PATH": f"{BIN}:{os.environ['PATH']}"},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                text=True,
                start_new_session=True,
            )

    @property
    def ranks(self) -> list[int]:
        """The processes of the ranks, by their ids on this machine."""
        return ranks_of_run(self._port)

    def ends(self) -> int:
        """Its exit code, once it has ended and no rank is left."""
        code = self.process.wait(_WAIT_S)
        wait_for(lambda: not self.ranks, _WAIT_S)
        return code

    def end(self) -> None:
        """Kill what is left of it."""
        for process in self.ranks:
            _kill(process)
        subprocess.run(["pkill", "-KILL", "--session", str(self.process.pid)], check=False)
        self.process.wait()


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def interrupted(run: HostsRun, chance: random.Random) -> None:  # noqa: ARG001
    """Ctrl-C."""
    run.process.send_signal(signal.SIGINT)


def terminated(run: HostsRun, chance: random.Random) -> None:  # noqa: ARG001
    """SIGTERM to the command."""
    run.process.terminate()


def asked_on_a_host(run: HostsRun, chance: random.Random) -> None:
    """SIGTERM to one rank."""
    if ranks := run.ranks:
        with suppress(ProcessLookupError):
            os.kill(chance.choice(ranks), signal.SIGTERM)


def rank_killed(run: HostsRun, chance: random.Random) -> None:
    """SIGKILL of one rank."""
    if ranks := run.ranks:
        _kill(chance.choice(ranks))


def ranks_killed(run: HostsRun, chance: random.Random) -> None:  # noqa: ARG001
    """SIGKILL of all ranks."""
    for process in run.ranks:
        _kill(process)


def daemon_killed(run: HostsRun, chance: random.Random) -> None:
    """SIGKILL of the ssh connection to a host, where the rank goes on without it; later SIGTERM to the command."""
    run.hosts.run(chance.choice(HOSTS), "pkill", "-KILL", "-f", "^sshd: root@notty", check=False)
    time.sleep(chance.random() * 3)
    run.process.terminate()


def launcher_killed(run: HostsRun, chance: random.Random) -> None:  # noqa: ARG001
    """SIGKILL of deepspeed on the login machine."""
    for child in psutil.Process(run.process.pid).children():
        if any(Path(word).name == "deepspeed" for word in child.cmdline()):
            _kill(child.pid)


def everything_killed(run: HostsRun, chance: random.Random) -> None:  # noqa: ARG001
    """SIGKILL of the command and of all ranks, as when all machines lose power."""
    subprocess.run(["pkill", "-KILL", "--session", str(run.process.pid)], check=False)
    for process in run.ranks:
        _kill(process)


WAYS = (
    interrupted, terminated, asked_on_a_host, rank_killed, ranks_killed, daemon_killed, launcher_killed, everything_killed,
)  # fmt: skip


def disturb(start: Callable[[], HostsRun], progress: Callable[[], int], most: int, times: int, seed: int) -> list[str]:
    """Start a run and disturb it so many times, at random moments of its training; then let it finish.

    `progress` is a number that grows while it trains; each disturbance comes when it has grown by 1 to `most` since the start,
    and a random part of a second. Every way of `WAYS` is used before one is repeated. Returns a line on each disturbance.
    """
    chance = random.Random(seed)
    ways = [way for _ in range(-(-times // len(WAYS))) for way in chance.sample(WAYS, len(WAYS))][:times]
    story = []
    for way in ways:
        run = start()
        try:
            until = progress() + chance.randint(1, most)
            deadline = time.monotonic() + _WAIT_S
            while progress() < until:
                assert run.process.poll() is None, f"ended by itself with {run.process.returncode} after {story}"
                assert time.monotonic() < deadline, f"no progress after {story}"
                time.sleep(0.01)
            time.sleep(chance.random() * 0.3)
            way(run, chance)
            story.append(f"{way.__name__} at {progress()}: exit code {run.ends()}")
        finally:
            run.end()
    run = start()
    try:
        assert run.ends() == 0, story
    finally:
        run.end()
    return story
