"""Signals that ask a process to stop, and what they do in a command."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

# Schedulers send SIGTERM or SIGUSR1 some time before they end a job; Ctrl-C sends SIGINT, a closed terminal SIGHUP.
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


def stop_signals() -> list[signal.Signals]:
    """The signals that stop a run, without those that the process was started to ignore, as nohup does with SIGHUP."""
    return [number for number in _STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def interrupt_when_asked() -> Iterator[None]:
    """Within it, the first stop signal raises KeyboardInterrupt, as Ctrl-C does, so that everything that is open is closed.

    Further signals do not disturb this, but a second Ctrl-C ends the process at once. Python allows signal handlers only in the
    main thread; in another thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> NoReturn:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in stop_signals()}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Within it, Ctrl-C does nothing, now here and for ever in processes that start: a terminal sends it to all of them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
