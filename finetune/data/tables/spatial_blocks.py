"""Splits of points by spatial blocks: whole blocks are dealt to folds, and a buffer lies between the splits.

Neighbouring points look alike. With a random split a model would be scored on near copies of its training points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from data_prep.archive.scene import SPLITS
from data_prep.plan.splits import EqualAreaCells
from finetune.data.tables.description import TableBlocks

TRAIN, VALIDATION, TEST = range(len(SPLITS))
LEFT_OUT = -1
_SPAWN_KEY = (2,)  # label fractions use (1,) of the same seeds
# WGS 84
EQUATORIAL_RADIUS_M, FLATTENING = 6_378_137.0, 1 / 298.257223563


@dataclass(frozen=True, kw_only=True, eq=False)
class PointSplits:
    """To which split each point belongs.

    Attributes:
        splits: index into SPLITS, or LEFT_OUT for points in the buffer, int8 (n,).
        in_buffer: number of points that the buffer leaves out.
    """

    splits: np.ndarray
    in_buffer: int


def block_names(lon: np.ndarray, lat: np.ndarray, blocks: TableBlocks) -> np.ndarray:
    """Name of the block of each point: degrees (n,) -> str (n,)."""
    if blocks.side_m is not None:
        cells = EqualAreaCells(side_km=blocks.side_m / 1000).of_places(lon, lat)
        found, of_point = np.unique(cells, return_inverse=True)
        names = [f"block {cell >> 32}-{cell & 0xFFFFFFFF}" for cell in found.tolist()]
    else:
        assert blocks.side_deg is not None
        side = blocks.side_deg
        corners = np.stack([np.floor(lat / side), np.floor(lon / side)], axis=1)
        found, of_point = np.unique(corners, axis=0, return_inverse=True)
        names = [f"block {row * side:.6g} {col * side:.6g}" for row, col in found.tolist()]
    return np.array(names)[of_point.reshape(-1)] if names else np.zeros(0, dtype=str)


def split_by_blocks(lon: np.ndarray, lat: np.ndarray, names: np.ndarray, blocks: TableBlocks) -> PointSplits:
    """The splits of points in degrees, float64 (n,), in the blocks `names`, str (n,).

    Blocks in an order that the seed draws are dealt one by one to the fold that has the fewest points. So the split depends on
    the seed and on the points, but not on their order. Raises ValueError for fewer blocks than folds.
    """
    found, of_point, counts = np.unique(names, return_inverse=True, return_counts=True)
    if len(found) < blocks.folds:
        side = f"{blocks.side_m:g} m" if blocks.side_m is not None else f"{blocks.side_deg:g} degrees"
        raise ValueError(
            f"the points lie in {len(found)} blocks of {side}, fewer than {blocks.folds} folds; make the blocks smaller, or ask "
            "for fewer folds"
        )
    order = np.random.default_rng(np.random.SeedSequence(blocks.seed, spawn_key=_SPAWN_KEY)).permutation(len(found))
    fold_of_block = np.empty(len(found), dtype=np.int64)
    points_of_fold = np.zeros(blocks.folds, dtype=np.int64)
    for block in order:
        fold = int(np.argmin(points_of_fold))
        fold_of_block[block] = fold
        points_of_fold[fold] += counts[block]
    split_of_fold = np.full(blocks.folds, TRAIN, dtype=np.int8)
    split_of_fold[(blocks.test_fold + 1) % blocks.folds] = VALIDATION
    split_of_fold[blocks.test_fold] = TEST
    splits = split_of_fold[fold_of_block[of_point.reshape(-1)]]
    kept = without_buffer(lon, lat, splits, blocks.buffer_m)
    return PointSplits(splits=kept, in_buffer=int((kept != splits).sum()))


def without_buffer(lon: np.ndarray, lat: np.ndarray, splits: np.ndarray, buffer_m: float) -> np.ndarray:
    """The splits, int8 (n,), with LEFT_OUT for points nearer than `buffer_m` to a point of a later split.

    The distance is the chord through the ellipsoid of WGS 84, which is at most the distance on its surface: 1 m less at 100 km.
    So no two points of different splits are nearer than the buffer on the surface.
    """
    kept = splits.copy()
    if not buffer_m:
        return kept
    at = _on_ellipsoid(lon, lat)
    for split in (VALIDATION, TRAIN):  # a point of the validation that is left out itself keeps none out of the training
        here, later = np.flatnonzero(kept == split), np.flatnonzero(kept > split)
        if len(here) and len(later):
            distance, _ = cKDTree(at[later]).query(at[here], distance_upper_bound=buffer_m)
            kept[here[distance < buffer_m]] = LEFT_OUT
    return kept


def _on_ellipsoid(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Degrees -> metres in the frame that turns with the Earth, float64 (n, 3)."""
    east, north = np.radians(lon), np.radians(lat)
    eccentricity_2 = FLATTENING * (2 - FLATTENING)
    radius = EQUATORIAL_RADIUS_M / np.sqrt(1 - eccentricity_2 * np.sin(north) ** 2)
    across = radius * np.cos(north)
    return np.stack([across * np.cos(east), across * np.sin(east), (1 - eccentricity_2) * radius * np.sin(north)], axis=1)
