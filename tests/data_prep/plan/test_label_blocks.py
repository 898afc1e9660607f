"""Labelled ground divided by spatial blocks: distances between splits, shares, other grids, and blocks that divide nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from affine import Affine
from scipy import ndimage

from common.grid import Grid
from data_prep.archive.scene import SPLITS
from data_prep.plan.label_blocks import LabelledGround, SplitBlocks, SplitGround
from data_prep.plan.splits import IN_BUFFER, EqualAreaCells
from tests.support.parcels import centres

UTM = Grid(crs="EPSG:32631", transform=Affine(30, 0, 500_040, 0, -30, 5_000_040), height=300, width=260)
DEGREES = Grid(crs="EPSG:4326", transform=Affine(3e-4, 0, 3.0, 0, -3e-4, 45.2), height=250, width=300)


def divided(grid: Grid, labelled: np.ndarray, **settings: Any) -> tuple[SplitGround, ...]:
    ground = LabelledGround(SplitBlocks(**settings))
    ground.add(grid, labelled)
    return ground.divided()


@pytest.mark.parametrize("grid", [UTM, DEGREES])
@pytest.mark.parametrize("buffer", [0.0, 250.0])
def test_splits_are_apart(grid: Grid, buffer: float) -> None:
    labelled = np.random.default_rng(0).random(grid.shape) < 0.8
    grounds = divided(grid, labelled, side_m=1_500, buffer_m=buffer)
    splits = grounds[0].splits_of(grid, labelled)
    assert (splits[~labelled] == IN_BUFFER).all()
    for number, ground in enumerate(grounds):
        np.testing.assert_array_equal(ground.of_split(grid, labelled), splits == number)
        window = ground.of_split(grid, labelled[40:90, 30:70], 40, 30)
        np.testing.assert_array_equal(window, (splits == number)[40:90, 30:70])
    x, y = centres(grid, "EPSG:32631")
    metres = np.hypot(x[0, 1] - x[0, 0], y[0, 1] - y[0, 0]), np.hypot(x[1, 0] - x[0, 0], y[1, 0] - y[0, 0])
    for one in range(3):
        for other in range(one):
            distance = ndimage.distance_transform_edt(splits != one, sampling=metres[::-1])
            assert distance[splits == other].min() > buffer * 0.99
    pixels = np.array([(splits == number).sum() for number in range(3)])
    assert (pixels > 0.05 * labelled.sum()).all()
    assert pixels.argmax() == 0
    if buffer == 0:
        assert pixels.sum() == labelled.sum()
        np.testing.assert_allclose(pixels / pixels.sum(), [0.6, 0.2, 0.2], atol=0.08)


def test_pixels_are_in_the_blocks_in_which_their_centres_lie() -> None:
    """Longitudes and latitudes are interpolated; each pixel is compared with its own."""
    labelled = np.ones(UTM.shape, bool)
    train, _, _ = divided(UTM, labelled, side_m=1_500)
    cells = EqualAreaCells(side_km=1.5).of_places(*(at.ravel() for at in centres(UTM, "EPSG:4326"))).reshape(UTM.shape)
    splits = train.splits_of(UTM, labelled)
    known = dict(zip(train.cells.tolist(), train.splits.tolist(), strict=True))
    assert (splits != np.vectorize(known.get)(cells)).mean() < 5e-5  # on the borders of blocks


def test_one_place_is_of_one_split_in_all_scenes() -> None:
    """A second scene of the same ground, in degrees and shifted, is divided at the same places."""
    ground = LabelledGround(SplitBlocks(side_m=1_500))
    other = Grid(crs="EPSG:4326", transform=Affine(3e-4, 0, 3.005, 0, -3e-4, 45.15), height=200, width=200)
    for grid in (UTM, other):
        ground.add(grid, np.ones(grid.shape, bool))
    train, _, _ = ground.divided()
    splits = train.splits_of(UTM, np.ones(UTM.shape, bool))
    lon, lat = centres(UTM, "EPSG:4326")
    cols, rows = ~other.transform @ (lon, lat)
    inside = (cols >= 0) & (cols < 200) & (rows >= 0) & (rows < 200)
    same = train.splits_of(other, np.ones(other.shape, bool))[rows[inside].astype(int), cols[inside].astype(int)]
    assert inside.mean() > 0.3
    assert (same == splits[inside]).mean() > 0.97, "only pixels at the borders of blocks may differ, by their centres"


def test_seeds_and_shares() -> None:
    labelled = np.ones(UTM.shape, bool)
    counts = {}
    for seed in (0, 1):
        train, *_ = divided(UTM, labelled, side_m=800, seed=seed, shares={"test": 0.5})
        splits = train.splits_of(UTM, labelled)
        counts[seed] = [int((splits == number).sum()) for number in range(3)]
        np.testing.assert_allclose(np.array(counts[seed]) / labelled.sum(), [0.375, 0.125, 0.5], atol=0.03)
        again, *_ = divided(UTM, labelled, side_m=800, seed=seed, shares={"test": 0.5})
        np.testing.assert_array_equal(again.splits, train.splits)
    assert counts[0] != counts[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"buffer_m": 10}, r"buffer_m and shares work only with side_m"),
        ({"side_m": 100, "buffer_m": 60}, r"--split_blocks.buffer_m is 60; expected 0 to 50, half the side"),
        ({"side_m": -5}, r"expected more than 0"),
        ({"side_m": 100, "shares": {"test": 1.0}}, r"expected a share above 0 of each split"),
        ({"side_m": 100, "shares": {"tests": 0.5}}, r"no splits are called \['tests'\]"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplitBlocks(**settings)


def test_too_few_blocks() -> None:
    labelled = np.zeros(UTM.shape, bool)
    labelled[:3, :3] = True
    with pytest.raises(ValueError, match=r"side_m 5000: the labels lie in \d blocks?, and each of train, validation, test needs"):
        divided(UTM, labelled, side_m=5_000)
    assert len(SPLITS) == 3
