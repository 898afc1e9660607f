"""Files that stay open between reads."""

from __future__ import annotations

import resource
from collections import OrderedDict
from collections.abc import Callable
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

    Opening a file takes about forty times as long as reading a window from an open one.
    """

    def __init__(self, open_file: Callable[[str], Opened], close: Callable[[Opened], object], limit: int) -> None:
        self._open_file, self._close, self._limit = open_file, close, limit
        self._open: OrderedDict[str, Opened] = OrderedDict()

    def __getitem__(self, file: str) -> Opened:
        if file in self._open:
            self._open.move_to_end(file)
            return self._open[file]
        opened = self._open_file(file)
        self._open[file] = opened
        if len(self._open) > self._limit:
            self._close(self._open.popitem(last=False)[1])
        return opened

    def close(self) -> None:
        while self._open:
            self._close(self._open.popitem()[1])
