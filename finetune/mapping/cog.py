"""Maps as Cloud-Optimised GeoTIFF: classes with colours and names, probabilities with their scale.

Blocks are first written to a plain GeoTIFF. Then GDAL's COG driver copies it, with tiles and overviews in the order that the
format requires (https://docs.ogc.org/is/21-026/21-026.html). A GeoTIFF has no standard place for names of classes. GDAL stores
them as categories in a file `.aux.xml` beside the raster, from which QGIS makes its legend. They are also tags of the band.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioIOError
from rasterio.shutil import copy
from rasterio.windows import Window

from common.atomic_files import whole_file
from common.grid import Grid
from finetune.mapping.tiling import TILE_PX, Block
from finetune.task import Task

NO_DATA = 255
# A probability p is stored as round(250 p), in steps of 0.4 %; 255 remains for no data.
PROBABILITY_STEPS = 250
GDAL_CACHE_MB = 256  # GDAL's default is 5 % of the machine's memory


def quantized(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities float (...) in 0..1 -> stored numbers uint8 (...), round(250 p)."""
    return np.rint(np.clip(probabilities, 0, 1) * PROBABILITY_STEPS).astype(np.uint8)


def write_classes(
    path: Path, scratch: Path, grid: Grid, task: Task, blocks: Iterable[tuple[Block, np.ndarray]], tags: Mapping[str, Any]
) -> None:
    """Write a map as COG: one band of class indices uint8, `NO_DATA` where there is none, overviews by the mode.

    Args:
        path: the GeoTIFF; it appears only when it is complete, followed by `.aux.xml` with the names of classes.
        scratch: folder on the same disk for unfinished files.
        grid: grid of the map.
        task: names and colours of classes.
        blocks: class indices uint8 (height, width) of every block, in any order.
        tags: metadata of the file.
    """
    with new_cog(path, scratch, grid, 1, "mode") as raster:
        raster.write_colormap(1, {i: rgba(c.color) for i, c in enumerate(task.classes)})
        raster.set_band_description(1, task.title)
        raster.update_tags(**tags)
        raster.update_tags(1, **{f"class_{i}": c.name for i, c in enumerate(task.classes)})
        for block, classes in blocks:
            raster.write(classes, 1, window=raster_window(block))
    _write_categories(path, [c.name for c in task.classes])


def write_probabilities(
    path: Path, scratch: Path, grid: Grid, task: Task, blocks: Iterable[tuple[Block, np.ndarray]], tags: Mapping[str, Any]
) -> None:
    """Write probabilities as COG: one band per class, uint8 with scale 1/250 and no data `NO_DATA`, overviews by the mean.

    The arguments are those of `write_classes`; blocks are uint8 (classes, height, width), as `quantized` gives them.
    """
    with new_cog(path, scratch, grid, len(task.classes), "average") as raster:
        raster.scales = [1 / PROBABILITY_STEPS] * len(task.classes)
        raster.descriptions = [c.name for c in task.classes]
        raster.update_tags(**tags, meaning=f"probability of a class = stored number / {PROBABILITY_STEPS}; {NO_DATA} is no data")
        for block, probabilities in blocks:
            raster.write(probabilities, window=raster_window(block))


def probabilities_path(output: Path) -> Path:
    """Path of the GeoTIFF of the probabilities of a map."""
    return output.with_name(f"{output.stem}_probabilities.tif")


def fields_paths(output: Path) -> tuple[Path, Path]:
    """Paths of the polygons of a class of a map: the GeoParquet that predict.py writes, and GeoJSON that people make of it."""
    return output.with_name(f"{output.stem}_fields.parquet"), output.with_name(f"{output.stem}_fields.geojson")


def remove_files_of_another_map(output: Path, *, keep_probabilities: bool = False) -> None:
    """Remove polygons and probabilities of an earlier map at `output`, which people would take for those of the new one."""
    stale = [*fields_paths(output), *([] if keep_probabilities else [probabilities_path(output)])]
    for path in stale:
        path.unlink(missing_ok=True)


def class_names(band_tags: dict[str, str]) -> list[str]:
    """Names of a map's classes by index, from the tags of its band."""
    found = {int(key.removeprefix("class_")): name for key, name in band_tags.items() if key.startswith("class_")}
    return [found[index] for index in sorted(found)]


def count_classes(path: Path, num_classes: int) -> np.ndarray:
    """Pixels of each class of a map, followed by those of no data, int64 (classes + 1,). The map is read tile by tile."""
    counts = np.zeros(256, dtype=np.int64)
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB), rasterio.open(path) as raster:
        for _, window in raster.block_windows(1):
            counts += np.bincount(raster.read(1, window=window).ravel(), minlength=256)
    return np.append(counts[:num_classes], counts[NO_DATA])


@contextmanager
def new_cog(
    path: Path, scratch: Path, grid: Grid, bands: int, overviews: str, *, tile_px: int = TILE_PX, **numbers: Any
) -> Iterator[Any]:
    """A plain GeoTIFF to write blocks to; at the end it is converted to a COG, which gets the name `path`.

    Args:
        path: the COG.
        scratch: folder on the same disk for unfinished files.
        grid: its grid.
        bands: its number of bands.
        overviews: how overviews are resampled.
        tile_px: side of a tile.
        numbers: `dtype`, `nodata` and `nbits` of the bands; uint8 with `NO_DATA` by default.

    Raises OSError when a file cannot be written.
    """
    plain, finished = scratch / f"plain_{path.name}", scratch / f"cog_{path.name}"
    for leftover in (plain, finished):
        leftover.unlink(missing_ok=True)  # GDAL fails to replace a file that a full disk has cut
    profile = {"driver": "GTiff", "count": bands, "dtype": "uint8", "nodata": NO_DATA, "compress": "deflate", "zlevel": 1}
    profile |= {"tiled": True, "blockxsize": tile_px, "blockysize": tile_px, "interleave": "band", "bigtiff": "if_safer"}
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB):
        with rasterio.open(plain, "w", **(profile | numbers | grid.profile())) as raster:
            yield raster
        options = {"compress": "deflate", "blocksize": tile_px, "overview_resampling": overviews, "bigtiff": "if_safer"}
        options |= {"nbits": numbers["nbits"]} if "nbits" in numbers else {}
        try:
            copy(plain, finished, driver="COG", **options)
        except CPLE_BaseError as error:  # is no OSError; a full disk may show only when the plain file is read
            raise RasterioIOError(f"{finished} cannot be made from {plain}: {error}") from error
        _read_all(finished)
    plain.unlink()
    with finished.open("rb+") as file:
        os.fsync(file.fileno())
    finished.replace(path)


def _read_all(path: Path) -> None:
    """Read a whole raster. Raises RasterioIOError when it was cut: GDAL does not say when a full disk kept it from finishing."""
    with rasterio.open(path) as raster:
        for _, window in raster.block_windows(1):
            raster.read(window=window)


def _write_categories(path: Path, names: list[str]) -> None:
    """Write names of the values 0, 1, ... of band 1 as GDAL stores them (PAM, its "persistent auxiliary metadata")."""
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    categories = ElementTree.SubElement(band, "CategoryNames")
    for name in names:
        ElementTree.SubElement(categories, "Category").text = name.replace("_", " ")
    ElementTree.indent(root)
    with whole_file(path.with_name(f"{path.name}.aux.xml")) as temporary:
        ElementTree.ElementTree(root).write(temporary, encoding="utf-8")


def raster_window(block: Block) -> Window:
    """A block as rasterio knows it."""
    return Window(block.col, block.row, block.width, block.height)


def rgba(color: str) -> tuple[int, int, int, int]:
    """Red, green, blue and opacity, 0 to 255, of a colour `#rrggbb`."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16), 255
