"""The exact share of each pixel that polygons cover."""

from __future__ import annotations

import numpy as np
import shapely


def covered_shares(polygons: np.ndarray, height: int, width: int) -> np.ndarray:
    """Share of each pixel that polygons cover, float64 (height, width), exact but for rounding.

    polygons: shapely polygons and multipolygons (n,) in columns and rows, valid, without common ground, within 0 to width and 0
    to height.

    The area under each edge is summed: an edge is cut at the borders of pixels, and a piece that descends by dy rows in a pixel,
    at a mean distance u from its left border, covers (1 - u) dy of it and dy of all pixels to its right. Edges of a ring that
    ascend cover as much with the other sign, so that what is left lies between them.
    """
    start, end = _edges(polygons)
    for axis in (0, 1):
        start, end = _cut_at_whole_numbers(start, end, axis)
    fall = end[:, 1] - start[:, 1]
    falls = fall != 0  # a level piece covers nothing
    start, end, fall = start[falls], end[falls], fall[falls]
    middle = (start + end) / 2
    col = np.minimum(np.floor(middle[:, 0]).astype(np.int64), width)
    row = np.clip(np.floor(middle[:, 1]).astype(np.int64), 0, height - 1)
    right = middle[:, 0] - col
    at = row * (width + 2) + col
    sums = np.bincount(at, fall * (1 - right), height * (width + 2)) + np.bincount(at + 1, fall * right, height * (width + 2))
    shares: np.ndarray = np.cumsum(sums.reshape(height, width + 2), axis=1)[:, :width]
    return np.clip(shares, 0, 1)


def _edges(polygons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends, each (n, 2), of the edges of all rings. The left border of a polygon descends, that of a hole ascends."""
    rings = shapely.get_rings(shapely.orient_polygons(shapely.get_parts(polygons), exterior_cw=True))  # rows count downwards
    at, ring = shapely.get_coordinates(rings, return_index=True)
    of_one_ring = ring[1:] == ring[:-1]
    return at[:-1][of_one_ring], at[1:][of_one_ring]


def _cut_at_whole_numbers(start: np.ndarray, end: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges (n, 2) cut where their coordinate on an axis is a whole number."""
    one, other = start[:, axis], end[:, axis]
    low, high = np.minimum(one, other), np.maximum(one, other)
    first = np.floor(low) + 1
    cuts = np.maximum(np.ceil(high) - first, 0).astype(np.int64)
    edge = np.repeat(np.arange(len(start)), cuts + 1)
    piece = np.arange(len(edge)) - np.repeat(np.cumsum(cuts + 1) - (cuts + 1), cuts + 1)  # 0 to cuts of each edge
    rises = (other >= one)[edge]
    begins = _point(start, end, edge, np.where(rises, first[edge] + piece - 1, first[edge] + cuts[edge] - piece), axis)
    ends = _point(start, end, edge, np.where(rises, first[edge] + piece, first[edge] + cuts[edge] - 1 - piece), axis)
    begins = np.where((piece == 0)[:, None], start[edge], begins)
    ends = np.where((piece == cuts[edge])[:, None], end[edge], ends)
    return begins, ends


def _point(start: np.ndarray, end: np.ndarray, edge: np.ndarray, value: np.ndarray, axis: int) -> np.ndarray:
    """Points (n, 2) of edges at which the coordinate on an axis is `value`."""
    one, other = start[edge], end[edge]
    length = other[:, axis] - one[:, axis]
    along = np.clip((value - one[:, axis]) / np.where(length == 0, 1, length), 0, 1)
    points = one + along[:, None] * (other - one)
    points[:, axis] = value
    return points
