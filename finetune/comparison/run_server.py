"""Process that runs one script many times, each time with other arguments and in a process of its own.

    python finetune/comparison/run_server.py finetune/run.py       standard input is a Unix socket

The script is loaded once, under another name than `__main__`, so that only its imports are executed; they take seconds. A run is
a fork of this process, which executes the script as Python would. Nothing that a run does is seen by the next one.

The other end of the socket sends a line of JSON, the arguments, with the file descriptor of the run's log; it receives one line
with the number of the run's process, and one with its exit code, which is minus the signal that ended it. Stop signals are
blocked here, and arrive in the runs. The process ends when the socket is closed at the other end.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import socket
import sys
import warnings
from pathlib import Path

from common.stop_signals import STOP_SIGNALS

MOST_BYTES = 1 << 16  # of a message, at a time
# Modules that take seconds and that runs import late: every optimizer imports the first, a random forest the second.
LATE_IMPORTS = ("torch._dynamo", "sklearn.ensemble")


def serve(channel: socket.socket) -> list[str] | None:
    """Start a process for each message on `channel`; returns the arguments in each of these processes, and here None at the end.

    A process has its log as standard output and standard error, and receives stop signals.
    """
    while request := receive(channel):
        arguments, log = request
        process = os.fork()
        if not process:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            channel.close()
            for number in (1, 2):
                os.dup2(log, number)
            os.close(log)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            return arguments
        os.close(log)
        try:
            channel.sendall(f"{process}\n".encode())
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            channel.sendall(f"{code}\n".encode())
        except ConnectionError:  # the comparison has ended
            return None
    return None


def receive(channel: socket.socket) -> tuple[list[str], int] | None:
    """The arguments of a run and the descriptor of its log; None when the other end is closed."""
    message = b""
    descriptors: list[int] = []
    while not message.endswith(b"\n"):
        try:
            part, more, _, _ = socket.recv_fds(channel, MOST_BYTES, 1)
        except ConnectionError:
            return None
        if not part:
            return None
        message, descriptors = message + part, descriptors + more
    return json.loads(message), descriptors[0]


def main() -> None:
    """Load the script that the command line names, serve, and in each run's process execute the script."""
    script = sys.argv[1]
    sys.path[0] = str(Path(script).parent)
    runpy.run_path(script, run_name="imported")
    for name in LATE_IMPORTS if "torch" in sys.modules else ():
        importlib.import_module(name)
    # The libraries of numpy and pyarrow start threads when they are loaded, and are prepared for forks.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    with socket.socket(fileno=os.dup(0)) as channel:
        arguments = serve(channel)
    if arguments is not None:
        sys.argv = [script, *arguments]
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
