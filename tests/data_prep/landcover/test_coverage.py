"""The share of pixels that polygons cover, compared with intersections of shapely."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from data_prep.landcover.coverage import covered_shares

HEIGHT, WIDTH = 9, 13


def by_intersections(polygon: shapely.Geometry) -> np.ndarray:
    return np.array(
        [
            [shapely.area(shapely.intersection(polygon, shapely.box(c, r, c + 1, r + 1))) for c in range(WIDTH)]
            for r in range(HEIGHT)
        ]
    )


@pytest.mark.parametrize("seed", range(8))
def test_polygons_with_holes_and_parts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, hole, other = (
        shapely.buffer(shapely.Point(rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)), rng.uniform(0.1, 6), quad_segs=3)
        for _ in range(3)
    )
    area = shapely.intersection(shapely.union(shapely.difference(one, hole), other), shapely.box(0, 0, WIDTH, HEIGHT))
    np.testing.assert_allclose(covered_shares(np.array([area]), HEIGHT, WIDTH), by_intersections(area), atol=1e-12)


@pytest.mark.parametrize("box", [(0, 0, WIDTH, HEIGHT), (2, 3, 5, 4), (2.5, 0, 2.75, HEIGHT), (12, 8, 13, 9)])
def test_edges_on_the_borders_of_pixels(box: tuple[float, float, float, float]) -> None:
    area = shapely.box(*box)
    np.testing.assert_allclose(covered_shares(np.array([area]), HEIGHT, WIDTH), by_intersections(area), atol=1e-12)


def test_no_polygon_covers_nothing() -> None:
    assert not covered_shares(np.zeros(0, dtype=object), HEIGHT, WIDTH).any()
