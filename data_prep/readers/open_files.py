"""Files that stay open between reads."""

from __future__ import annotations

import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Opened = TypeVar("Opened")
_OTHERS = 256  # descriptors that are left for everything else
_ENOUGH = 16_384  # a year of Sentinel-2 has 803 files


def most_open_files() -> int:
    """Return how many files a series may keep open, after raising this process's limit of descriptors as far as it may.

    A chunk group is read from all files of a series in turn. With fewer open files than that, each of them is opened anew for
    every chunk group. Linux and macOS let a process have 1,024 or 256 descriptors at first, and far more when it asks.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH + _OTHERS if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH + _OTHERS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(_ENOUGH if soft == resource.RLIM_INFINITY else soft - _OTHERS, 16)


class OpenFiles(Generic[Opened]):
    """Files that stay open between reads, at most `limit`: beyond it, the least recently used file is closed.

    Opening a file takes about forty times as long as reading a window from an open one. Threads may share them.
    """

    def __init__(self, open_file: Callable[[str], Opened], close: Callable[[Opened], object], limit: int) -> None:
        self._open_file, self._close, self._limit = open_file, close, limit
        self._open: OrderedDict[str, Opened] = OrderedDict()  # without those that are used at this moment
        self._lock = threading.Lock()

    @contextmanager
    def using(self, file: str) -> Iterator[Opened]:
        """The open file, which stays open inside. Where two threads use a file at the same time, each opens it."""
        with self._lock:
            found = self._open.pop(file, None)
        opened = self._open_file(file) if found is None else found
        try:
            yield opened
        finally:
            with self._lock:
                surplus = [self._open.pop(file)] if file in self._open else []
                self._open[file] = opened
                if len(self._open) > self._limit:
                    surplus.append(self._open.popitem(last=False)[1])
            for other in surplus:
                self._close(other)

    def close(self) -> None:
        while self._open:
            self._close(self._open.popitem()[1])
