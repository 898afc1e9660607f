"""A picture of a scene: images of both fine sensors through the year, its maps, and NDVI through the year by class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.dates import ConciseDateFormatter, MonthLocator
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from data_prep.archive.scene import Scene, load_scene
from data_prep.archive.sensor import load_sensors
from data_prep.landcover.legend import load_legend
from data_prep.readers.opening import open_reader
from data_prep.simulation.covers import COVERS, CROP_NAMES, NOT_CROPLAND

FINE_SOURCES = {"landsat": ("B04", "B05"), "sentinel2": ("B04", "B08")}  # with the bands red and near infrared
PICTURES = 4  # images of each sensor
GREY = "#d9d9d9"
WHITE_AT = 0.22  # reflectance that is shown at full brightness, unless clear ground (snow) is brighter


def write_preview(folder: Path) -> Path:
    """Write `preview.png` into the folder of a scene; returns its path."""
    scene = load_scene(folder)
    figure = Figure(figsize=(17, 14.5 if "landsat" in scene.sources else 10), layout="constrained")
    figure.suptitle(f"{scene.name} (simulated)", fontsize=16)
    fine = [source for source in FINE_SOURCES if source in scene.sources]
    rows = figure.subfigures(len(fine) + 1, 1, height_ratios=(*[1] * len(fine), 1.05), squeeze=False)[:, 0]
    for row, source in zip(rows, fine, strict=False):
        _composites(row.subplots(1, PICTURES), scene, source)
    maps, curves = rows[-1].subfigures(1, 2, width_ratios=(1.15, 1), squeeze=False)[0]
    land, labels = maps.subplots(1, 2)
    _land_cover(land, scene)
    if "landsat" in scene.sources:
        _label(labels, scene, "crop_type", "crop type, 30 m")
        _curves(curves.subplots(), scene, "landsat", "crop_type")
    elif "sentinel2" in scene.sources:
        _label(labels, scene, "lulc_10m", "land use, 10 m")
        _curves(curves.subplots(), scene, "sentinel2", "crop_type_10m")
    path = folder / "preview.png"
    figure.savefig(path, dpi=75)
    return path


def _composites(axes: np.ndarray, scene: Scene, source: str) -> None:
    """Draw the clearest image of each quarter of the year, in natural colours."""
    with open_reader(scene, source, load_sensors()) as reader:
        sensor, grid, dates = reader.sensor, reader.grid, reader.dates
        bands = [sensor.bands.index(band) for band in sensor.rgb]
        quarter = (dates.astype("datetime64[M]").astype(int) % 12) // 3
        for ax, part in zip(axes, range(PICTURES), strict=True):
            series = reader.read(0, 0, *grid.shape, np.flatnonzero(quarter == part))
            best = int(series.valid.mean(axis=(1, 2)).argmax())
            reflectance = series.pixels[best, bands].astype(np.float32) * sensor.scale
            clear = series.valid[best]
            white = np.clip(np.quantile(reflectance[:, clear], 0.98), WHITE_AT, 1.0) if clear.any() else 1.0
            picture = np.clip(np.moveaxis(reflectance, 0, -1) / white, 0, 1) ** (1 / 1.6)
            picture[(series.pixels[best] == sensor.nodata).any(axis=0)] = 0.5
            ax.imshow(picture, interpolation="nearest")
            ax.set_title(f"{sensor.title}, {series.dates[best]}", fontsize=10)
            ax.set_axis_off()


def _show_codes(ax: Axes, codes: np.ndarray, colors: dict[int, str], names: dict[int, str], title: str) -> None:
    """Draw a map of codes with a legend of the codes that occur, the most frequent first."""
    found, counts = np.unique(codes, return_counts=True)
    position = np.searchsorted(found, codes)
    ax.imshow(
        position, cmap=ListedColormap([colors.get(int(c), GREY) for c in found]), interpolation="nearest", vmax=len(found) - 1
    )
    share = {int(code): 100 * count / codes.size for code, count in zip(found, counts, strict=True)}
    entries: dict[str, tuple[str, float]] = {}
    for code, percent in share.items():
        color, before = entries.get(names[code], (colors.get(code, GREY), 0.0))
        entries[names[code]] = color, before + percent
    order = sorted(entries, key=lambda name: -entries[name][1])
    handles = [Patch(color=entries[name][0], label=f"{name} {entries[name][1]:.1f} %") for name in order]
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2, fontsize=8, frameon=False)
    ax.set_title(title, fontsize=10)
    ax.set_axis_off()


def _land_cover(ax: Axes, scene: Scene) -> None:
    assert scene.land_cover is not None
    assert scene.land_cover.rasters
    legend = load_legend(scene.land_cover.legend)
    by_class = dict(zip(legend.classes, legend.colors, strict=True))
    names = dict(zip(legend.codes, legend.groups, strict=True))
    with rasterio.open(scene.land_cover.rasters[0]) as raster:
        _show_codes(
            ax, raster.read(1), {code: by_class[name] for code, name in names.items()}, names, f"land cover, {legend.title}"
        )


def _label(ax: Axes, scene: Scene, name: str, title: str) -> None:
    """Draw a label in the colours of its raster."""
    label = scene.labels[name]
    with rasterio.open(label.path) as raster:
        table = raster.colormap(1)
        colors = {code: "#{:02x}{:02x}{:02x}".format(*table[code]) for code in label.classes}
        _show_codes(ax, raster.read(1), colors, dict(label.classes), title)


def _curves(ax: Axes, scene: Scene, source: str, label: str) -> None:
    """Draw NDVI of the clear pixels of each crop (lines) and land-cover class (dashes; with Landsat) on each date."""
    assert scene.land_cover is not None
    assert scene.land_cover.rasters
    legend = load_legend(scene.land_cover.legend)
    with (
        open_reader(scene, source, load_sensors()) as reader,
        rasterio.open(scene.labels[label].path) as crops,
        rasterio.open(scene.land_cover.rasters[0]) as land,
    ):
        series = reader.read(0, 0, *reader.grid.shape, slice(None))
        red, nir = (series.pixels[:, reader.sensor.bands.index(band)].astype(np.float32) for band in FINE_SOURCES[source])
        crop, cover = crops.read(1), land.read(1)
    ndvi = np.where(series.valid, (nir - red) / np.maximum(nir + red, 1), np.nan)
    colors = {kind.crop: kind.color for kind in reversed(COVERS)}
    classes = [(name, colors[code], crop == code, "-") for code, name in CROP_NAMES.items() if code != NOT_CROPLAND]
    groups = np.array(legend.groups)[np.searchsorted(legend.codes, cover)]
    for name, color in zip(legend.classes, legend.colors, strict=True):
        if name not in ("cropland", "snow_ice", "bare") and groups.shape == crop.shape:
            classes.append((name, color, (groups == name) & (crop == NOT_CROPLAND), "--"))
    for name, color, where, style in classes:
        enough = (series.valid & where).sum(axis=(1, 2)) >= 40
        if enough.sum() < 5:
            continue
        low, middle, high = np.nanquantile(ndvi[enough][:, where], (0.15, 0.5, 0.85), axis=1)
        ax.plot(series.dates[enough], middle, style, color=color, label=name, linewidth=1.8 if style == "-" else 1.2)
        if style == "-":
            ax.fill_between(series.dates[enough], low, high, color=color, alpha=0.10, linewidth=0)
    ax.xaxis.set_major_locator(MonthLocator())
    ax.xaxis.set_major_formatter(ConciseDateFormatter(MonthLocator()))
    ax.set_ylabel("NDVI of clear pixels: median, crops with 15 to 85 %")
    ax.set_ylim(-0.4, 1.0)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.06), frameon=False)
