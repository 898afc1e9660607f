"""The random order of sources, samples and frames: pure functions of named keys and positions, vectorised, without state.

Everything random in the order of training is a hash of (names, seed, epoch, sample), computed where it is needed. So any rank
can start at any step at once, and no permutation of 25 million samples lies in memory. The hashes use only the integer
arithmetic of this file and not numpy's generators, whose numbers may change between numpy releases (NEP 19): a run that is
resumed on another machine still sees every sample exactly once per epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: consecutive inputs land far apart before they are mixed
_ROUNDS = 32  # the order of two samples stays correlated by about (3/4)^rounds = 1e-4


def named_key(*names: object) -> int:
    """A 64-bit key from names: the same in every process and on every machine, unlike `hash`."""
    digest = hashlib.sha256("\0".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def mix(values: np.ndarray | int, key: np.ndarray | int) -> np.ndarray:
    """Independent-looking 64-bit words from (value, key) pairs: uint64 of the broadcast shape, at least one axis.

    The finaliser of SplitMix64 (Steele, Lea, Flood 2014, OOPSLA, section 5), over the value spread by the golden ratio.
    """
    z = np.atleast_1d(np.asarray(values).astype(np.uint64)) * _GOLDEN + np.asarray(key).astype(np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def shuffled(positions: np.ndarray, size: int, key: int) -> np.ndarray:
    """Items at `positions` of an endless sequence, in which each epoch is a permutation of `size` items: int64 of that shape.

    The swap-or-not shuffle (Hoang, Morris, Rogaway 2012, "An enciphering scheme based on a card shuffle"): a round pairs
    item x with pivot - x (mod size) and swaps the pair or not, by a hash that both share. The result is a permutation for any
    `size`, and single positions are computed without the others.
    """
    if size == 1:
        return np.zeros(np.shape(positions), dtype=np.int64)
    epochs, items = np.divmod(np.asarray(positions, dtype=np.int64), np.int64(size))
    keys = mix(np.arange(_ROUNDS)[:, None], mix(epochs, key))  # (rounds, B)
    for round_keys, pivots in zip(keys, (keys % np.uint64(size)).astype(np.int64), strict=True):
        partners = pivots - items
        partners += size * (partners < 0)
        swap = mix(np.maximum(items, partners), round_keys) >> np.uint64(63) == 1
        items = np.where(swap, partners, items)
    return items


def drawn_frames(samples: np.ndarray, epochs: np.ndarray, available: np.ndarray, num_frames: int, key: int) -> np.ndarray:
    """`num_frames` distinct frames of each sample, ascending: int64 (B, num_frames).

    `samples`, `epochs` and `available` are integers (B,): the sample, its epoch, and its number of frames (at least
    `num_frames`). Every subset is equally likely: the frames with the smallest hashes are drawn.
    """
    sample_keys = mix(samples, mix(epochs, key))[:, None]
    frames = np.arange(available.max())
    hashes = mix(frames[None], sample_keys) >> np.uint64(1)  # one bit less leaves room for "not there"
    hashes[frames[None] >= available[:, None]] = np.uint64(2**64 - 1)
    return np.sort(np.argpartition(hashes, num_frames - 1, axis=1)[:, :num_frames], axis=1)


def mixture_cycle(weights: Mapping[str, float], longest: int = 100) -> list[str]:
    """The shortest list of sources that holds each in proportion to its weight, as well as a list of `longest` can.

    The largest remainders get the last slots. Raises ValueError for weights that are not positive, or so small that they get no
    slot.
    """
    wrong = {source: weight for source, weight in weights.items() if not 0 < weight < float("inf")}
    if wrong or not weights:
        raise ValueError(
            f"mixture weights must be positive numbers, got {wrong or 'none'}; leave out sources that are not wanted"
        )
    total = sum(weights.values())
    shares = {source: weight / total for source, weight in sorted(weights.items())}

    def slots(length: int) -> dict[str, int]:
        counts = {source: int(share * length + 1e-9) for source, share in shares.items()}
        by_remainder = sorted(shares, key=lambda source: (counts[source] - shares[source] * length, source))
        for source in by_remainder[: length - sum(counts.values())]:
            counts[source] += 1
        return counts

    def error(length: int) -> float:
        return round(max(abs(count / length - shares[source]) for source, count in slots(length).items()), 9)

    best = slots(min(range(len(shares), max(longest, len(shares)) + 1), key=error))
    absent = [source for source, count in best.items() if count == 0]
    if absent:
        raise ValueError(f"mixture weights of {absent} are below 1 in {longest} of the total; raise them or leave them out")
    return [source for source, count in best.items() for _ in range(count)]
