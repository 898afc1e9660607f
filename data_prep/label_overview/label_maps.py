"""The label of a scene and a year as a map: read, counted, and written as GeoTIFF with names and colours of classes."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import rasterio
from matplotlib.colors import to_hex
from scipy import ndimage

from common.atomic_files import whole_file
from common.grid import Grid
from data_prep.archive.label import Label
from data_prep.archive.scene import Scene
from data_prep.archive.sensor import Sensor
from data_prep.label_overview.settings import LabelsConfig
from data_prep.landcover.label_base import LabelCounts
from data_prep.landcover.label_opening import grid_of_source, label_notes, open_label

TILE_PX = 256
GOLDEN = 0.61803398875  # hues that are this far apart in turn never come close


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelMap:
    """The label of a scene in a year.

    Attributes:
        scene: the scene.
        name: the scene's name, with the year where the label has several.
        label: the label, with its classes.
        year: the year in which its season ends; None where it states none.
        grid: the grid of its pixels.
        codes: codes (H, W), `label.nodata` where not labelled.
        objects: number of features by code; of a raster, of connected areas.
        counts: what became of features.
    """

    scene: Scene
    name: str
    label: Label
    year: int | None
    grid: Grid
    codes: np.ndarray
    objects: Mapping[int, int]
    counts: LabelCounts

    @property
    def notes(self) -> list[str]:
        """What people should know of the features."""
        return label_notes(self.label, self.counts, self.scene)


def label_maps(scene: Scene, config: LabelsConfig, sensors: Mapping[str, Sensor]) -> Iterator[LabelMap]:
    """Yield the label of a scene in each of its years. Raises ValueError when it cannot be read, or has not the year wanted."""
    sources = [source for source in scene.sources if config.sources is None or source in config.sources]
    if not sources:
        raise ValueError(f"scene {scene.name} has none of the sources {config.sources}; it has {', '.join(scene.sources)}")
    grids: dict[str, Grid] = {}

    def grid_of(source: str) -> Grid:
        if source not in grids:
            grids[source] = grid_of_source(scene, source, sensors)
        return grids[source]

    with open_label(scene, config.label, sources, grid_of, config.season_start) as reader:
        years: tuple[int | None, ...] = reader.years or (None,)
        if config.year is not None and reader.years and config.year not in reader.years:
            years = ()
        elif config.year is not None:
            years = (config.year,)
        for year in years:
            codes = reader.read(year=year)
            unknown = sorted(set(np.unique(codes).tolist()) - set(reader.label.classes) - {reader.label.nodata})
            if unknown:
                raise ValueError(
                    f"{reader.label.path} holds codes {unknown[:5]} that scene.yaml does not name; known: "
                    f"{dict(reader.label.classes)}"
                )
            counts = reader.counts(year)
            yield LabelMap(
                scene=scene,
                name=scene.name if len(years) == 1 else f"{scene.name}_{year}",
                label=reader.label,
                year=year,
                grid=reader.grid,
                codes=codes,
                objects=connected_areas(codes, reader.label) if reader.label.features is None else counts.objects,
                counts=counts,
            )


def connected_areas(codes: np.ndarray, label: Label) -> Counter[int]:
    """Number of connected areas of each class; pixels that share only a corner are not connected."""
    return Counter({code: int(ndimage.label(codes == code)[1]) for code in np.intersect1d(codes, list(label.classes)).tolist()})


def class_colors(label: Label) -> dict[int, str]:
    """A colour `#rrggbb` for each code of a label, the same whenever the codes are the same."""
    codes = sorted(label.classes)
    table = [to_hex(color) for color in mpl.colormaps["tab20"].colors]  # type: ignore[attr-defined]
    if len(codes) <= len(table):
        strong_first = table[::2] + table[1::2]
        return dict(zip(codes, strong_first, strict=False))
    hues = [(number * GOLDEN % 1, 0.55 + 0.35 * (number % 2), 0.95 - 0.2 * (number % 3) / 2) for number in range(len(codes))]
    return {code: to_hex(colorsys.hsv_to_rgb(*hue)) for code, hue in zip(codes, hues, strict=True)}


def write_label(path: Path, made: LabelMap) -> None:
    """Write a label as GeoTIFF, and the names of its classes as tags and beside it, where GDAL looks for them.

    There is a table of colours where all codes are from 0 to 65,535, as the format asks.
    """
    codes = [*made.label.classes, made.label.nodata]
    small = min(codes) >= 0 and max(codes) <= np.iinfo(np.uint16).max
    dtype = made.codes.dtype if not small else np.dtype("uint8" if max(codes) <= np.iinfo(np.uint8).max else "uint16")
    profile = {"driver": "GTiff", "count": 1, "dtype": dtype.name, "nodata": made.label.nodata, "compress": "deflate"}
    profile |= {"tiled": True, "blockxsize": TILE_PX, "blockysize": TILE_PX} | made.grid.profile()
    with whole_file(path) as temporary, rasterio.open(temporary, "w", **profile) as raster:
        raster.write(made.codes.astype(dtype), 1)
        if small:
            colors = {code: (*bytes.fromhex(color[1:]), 255) for code, color in class_colors(made.label).items()}
            raster.write_colormap(1, colors | {made.label.nodata: (0, 0, 0, 0)})
        raster.update_tags(scene=made.scene.name, **({} if made.year is None else {"year": made.year}))
        raster.update_tags(1, **{f"class_{code}": name for code, name in made.label.classes.items()})
    if dtype == np.uint8:
        _write_categories(path, made.label.classes)


def _write_categories(path: Path, classes: Mapping[int, str]) -> None:
    """Write the names of codes as GDAL stores them (PAM, its "persistent auxiliary metadata")."""
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    categories = ElementTree.SubElement(band, "CategoryNames")
    for code in range(max(classes) + 1):
        ElementTree.SubElement(categories, "Category").text = classes.get(code, "")
    ElementTree.indent(root)
    with whole_file(path.with_name(f"{path.name}.aux.xml")) as temporary:
        ElementTree.ElementTree(root).write(temporary, encoding="utf-8")
