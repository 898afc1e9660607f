"""A contact sheet: the year of some samples in colour composites, with their land-cover fractions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from common.plot_style import INK, MUTED
from common.storage import any_path
from data_prep.archive.sensor import Sensor
from data_prep.corpus.dataset import Corpus
from data_prep.landcover.legend import Legend
from data_prep.shards.shard_index import SampleEntry, read_array, read_index, sample_entries

Item = TypeVar("Item")

TILE_PX = 128  # side of a frame in the figure
GAP_PX = 8  # between frames
STRETCH = (1, 90)  # percentiles of clear observations drawn as black and white: snow may saturate, fields must not be dark
NOT_OBSERVED = 0.86  # grey level
SHOWN_CLASSES = 4  # classes with the largest fractions


def contact_sheet(corpus: Corpus, chosen: Mapping[str, Sequence[SampleEntry]], frames: int) -> Figure:
    """Draw a heading per source and a row per sample: frames in the order of time, and the land-cover fractions as bars.

    Args:
        corpus: the corpus.
        chosen: samples by source.
        frames: largest number of frames of a sample.
    """
    rows: list[Sensor | SampleEntry] = []
    for source, entries in chosen.items():
        rows += [corpus.sensors[source], *entries]  # a sensor stands for the heading of its samples
    ratios = [0.34 if isinstance(row, Sensor) else 1.0 for row in rows]
    width, height = 1.02 * frames + 3.8, 1.3 * sum(ratios) + 0.75
    figure = Figure(figsize=(width, height), facecolor="white")
    grid = figure.add_gridspec(len(rows), 2, height_ratios=ratios, width_ratios=[1.02 * frames, 2.8], hspace=0.02, wspace=0.04)
    grid.update(left=0.6 / width, right=1 - 0.25 / width, top=1 - 0.1 / height, bottom=0.7 / height)
    for number, row in enumerate(rows):
        left, right = figure.add_subplot(grid[number, 0]), figure.add_subplot(grid[number, 1])
        left.set_axis_off()
        right.set_axis_off()
        if isinstance(row, Sensor):
            _draw_heading(left, row, corpus.shapes[row.name][-1])
            legend = corpus.legends[chosen[row.name][0].legend]
            right.text(0, 0.3, legend.title, fontsize=8.5, color=MUTED, va="baseline")
        else:
            sensor = corpus.sensors[row.key.split("-", 1)[0]]
            _draw_strip(left, row, sensor, frames)
            _draw_fractions(right, row, corpus.legends[row.legend])
    _draw_legend(figure, [corpus.legends[entry.legend] for entries in chosen.values() for entry in entries], height)
    return figure


def _draw_heading(axes: Axes, sensor: Sensor, size_px: int) -> None:
    side = size_px * sensor.gsd_m
    shown = f"{side / 1000:.1f} km" if side >= 1000 else f"{side:.0f} m"
    axes.text(0, 0.3, sensor.title, fontsize=12, fontweight="bold", color=INK, va="baseline")
    description = f"{', '.join(sensor.rgb)} as red, green, blue; {shown} wide"
    axes.text(1, 0.3, description, fontsize=8.5, color=MUTED, va="baseline", ha="right")


def _draw_strip(axes: Axes, entry: SampleEntry, sensor: Sensor, frames: int) -> None:
    """Draw the clearest frames of a sample side by side, with their dates, scene and year."""
    pixels, valid, days = (read_array(entry, name) for name in ("pixels.npy", "valid.npy", "dates.npy"))
    times = clearest_frames(valid, frames)
    bands = [sensor.bands.index(band) for band in sensor.rgb]
    rgb = stretched(pixels[:, bands], valid, pixels[times][:, bands])
    observed = (pixels[times] != sensor.nodata).all(axis=1)
    side = max(1, round(TILE_PX / rgb.shape[1]))  # an integer, so that all pixels are drawn with the same size
    tiles = [veiled(image, clear, seen, side) for image, clear, seen in zip(rgb, valid[times], observed, strict=True)]
    height, width = tiles[0].shape[:2]
    strip = np.ones((height, frames * (width + GAP_PX) - GAP_PX, 3))
    for position, tile in enumerate(tiles):
        strip[:, position * (width + GAP_PX) : position * (width + GAP_PX) + width] = tile
    axes.imshow(strip, interpolation="nearest")
    dates = days[times].astype("datetime64[D]").tolist()
    for position, date in enumerate(dates):
        middle = position * (width + GAP_PX) + width / 2
        axes.text(middle, height * 1.03, f"{date.day} {date:%b}", fontsize=7.5, color=MUTED, ha="center", va="top")
    scene, year, *_ = entry.key.split("-", 1)[1].rsplit("-", 3)  # followed by row and column
    label = scene if year in scene else f"{scene} {year}"
    axes.text(-GAP_PX, height / 2, label, fontsize=8, color=INK, rotation=90, ha="right", va="center")
    axes.set_ylim(height * 1.2, -0.5)


def _draw_fractions(axes: Axes, entry: SampleEntry, legend: Legend) -> None:
    """Draw the largest land-cover fractions of a sample as bars."""
    fractions = legend.fractions(np.array(entry.land_cover))
    order = np.argsort(-fractions, kind="stable")[:SHOWN_CLASSES]
    for position, label in enumerate(order):
        if fractions[label] == 0:
            continue
        axes.barh(position, 1, height=0.74, color="#f1f1f1")
        axes.barh(position, fractions[label], height=0.74, color=legend.colors[label], edgecolor="#8a8a8a", linewidth=0.5)
        axes.text(1.03, position, f"{fractions[label]:.1%}", fontsize=7.5, color=INK, va="center")
        axes.text(0.02, position, legend.classes[label].replace("_", " "), fontsize=7.5, color=INK, va="center")
    axes.set_xlim(0, 1.3)
    axes.set_ylim(4.35, -0.55)


def _draw_legend(figure: Figure, legends: list[Legend], height: float) -> None:
    """Draw the figure's legend: classes of all land-cover legends, and the marks of frames."""
    patches: dict[tuple[str, str], Patch] = {}
    for legend in legends:
        for name, color in zip(legend.classes, legend.colors, strict=True):
            patches.setdefault((name, color), Patch(facecolor=color, edgecolor="#8a8a8a", label=name.replace("_", " ")))
    veil = Patch(facecolor="#dddddd", edgecolor="#9a9a9a", hatch="////", label="cloud, shadow or other not clear")
    nothing = Patch(facecolor=str(NOT_OBSERVED), edgecolor="#9a9a9a", label="not observed")
    handles = [*patches.values(), veil, nothing]
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.06 / height),
        ncols=min(7, len(handles)),
        fontsize=8,
        frameon=False,
    )


def clearest_frames(valid: np.ndarray, frames: int) -> np.ndarray:
    """Return the indices of the frames that a contact sheet shows: the clearest in each of at most `frames` equal parts of T.

    valid: bool (T, H, W). The indices ascend.
    """
    share = valid.mean(axis=(1, 2))
    edges = np.linspace(0, len(valid), min(frames, len(valid)) + 1).astype(int)
    return np.array([low + int(np.argmax(share[low:high])) for low, high in pairwise(edges)])


def stretched(all_rgb: np.ndarray, valid: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Stretch digital numbers `shown` (T, 3, H, W) to colours from 0 to 1, (T, H, W, 3).

    The limits are percentiles of the clear observations of the whole year (`all_rgb` and `valid`), the same for all frames, so
    that they can be compared, and for the three bands, so that hues are kept: soils stay brown.
    """
    clear = np.moveaxis(all_rgb, 1, -1)[valid]
    by_band = np.percentile(clear, STRETCH, axis=0) if len(clear) else np.array([[0, 0, 0], [1, 1, 1]])
    low, high = by_band[0].min(), by_band[1].max()
    scaled: np.ndarray = np.clip((np.moveaxis(shown, 1, -1) - low) / max(high - low, 1), 0, 1)
    return scaled


def veiled(image: np.ndarray, clear: np.ndarray, observed: np.ndarray, side: int) -> np.ndarray:
    """Enlarge a frame (H, W, 3) `side` times; hatch pixels that are not `clear` and grey out pixels that are not `observed`.

    clear, observed: bool (H, W).
    """
    image, clear, observed = (array.repeat(side, axis=0).repeat(side, axis=1) for array in (image, clear, observed))
    row, column = np.indices(clear.shape)
    hatched = ~clear & ((row + column) % 10 < 2)
    image = np.where(clear[..., None], image, 0.55 * image + 0.45 * NOT_OBSERVED)
    image[hatched] = 0.6
    image[~observed] = NOT_OBSERVED
    return image


def evenly_spread_samples(corpus: Corpus, source: str, split: str, count: int) -> list[SampleEntry]:
    """Choose at most `count` samples of a source and split, spread over its shards; read no more shard indexes than needed."""
    some = _spread([shard for shard in corpus.shards_of(source, split) if shard.samples], count)
    parts = np.diff(np.linspace(0, count, len(some) + 1).astype(int)).tolist()
    entries = [
        _spread(sample_entries(read_index(shard.index), any_path(corpus.folder)), part)
        for shard, part in zip(some, parts, strict=True)
    ]
    return [entry for of_shard in entries for entry in of_shard]


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """Choose at most `count` items at equal distances, from the first to the last."""
    return [items[i] for i in sorted(set(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)))]
