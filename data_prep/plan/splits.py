"""Splits by place: all samples of a spatial block belong to train, validation or test together.

Neighbouring windows look alike: with a random split, a model would be scored on near copies of its training samples. Spatial
blocks are some kilometres wide and cover the globe; samples in a buffer between blocks of different splits can be left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from data_prep.archive.scene import SPLITS

EARTH_RADIUS_KM = 6371.007  # of the sphere whose surface has the area of the Earth's
IN_BUFFER = -1
DEFAULT_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


@dataclass(frozen=True, kw_only=True)
class EqualAreaCells:
    """Cells of about side_km x side_km on the whole globe: bands of latitude, each divided into nearly square cells."""

    side_km: float

    def __post_init__(self) -> None:
        if not 0 < self.side_km <= 5_000:
            raise ValueError(f"the side of a cell or block is {self.side_km} km; expected more than 0 and at most 5000")

    def of_places(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """Return the number of each point's cell: degrees (n,) -> int64 (n,). Numbers in a band increase eastwards."""
        bands = max(1, round(np.pi * EARTH_RADIUS_KM / self.side_km))
        band = np.clip(np.floor((lat + 90) / 180 * bands), 0, bands - 1).astype(np.int64)
        middle = np.radians((band + 0.5) / bands * 180 - 90)
        parts = np.maximum(1, np.round(2 * np.pi * EARTH_RADIUS_KM * np.cos(middle) / self.side_km)).astype(np.int64)
        part = np.floor((lon + 180) % 360 / 360 * parts).astype(np.int64)
        return band * 2**32 + np.minimum(part, parts - 1)


@dataclass(frozen=True, kw_only=True)
class SpatialBlocks:
    """Spatial blocks, each of which belongs to one split.

    Attributes:
        block_km: side of a block in kilometres.
        shares: share of the blocks of each split; they sum to 1.
        buffer_km: points nearer than this to a block of a later split (in the order train, validation, test) are left out, so
            that centres of samples of different splits are at least this far apart. At most half a block.
        seed: seed of the draw that gives each block its split.
    """

    block_km: float
    shares: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_SHARES))
    buffer_km: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        EqualAreaCells(side_km=self.block_km)
        if set(self.shares) - set(SPLITS) or min(self.shares.values()) < 0 or abs(sum(self.shares.values()) - 1) > 1e-6:
            raise ValueError(f"shares of splits are {dict(self.shares)}; expected shares of {', '.join(SPLITS)} that sum to 1")
        if not 0 <= self.buffer_km <= self.block_km / 2:
            raise ValueError(
                f"the buffer between splits is {self.buffer_km} km; expected 0 to {self.block_km / 2}, half the side of a block"
            )

    def of_places(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """Return the index into SPLITS of each point, or IN_BUFFER: degrees (n,) -> int8 (n,)."""
        return with_buffer(self._of_blocks, lon, lat, self.buffer_km)

    def _of_blocks(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        blocks, block_of_point = np.unique(EqualAreaCells(side_km=self.block_km).of_places(lon, lat), return_inverse=True)
        ends = np.cumsum([self.shares.get(split, 0.0) for split in SPLITS])
        draws = np.array([draw(f"{self.seed} {block}") for block in blocks.tolist()])
        # Draws that rounding leaves above the last end belong to the last split with a share.
        last = max(index for index, split in enumerate(SPLITS) if self.shares.get(split, 0.0) > 0)
        return np.minimum(np.searchsorted(ends, draws, "right"), last).astype(np.int8)[block_of_point]


def with_buffer(
    split_of: Callable[[np.ndarray, np.ndarray], np.ndarray], lon: np.ndarray, lat: np.ndarray, buffer_km: float
) -> np.ndarray:
    """The split of each point, or IN_BUFFER nearer than `buffer_km` to a block of a later split: degrees (n,) -> int8 (n,).

    `split_of`: the index into SPLITS of points by their blocks, which are at least twice as wide as the buffer.
    """
    split = split_of(lon, lat)
    if buffer_km == 0:
        return split
    # The circle of the buffer lies within a box of latitudes and longitudes. The box is narrower than a block, so that its
    # corners, the middles of its sides and its centre lie in all blocks that it overlaps.
    angle = buffer_km / EARTH_RADIUS_KM
    reach = np.degrees(np.arcsin(np.minimum(1, np.sin(angle) / np.maximum(np.cos(np.radians(lat)), 1e-9))))
    latest = split
    for north in (-1, 0, 1):
        for east in (-1, 0, 1):
            latest = np.maximum(latest, split_of(lon + east * reach, np.clip(lat + north * np.degrees(angle), -90, 90)))
    return np.where(latest > split, np.int8(IN_BUFFER), split)


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Split by place instead of by scene.

    Attributes:
        block_km: side in kilometres of the spatial blocks, each of which belongs to one split as a whole; default: no split by
            place, the scenes state their splits.
        shares: share of the spatial blocks of each split (--split.shares.test 0.2); default: train 0.8, validation 0.1, test 0.1.
        buffer_km: leave out samples nearer than this to a spatial block of another split; at most half a block.
        seed: seed of the draw that gives each spatial block its split.
    """

    block_km: float | None = None
    shares: dict[str, float] | None = None
    buffer_km: float = 0.0
    seed: int = 0

    def spatial_blocks(self) -> SpatialBlocks | None:
        """Return the spatial blocks, or None without `block_km`. Splits without a share keep the proportions of the default.

        Raises ValueError when there are shares or a buffer without `block_km`.
        """
        if self.block_km is None:
            if self.shares or self.buffer_km:
                raise ValueError("shares and a buffer of splits work only with block_km, the side of the spatial blocks")
            return None
        shares = completed_shares(self.shares or {}, DEFAULT_SHARES)
        return SpatialBlocks(block_km=self.block_km, shares=shares, buffer_km=self.buffer_km, seed=self.seed)


def completed_shares(shares: Mapping[str, float], default: Mapping[str, float]) -> dict[str, float]:
    """Return shares of all splits: those not given divide the rest in the proportions of the default."""
    unknown = sorted(set(shares) - set(SPLITS))
    if unknown:
        raise ValueError(f"no splits are called {unknown}; expected shares of {', '.join(SPLITS)}")
    rest = {split: share for split, share in default.items() if split not in shares}
    left = 1 - sum(shares.values())
    return {**{split: share / sum(rest.values()) * left for split, share in rest.items()}, **shares}


def draw(text: str) -> float:
    """Return a pseudo-random number in [0, 1) that depends on the text only."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48
