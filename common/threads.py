"""Work that waits for a storage, done in several threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> list[Result]:
    """The results of `work` for all items, in their order; in this thread for `threads` = 1. Raises the error of the first item.

    The threads share the context variables of the caller: rasterio keeps there what it needs to read and close a dataset.
    """
    if threads == 1:
        return [work(item) for item in items]
    context = copy_context()
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda item: context.copy().run(work, item), items))
