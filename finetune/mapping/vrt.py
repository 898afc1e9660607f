"""A virtual raster (VRT, https://gdal.org/drivers/raster/vrt.html) over the maps of scenes: they stay where they are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rasterio.crs import CRS

from common.atomic_files import whole_file
from common.grid import Grid, grid_summary
from finetune.mapping.cog import NO_DATA, rgba
from finetune.mapping.resampling import SceneMap, offset_in, turned_to
from finetune.mapping.tiling import Block
from finetune.task import Task


def write_vrt(path: Path, scenes: Sequence[SceneMap], grid: Grid, task: Task, tags: Mapping[str, Any]) -> None:
    """Write a VRT of the classes of scenes that lie on the pixels of `grid`, with names and colours of the classes.

    Where scenes overlap it shows the one whose name comes last, but for pixels without data. Paths are relative to the VRT.
    """
    root = ElementTree.Element("VRTDataset", rasterXSize=str(grid.width), rasterYSize=str(grid.height))
    ElementTree.SubElement(root, "SRS").text = CRS.from_user_input(grid.crs).to_wkt()
    ElementTree.SubElement(root, "GeoTransform").text = ", ".join(repr(value) for value in grid.transform.to_gdal())
    _metadata(root, tags)
    band = ElementTree.SubElement(root, "VRTRasterBand", dataType="Byte", band="1", blockXSize="512", blockYSize="512")
    ElementTree.SubElement(band, "Description").text = task.title
    _metadata(band, {f"class_{index}": c.name for index, c in enumerate(task.classes)})
    ElementTree.SubElement(band, "NoDataValue").text = str(NO_DATA)
    ElementTree.SubElement(band, "ColorInterp").text = "Palette"
    names = ElementTree.SubElement(band, "CategoryNames")
    colors = ElementTree.SubElement(band, "ColorTable")
    for c in task.classes:
        ElementTree.SubElement(names, "Category").text = c.name.replace("_", " ")
        ElementTree.SubElement(colors, "Entry", {f"c{i}": str(value) for i, value in enumerate(rgba(c.color), 1)})
    for scene in sorted(scenes, key=lambda one: one.name):
        offset = offset_in_region(grid, scene.grid)
        assert offset is not None, f"{scene.name}: see check_pixels"
        _source(band, scene, path.parent, offset)
    ElementTree.indent(root)
    with whole_file(path) as temporary:
        ElementTree.ElementTree(root).write(temporary, encoding="utf-8")


def offset_in_region(grid: Grid, scene: Grid) -> tuple[int, int] | None:
    """Row and column of a scene in the grid of a virtual raster; None where the pixels are others."""
    turned = turned_to(scene, grid, Block(0, 0, *grid.shape))  # in degrees a region may go on beyond 180
    return offset_in(grid, turned, Block(0, 0, *scene.shape))


def check_pixels(grids: Mapping[str, Grid], grid: Grid) -> None:
    """Raises ValueError unless all scenes lie on the pixels of `grid`."""
    for name, other in grids.items():
        if offset_in_region(grid, other) is None:
            raise ValueError(
                f"the pixels of scene {name} ({grid_summary(other)}) are no pixels of the other scenes; a virtual raster "
                "resamples nothing: give a .tif as --output, for a mosaic, or a folder"
            )


def _metadata(element: ElementTree.Element, tags: Mapping[str, Any]) -> None:
    metadata = ElementTree.SubElement(element, "Metadata")
    for key, value in tags.items():
        ElementTree.SubElement(metadata, "MDI", key=key).text = str(value)


def _source(band: ElementTree.Element, scene: SceneMap, folder: Path, offset: tuple[int, int]) -> None:
    """Add a scene at row and column `offset` of the VRT."""
    row, col = offset
    size = {"xSize": str(scene.grid.width), "ySize": str(scene.grid.height)}
    source = ElementTree.SubElement(band, "ComplexSource")
    name = ElementTree.SubElement(source, "SourceFilename", relativeToVRT="1")
    name.text = Path(os.path.relpath(scene.path, folder)).as_posix()
    ElementTree.SubElement(source, "SourceBand").text = "1"
    ElementTree.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0", **size})
    ElementTree.SubElement(source, "DstRect", {"xOff": str(col), "yOff": str(row), **size})
    ElementTree.SubElement(source, "NODATA").text = str(NO_DATA)
