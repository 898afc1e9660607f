"""A real terminal: a pseudo-terminal with an interactive shell, into which a test types, and which it can close."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import termios
import threading
from collections.abc import Sequence
from pathlib import Path

from tests.support.launching import wait_for

_CTRL_C = b"\x03"
# Notes the exit code of a command, even of one that outlives its terminal.
_NOTING = 'trap : INT TERM HUP PIPE; "${@:2}"; echo $? > "$1.tmp"; mv "$1.tmp" "$1"'


class Terminal:
    """An interactive bash on a pseudo-terminal, as a window or ssh starts it.

    Args:
        environment: of the shell.
        cwd: folder in which it starts.
        prefix: words before `bash`, for another machine.

    Attributes:
        shown: what the terminal has shown so far.
    """

    def __init__(self, environment: dict[str, str], cwd: Path, prefix: Sequence[str] = ()) -> None:
        self.shown = b""
        self._ours, theirs = os.openpty()
        self._closing, self._close = os.pipe()

        def own_terminal() -> None:
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):  # which what runs in the background may ignore
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        words = [*prefix, "bash", "--norc", "--noprofile", "-i"]
        self._shell = subprocess.Popen(
            words, env=environment, cwd=cwd, preexec_fn=own_terminal, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        self._window = threading.Thread(target=self._show)
        self._window.start()

    def type_command(self, command: Sequence[str], code_file: Path, after: str = "") -> None:
        """Type a command, whose exit code goes to `code_file`; `after` may hold a pipe: `| tee log`."""
        script = code_file.with_name(f"{code_file.name}.sh")
        script.write_text(_NOTING)
        words = " ".join(f"'{word}'" for word in ["bash", str(script), str(code_file), *command])
        os.write(self._ours, f"{words} 2>&1 {after}\n".encode())

    def ctrl_c(self) -> None:
        """Type Ctrl-C: the kernel signals all processes in the foreground."""
        os.write(self._ours, _CTRL_C)

    def close(self) -> None:
        """Close the window, unless it is closed: the kernel hangs up on the shell."""
        if self._window.is_alive():
            os.write(self._close, b"x")
        self._window.join()

    def end(self) -> None:
        """Close the window and end the shell, but not what it has started."""
        self.close()
        self._shell.kill()
        self._shell.wait()
        os.close(self._close)
        os.close(self._closing)

    def _show(self) -> None:
        """Read what is written until the window is closed; the last descriptor must go, so no other thread may be reading."""
        while self._closing not in select.select([self._ours, self._closing], [], [])[0]:
            try:
                self.shown += os.read(self._ours, 65536)
            except OSError:  # no process has the terminal open any more
                break
        os.close(self._ours)


def exit_code(code_file: Path, seconds: float = 60) -> int:
    """The exit code of a command in a terminal, once it has ended."""
    wait_for(code_file.exists, seconds)
    return int(code_file.read_text())
