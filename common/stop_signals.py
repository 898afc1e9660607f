"""Signals that ask a process to stop, and what they do in a command."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import NoReturn

# Schedulers send SIGTERM or SIGUSR1 some time before they end a job; Ctrl-C sends SIGINT, a closed terminal SIGHUP.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGHUP)  # which a terminal sends to all processes of a command


def stop_signals() -> list[signal.Signals]:
    """The signals that stop a run, without those that the process was started to ignore, as nohup does with SIGHUP."""
    return [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


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
def signals_held_back(signals: Collection[signal.Signals] = TERMINAL_SIGNALS) -> Iterator[None]:
    """Within it, signals wait: they come when it ends. Processes and threads that start within it never get them.

    So of signals that go to all processes at once only this process gets one, and tells those that it has started when to stop.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_resource_tracker() -> None:
    """Start multiprocessing's own process, which ignores other stop signals, so that a closed terminal does not end it either."""
    with signals_held_back([signal.SIGHUP]):
        resource_tracker.ensure_running()
