"""Command: a land-cover map -> sites for samples, even over its classes and over the ground, as a table, a map and counts.

python data_prep/draw_sites.py --land_cover tiles/ --legend glc_fcs30d --count 100000 --output sites.parquet

The map is read block by block. Of each class in each cell of about cell_km x cell_km some pixels are kept, those that a hash of
their place and the seed puts first: the same map and seed give the same sites, in memory that grows with cells, not with pixels.
Then the classes take turns, and each takes a cell where it has the fewest sites yet. No place and no class dominates, however
much of the map is forest or sea.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil, dist
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import rasterio
from matplotlib.figure import Figure
from rasterio.windows import Window
from tabulate import tabulate
from tqdm import tqdm

from common.atomic_files import whole_file
from common.command_line import run_command
from common.grid import Grid
from data_prep.archive.scene import SPLITS, LandCover
from data_prep.landcover.legend import Legend, load_legend
from data_prep.landcover.maps import Tile, map_tiles
from data_prep.plan.splits import EARTH_RADIUS_KM, IN_BUFFER, EqualAreaCells, SplitConfig
from data_prep.readers.cf_conventions import crs_text

SPARE = 2  # candidates a site, since some fall to the distance to others
BLOCK_PIXELS = 2_000_000  # of the map, read at a time
MOST_CANDIDATES = 2_000_000  # held at least before those that cannot be drawn any more are thrown away
DRAWN_SITES = 200_000  # dots in the picture; more cannot be told apart


def draw_sites(
    land_cover: list[Path] | Path,
    output: Path,
    count: int,
    legend: str = "glc_fcs30d",
    cell_km: float = 50.0,
    min_distance_km: float = 2.0,
    classes: list[str] | None = None,
    step: int = 1,
    first_year: int | None = None,
    year: int | None = None,
    years: list[int] | None = None,
    split_block_km: float | None = None,
    split_shares: dict[str, float] | None = None,
    split_buffer_km: float = 0.0,
    split_seed: int = 0,
    seed: int = 0,
) -> None:
    """Draw sites from a land-cover map, stratified by its classes and spread over the area.

    Args:
        land_cover: raster, folder of rasters or list of them, in any CRS.
        output: table to write, .csv or .parquet, with id, lon, lat, class, and if asked for year and split; a map of the sites is
            written beside it as .png.
        count: sites to draw.
        legend: legend of the map: a built-in name, or the path of a YAML; its groups are the classes.
        cell_km: side in kilometres of the cells of equal area over which the sites of a class are spread.
        min_distance_km: no two sites are nearer than this.
        classes: only sites of these classes; default: all of the legend.
        step: look at every step-th pixel of each row and column only.
        first_year: year of the map's first band, when it has a band for each year.
        year: year of the map to draw from, with first_year; default: its first band.
        years: give each site one of these years, in turn.
        split_block_km: give each site a split by place: side in kilometres of the blocks (as in shard.py).
        split_shares: share of the blocks of each split; default: train 0.8, validation 0.1, test 0.1.
        split_buffer_km: no sites nearer than this to a block of another split.
        split_seed: another seed is another draw of the blocks.
        seed: another seed is another draw of the sites.
    """
    if output.suffix.lower() not in (".csv", ".parquet"):
        raise ValueError(f"output is {output}; expected a name that ends in .csv or .parquet")
    if count < 1 or step < 1 or min_distance_km < 0:
        raise ValueError(f"count and step must be at least 1, min_distance_km at least 0: {count}, {step}, {min_distance_km}")
    of_legend = load_legend(legend)
    unknown = sorted(set(classes or ()) - set(of_legend.classes))
    if unknown:
        raise ValueError(f"legend {of_legend.name} has no classes {unknown}; it has {list(of_legend.classes)}")
    wanted = np.array([classes is None or name in classes for name in of_legend.classes])
    rasters = tuple(land_cover) if isinstance(land_cover, list) else (land_cover,)
    cover = LandCover(legend=legend, rasters=rasters, first_year=first_year)
    tiles, band = _tiles_and_band(cover, year)
    cells = EqualAreaCells(side_km=cell_km)
    blocks = SplitConfig(
        block_km=split_block_km, shares=split_shares, buffer_km=split_buffer_km, seed=split_seed
    ).spatial_blocks()

    area_km2 = np.zeros(len(of_legend.classes))
    candidates = _Candidates(count, len(of_legend.classes))
    for number, tile in enumerate(tiles):
        for part in _pixels(tile, number, band, step, of_legend, seed):
            area_km2 += np.bincount(part.label, part.area_km2, len(area_km2))
            part = part.take(wanted[part.label])
            candidates.add(part, cells.of_places(part.lon, part.lat))
    found = candidates.kept()
    splits = np.zeros(len(found), np.int8) if blocks is None else blocks.of_places(found.lon, found.lat)
    found, splits = found.take(splits != IN_BUFFER), splits[splits != IN_BUFFER]
    drawn = _chosen(found, cells.of_places(found.lon, found.lat), count, min_distance_km, seed)
    found, splits = found.take(drawn), splits[drawn]
    if not len(found):
        raise ValueError(f"no site to draw: {', '.join(map(str, rasters))} maps none of the wanted classes outside of buffers")

    output.parent.mkdir(parents=True, exist_ok=True)
    _write(output, found, of_legend, years, splits if blocks is not None else None)
    picture = output.with_suffix(".png")
    with whole_file(picture) as temporary:
        _map_of(found, of_legend).savefig(temporary, format="png", dpi=120, metadata={"Software": None})
    of_class = np.bincount(found.label, minlength=len(area_km2))
    rows = [
        [name, int(n), f"{n / len(found):.1%}", f"{area / max(area_km2.sum(), 1e-9):.1%}"]
        for name, n, area in zip(of_legend.classes, of_class, area_km2, strict=True)
    ]
    print(tabulate([*rows, ["all", len(found), "", ""]], ["class", "sites", "of sites", "of the map"], disable_numparse=True))
    if len(found) < count:
        print(f"{len(found)} of {count} sites: of the pixels looked at no more are {min_distance_km} km apart")
    print(f"{output} holds the sites, {picture} shows them")


@dataclass(frozen=True, kw_only=True)
class _Pixels:
    """Some pixels of the map as columns: place in degrees, class, area in square kilometres, and a draw, all different."""

    lon: np.ndarray
    lat: np.ndarray
    label: np.ndarray
    area_km2: np.ndarray
    draw: np.ndarray

    def __len__(self) -> int:
        return len(self.lon)

    def take(self, chosen: np.ndarray) -> _Pixels:
        return _Pixels(**{name: values[chosen] for name, values in vars(self).items()})

    @staticmethod
    def of(parts: list[_Pixels]) -> _Pixels:
        return _Pixels(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})


def _tiles_and_band(cover: LandCover, year: int | None) -> tuple[tuple[Tile, ...], int]:
    """The rasters of the map, and the band that holds `year`. Raises ValueError when it does not."""
    tiles, years = map_tiles(cover, "land_cover")
    if year is None:
        return tiles, 1
    if years is None or not years[0] <= year <= years[1]:
        held = "no years: give first_year" if years is None else f"the years {years[0]} to {years[1]}"
        raise ValueError(f"year is {year}; the land-cover map has {held}")
    return tiles, year - years[0] + 1


def _pixels(tile: Tile, number: int, band: int, step: int, legend: Legend, seed: int) -> Iterator[_Pixels]:
    """The mapped pixels of a raster, part by part, with a progress bar. Raises ValueError for foreign codes."""
    label_of = np.array([legend.classes.index(group) for group in legend.groups])
    with rasterio.open(tile.path) as raster:
        crs = crs_text(raster.crs, str(tile.path))
        grid = Grid(crs=crs, transform=raster.transform, height=raster.height, width=raster.width)
        for window in tqdm(list(_windows(raster)), desc=tile.path.name, unit="block"):
            codes = raster.read(band, window=window)
            try:
                legend.count(codes)
            except ValueError as error:
                raise ValueError(f"{tile.path}: {error}") from error
            row, col = np.nonzero(~np.isin(codes, legend.fill))
            row, col = row + window.row_off, col + window.col_off
            looked_at = (row % step == 0) & (col % step == 0)
            row, col = row[looked_at], col[looked_at]
            lon, lat = grid.lon_lat(row + 0.5, col + 0.5)
            label = label_of[np.searchsorted(legend.codes, codes[row - window.row_off, col - window.col_off])]
            draw = _hash(row * raster.width + col, seed * 1_000_003 + number)
            yield _Pixels(lon=lon, lat=lat, label=label, area_km2=_pixel_km2(tile, lat) * step**2, draw=draw)


def _windows(raster: Any) -> Iterator[Window]:
    """Windows of whole blocks of a raster, of some BLOCK_PIXELS."""
    block_rows, block_cols = raster.block_shapes[0]
    cols = min(raster.width, block_cols * max(1, ceil(BLOCK_PIXELS**0.5 / block_cols)))
    rows = min(raster.height, block_rows * max(1, BLOCK_PIXELS // cols // block_rows))
    for row in range(0, raster.height, rows):
        for col in range(0, raster.width, cols):
            yield Window(col, row, min(cols, raster.width - col), min(rows, raster.height - row))


def _pixel_km2(tile: Tile, lat: np.ndarray) -> np.ndarray:
    """Area of each pixel in square kilometres; of a map in metres all are taken to be equal."""
    area = abs(tile.affine.determinant)
    if not tile.crs.is_geographic:
        return np.full(len(lat), area / 1e6)
    return np.asarray(area * (np.pi / 180 * EARTH_RADIUS_KM) ** 2 * np.cos(np.radians(lat)))


def _hash(numbers: np.ndarray, seed: int) -> np.ndarray:
    """A number that looks random for each pixel's number, and is the same anywhere: uint64.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014 (the output function of SplitMix64).
    """
    with np.errstate(over="ignore"):
        z = numbers.astype(np.uint64) + np.uint64(seed % 2**32) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)))


class _Candidates:
    """The pixels with the first draws of each class in each cell: of each class enough for it to fill the table alone."""

    def __init__(self, count: int, classes: int) -> None:
        self._count = SPARE * count
        self._most = max(MOST_CANDIDATES, 2 * self._count * classes)
        self._depth = np.full(classes, self._count)  # pixels of each class that a cell keeps
        self._parts: list[tuple[_Pixels, np.ndarray]] = []
        self._held = 0

    def add(self, pixels: _Pixels, cells: np.ndarray) -> None:
        kept = _rank(cells, pixels) < self._depth[pixels.label]
        self._parts.append((pixels.take(kept), cells[kept]))
        self._held += int(kept.sum())
        if self._held > self._most:
            self._throw_away()

    def kept(self) -> _Pixels:
        self._throw_away()
        return self._parts[0][0]

    def _throw_away(self) -> None:
        """Keep as few a cell as give `count` of the class over all cells; later parts of the map only bring more of them."""
        pixels = _Pixels.of([pixels for pixels, _ in self._parts])
        cells = np.concatenate([cells for _, cells in self._parts])
        rank = _rank(cells, pixels)
        for label in range(len(self._depth)):
            held = np.cumsum(np.bincount(rank[pixels.label == label], minlength=1))
            self._depth[label] = min(self._depth[label], int(np.searchsorted(held, self._count)) + 1)
        kept = rank < self._depth[pixels.label]
        self._parts, self._held = [(pixels.take(kept), cells[kept])], int(kept.sum())


def _rank(cells: np.ndarray, pixels: _Pixels) -> np.ndarray:
    """For each pixel how many of its class in its cell come before it."""
    order = np.lexsort((pixels.draw, pixels.label, cells))
    cell, label = cells[order], pixels.label[order]
    starts = np.flatnonzero(np.concatenate([[True], (np.diff(cell) != 0) | (np.diff(label) != 0)])[: len(order)])
    rank = np.empty(len(order), np.int64)
    lengths = np.diff(np.append(starts, len(order)))
    rank[order] = np.arange(len(order)) - np.repeat(starts, lengths)
    return rank


def _chosen(pixels: _Pixels, cells: np.ndarray, count: int, min_distance_km: float, seed: int) -> np.ndarray:
    """Indices of at most `count` pixels in the order of drawing: the classes take turns, and each goes round its cells.

    A pixel nearer than `min_distance_km` to one that was drawn before is passed over.
    """
    rank, cell_draw = _rank(cells, pixels), _hash(cells, seed)
    order = np.lexsort((cell_draw, rank))  # in each cell its first, then in each its second, ...
    queues = [iter(order[pixels.label[order] == label].tolist()) for label in np.unique(pixels.label)]
    distances = _Distances(pixels, min_distance_km)
    drawn: list[int] = []
    while queues and len(drawn) < count:
        for queue in list(queues):
            pixel = next((pixel for pixel in queue if distances.take(pixel)), None)
            if pixel is None:
                queues.remove(queue)
            elif len(drawn) < count:
                drawn.append(pixel)
    return np.array(drawn, dtype=np.int64)


class _Distances:
    """Tells pixels that are far enough from all that were taken, by cubes of the least distance around the Earth's centre."""

    def __init__(self, pixels: _Pixels, least_km: float) -> None:
        lon, lat = np.radians(pixels.lon), np.radians(pixels.lat)
        unit = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
        self._places = unit * EARTH_RADIUS_KM
        self._least = 2 * EARTH_RADIUS_KM * np.sin(min(least_km / EARTH_RADIUS_KM, np.pi) / 2)  # the chord of the distance
        self._cubes = np.floor(unit * EARTH_RADIUS_KM / max(self._least, 1e-6)).astype(np.int64)
        self._taken: dict[tuple[int, int, int], list[int]] = {}

    def take(self, pixel: int) -> bool:
        """True, and the pixel is taken, when none that was taken lies too near."""
        if self._least > 0:
            x, y, z = self._cubes[pixel].tolist()
            place = self._places[pixel]
            for cube in product((x - 1, x, x + 1), (y - 1, y, y + 1), (z - 1, z, z + 1)):
                for other in self._taken.get(cube, ()):
                    if dist(place, self._places[other]) < self._least:
                        return False
            self._taken.setdefault((x, y, z), []).append(pixel)
        return True


def _write(output: Path, sites: _Pixels, legend: Legend, years: list[int] | None, splits: np.ndarray | None) -> None:
    """The table of sites, as `data_prep/plan/sites.py` reads it, with the class of each."""
    digits = len(str(len(sites) - 1))
    columns: dict[str, Any] = {
        "id": [f"s{number:0{digits}d}" for number in range(len(sites))],
        "lon": np.round(sites.lon, 6),
        "lat": np.round(sites.lat, 6),
        "class": [legend.classes[label] for label in sites.label.tolist()],
    }
    if years:
        columns["year"] = pa.array(np.resize(years, len(sites)), pa.int16())
    if splits is not None:
        columns["split"] = [SPLITS[split] for split in splits.tolist()]
    with whole_file(output) as temporary:
        if output.suffix.lower() == ".csv":
            pa_csv.write_csv(pa.table(columns), temporary)
        else:
            pq.write_table(pa.table(columns), temporary)


def _map_of(sites: _Pixels, legend: Legend) -> Figure:
    """The sites in degrees, coloured by class; the first ones where there are too many to tell apart."""
    shown = sites.take(np.arange(min(len(sites), DRAWN_SITES)))
    width, height = (max(float(np.ptp(values)), 1e-3) for values in (shown.lon, shown.lat))
    stretch = 1 / max(0.2, np.cos(np.radians(float(shown.lat.mean()))))
    tall = min(max(10 * height * stretch / width, 4.0), 12.0)
    figure = Figure(figsize=(10.0, tall + 1.2), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    size = min(max(40_000 / len(shown), 1.0), 30.0)
    for label, (name, color) in enumerate(zip(legend.classes, legend.colors, strict=True)):
        of_class = shown.label == label
        count = int((sites.label == label).sum())
        if count:
            text = f"{name.replace('_', ' ')} ({count:,})"
            edge = 0.3 if size > 2 else 0.0
            axes.scatter(shown.lon[of_class], shown.lat[of_class], size, color, label=text, edgecolors="#6a6a6a", linewidths=edge)
    axes.set_aspect(stretch)
    axes.set(xlabel="degrees east", ylabel="degrees north", title=f"{len(sites):,} sites by class of {legend.title}")
    axes.grid(color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, markerscale=max(1.0, (30 / size) ** 0.5), fontsize=9)
    return figure


if __name__ == "__main__":
    run_command(draw_sites)
