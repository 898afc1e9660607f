"""Splits by blocks against distances on the ellipsoid and blocks that are made another way."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pyproj import Geod

from finetune.data.tables.description import TableBlocks
from finetune.data.tables.spatial_blocks import LEFT_OUT, TEST, TRAIN, VALIDATION, block_names, split_by_blocks


def clustered_points(seed: int, count: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Points in clusters around the antimeridian, near the pole and at middle latitudes: lon and lat (n,)."""
    rng = np.random.default_rng(seed)
    centres = np.array([[179.9, 10.0], [-179.8, 10.3], [30.0, 70.0], [31.0, 69.5], [-60.0, -15.0]])
    found = centres[rng.integers(0, len(centres), count)] + rng.normal(0, 0.4, (count, 2))
    return (found[:, 0] + 180) % 360 - 180, found[:, 1]


def geodesic_m(lon: np.ndarray, lat: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Distances in metres on the ellipsoid of all pairs of some points, (n, m)."""
    i, j = (index.ravel() for index in np.meshgrid(one, other, indexing="ij"))
    return Geod(ellps="WGS84").inv(lon[i], lat[i], lon[j], lat[j])[2].reshape(len(one), len(other))


@pytest.mark.parametrize("side", [{"side_deg": 0.5}, {"side_m": 40_000.0}])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_two_points_of_different_splits_are_nearer_than_the_buffer(side: dict[str, float], seed: int) -> None:
    lon, lat = clustered_points(seed)
    blocks = TableBlocks(**side, buffer_m=8_000, seed=seed)
    names = block_names(lon, lat, blocks)
    found = split_by_blocks(lon, lat, names, blocks)
    whole = split_by_blocks(lon, lat, names, TableBlocks(**side, seed=seed))
    assert (found.splits == LEFT_OUT).sum() == found.in_buffer > 0
    np.testing.assert_array_equal(found.splits[found.splits != LEFT_OUT], whole.splits[found.splits != LEFT_OUT])
    np.testing.assert_array_equal(found.splits == TEST, whole.splits == TEST)  # the test never gets smaller
    of_split = {split: np.flatnonzero(found.splits == split) for split in (TRAIN, VALIDATION, TEST)}
    for one, other in ((TRAIN, VALIDATION), (TRAIN, TEST), (VALIDATION, TEST)):
        assert geodesic_m(lon, lat, of_split[one], of_split[other]).min() >= 8_000
    # Nothing was left out without need.
    for number in np.flatnonzero(found.splits == LEFT_OUT):
        later = np.flatnonzero(found.splits > whole.splits[number])
        assert geodesic_m(lon, lat, np.array([number]), later).min() < 8_000.1


@pytest.mark.parametrize("side", [{"side_deg": 0.5}, {"side_m": 40_000.0}])
def test_a_block_has_one_split_and_folds_have_about_as_many_points(side: dict[str, float]) -> None:
    lon, lat = clustered_points(3)
    blocks = TableBlocks(**side, folds=4)
    names = block_names(lon, lat, blocks)
    splits = split_by_blocks(lon, lat, names, blocks).splits
    assert all(len(set(splits[names == name].tolist())) == 1 for name in np.unique(names))
    largest = max(Counter(names.tolist()).values())
    for split in (TEST, VALIDATION):
        assert abs((splits == split).sum() - len(lon) / 4) <= largest


def test_every_point_is_in_the_test_of_one_fold() -> None:
    lon, lat = clustered_points(4)
    times = np.zeros(len(lon), dtype=int)
    for fold in range(5):
        blocks = TableBlocks(side_deg=0.5, test_fold=fold)
        splits = split_by_blocks(lon, lat, block_names(lon, lat, blocks), blocks).splits
        times += splits == TEST
        following = TableBlocks(side_deg=0.5, test_fold=(fold + 1) % 5)
        next_test = split_by_blocks(lon, lat, block_names(lon, lat, blocks), following).splits == TEST
        np.testing.assert_array_equal(splits == VALIDATION, next_test)
    np.testing.assert_array_equal(times, 1)


def test_a_split_is_that_of_its_seed_whatever_the_order_of_points() -> None:
    lon, lat = clustered_points(5)
    order = np.random.default_rng(0).permutation(len(lon))
    found = []
    for seed in (0, 0, 1):
        blocks = TableBlocks(side_deg=0.5, seed=seed, buffer_m=500)
        found.append(split_by_blocks(lon, lat, block_names(lon, lat, blocks), blocks).splits)
        again = split_by_blocks(lon[order], lat[order], block_names(lon[order], lat[order], blocks), blocks).splits
        np.testing.assert_array_equal(again, found[-1][order])
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()


def test_blocks_in_degrees_are_floors() -> None:
    lon, lat = clustered_points(6)
    names = block_names(lon, lat, TableBlocks(side_deg=0.5))
    floors = [f"{row} {col}" for row, col in zip(np.floor(lat / 0.5), np.floor(lon / 0.5), strict=True)]
    assert len(np.unique(names)) == len(set(floors)) == len(set(zip(names.tolist(), floors, strict=True)))


def test_too_few_blocks_are_refused() -> None:
    lon, lat = np.array([0.1, 0.2, 3.1]), np.array([0.1, 0.2, 0.1])
    blocks = TableBlocks(side_deg=1.0)
    with pytest.raises(ValueError, match="lie in 2 blocks of 1 degrees, fewer than 5 folds; make the blocks smaller"):
        split_by_blocks(lon, lat, block_names(lon, lat, blocks), blocks)
