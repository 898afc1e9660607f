"""Hashes for everything random in the order of training: pure functions of named keys and numbers, vectorised, without state.

The order of sources, samples and frames is a hash of (names, seed, epoch, sample), computed where it is needed. So any rank can
start at any step at once. The hashes use only the integer arithmetic of this file and not numpy's generators, whose numbers may
change between numpy releases (NEP 19): a run that is resumed on another machine still sees every sample exactly once per epoch.
"""

from __future__ import annotations

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: consecutive inputs land far apart before they are mixed


def named_key(*names: object) -> int:
    """A 64-bit key of `hashed` from names: the same in every process and on every machine, unlike `hash`."""
    digest = hashlib.sha256("\0".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def hashed(values: np.ndarray | int, key: np.ndarray | int) -> np.ndarray:
    """Hash pairs of a value and a key to 64-bit words that look independent: uint64 of the broadcast shape, at least one axis.

    The finaliser of SplitMix64 (Steele, Lea, Flood 2014, OOPSLA, section 5), over the value spread by the golden ratio.
    """
    z = np.atleast_1d(np.asarray(values).astype(np.uint64)) * _GOLDEN + np.asarray(key).astype(np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
