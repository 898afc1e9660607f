"""Two real machines in one: network, name, mount and process namespaces on a bridge, each with an sshd, and a login machine.

The file system is the same on all of them, as on a cluster. Names, addresses, ports, /run, /etc/hosts and ssh's configuration
exist only inside the namespaces, so that several test runs do not meet. Everything ends with the process that started it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

LOGIN, HOSTS = "login", ("n1", "n2")
ADDRESSES = {LOGIN: "10.77.0.254", "n1": "10.77.0.1", "n2": "10.77.0.2"}
_WAIT_S = 20.0
# A daemon that ends when this process ends, however that happens.
MORTAL = ("setpriv", "--pdeathsig", "KILL")

_LOGIN = """
mount --make-rprivate /
mount -t tmpfs none /run && mkdir /run/sshd
mount --bind "$FOLDER/hosts" /etc/hosts
mount --bind "$FOLDER/ssh_config" /etc/ssh/ssh_config
hostname login
ip link set lo up
ip link add br0 type bridge
ip addr add 10.77.0.254/24 dev br0
ip link set br0 up
touch "$FOLDER/login.up"
exec sleep infinity
"""
_HOST = """
hostname "$NAME"
ip link set lo up
until ip link show eth0 > /dev/null 2>&1; do sleep 0.02; done
ip addr add "$ADDRESS/24" dev eth0
ip link set eth0 up
touch "$FOLDER/$NAME.up"
exec /usr/sbin/sshd -D -f "$FOLDER/sshd_config" -E "$FOLDER/$NAME.log"
"""
_SSHD_CONFIG = """
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
PidFile none
PermitRootLogin yes
StrictModes no
UsePAM no
PasswordAuthentication no
"""
_SSH_CONFIG = """
Host n1 n2 10.77.0.*
  IdentityFile {folder}/key
  StrictHostKeyChecking no
  UserKnownHostsFile {folder}/known_hosts
  LogLevel ERROR
"""


class TwoHosts:
    """The machines `login`, `n1` and `n2`.

    Attributes:
        folder: where their configuration lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def on(self, machine: str, cwd: Path | None = None) -> list[str]:
        """Words that, before a command, run it on a machine. On `login` the process keeps its id."""
        names = ["--net", "--mount", "--uts"] + ["--pid"] * (machine != LOGIN)
        return ["nsenter", "--target", str(self.first_process(machine)), *names, f"--wd={cwd or Path.cwd()}"]

    def run(self, machine: str, *command: str, check: bool = True) -> str:
        """Run a short command on a machine and return its output."""
        done = subprocess.run([*self.on(machine), *command], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0 or not check, f"{command} on {machine}: {done.stdout}{done.stderr}"
        return done.stdout

    def first_process(self, machine: str) -> int:
        """Process 1 of a host, by its id on this machine."""
        starter = self._processes[machine].pid
        if machine == LOGIN:
            return starter
        return int(Path(f"/proc/{starter}/task/{starter}/children").read_text())

    def is_running(self, host: str) -> bool:
        """Whether a host has not crashed."""
        return self._processes[host].poll() is None

    def crash(self, host: str) -> None:
        """All processes of the host are killed; its kernel still closes their connections."""
        self._processes[host].kill()
        self._processes[host].wait()

    def cut_power(self, host: str) -> None:
        """The host is gone without a goodbye: first the network goes, then all processes."""
        self.run(host, "ip", "link", "set", "eth0", "down")
        self.crash(host)

    def end(self) -> None:
        """End all machines."""
        for process in reversed(self._processes.values()):
            process.kill()
            process.wait()

    def start(self) -> None:
        """Start the machines, and wait until they answer."""
        self.folder.mkdir(parents=True, exist_ok=True)
        names = "".join(f"{address} {name}\n" for name, address in ADDRESSES.items())
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        (self.folder / "sshd_config").write_text(_SSHD_CONFIG.format(folder=self.folder))
        (self.folder / "ssh_config").write_text(_SSH_CONFIG.format(folder=self.folder))
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "key")]
        subprocess.run(keygen, check=True, capture_output=True)
        self._machine(LOGIN, ["unshare", "--net", "--mount", "--uts"], _LOGIN)
        self._wait_until_up(LOGIN)
        for host in HOSTS:
            self.start_host(host)
        self._wait_until_up(*HOSTS)

    def start_host(self, host: str) -> None:
        """Begin to start a host, also one that was lost."""
        for name in ("up", "log"):
            (self.folder / f"{host}.{name}").unlink(missing_ok=True)
        own = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]
        self._machine(host, [*self.on(LOGIN), *own], _HOST)
        port = f"port-{host}"
        link = ["ip", "link", "add", port, "type", "veth", "peer", "name", "eth0"]
        self.run(LOGIN, *link, "netns", str(self._first_when_there(host)))
        self.run(LOGIN, "ip", "link", "set", port, "master", "br0", "up")

    def restart(self, host: str) -> None:
        """A host that was lost is started again; wait until it answers."""
        self.start_host(host)
        self._wait_until_up(host)

    def _machine(self, name: str, namespaces: Sequence[str], script: str) -> None:
        environment = {"PATH": os.environ["PATH"], "FOLDER": str(self.folder), "NAME": name, "ADDRESS": ADDRESSES[name]}
        with (self.folder / f"{name}.setup").open("wb") as log:
            command = [*MORTAL, *namespaces, "bash", "-e", "-c", script]
            self._processes[name] = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _first_when_there(self, host: str) -> int:
        """Process 1 of a host, once it has left the network of the login machine."""
        deadline = time.monotonic() + _WAIT_S
        login = os.readlink(f"/proc/{self.first_process(LOGIN)}/ns/net")
        while time.monotonic() < deadline:
            try:
                first = self.first_process(host)
                if os.readlink(f"/proc/{first}/ns/net") != login:
                    return first
            except ValueError:  # no child yet
                pass
            time.sleep(0.02)
        raise TimeoutError(f"{host} did not start: {(self.folder / f'{host}.setup').read_text()}")

    def _wait_until_up(self, *machines: str) -> None:
        deadline = time.monotonic() + _WAIT_S
        for name in machines:
            while not self._is_up(name):
                if time.monotonic() > deadline or self._processes[name].poll() is not None:
                    raise TimeoutError(f"{name} did not start: {(self.folder / f'{name}.setup').read_text()}")
                time.sleep(0.02)

    def _is_up(self, machine: str) -> bool:
        log = self.folder / f"{machine}.log"  # of sshd
        listens = machine == LOGIN or (log.exists() and "listening" in log.read_text())
        return listens and (self.folder / f"{machine}.up").exists()


@contextmanager
def two_hosts(folder: Path) -> Iterator[TwoHosts]:
    """Two machines and a login machine; skips the test where they cannot be made."""
    skip_without("sshd", "pdsh", "ip", "nsenter", "setpriv")
    hosts = TwoHosts(folder)
    try:
        hosts.start()
        yield hosts
    finally:
        hosts.end()


def skip_without(*commands: str) -> None:
    """Skip the test where root, namespaces or commands are missing."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [command for command in commands if shutil.which(command, path=path) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: .ci/packages installs them as root on Debian")
    if os.geteuid() != 0:
        pytest.skip("needs root, to make network namespaces")
    made = subprocess.run(["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "true"], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"needs namespaces, which this kernel or container does not allow: {made.stderr.decode().strip()}")
