"""Files that stay open between reads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Opened = TypeVar("Opened")


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
