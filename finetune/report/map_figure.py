"""The picture of a map: satellite image, label, prediction and errors side by side.

Of a large map the picture shows the centre in full resolution, and the whole map at reduced resolution.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch, Rectangle
from pyproj import Geod
from rasterio.windows import Window

from common.atomic_files import whole_file
from common.grid import Grid
from data_prep.archive.scene import is_simulated
from data_prep.archive.sensor import Sensor
from finetune.data.image_stack import ImageStack
from finetune.data.scene_series import SceneSeries, read_classes_of_window
from finetune.scoring.error_map import error_map, outcomes
from finetune.scoring.headline import headline
from finetune.scoring.metrics import confusion, scores
from finetune.task import Task

NO_DATA_COLOR = "#8a8a8a"
LARGEST_PREVIEW_PX = 768
PANEL_INCHES = 4.6
LETTERS_PER_PANEL = 46  # of the title, over the width of a panel
LEGEND_COLUMNS = 3  # of the classes, below each panel
ERRORS = "errors"


@dataclass(frozen=True, kw_only=True)
class MapPicture:
    """What the picture of a map shows.

    Attributes:
        title: heading of the picture.
        image: true-colour image (H, W, 3) in 0..1, NaN where there is none.
        label: class indices (H, W), or None without a label; `IGNORE` where not labelled.
        predicted: class indices (H, W), `NO_DATA` where there is none.
        pixel_m: width of a pixel on the ground in metres; None if the place of the map is unknown.
        overview: class indices (h, w) of the whole map, if the other arrays show a part of it.
        part: that part (row, column, height, width) as shares of the map's sides.
        simulated: whether the image is simulated; the picture says so.
    """

    title: str
    image: np.ndarray
    label: np.ndarray | None
    predicted: np.ndarray
    pixel_m: float | None
    overview: np.ndarray | None = None
    part: tuple[float, ...] = (0, 0, 1, 1)
    simulated: bool = False


def draw_map(path: Path, task: Task, series: SceneSeries, map_path: Path, label: np.ndarray | None) -> None:
    """Read and write the picture of a map; see `map_picture`."""
    write_map_picture(path, task, map_picture(task, series, map_path, label))


def map_picture(task: Task, series: SceneSeries, map_path: Path, label: np.ndarray | None) -> MapPicture:
    """Read what the picture of a map shows.

    Args:
        task: the task of the map.
        series: the scene, open.
        map_path: the map's GeoTIFF. If it is too large to show all its pixels, its overviews show the whole map.
        label: class indices of the map's `preview_window`; with it the title holds the scores of this part, over all labels that
            the picture shows, whether or not the model was trained on them.
    """
    row, col, height, width = window = preview_window(*series.grid.shape)
    with rasterio.open(map_path) as raster:
        predicted = raster.read(1, window=Window(col, row, width, height))
        overview = None
        if (height, width) != raster.shape:
            factor = max(raster.shape) / LARGEST_PREVIEW_PX
            overview = raster.read(1, out_shape=tuple(max(1, round(side / factor)) for side in raster.shape))
    simulated = is_simulated(series.scene) is True
    title = f"{task.title}, {series.scene.name}{' (simulated)' if simulated else ''}, season ending {series.year}"
    if label is not None:
        names = [c.name for c in task.classes]
        result = scores(confusion(label, predicted, len(names)), names)
        name, score = headline(result, task.target)
        accuracy = result["overall_accuracy"]
        title += f"; over all labels shown: {name} {100 * score:.1f} %, overall accuracy {100 * accuracy:.1f} %"
    return MapPicture(
        title=title,
        image=true_color_preview(series, window),
        label=label,
        predicted=predicted,
        pixel_m=pixel_width_m(series.grid),
        overview=overview,
        part=tuple(pixels / side for pixels, side in zip(window, series.grid.shape * 2, strict=True)),
        simulated=simulated,
    )


def map_figure(task: Task, picture: MapPicture) -> Figure:
    """Draw the picture of a map: a panel each for image, label, prediction, errors and overview, and a legend of the classes."""
    image = np.where(np.isnan(picture.image), to_rgb(NO_DATA_COLOR), picture.image)
    seen = "simulated image" if picture.simulated else "satellite image"
    panels = [(f"{seen}, median of the season", image, 1.0)]  # with pixels of the map along a pixel of the panel
    if picture.label is not None:
        panels.append(("label", class_colors(picture.label, task), 1.0))
    panels.append(("prediction", class_colors(picture.predicted, task), 1.0))
    if picture.label is not None:
        errors = error_map(task, picture.label, picture.predicted)
        panels.append((ERRORS, _colors(errors, [outcome.color for outcome in outcomes(task)]), 1.0))
    if picture.overview is not None:
        coarse = picture.predicted.shape[1] / picture.part[3] / picture.overview.shape[1]
        panels.append(("prediction, all of the map", class_colors(picture.overview, task), coarse))
    height, width = picture.predicted.shape
    rows_of_panels = 1 if len(panels) < 4 else 2
    columns = -(-len(panels) // rows_of_panels)
    panel_height = PANEL_INCHES * min(2.0, max(0.5, height / width)) + 0.4
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.08)  # inches
    figure = Figure(figsize=(PANEL_INCHES * columns, panel_height * rows_of_panels + 0.6), dpi=110, layout=layout)
    every_axes = figure.subplots(rows_of_panels, columns, squeeze=False).ravel()
    for unused in every_axes[len(panels) :]:
        unused.remove()
    for axes, (name, colors, factor) in zip(every_axes, panels, strict=False):
        axes.imshow(colors, interpolation="nearest")
        axes.set_title(name, fontsize=11)
        axes.set_xticks([])
        axes.set_yticks([])
        rows, cols, _ = colors.shape
        if picture.pixel_m is not None:
            scale_bar(axes, picture.pixel_m * factor, cols, rows)
        if factor != 1:
            row, col, tall, wide = (share * side for share, side in zip(picture.part, (rows, cols) * 2, strict=True))
            axes.add_patch(Rectangle((col, row), wide, tall, fill=False, edgecolor="black", linewidth=1.5))
        if name == ERRORS:
            shown = [Patch(facecolor=outcome.color, edgecolor="#555555", label=outcome.name) for outcome in outcomes(task)]
            below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.005), "ncols": 2}
            axes.legend(handles=shown, frameon=False, fontsize=10, **below)
    patches = legend_patches(task)
    ncols = min(len(patches), LEGEND_COLUMNS * columns)
    figure.legend(handles=patches, loc="outside lower center", ncols=ncols, frameon=False, fontsize=11)
    figure.suptitle("\n".join(textwrap.wrap(picture.title, round(LETTERS_PER_PANEL * columns))), fontsize=13)
    return figure


def legend_patches(task: Task) -> list[Patch]:
    """The legend's entries: the classes and no data."""
    patches = [Patch(facecolor=c.color, edgecolor="#555555", label=c.name.replace("_", " ")) for c in task.classes]
    return [*patches, Patch(facecolor=NO_DATA_COLOR, edgecolor="#555555", label="no data")]


def write_map_picture(path: Path, task: Task, picture: MapPicture) -> None:
    """Write the picture of a map as PNG; the file appears only when it is complete."""
    with whole_file(path) as temporary:
        map_figure(task, picture).savefig(temporary, format="png")


def preview_label(series: SceneSeries) -> np.ndarray | None:
    """Class indices (H, W) of the task's label over the `preview_window`; None without a label of the map's grid and year."""
    return read_classes_of_window(series, *preview_window(*series.grid.shape))


def preview_window(height: int, width: int) -> tuple[int, int, int, int]:
    """The central part (row, col, height, width) of a map that a picture shows: the whole map unless it is very large."""
    h, w = min(height, LARGEST_PREVIEW_PX), min(width, LARGEST_PREVIEW_PX)
    return (height - h) // 2, (width - w) // 2, h, w


def true_color_preview(series: SceneSeries, window: tuple[int, int, int, int]) -> np.ndarray:
    """True-colour median of the finest source over a window (row, col, height, width) of the map; see `true_color`."""
    step = series.step
    row, col, height, width = window
    # Read whole source pixels only, then cut to the window.
    top, left = row // step * step, col // step * step
    bottom, right = -(-(row + height) // step) * step, -(-(col + width) // step) * step
    stack = series.read_source(series.finest, top, left, bottom - top, right - left)
    image = true_color(stack, series.sensors[series.finest])
    rows = np.minimum(((np.arange(height) + row - top) * image.shape[0] / (bottom - top)).astype(int), image.shape[0] - 1)
    cols = np.minimum(((np.arange(width) + col - left) * image.shape[1] / (right - left)).astype(int), image.shape[1] - 1)
    return image[np.ix_(rows, cols)]


def true_color(stack: ImageStack, sensor: Sensor) -> np.ndarray:
    """True-colour median of the clear observations of a stack, stretched to 0..1: float (H, W, 3), NaN where there is none."""
    images = stack.pixels[:, [sensor.bands.index(band) for band in sensor.rgb]].astype(np.float32)
    images[~np.broadcast_to(stack.valid[:, None], images.shape)] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # pixels that were never clear stay NaN
        median = np.nanmedian(images, axis=0).transpose(1, 2, 0)
        low, high = np.nanpercentile(median, (2, 98), axis=(0, 1))
    spread = high - low
    result: np.ndarray = np.clip((median - low) / np.where(spread > 0, spread, 1), 0, 1)
    return result


def class_colors(classes: np.ndarray, task: Task) -> np.ndarray:
    """Class indices (H, W) -> RGB (H, W, 3); any number that is not a class gets the colour of no data."""
    return _colors(classes, [c.color for c in task.classes])


def _colors(numbers: np.ndarray, colors: Sequence[str]) -> np.ndarray:
    """Numbers (H, W) of classes or outcomes -> RGB (H, W, 3); any number without a colour gets that of no data."""
    palette = np.array([to_rgb(color) for color in [*colors, NO_DATA_COLOR]])
    return palette[np.where((numbers >= 0) & (numbers < len(colors)), numbers, len(colors))]


def pixel_width_m(grid: Grid) -> float | None:
    """Width of the pixel at the centre of a grid, on the WGS 84 ellipsoid in metres; None for a grid without a place."""
    if not grid.georeferenced:
        return None
    lon, lat = grid.lon_lat(np.full(2, grid.height / 2), grid.width / 2 + np.array([-0.5, 0.5]))
    return float(Geod(ellps="WGS84").inv(lon[0], lat[0], lon[1], lat[1])[2])


def scale_bar(axes: Axes, pixel_m: float, width: int, height: int) -> None:
    """A bar of a round length, about a quarter of the panel, at its lower left; `width` and `height` count the panel's pixels."""
    target = width * pixel_m / 4
    magnitude = 10 ** np.floor(np.log10(target))
    length = max(step * magnitude for step in (1, 2, 5) if step * magnitude <= target)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    x, y = 0.04 * width, 0.95 * height
    axes.plot([x, x + length / pixel_m], [y, y], color="black", linewidth=6, solid_capstyle="butt")
    axes.plot([x, x + length / pixel_m], [y, y], color="white", linewidth=3, solid_capstyle="butt")
    outline = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5}
    axes.text(x, y - 0.03 * height, text, fontsize=9, va="bottom", bbox=outline)
