"""Splits by place: the globe is cut into blocks, and all samples of a block go to train, validation or test together.

Neighbouring windows look alike: with a random split a model is scored on what it has all but seen. Blocks are some kilometres
wide, and a buffer between blocks of different splits can be left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from data_prep.archive.scene import SPLITS

EARTH_RADIUS_KM = 6371.007  # of the sphere with the Earth's surface
IN_BUFFER = -1
DEFAULT_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


@dataclass(frozen=True, kw_only=True)
class EqualAreaCells:
    """Cells of about side_km x side_km everywhere: bands of latitude, each cut into as many parts as keep the cells square."""

    side_km: float

    def __post_init__(self) -> None:
        if not 0 < self.side_km <= 5_000:
            raise ValueError(f"the side of a cell or block is {self.side_km} km; expected more than 0 and at most 5000")

    def of_places(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """The cell of each place: degrees (n,) -> int64 (n,). Cells of one band follow each other eastwards."""
        bands = max(1, round(np.pi * EARTH_RADIUS_KM / self.side_km))
        band = np.clip(np.floor((lat + 90) / 180 * bands), 0, bands - 1).astype(np.int64)
        middle = np.radians((band + 0.5) / bands * 180 - 90)
        parts = np.maximum(1, np.round(2 * np.pi * EARTH_RADIUS_KM * np.cos(middle) / self.side_km)).astype(np.int64)
        part = np.floor((lon + 180) % 360 / 360 * parts).astype(np.int64)
        return band * 2**32 + np.minimum(part, parts - 1)


@dataclass(frozen=True, kw_only=True)
class SplitBlocks:
    """Which split each place belongs to.

    Attributes:
        block_km: side of a block in kilometres.
        shares: share of the blocks of each split; they sum to 1.
        buffer_km: places nearer than this to a block of a later split (in the order train, validation, test) are left out, so
            that samples of different splits are at least so far apart, from centre to centre. At most half a block.
        seed: another seed is another draw of the blocks.
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
        """Index into SPLITS of each place, or IN_BUFFER: degrees (n,) -> int8 (n,)."""
        split = self._of_blocks(lon, lat)
        if self.buffer_km == 0:
            return split
        # The box of latitudes and longitudes around a circle on the sphere; it is narrower than a block, so that its corners,
        # the middles of its sides and its centre meet all blocks that it meets.
        angle = self.buffer_km / EARTH_RADIUS_KM
        reach = np.degrees(np.arcsin(np.minimum(1, np.sin(angle) / np.maximum(np.cos(np.radians(lat)), 1e-9))))
        latest = split
        for north in (-1, 0, 1):
            for east in (-1, 0, 1):
                near = self._of_blocks(lon + east * reach, np.clip(lat + north * np.degrees(angle), -90, 90))
                latest = np.maximum(latest, near)
        return np.where(latest > split, np.int8(IN_BUFFER), split)

    def _of_blocks(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        blocks, places = np.unique(EqualAreaCells(side_km=self.block_km).of_places(lon, lat), return_inverse=True)
        ends = np.cumsum([self.shares.get(split, 0.0) for split in SPLITS])
        draws = np.array([_draw(f"{self.seed} {block}") for block in blocks.tolist()])
        # The last split with a share takes what rounding leaves.
        last = max(index for index, split in enumerate(SPLITS) if self.shares.get(split, 0.0) > 0)
        return np.minimum(np.searchsorted(ends, draws, "right"), last).astype(np.int8)[places]


def split_blocks_of(
    block_km: float | None, shares: Mapping[str, float] | None, buffer_km: float, seed: int
) -> SplitBlocks | None:
    """The blocks that options of a command speak of; None without a side. Shares that are not given keep their proportions.

    Raises ValueError when there are shares or a buffer, but no side.
    """
    if block_km is None:
        if shares or buffer_km:
            raise ValueError("shares and a buffer of splits are of use only with split_block_km, the side of the blocks")
        return None
    return SplitBlocks(block_km=block_km, shares=_completed(shares or {}), buffer_km=buffer_km, seed=seed)


def _completed(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares of all splits: those not given share what is left in the proportions of the default."""
    unknown = sorted(set(shares) - set(SPLITS))
    if unknown:
        raise ValueError(f"no splits are called {unknown}; expected shares of {', '.join(SPLITS)}")
    rest = {split: share for split, share in DEFAULT_SHARES.items() if split not in shares}
    left = 1 - sum(shares.values())
    return {**{split: share / sum(rest.values()) * left for split, share in rest.items()}, **shares}


def _draw(text: str) -> float:
    """A number in [0, 1) that is the same for the same text on any machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48
