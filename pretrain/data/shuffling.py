"""The shuffled order of samples, of which any position is computed without the others.

So no permutation of 25 million samples lies in memory.
"""

from __future__ import annotations

import numpy as np

from pretrain.data.hashing import hashed

_ROUNDS = 32  # the order of two samples stays correlated by about (3/4)^rounds = 1e-4


def shuffled(positions: np.ndarray, size: int, key: int) -> np.ndarray:
    """Samples at `positions` of an endless sequence, in which each epoch is a permutation of `size` samples: int64 of that shape.

    The swap-or-not shuffle (Hoang, Morris, Rogaway 2012, "An enciphering scheme based on a card shuffle"): a round pairs
    item x with pivot - x (mod size) and swaps the pair or not, by a hash that both share. The result is a permutation for any
    `size`, and single positions are computed without the others.
    """
    if size == 1:
        return np.zeros(np.shape(positions), dtype=np.int64)
    epochs, items = np.divmod(np.asarray(positions, dtype=np.int64), np.int64(size))
    keys = hashed(np.arange(_ROUNDS)[:, None], hashed(epochs, key))  # (rounds, B)
    for round_keys, pivots in zip(keys, (keys % np.uint64(size)).astype(np.int64), strict=True):
        partners = pivots - items
        partners += size * (partners < 0)
        swap = hashed(np.maximum(items, partners), round_keys) >> np.uint64(63) == 1
        items = np.where(swap, partners, items)
    return items
