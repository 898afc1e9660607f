"""Made-up parcels and points on small grids, and labels made from them in another way, pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import shapely
from affine import Affine
from pyproj import Transformer

from common.grid import Grid
from common.storage import AnyPath
from data_prep.archive.label import label_from_values
from data_prep.archive.scene import Scene
from data_prep.landcover.label_base import LabelReader
from data_prep.landcover.label_opening import open_label

GRIDS = {
    "UTM north": Grid(crs="EPSG:32631", transform=Affine(30, 0, 500_040, 0, -30, 5_000_040), height=40, width=50),
    "UTM south": Grid(crs="EPSG:32736", transform=Affine(10, 0, 300_000, 0, -10, 8_000_000), height=37, width=41),
    "LAEA": Grid(crs="EPSG:3035", transform=Affine(20, 0, 4_000_000, 0, -20, 3_000_000), height=45, width=33),
    "degrees": Grid(crs="EPSG:4326", transform=Affine(3e-4, 0, 11.2, 0, -3e-4, 48.7), height=44, width=39),
}


def on_ground(geometry: Any, grid: Grid) -> Any:
    """Geometries in columns and rows -> coordinates of the grid's CRS."""
    a, b, c, d, e, f = tuple(grid.transform)[:6]
    return shapely.transform(geometry, lambda at: np.stack([a * at[:, 0] + b * at[:, 1] + c, d * at[:, 0] + e * at[:, 1] + f], 1))


def random_parcels(grid: Grid, seed: int, number: int = 25) -> np.ndarray:
    """A patchwork of parcels in columns and rows, some with holes or of two parts, that reaches beyond the grid."""
    rng = np.random.default_rng(seed)
    height, width = grid.shape
    seeds = rng.uniform((-5, -5), (width + 5, height + 5), (number, 2))
    area = shapely.box(-6, -6, width + 6, height + 6)
    cells = shapely.get_parts(shapely.voronoi_polygons(shapely.multipoints(seeds), extend_to=area))
    parcels = shapely.buffer(shapely.intersection(cells, area), -rng.uniform(0, 0.6, len(cells)))
    parcels = parcels[~shapely.is_empty(parcels)]
    for at in range(0, len(parcels), 4):  # a hole
        middle = shapely.centroid(parcels[at])
        parcels[at] = shapely.difference(parcels[at], shapely.buffer(middle, 1.7))
    return np.array([*parcels[2:], shapely.union_all(parcels[:2])], dtype=object)


def write_parcels(path: Path, geometry: Sequence[Any], crs: Any, **columns: Any) -> Path:
    """A file of features with columns, in the format that its ending names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = geopandas.GeoDataFrame(columns, geometry=list(geometry), crs=crs, index=range(len(geometry)))
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_file(path)
    return path


def scene_with(folder: AnyPath, **entry: Any) -> Scene:
    """A scene without images whose label `crop` is an entry as in scene.yaml."""
    label = label_from_values(entry, folder, "here: label crop")
    return Scene(
        name="s", region="r", split="train", folder=folder, sources={"landsat": {}}, land_cover=None, labels={"crop": label}
    )


def opened(folder: AnyPath, grid: Grid, season_begin: tuple[int, int] | None = None, **entry: Any) -> LabelReader:
    """The label that an entry describes, on a grid."""
    return open_label(scene_with(folder, **entry), "crop", ("landsat",), lambda _: grid, season_begin)


def centres(grid: Grid, crs: str) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in a CRS of the centres of all pixels, each (H, W)."""
    cols, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    x, y = grid.transform @ (cols, rows)
    there: tuple[np.ndarray, np.ndarray] = Transformer.from_crs(grid.crs, crs, always_xy=True).transform(x, y)
    return there


def by_points(grid: Grid, geometry: Sequence[Any], codes: Sequence[int], crs: str, nodata: int = 0) -> np.ndarray:
    """The label of pixels whose centres lie in polygons of one code, by a look at each centre, int (H, W)."""
    x, y = centres(grid, crs)
    found: list[list[set[int]]] = [[set() for _ in range(grid.width)] for _ in range(grid.height)]
    for polygon, code in zip(geometry, codes, strict=True):
        for row, col in np.argwhere(shapely.contains_xy(polygon, x, y)):
            found[row][col].add(code)
    return np.array([[next(iter(at)) if len(at) == 1 else nodata for at in row] for row in found])


def away_from_edges(grid: Grid, geometry: Sequence[Any], crs: str, share: float = 1e-3) -> np.ndarray:
    """Whether the centre of each pixel is further than a share of a pixel from all outlines, bool (H, W)."""
    x, y = centres(grid, crs)
    side = np.hypot(x[0, 1] - x[0, 0], y[0, 1] - y[0, 0])
    lines = shapely.union_all(shapely.boundary(np.asarray(geometry, dtype=object)))
    shapely.prepare(lines)
    far: np.ndarray = shapely.distance(shapely.points(x, y), lines) > share * side
    return far


def by_area(
    grid: Grid, geometry: Sequence[Any], codes: Sequence[int], least: float, nodata: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The label by area of polygons in columns and rows, by intersections with each pixel; and how clear each decision is.

    Ground of several codes belongs to none.
    """
    whole = {code: shapely.union_all([g for g, c in zip(geometry, codes, strict=True) if c == code]) for code in set(codes)}
    alone = {
        code: shapely.difference(polygon, shapely.union_all([other for c, other in whole.items() if c != code]))
        for code, polygon in whole.items()
    }
    label, margin = np.full(grid.shape, nodata), np.zeros(grid.shape)
    for row in range(grid.height):
        for col in range(grid.width):
            pixel = shapely.box(col, row, col + 1, row + 1)
            shares = {code: shapely.area(shapely.intersection(pixel, polygon)) for code, polygon in alone.items()}
            best, second = (sorted([*shares.values(), 0.0, 0.0])[::-1])[:2]
            margin[row, col] = min(abs(best - least), best - second if best >= least else 1)
            if best >= least and best > second:
                label[row, col] = max(shares, key=lambda code: shares[code])
    return label, margin
