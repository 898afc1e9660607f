"""Embeddings at the pixels of another grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from common.grid import Grid
from finetune.embedding import EmbeddingMap
from tests.support.embedded_scenes import bilinear

CELLS = Grid(crs="EPSG:32631", transform=Affine(40, 0, 500_000, 0, -40, 5_000_000), height=6, width=8)


class InMemory(EmbeddingMap):
    """An embedding without a file."""

    def __init__(self, values: np.ndarray) -> None:
        super().__init__(path=Path("a.tif"), grid=CELLS, names=tuple("abc"), tags={})
        object.__setattr__(self, "values", values)

    def read(self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None) -> np.ndarray:
        assert height is not None
        assert width is not None
        values: np.ndarray = self.values[:, row : row + height, col : col + width]  # type: ignore[attr-defined]
        assert values.shape[1:] == (height, width), "a window beyond the map"
        return values


def random_values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 6, 8)).astype(np.float32)


@pytest.mark.parametrize(("row", "col", "height", "width"), [(0, 0, 24, 32), (5, 9, 7, 11)])
def test_pixels_between_cells_are_bilinear(row: int, col: int, height: int, width: int) -> None:
    values = random_values()
    pixels = Grid(
        crs=CELLS.crs, transform=CELLS.transform @ Affine.scale(0.25) @ Affine.translation(col, row), height=height, width=width
    )
    found = InMemory(values).at_pixels(pixels)
    rows, cols = np.meshgrid((row + np.arange(height) + 0.5) / 4 - 0.5, (col + np.arange(width) + 0.5) / 4 - 0.5, indexing="ij")
    expected = bilinear(values, rows.ravel(), cols.ravel()).reshape(3, height, width)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_pixels_of_the_cells_are_the_cells() -> None:
    values = random_values()
    np.testing.assert_allclose(InMemory(values).at_pixels(CELLS), values, atol=1e-6)


def test_cells_without_data_neither_count_nor_spread() -> None:
    values = random_values()
    values[:, 2:4, 3] = np.nan
    pixels = replace(CELLS, transform=CELLS.transform @ Affine.scale(0.25), height=24, width=32)
    found = InMemory(values).at_pixels(pixels)
    expected = np.zeros((24, 32), bool)
    expected[8:16, 12:16] = True
    np.testing.assert_array_equal(np.isnan(found[0]), expected)
    near = found[:, 8:16, 10:12]  # to the west of them: numbers of the cells that remain, from one of which only
    low, high = values[:, 1:5, 2].min(axis=1), values[:, 1:5, 2].max(axis=1)
    upper = np.nanmax(values[:, 1:5, 1:4], axis=(1, 2))
    assert (near <= np.maximum(high, upper)[:, None, None] + 1e-6).all()
    assert (found[:, 10, 11] >= low - 1e-6).all()
    assert (found[:, 10, 11] <= high + 1e-6).all()


def test_pixels_outside_have_no_embedding() -> None:
    pixels = replace(CELLS, transform=CELLS.transform @ Affine.translation(-2, 4), height=4, width=4)
    found = InMemory(random_values()).at_pixels(pixels)
    assert np.isnan(found[:, :, :2]).all()
    assert np.isnan(found[:, 2:]).all()
    assert not np.isnan(found[:, :2, 2:]).any()
    far = replace(CELLS, transform=Affine(40, 0, 900_000, 0, -40, 5_000_000))
    assert np.isnan(InMemory(random_values()).at_pixels(far)).all()


def test_another_crs_is_refused() -> None:
    with pytest.raises(ValueError, match="both must have one CRS"):
        InMemory(random_values()).at_pixels(replace(CELLS, crs="EPSG:32633"))
