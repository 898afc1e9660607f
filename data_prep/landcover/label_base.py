"""The interface of a label that is open for reading, whatever it is made of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np

from common.grid import Grid
from data_prep.archive.scene import Label


@dataclass(frozen=True, kw_only=True)
class LabelCounts:
    """What became of the features of a label, and of its pixels.

    Attributes:
        objects: number of features in the scene by code, those that are not labelled among them.
        features: features in the file; 0 for a raster.
        outside: those that lie outside of the scene.
        left_out: number of other features that are not used, by reason.
        repaired: features whose geometry was invalid and has been repaired.
        overlap_px: pixels that are not labelled since features of different classes lie in them.
    """

    objects: Counter[int] = field(default_factory=Counter)
    features: int = 0
    outside: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    repaired: int = 0
    overlap_px: int = 0


class LabelReader(Protocol):
    """A label of one scene, open for reading.

    Attributes:
        label: the label; its classes are known.
        grid: the grid of its pixels.
        dtype: type of its codes.
        years: the years in which the seasons of its features end, ascending; of a raster the stated one; empty where not known.
    """

    label: Label
    grid: Grid
    dtype: np.dtype
    years: tuple[int, ...]

    def read(
        self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None, year: int | None = None
    ) -> np.ndarray:
        """A window (height, width) of codes, by default all; `label.nodata` where not labelled.

        `year`: only labels of the season that ends in this year; None for all of them.
        """
        ...

    def counts(self, year: int | None = None) -> LabelCounts:
        """What became of the features and pixels of a year."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


def smallest_dtype(label: Label) -> np.dtype:
    """The smallest type of whole numbers that holds all codes of a label and its code of no data."""
    codes = [*label.classes, label.nodata]
    return np.dtype(np.result_type(np.min_scalar_type(min(codes)), np.min_scalar_type(max(codes))))


def is_of_other_year(label: Label, year: int | None) -> bool:
    """Whether scene.yaml states a year of the label that is not `year`."""
    return year is not None and label.year not in (None, year)
