"""A lock that keeps two jobs from writing the same run, on any file system: a numbered file with its owner's heartbeat.

    RUN/.lock-1      who owns the run (host, process, SLURM job, since when), and a counter that the owner raises every 10 s

Network file systems may lack flock, and a job that is killed leaves its file behind. So a new job that finds a file decides
whether the owner lives: on the same machine by its process; elsewhere it has ended if it was an earlier start of the same SLURM
job, which was requeued, or if its counter stands still. The new job then creates the file with the next number, which only one of
several jobs can do, and removes the old one. An owner that only seemed to have ended, such as a suspended process, finds its own
file gone.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import psutil

from common.errors import InfrastructureError

LOCK = ".lock"  # name of a run's lock in its folder, before the number
BEAT_S = 10.0
WATCH_S = 35.0  # how long a new job waits for a beat: three of them may be late
_POLL_S = 0.5
# A process whose start differs by more is another one with the same number; clocks that are set change a start by less.
_SAME_START_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The process that owns a lock.

    Attributes:
        host: name of its machine, for people.
        machine: identifies the kernel, its process numbers (those of containers differ) and the user: processes of other users
            may be invisible.
        process, started: its number, and when it began (Unix, s).
        job: its SLURM job; None outside SLURM.
        restart: how often SLURM had requeued that job when it began.
        since: local time at which it took the lock.
    """

    host: str
    machine: str
    process: int
    started: float
    job: str | None
    since: str
    restart: int = 0

    @classmethod
    def this_process(cls) -> Self:
        """The owner that this process would be."""
        return cls(
            host=socket.gethostname(),
            machine=_machine(),
            process=os.getpid(),
            started=psutil.Process().create_time(),
            job=os.environ.get("SLURM_JOB_ID"),
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
            restart=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        )

    def __str__(self) -> str:
        job = f" (SLURM job {self.job})" if self.job else ""
        return f"process {self.process} on {self.host}{job}, since {self.since}"

    def lives_here(self) -> bool:
        """Whether the process runs; it must be one of this machine."""
        try:
            process = psutil.Process(self.process)
            same = abs(process.create_time() - self.started) < _SAME_START_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


class InUseError(ValueError):
    """Another job holds a lock."""


class RunLock:
    """The lock of a run, or of another output that one job writes at a time; a `with` releases it.

    Args:
        path: path of the lock's file before its number, as in `RUN/.lock`.
        output: what it protects, for messages.
    """

    def __init__(self, path: Path, output: Path) -> None:
        self._path, self._output = path, output
        self._owner = Owner.this_process()
        self._number, self._file = 0, -1  # of the lock's file that this process owns
        self._was_lost = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run lock", daemon=True)

    def acquire(self) -> None:
        """Take the lock, unless this object has it; watch the heartbeat of an owner on another machine before, for up to 35 s.

        Raises InUseError when another job holds it, and OSError when the folder cannot be written to.
        """
        if self._number:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while not self._number:
            number, content = self._newest()
            if not number or self._has_ended(number, content):
                self._create(number + 1, content)
        self._thread.start()

    def check(self) -> None:
        """Raises InfrastructureError when another job has taken the lock from this process, which must write no more."""
        if self._number and (self._was_lost or self._is_lost()):
            raise InfrastructureError(
                f"{self._output} belongs to another job now, or its {self._numbered(self._number).name} was removed: this one, "
                "which did not show that it was alive, writes no more; the same command goes on once the other has ended"
            )

    def release(self) -> None:
        """Give the lock back, if this process has it."""
        if self._number:
            self._ended.set()
            self._thread.join()
            os.close(self._file)
            self._numbered(self._number).unlink(missing_ok=True)
            self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}-{number}")

    def _read(self, number: int) -> bytes | None:
        """Content of the file with this number; None without it. Opening asks the server of a network file system."""
        try:
            return self._numbered(number).read_bytes()
        except FileNotFoundError:
            return None

    def _newest(self) -> tuple[int, bytes]:
        """Number and content of the newest file; (0, b"") when nobody holds the lock."""
        number = max(self._numbers(), default=0)
        content = self._read(number) or b""
        while (following := self._read(number + 1)) is not None:  # the list of a folder may be some seconds old
            number, content = number + 1, following
        return number, content

    def _numbers(self) -> list[int]:
        ends = (path.name.removeprefix(f"{self._path.name}-") for path in self._path.parent.glob(f"{self._path.name}-*"))
        return [int(end) for end in ends if end.isdecimal()]

    def _has_ended(self, number: int, content: bytes) -> bool:
        """Whether the owner of a file has ended, as far as one can tell; False when another one must be judged.

        Raises InUseError when it lives.
        """
        owner = _owner_of(content)
        if owner is not None and owner.machine == self._owner.machine:
            if owner.lives_here():
                raise self._in_use(owner)
            return True
        if (
            owner is not None
            and owner.job is not None
            and (owner.job, True) == (self._owner.job, owner.restart < self._owner.restart)
        ):
            return True  # SLURM has requeued the job since: that start of it runs nowhere any more
        print(f"{self._output} is in use by {owner or 'another job'}, if it lives: watching it for {WATCH_S:.0f} s", flush=True)
        deadline = time.monotonic() + WATCH_S
        while time.monotonic() < deadline:
            time.sleep(_POLL_S)
            now = self._read(number)
            if now is None:
                return False  # it has ended
            if now != content:
                if owner is None:
                    return False  # it has only now written who it is
                raise self._in_use(owner)
        return True

    def _in_use(self, owner: Owner) -> InUseError:
        return InUseError(f"{self._output} is in use by {owner}: wait until it ends, or end it, or give another --output")

    def _create(self, number: int, before: bytes) -> None:
        """Create the file with this number, unless another job was faster. `before`: content of the file of the ended owner."""
        path = self._numbered(number)
        try:
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return
        self._file = file
        try:
            self._write(0)
        except OSError:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        # Where the folder's list was old, or where the ended owner's file was removed and another job began at 1.
        others = {other: self._read(other) for other in self._numbers() if other != number}
        known = _owner_of(before)
        if any(other > number or (content is not None and _owner_of(content) != known) for other, content in others.items()):
            os.close(file)
            path.unlink(missing_ok=True)
            return
        for other in others:
            self._numbered(other).unlink(missing_ok=True)
        self._number = number

    def _write(self, beat: int) -> None:
        content = json.dumps({**asdict(self._owner), "beat": beat})
        os.pwrite(self._file, content.encode(), 0)
        os.fsync(self._file)

    def _beat(self) -> None:
        """Raise the counter until the lock is released or lost."""
        for beat in itertools.count(1):
            if self._ended.wait(BEAT_S):
                return
            with suppress(OSError):  # of a storage that is away for a while; the next beat tries again
                self._was_lost = self._is_lost()
                if self._was_lost:
                    return
                self._write(beat)

    def _is_lost(self) -> bool:
        return self._read(self._number) is None or self._read(self._number + 1) is not None


def is_lock(path: Path) -> bool:
    """Whether a file in the folder of a run belongs to its lock."""
    return path.name.startswith(f"{LOCK}-")


def _owner_of(content: bytes) -> Owner | None:
    """The owner in a lock's file; None for one that is not written yet."""
    try:
        values = json.loads(content)
        del values["beat"]
        return Owner(**values)
    except (ValueError, KeyError, TypeError):
        return None


def _machine() -> str:
    """Identifies the kernel since its start, the process numbers that this process sees, and its user."""
    try:
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{kernel} {os.readlink('/proc/self/ns/pid')} {os.getuid()}"
    except OSError:  # not Linux
        return f"{socket.gethostname()} {os.getuid()}"
