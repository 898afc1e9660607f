"""The picture of a label: over a true-colour image of a clear date, with the names of classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from common.atomic_files import whole_file
from common.grid import Grid, apply, pixel_sides_m
from common.plot_style import INK, MUTED
from data_prep.archive.scene import Scene
from data_prep.archive.sensor import Sensor
from data_prep.label_overview.label_maps import LabelMap, class_colors
from data_prep.landcover.label_features import transformed
from data_prep.readers.base import SeriesReader
from data_prep.readers.opening import open_reader

LARGEST_PX = 768  # side of the part of a label that is drawn
LARGEST_SOURCE_PX = 2_048
CLEAR_PX = 192  # side of the part by which the clearest date is chosen
STRETCH = (2, 98)  # percentiles
LABEL_SHARE = 0.65  # of the colour of a labelled pixel; the rest is the image
NO_IMAGE = 0.75  # grey
MOST_NAMES = 40
AS_CLEAR = 0.02  # dates whose shares of clear pixels differ less are as clear
NOT_LABELLED = "not labelled"


@dataclass(frozen=True, kw_only=True)
class ClearImage:
    """A true-colour image under a label.

    Attributes:
        colors: red, green and blue from 0 to 1 on the label's pixels, (H, W, 3), NaN where nothing was observed.
        about: source and date.
    """

    colors: np.ndarray
    about: str


def draw_label(path: Path, made: LabelMap, sensors: Mapping[str, Sensor]) -> None:
    """Draw a label as PNG; of a large one the part around the middle of its labelled pixels."""
    window = _window(made)
    image = _clear_image(made, window, sensors)
    with whole_file(path) as temporary:
        _figure(made, window, image).savefig(temporary, format="png", metadata={"Software": None})


def _window(made: LabelMap) -> tuple[int, int, int, int]:
    """Row, column, height and width of the part that is drawn."""
    labelled = np.nonzero(made.codes != made.label.nodata)
    found = []
    for at, extent in zip(labelled, made.codes.shape, strict=True):
        side = min(extent, LARGEST_PX)
        middle = int(np.median(at)) if len(at) else extent // 2
        found.append((min(max(middle - side // 2, 0), extent - side), side))
    (row, height), (col, width) = found
    return row, col, height, width


def _figure(made: LabelMap, window: tuple[int, int, int, int], image: ClearImage | None) -> Figure:
    row, col, height, width = window
    codes = made.codes[row : row + height, col : col + width]
    colors = class_colors(made.label)
    below = np.full((height, width, 3), NO_IMAGE) if image is None else np.where(np.isnan(image.colors), NO_IMAGE, image.colors)
    over = np.repeat(below.mean(axis=2, keepdims=True), 3, axis=2)  # grey, so that hues are those of classes
    for code, color in colors.items():
        over[codes == code] = LABEL_SHARE * np.array(to_rgb(color)) + (1 - LABEL_SHARE) * over[codes == code]
    panels = [(f"label {made.label.path.name}", over)]
    if image is not None:
        panels.insert(0, (image.about, below))
    shown = [code for code in colors if (codes == code).any()]
    columns = 4
    legend_rows = math.ceil((min(len(shown), MOST_NAMES) + 1) / columns)
    side = 5.2
    figure = Figure(
        figsize=(side * len(panels), side * min(2.0, max(0.5, height / width)) + 1.0 + 0.25 * legend_rows),
        dpi=110,
        layout="constrained",
    )
    for axes, (title, pixels) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.imshow(pixels, interpolation="nearest")
        axes.set_title(title, fontsize=10, color=INK)
        axes.set_axis_off()
    labelled = float((made.codes != made.label.nodata).mean())
    tall, wide = made.codes.shape
    part = "" if (height, width) == (tall, wide) else f", {height} x {width} of {tall} x {wide} px"
    figure.suptitle(f"{made.name}: {100 * labelled:.1f} % of the pixels are labelled{part}", fontsize=12, color=INK)
    names = made.label.classes
    patches = [Patch(facecolor=colors[code], edgecolor=MUTED, label=names[code].replace("_", " ")) for code in shown[:MOST_NAMES]]
    if len(shown) > MOST_NAMES:
        patches.append(Patch(facecolor="none", edgecolor="none", label=f"and {len(shown) - MOST_NAMES} others"))
    patches.append(Patch(facecolor="none", edgecolor=MUTED, label=NOT_LABELLED))
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)
    return figure


def _clear_image(made: LabelMap, window: tuple[int, int, int, int], sensors: Mapping[str, Sensor]) -> ClearImage | None:
    """The image of the clearest date of the source whose pixels are most like those of the label; None where none is there."""
    scene = made.scene
    for source in _by_likeness(scene, made.grid, sensors):
        with open_reader(scene, source, sensors) as reader:
            if not len(reader.dates):
                continue
            rows, cols = _source_pixels(made.grid, window, reader.grid)
            inside = (rows >= 0) & (rows < reader.grid.height) & (cols >= 0) & (cols < reader.grid.width)
            if not inside.any():
                continue
            top, left = int(rows[inside].min()), int(cols[inside].min())
            height, width = int(rows[inside].max()) - top + 1, int(cols[inside].max()) - left + 1
            if max(height, width) > LARGEST_SOURCE_PX:
                continue
            time = _clearest(reader, (top, left, height, width), made.year)
            series = reader.read(top, left, height, width, np.array([time]))
            sensor = reader.sensor
            observed = sensor.observed(series.pixels)[0]
            bands = series.pixels[0, [sensor.bands.index(band) for band in sensor.rgb]].astype(np.float64)
            colors = np.where(observed[..., None], _stretched(bands, observed), np.nan)
            found = np.full((*rows.shape, 3), np.nan)
            found[inside] = colors[rows[inside] - top, cols[inside] - left]
            return ClearImage(colors=found, about=f"{source}, {reader.dates[time]}")
    return None


def _by_likeness(scene: Scene, grid: Grid, sensors: Mapping[str, Sensor]) -> list[str]:
    """The sources of a scene, those first whose pixels have about the size of the label's."""
    sides = pixel_sides_m(grid, np.array([grid.width / 2]), np.array([grid.height / 2])) if grid.georeferenced else np.ones(2)
    side = float(np.mean(sides))
    known = [source for source in scene.sources if source in sensors]
    return sorted(known, key=lambda source: (abs(math.log(sensors[source].gsd_m / side)), source))


def _source_pixels(grid: Grid, window: tuple[int, int, int, int], source: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Row and column in the grid of a source of each pixel of a window of the label, int (H, W); -1 without a place there."""
    row, col, height, width = window
    cols, rows = np.meshgrid(col + np.arange(width) + 0.5, row + np.arange(height) + 0.5)
    x, y = transformed(*apply(grid.transform, cols.ravel(), rows.ravel()), grid.crs, source.crs)
    at_cols, at_rows = apply(~source.transform, x, y)
    there = np.isfinite(at_cols) & np.isfinite(at_rows)
    found = [np.where(there, np.floor(np.where(there, at, 0)), -1).astype(np.int64) for at in (at_rows, at_cols)]
    return found[0].reshape(height, width), found[1].reshape(height, width)


def _clearest(reader: SeriesReader, window: tuple[int, int, int, int], year: int | None) -> int:
    """A date with the most clear pixels in the middle of a window: of a year, if given, and the middle one of several."""
    row, col, height, width = window
    tall, wide = min(height, CLEAR_PX), min(width, CLEAR_PX)
    series = reader.read(row + (height - tall) // 2, col + (width - wide) // 2, tall, wide, slice(None))
    clear = series.valid.mean(axis=(1, 2))
    of_year = reader.dates.astype("datetime64[Y]").astype(int) + 1970 == year
    if of_year.any():
        clear = np.where(of_year, clear, -1)
    best = np.flatnonzero(clear >= clear.max() - AS_CLEAR)
    return int(best[len(best) // 2])


def _stretched(bands: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Numbers (3, H, W) -> colours (H, W, 3) from 0 to 1, between percentiles of the observed pixels."""
    if not observed.any():
        return np.moveaxis(np.zeros_like(bands), 0, -1)
    low, high = np.percentile(bands[:, observed], STRETCH, axis=1)
    scaled = (bands - low[:, None, None]) / np.maximum(high - low, 1e-9)[:, None, None]
    return np.moveaxis(np.clip(scaled, 0, 1), 0, -1)
