"""The picture of the map of a region: the whole map at reduced resolution, and the outlines of its scenes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rasterio
from matplotlib.figure import Figure

from common.atomic_files import whole_file
from common.grid import Grid, apply, grid_in_crs, reprojected, unwrapped
from finetune.mapping.resampling import is_geographic
from finetune.report.map_figure import class_colors, legend_patches, pixel_width_m, scale_bar
from finetune.task import Task

LARGEST_PX = 1100  # of the longer side
EDGE_POINTS = 33  # along each side of a scene
MOST_NAMES = 30  # more would cover the map
INCHES = 9.0


def draw_region(path: Path, task: Task, title: str, map_path: Path, scenes: Mapping[str, Grid]) -> None:
    """Write the picture of the map of a region as PNG; the file appears only when it is complete."""
    with whole_file(path) as temporary:
        region_figure(task, title, map_path, scenes).savefig(temporary, format="png")


def region_figure(task: Task, title: str, map_path: Path, scenes: Mapping[str, Grid]) -> Figure:
    """Draw the map of a region with the outlines of its scenes, a scale bar and the legend of the classes.

    Args:
        task: the task of the map.
        title: heading of the picture.
        map_path: the GeoTIFF or VRT; it is read at reduced resolution.
        scenes: grids of the scenes by name.
    """
    with rasterio.open(map_path) as raster:
        factor = max(1.0, max(raster.shape) / LARGEST_PX)
        shape = tuple(max(1, round(side / factor)) for side in raster.shape)
        classes = raster.read(1, out_shape=shape)
        grid = Grid(crs=str(raster.crs.to_wkt()), transform=raster.transform, height=raster.height, width=raster.width)
    rows, cols = shape
    tall = min(2.0, max(0.35, rows / cols))
    figure = Figure(figsize=(INCHES, INCHES * tall + 1.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.imshow(class_colors(classes, task), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for name, scene in sorted(scenes.items()):
        x, y = _outline(scene, grid)
        axes.plot(x * cols / grid.width - 0.5, y * rows / grid.height - 0.5, color="black", linewidth=0.8)
        if len(scenes) <= MOST_NAMES:
            at = x.mean() * cols / grid.width - 0.5, y.min() * rows / grid.height - 0.5
            box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.2}
            axes.annotate(name, at, (0, -4), textcoords="offset points", ha="center", va="top", fontsize=8, bbox=box)
    axes.set_xlim(-0.5, cols - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    pixel_m = pixel_width_m(grid)
    if pixel_m is not None:
        scale_bar(axes, pixel_m * grid.width / cols, cols, rows)
    patches = legend_patches(task)
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 6), frameon=False, fontsize=10)
    figure.suptitle(title, fontsize=13)
    return figure


def _outline(scene: Grid, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The edge of a scene in fractional columns and rows of a map."""
    along = np.linspace(0, 1, EDGE_POINTS)
    zero, one = np.zeros(EDGE_POINTS), np.ones(EDGE_POINTS)
    col = np.concatenate([along, one, 1 - along, zero]) * scene.width
    row = np.concatenate([zero, along, one, 1 - along]) * scene.height
    placed = grid_in_crs(scene, grid.crs)
    if placed is not None:
        x, y = apply(placed.transform, col, row)
    else:
        x, y = reprojected(scene.crs, grid.crs, *apply(scene.transform, col, row))
    if is_geographic(grid.crs):
        x = unwrapped(x, (grid.transform @ (grid.width / 2, grid.height / 2))[0])
    return apply(~grid.transform, x, y)
