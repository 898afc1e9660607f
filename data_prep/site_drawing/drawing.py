"""Draws sites from a land-cover map.

The map is read window by window. In each cell of about cell_km x cell_km, some pixels of each class are kept as candidates: those
with the smallest hash of their position and the seed. So the same map and seed give the same sites, and memory grows with the
number of cells, not of pixels. Then the classes take turns, and each takes a site from a cell where it has the fewest so far. So
no area and no class dominates, however much of the map is forest or sea.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import dist

import numpy as np

from data_prep.landcover.band_years import years_in_words
from data_prep.landcover.legend import Legend, load_legend
from data_prep.landcover.maps import Tile, map_tiles, map_years
from data_prep.plan.splits import EARTH_RADIUS_KM, IN_BUFFER, EqualAreaCells
from data_prep.site_drawing.map_pixels import MapPixels, concatenate, pixel_draws, read_map_pixels
from data_prep.site_drawing.settings import SiteSettings

SPARE = 2  # candidates per site, since some are too near to other sites
MAX_CANDIDATES = 2_000_000  # candidates held before those that cannot be drawn any more are dropped


@dataclass(frozen=True, kw_only=True)
class DrawnSites:
    """The result of a drawing.

    Attributes:
        sites: drawn pixels, in the order of the draw.
        splits: (n,) index into SPLITS of each site; None without splits.
        legend: legend of the map.
        area_km2: (classes,) mapped area of each class in square kilometres.
    """

    sites: MapPixels
    splits: np.ndarray | None
    legend: Legend
    area_km2: np.ndarray


def draw(settings: SiteSettings) -> DrawnSites:
    """Draw sites. Raises ValueError for unknown classes, for maps that cannot be read, and when there is no site to draw."""
    legend = load_legend(settings.legend)
    tiles = _tiles_and_bands(settings)
    cells = EqualAreaCells(side_km=settings.cell_km)
    blocks = settings.split.spatial_blocks()
    pixels, area_km2 = _candidates(settings, legend, tiles, cells)
    splits = np.zeros(len(pixels), np.int8) if blocks is None else blocks.of_places(pixels.lon, pixels.lat)
    pixels, splits = pixels.take(splits != IN_BUFFER), splits[splits != IN_BUFFER]
    chosen = _choose(pixels, cells.of_places(pixels.lon, pixels.lat), settings.count, settings.min_distance_km, settings.seed)
    if not len(chosen):
        names = ", ".join(map(str, settings.rasters))
        raise ValueError(f"no site to draw: {names} maps none of the wanted classes outside of buffers")
    return DrawnSites(
        sites=pixels.take(chosen), splits=None if blocks is None else splits[chosen], legend=legend, area_km2=area_km2
    )


def _tiles_and_bands(settings: SiteSettings) -> list[tuple[Tile, int]]:
    """The rasters of the map that hold the year, each with its band. Raises ValueError when none does."""
    tiles = map_tiles(settings.map, "land_cover")
    years, year = map_years(tiles), settings.year
    if years is None:
        if year is not None:
            raise ValueError(f"year is {year}; the land-cover map has no years: give band_years or first_year")
        return [(tile, 1) for tile in tiles]
    year = years[0] if year is None else year
    if year not in years:
        raise ValueError(f"year is {year}; the land-cover map has the years {years_in_words(years)}")
    return [(tile, band) for tile in tiles if (band := tile.band_of(year)) is not None]


def _candidates(
    settings: SiteSettings, legend: Legend, tiles: Sequence[tuple[Tile, int]], cells: EqualAreaCells
) -> tuple[MapPixels, np.ndarray]:
    """The candidates of the wanted classes, and the mapped area of each class of the legend in square kilometres."""
    unknown = sorted(set(settings.classes or ()) - set(legend.classes))
    if unknown:
        raise ValueError(f"legend {legend.name} has no classes {unknown}; it has {list(legend.classes)}")
    wanted = np.array([settings.classes is None or name in settings.classes for name in legend.classes])
    area_km2 = np.zeros(len(legend.classes))
    candidates = Candidates(settings.count, len(legend.classes))
    for number, (tile, band) in enumerate(tiles):
        for pixels in read_map_pixels(tile, number, band, settings.step, legend, settings.seed):
            area_km2 += np.bincount(pixels.label, pixels.area_km2, len(area_km2))
            pixels = pixels.take(wanted[pixels.label])
            candidates.add(pixels, cells.of_places(pixels.lon, pixels.lat))
    return candidates.kept(), area_km2


class Candidates:
    """The first pixels of each class in each cell, in the order of `draw`: enough for one class to provide all sites."""

    def __init__(self, count: int, classes: int) -> None:
        self._count = SPARE * count
        self._max = max(MAX_CANDIDATES, 2 * self._count * classes)
        self._depth = np.full(classes, self._count)  # number of pixels of each class that a cell keeps
        self._parts: list[tuple[MapPixels, np.ndarray]] = []
        self._held = 0

    def add(self, pixels: MapPixels, cells: np.ndarray) -> None:
        """Add pixels, with the cell of each."""
        kept = _rank(cells, pixels) < self._depth[pixels.label]
        self._parts.append((pixels.take(kept), cells[kept]))
        self._held += int(kept.sum())
        if self._held > self._max:
            self._drop()

    def kept(self) -> MapPixels:
        """All candidates."""
        self._drop()
        return self._parts[0][0]

    def _drop(self) -> None:
        """Keep as few pixels per cell as give `count` of a class over all cells; further windows can only add to these."""
        pixels = concatenate([pixels for pixels, _ in self._parts])
        cells = np.concatenate([cells for _, cells in self._parts])
        rank = _rank(cells, pixels)
        for label in range(len(self._depth)):
            held = np.cumsum(np.bincount(rank[pixels.label == label], minlength=1))
            self._depth[label] = min(self._depth[label], int(np.searchsorted(held, self._count)) + 1)
        kept = rank < self._depth[pixels.label]
        self._parts, self._held = [(pixels.take(kept), cells[kept])], int(kept.sum())


def _rank(cells: np.ndarray, pixels: MapPixels) -> np.ndarray:
    """For each pixel, the number of pixels of its class in its cell that come before it: int64 (n,)."""
    order = np.lexsort((pixels.draw, pixels.label, cells))
    cell, label = cells[order], pixels.label[order]
    starts = np.flatnonzero(np.concatenate([[True], (np.diff(cell) != 0) | (np.diff(label) != 0)])[: len(order)])
    rank = np.empty(len(order), np.int64)
    lengths = np.diff(np.append(starts, len(order)))
    rank[order] = np.arange(len(order)) - np.repeat(starts, lengths)
    return rank


def _choose(pixels: MapPixels, cells: np.ndarray, count: int, min_distance_km: float, seed: int) -> np.ndarray:
    """Indices of at most `count` pixels in the order of the draw: the classes take turns, and each cycles through its cells.

    Pixels nearer than `min_distance_km` to a chosen one are skipped.
    """
    rank, cell_draw = _rank(cells, pixels), pixel_draws(cells, seed)
    order = np.lexsort((cell_draw, rank))  # the first pixel of each cell, then the second of each cell, ...
    queues = [iter(order[pixels.label[order] == label].tolist()) for label in np.unique(pixels.label)]
    distances = MinimumDistance(pixels, min_distance_km)
    chosen: list[int] = []
    while queues and len(chosen) < count:
        for queue in list(queues):
            pixel = next((pixel for pixel in queue if distances.accept(pixel)), None)
            if pixel is None:
                queues.remove(queue)
            elif len(chosen) < count:
                chosen.append(pixel)
    return np.array(chosen, dtype=np.int64)


class MinimumDistance:
    """Accepts pixels with at least a minimum distance to all accepted ones.

    A grid of cubes around the Earth's centre, with the minimum distance as side, limits the search to neighbouring cubes.
    """

    def __init__(self, pixels: MapPixels, minimum_km: float) -> None:
        lon, lat = np.radians(pixels.lon), np.radians(pixels.lat)
        unit = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
        self._points = unit * EARTH_RADIUS_KM
        self._minimum = 2 * EARTH_RADIUS_KM * np.sin(min(minimum_km / EARTH_RADIUS_KM, np.pi) / 2)  # chord of the distance
        self._cubes = np.floor(unit * EARTH_RADIUS_KM / max(self._minimum, 1e-6)).astype(np.int64)
        self._accepted: dict[tuple[int, int, int], list[int]] = {}

    def accept(self, pixel: int) -> bool:
        """Accept a pixel and return True, or return False when it lies too near to an accepted one."""
        if self._minimum > 0:
            x, y, z = self._cubes[pixel].tolist()
            point = self._points[pixel]
            for cube in product((x - 1, x, x + 1), (y - 1, y, y + 1), (z - 1, z, z + 1)):
                for other in self._accepted.get(cube, ()):
                    if dist(point, self._points[other]) < self._minimum:
                        return False
            self._accepted.setdefault((x, y, z), []).append(pixel)
        return True
