"""Worker processes: what they are asked, how they end, and what they raise."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import Any

import psutil
import pytest

from common import worker_process
from common.errors import InfrastructureError
from data_prep.corpus.dataset import Corpus, load_corpus
from pretrain.data.stream import Stream
from pretrain.data.workers import ReaderProcess
from tests.support.pretraining import assert_equal_batches, python_environment, stream_config
from tests.support.small_corpus import write_corpus


def test_processes_read_a_group_once(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any, Any]] = []
    read_group, read = ReaderProcess.read_group, ReaderProcess.read

    def note_group(self: ReaderProcess, name: Any, draws: Any) -> None:
        asked.append(("group", self, name))
        read_group(self, name, draws)

    def note(self: ReaderProcess, draw: Any, block: Any, group: Any = None, last: bool = True) -> None:
        asked.append(("last" if last else "batch", self, group))
        read(self, draw, block, group, last)

    monkeypatch.setattr(ReaderProcess, "read_group", note_group)
    monkeypatch.setattr(ReaderProcess, "read", note)
    list(Stream(corpus, "train", stream_config(mixture={"landsat": 1.0}, data_echoing=4, num_workers=2)).batches(2, 12))
    groups = {name: process for what, process, name in asked if what == "group"}
    assert [name for what, _, name in asked if what == "group"] == [("landsat", number) for number in range(3)]
    assert len(set(map(id, groups.values()))) == 2  # by turns
    assert all(process is groups[name] for _, process, name in asked)
    ends = [("batch", 0), ("last", 0), *[("batch", 1)] * 3, ("last", 1), *[("batch", 2)] * 3, ("last", 2)]
    assert [(what, name[1]) for what, _, name in asked if what != "group"] == ends


def test_leaving_early_ends_the_processes_and_closing_closes_the_shards(corpus: Corpus) -> None:
    def open_shards() -> int:
        return sum(link.resolve().suffix == ".tar" for link in Path("/proc/self/fd").iterdir())

    before, others = open_shards(), set(psutil.Process().children())
    stream = Stream(corpus, "train", stream_config(num_workers=3))
    batches = stream.batches(0, 1000)
    next(batches)
    processes = set(psutil.Process().children()) - others
    assert len(processes) == 3
    batches.close()
    assert not any(process.is_running() for process in processes)
    stream.batch(0)
    assert open_shards() > before
    stream.close()
    assert open_shards() == before


def test_a_process_that_was_killed_is_named(corpus: Corpus) -> None:
    others = set(psutil.Process().children())
    batches = Stream(corpus, "train", stream_config(num_workers=2)).batches(0, 1000)
    next(batches)
    for process in set(psutil.Process().children()) - others:
        process.kill()
    with pytest.raises(InfrastructureError, match="ended with exit code -9: the system lacked memory, or someone killed"):
        list(batches)
    assert set(psutil.Process().children()) == others


def test_a_process_that_is_killed_before_it_gets_a_buffer_is_named(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed_first(connection: Connection, file: int, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # the exit code stays for the one who started it
        send_handle(connection, file, pid)

    monkeypatch.setattr("common.worker_process.send_handle", killed_first)
    batches = Stream(corpus, "train", stream_config(num_workers=1)).batches(0, 10)
    with pytest.raises(InfrastructureError, match="reads batches ended with exit code -9: the system lacked"):
        list(batches)


def test_signals_for_all_processes_of_a_job_are_for_the_one_that_trains(corpus: Corpus) -> None:
    others = set(psutil.Process().children())
    stream = Stream(corpus, "train", stream_config(num_workers=2))
    batches = stream.batches(0, 30)
    first = next(batches)
    processes = set(psutil.Process().children()) - others
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        for process in processes:
            process.send_signal(number)
    assert_equal_batches(first, stream.batch(0))
    assert len(list(batches)) == 29
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize("draws", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_batches_of_thousands_of_samples_do_not_fill_the_socket(tmp_path: Path, draws: int) -> None:
    """A request, and an answer, of some megabytes: more than a socket holds."""
    loaded = load_corpus(write_corpus(tmp_path, {"modis": 40}, frames=(17, 18), side=1))
    changes = {"num_frames": 16, "global_batch_size": 16_000, "data_echoing": draws}
    expected = Stream(loaded, "train", stream_config(**changes)).batches(0, 3)
    for batch, other in zip(
        Stream(loaded, "train", stream_config(**changes, num_workers=1)).batches(0, 3), expected, strict=True
    ):
        assert_equal_batches(batch, other)


def test_what_a_process_raises_is_raised_here(tmp_path: Path) -> None:
    loaded = load_corpus(write_corpus(tmp_path, {"modis": 8}, frames=(20, 21)))
    stream = Stream(loaded, "train", stream_config(num_workers=2, skip_damaged=8))
    for path in tmp_path.glob("*.tar"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"modis-train-00000\d.tar"):
        list(stream.batches(0, 4))


@pytest.mark.parametrize("data_echoing", [1, 2])
def test_a_process_that_hangs_in_a_read_is_named_with_its_shards(tmp_path: Path, data_echoing: int) -> None:
    loaded = load_corpus(write_corpus(tmp_path, {"modis": 8}, frames=(20, 21)))
    for path in tmp_path.glob("*.tar"):
        path.unlink()
        os.mkfifo(path)  # to open it waits for a writer, who never comes
    others = set(psutil.Process().children())
    stream = Stream(loaded, "train", stream_config(num_workers=1, data_echoing=data_echoing, read_timeout_s=1.0))
    begin = time.monotonic()
    with pytest.raises(InfrastructureError, match="has not read a batch of modis within 1 s") as raised:
        list(stream.batches(0, 4))
    assert 1 < time.monotonic() - begin < 10
    assert socket.gethostname() in str(raised.value)
    assert any(str(path) in str(raised.value) for path in tmp_path.glob("*.tar"))
    assert set(psutil.Process().children()) == others


def test_closing_gives_up_on_a_process_that_cannot_be_killed(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an uninterruptible sleep, where it gets no signal."""
    monkeypatch.setattr(worker_process, "_SECONDS_TO_LEAVE", 0.2)
    process = ReaderProcess({}, corpus.fingerprint, stream_config(num_workers=1))
    with monkeypatch.context() as patched:
        patched.setattr(subprocess.Popen, "kill", lambda _: None)
        os.kill(process.pid, signal.SIGSTOP)
        begin = time.monotonic()
        process.close()
        assert time.monotonic() - begin < 5
    os.kill(process.pid, signal.SIGKILL)
    os.waitpid(process.pid, 0)


def test_processes_end_with_the_one_that_asks(corpus: Corpus) -> None:
    program = (
        "import os, signal, sys, psutil; from pathlib import Path; from data_prep.corpus.dataset import load_corpus;"
        "from pretrain.data.config import StreamConfig; from pretrain.data.stream import Stream;"
        "stream = Stream(load_corpus(Path(sys.argv[1])), 'train', StreamConfig(num_frames=5, global_batch_size=4));"
        "batches = stream.batches(0, 99); next(batches); print(*(p.pid for p in psutil.Process().children()), flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, corpus.folder], capture_output=True, text=True, env=python_environment()
    )
    assert done.returncode == -signal.SIGKILL
    processes = [int(number) for number in done.stdout.split()]
    assert len(processes) == 2
    _, left = psutil.wait_procs([psutil.Process(number) for number in processes if psutil.pid_exists(number)], timeout=10)
    assert not left
    assert done.stderr == ""
