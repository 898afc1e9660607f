"""A rank as a process: the signals that stop it, its exit code, and which of several ranks prints an error."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, Self, TypeVar

from common import ranks
from common.command_line import USER_ERROR

Parameters = TypeVar("Parameters")
FAILED = 1
STOPPED = os.EX_TEMPFAIL  # 75: a signal asked the run to stop, and it has saved; the same command resumes it
# How long the other ranks wait when rank 0 prints an error that all have: the launcher ends all ranks when the first one ends,
# and takes its exit code.
_WAIT_FOR_MAIN_RANK_S = 5.0
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # schedulers send one of them some time before they end a job


def end_when_asked() -> None:
    """Let a stop signal end the process at once, with exit code `STOPPED`, as long as there is nothing to save.

    Once `StopSignals` listen, the run saves first.
    """
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda *_: os._exit(STOPPED))


class StopSignals:
    """Note SIGTERM and SIGUSR1, so that a run can save at the end of a step and stop.

    Python allows signal handlers only in the main thread; in another thread nothing is received.

    Attributes:
        received: True once a signal has come.
    """

    def __init__(self) -> None:
        self.received = False
        self._before: dict[signal.Signals, Any] = {}

    def listen(self) -> Self:
        """Note signals from now on, to the end of the process or of a `with` statement."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _STOP_SIGNALS}
        return self

    def __enter__(self) -> Self:
        return self.listen()

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        self.received = True


def read_arguments(parse: Callable[[list[str]], Parameters]) -> Parameters:
    """Parse this rank's command line, without the launcher's `--local_rank`, by `parse`.

    All ranks find the same mistakes, so only rank 0 prints them. The output of the other ranks is discarded until the caller
    restores `sys.__stdout__` and `sys.__stderr__`, and after a mistake they end later than rank 0.
    """
    is_main = ranks.announced_ranks()[0] == 0
    if not is_main:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        return parse([a for a in sys.argv[1:] if not a.startswith("--local_rank")])
    except SystemExit:
        if not is_main:
            time.sleep(_WAIT_FOR_MAIN_RANK_S)
        raise


def end_with(work: Callable[[], int]) -> NoReturn:
    """Do `work`, leave the other ranks and end this process with the exit code that `work` returns.

    ValueError and OSError are mistakes of the user, exit code 2. All ranks raise the same ones before they join, and the same
    FloatingPointError (exit code 1) at any time, so only rank 0 prints these. Every other error is printed by its own rank.

    The process ends without the interpreter's clean-up: threads of DeepSpeed and its back ends do not always survive it, and
    they would keep a rank alive for which others wait.
    """
    is_main = ranks.announced_ranks()[0] == 0
    message = ""
    try:
        code = work()
        ranks.leave()
    except (ValueError, OSError, FloatingPointError) as error:
        code = FAILED if isinstance(error, FloatingPointError) else USER_ERROR
        message = f"error: {' '.join(str(error).split())}"
        if not is_main and (isinstance(error, FloatingPointError) or not ranks.joined()):
            message = ""  # all ranks have this error, and rank 0 prints it
            time.sleep(_WAIT_FOR_MAIN_RANK_S)
    except RuntimeError as error:
        if not ranks.is_lost_rank(error):
            sys.stderr = sys.__stderr__  # a bug of ours: print its traceback
            raise
        code, message = FAILED, "error: another rank ended; its message says why"
        time.sleep(_WAIT_FOR_MAIN_RANK_S)
    except Exception:
        sys.stderr = sys.__stderr__  # as above
        raise
    for stream in (sys.stdout, sys.stderr, sys.__stderr__):
        if stream is not None:
            stream.flush()
    if message:
        print(message, file=sys.__stderr__, flush=True)
    os._exit(code)
