"""Which keys have occurred before, in little memory: eight bytes for each key."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


class SeenKeys:
    """Keys that have occurred, as hashes of 64 bits.

    Of ten million keys, two different ones share a hash with a probability of 3 in a million.
    """

    def __init__(self) -> None:
        self._sorted: list[np.ndarray] = []  # arrays of hashes, each more than twice as long as the next one

    def add(self, keys: Sequence[str]) -> int | None:
        """Remember keys. Returns the position of the first that occurred before, in `keys` or in an earlier call; else None."""
        digests = b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
        hashes = np.frombuffer(digests, dtype=np.uint64)
        again = np.ones(len(hashes), dtype=bool)
        again[np.unique(hashes, return_index=True)[1]] = False
        for known in self._sorted:
            at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
            again |= known[at] == hashes
        new = np.sort(hashes)
        while len(new) and self._sorted and len(self._sorted[-1]) <= 2 * len(new):
            new = np.sort(np.concatenate([self._sorted.pop(), new]))
        if len(new):
            self._sorted.append(new)
        return int(np.argmax(again)) if again.any() else None
