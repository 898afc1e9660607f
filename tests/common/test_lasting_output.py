"""Output that nobody reads, or that cannot be written, ends no process."""

from __future__ import annotations

import os
import pty
import resource
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pathlib import Path
from common.lasting_output import make_output_last
make_output_last()
make_output_last()
print("first", flush=True)
print("first", file=sys.stderr)
sys.stdin.readline()
for number in range(3000):
    print("lost" * 100)
    print("lost" * 100, file=sys.stderr)
print("lost", file=sys.__stdout__, flush=True)
print("lost", file=sys.__stderr__, flush=True)
Path(sys.argv[1]).write_text("done")
"""


def test_output_without_a_reader_is_discarded(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "done")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == process.stderr.readline() == "first\n"
    process.stdout.close()
    process.stderr.close()
    process.stdin.write("go\n")
    process.stdin.close()
    assert process.wait(60) == 0
    assert (tmp_path / "done").read_text() == "done"


def test_a_closed_terminal_ends_nothing(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "done")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs, text=True)
    os.close(theirs)
    said = b""
    while said.count(b"first") < 2:
        said += os.read(ours, 1000)
    os.close(ours)
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.close()
    assert process.wait(60) == 0
    assert (tmp_path / "done").exists()


def test_a_log_that_cannot_grow_ends_nothing(tmp_path: Path) -> None:
    """A limit of the file's size stands for a full disk: both fail in `write`, and later lines may fit again."""
    log = tmp_path / "log"

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    with log.open("w") as file:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "done")]
        done = subprocess.run(command, input="go\n", stdout=file, stderr=subprocess.STDOUT, text=True, preexec_fn=limited)
    assert done.returncode == 0
    assert log.stat().st_size == 100_000
    assert (tmp_path / "done").exists()


def test_replaced_streams_stay(capsys: pytest.CaptureFixture[str]) -> None:
    from common.lasting_output import make_output_last

    make_output_last()
    print("seen")
    assert capsys.readouterr().out == "seen\n"
