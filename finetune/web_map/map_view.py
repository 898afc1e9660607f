"""One map in the browser: its layers, their tiles, and what is known of a pixel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import rasterio
import torch
from matplotlib.colors import to_rgb
from rasterio.windows import Window
from torch import nn

from common.grid import Grid, corner_distance_px
from data_prep.archive.scene import home_of_scenes, is_simulated
from data_prep.archive.sensor import Sensor, load_sensors
from data_prep.landcover.label_base import LabelReader
from data_prep.landcover.label_opening import grid_of_source, open_label
from data_prep.readers.base import SeriesReader
from data_prep.readers.opening import open_reader
from finetune.data.map_grid import TOLERANCE
from finetune.data.season import season_of_dates
from finetune.mapping.cog import NO_DATA, PROBABILITY_STEPS
from finetune.mapping.model_series import sensors_for_model, series_for_model
from finetune.mapping.scene import MapOptions, predict_pixel
from finetune.model.recipe import Recipe
from finetune.scoring.error_map import NOT_SCORED, outcomes
from finetune.web_map.display_rasters import NO_CLASS, clear_shares, write_errors, write_label, write_true_color
from finetune.web_map.field_shapes import FieldShapes
from finetune.web_map.pixel_series import pixel_series
from finetune.web_map.shown_map import ShownMap
from finetune.web_map.tiles import PROBABILITY_COLORS, class_png, png, probability_png, read_tile

_Value = TypeVar("_Value")
_NOTHING: list[dict[str, Any]] = []


class Missing(ValueError):
    """A layer, a tile or a place that a map does not have."""


class MapView:
    """What a web map shows of one map.

    Args:
        shown: the map.
        folder: where rasters that are made to be shown are written.
        recipe: what made the map; None where it is not known. Then there is neither label nor season.
        model: the model, to compute the probabilities of a pixel; None does not.

    One thread at a time reads from the scene.
    """

    def __init__(self, shown: ShownMap, folder: Path, recipe: Recipe | None, model: nn.Module | None) -> None:
        self.shown, self._folder = shown, folder
        self.recipe = recipe
        self._model = model
        self._lock = threading.RLock()
        self._opened = ExitStack()
        self._readers: dict[str, SeriesReader] | None = None
        self._made: dict[str, Path] = {}

    def close(self) -> None:
        """Close the files of the scene; they are opened again when they are needed."""
        with self._lock:
            self._readers = None
            self._opened.close()
            self.__dict__.pop("_model_series", None)

    # --- The scene

    @cached_property
    def _sensors(self) -> Mapping[str, Sensor]:
        assert self.shown.scene is not None, "a map without a scene has no images"
        home = home_of_scenes(self.shown.scene.folder)
        if self.recipe is None:
            return load_sensors(home / "sources")
        return sensors_for_model(self.recipe.sensors, self.recipe.task.sources, home)

    @contextmanager
    def _open_readers(self) -> Iterator[dict[str, SeriesReader]]:
        """The readers of the sources of the map, or of the scene where the sources of the map are not known."""
        scene = self.shown.scene
        with self._lock:
            if self._readers is None:
                readers: dict[str, SeriesReader] = {}
                wanted = self.recipe.task.sources if self.recipe else tuple(scene.sources if scene else ())
                for source in wanted if scene else ():
                    if scene and source in scene.sources:
                        readers[source] = self._opened.enter_context(open_reader(scene, source, self._sensors))
                self._readers = readers
            yield self._readers

    def _times(self, reader: SeriesReader) -> np.ndarray:
        """Indices of the dates of a source that lie in the season of the map; of all dates where the season is not known."""
        if self.recipe is None or self.shown.year is None:
            return np.arange(len(reader.dates))
        return season_of_dates(reader.dates, self.recipe.task, self.shown.year).times

    @cached_property
    def _images(self) -> list[dict[str, Any]]:
        """The images of the source with the finest pixels: source, date, and share of clear pixels at some places."""
        with self._open_readers() as readers:
            with_images = [reader for reader in readers.values() if len(self._times(reader))]
            if not with_images:
                return []
            reader = min(with_images, key=lambda one: one.sensor.gsd_m)
            times = self._times(reader)
            clear = clear_shares(reader, times).tolist()
            return [
                {"source": reader.sensor.name, "date": str(reader.dates[time]), "clear": round(share, 4)}
                for time, share in zip(times, clear, strict=True)
            ]

    # --- Layers

    @cached_property
    def has_label(self) -> bool:
        """Whether the scene has the label of the task."""
        return self.recipe is not None and self.shown.scene is not None and self.recipe.task.label in self.shown.scene.labels

    @cached_property
    def has_errors(self) -> bool:
        """Whether the label has the grid of the map."""
        if not self.has_label:
            return False
        with self._open_label() as label:
            same_shape = label.grid.shape == self.shown.grid.shape
            return same_shape and corner_distance_px(label.grid, self.shown.grid) <= TOLERANCE

    def _open_label(self) -> LabelReader:
        assert self.recipe is not None
        assert self.shown.scene is not None
        scene, task = self.shown.scene, self.recipe.task
        sources = [source for source in task.sources if source in scene.sources]

        def grid_of(source: str) -> Grid:
            return grid_of_source(scene, source, self._sensors)

        return open_label(scene, task.label, sources, grid_of, task.begins_in_year_before())

    def description(self) -> dict[str, Any]:
        """What the browser needs to know of the map, as plain values."""
        shown = self.shown
        south, west, north, east = shown.bounds()
        classes = [_entry(name, color) for name, color in zip(shown.classes, shown.colors, strict=True)]
        layers: list[dict[str, Any]] = []
        images, about_images = _or_reason(lambda: self._images, _NOTHING)
        has_errors, about_label = _or_reason(lambda: self.has_errors, False)
        if images:
            layers.append({"key": "image", "title": "image", "legend": []})
        if self.has_label and not about_label:
            layers.append({"key": "label", "title": "label", "legend": classes})
        layers.append({"key": "prediction", "title": "prediction", "legend": classes})
        if has_errors and self.recipe:
            legend = [{"name": outcome.name, "color": outcome.color} for outcome in outcomes(self.recipe.task)]
            layers.append({"key": "errors", "title": "errors", "legend": legend})
        if shown.probabilities:
            layers.append(
                {"key": "probability", "title": "probability", "legend": [], "ramp": [_hex(c) for c in PROBABILITY_COLORS]}
            )
        if shown.fields:
            layers.append({"key": "fields", "title": "fields", "legend": []})
        return {
            "name": shown.name,
            "task": shown.task_name,
            "year": shown.year,
            "simulated": shown.scene is not None and is_simulated(shown.scene) is True,
            "bounds": [[south, west], [north, east]],
            "classes": classes,
            "images": images,
            "layers": layers,
            "notes": [reason for reason in (about_images, about_label) if reason],
        }

    def prepare(self, layer: str, date: str) -> None:
        """Make the raster of a layer, unless it is made. Raises Missing for a layer that the map does not have."""
        self._raster(layer, date)

    def _raster(self, layer: str, date: str) -> Path:
        """The GeoTIFF of a layer."""
        shown = self.shown
        if layer == "prediction":
            return shown.path
        if layer == "probability" and shown.probabilities:
            return shown.probabilities
        with self._lock:
            if layer == "image" and shown.scene and date in (image["date"] for image in self._images):
                return self._make(f"image-{date}", lambda path: self._write_image(path, date))
            if layer == "label" and self.has_label:
                return self._make("label", self._write_label)
            if layer == "errors" and self.has_errors:
                return self._make("errors", self._write_errors)
        raise Missing(f"{shown.name} has no layer {layer} {date}".rstrip())

    def _make(self, name: str, write: Any) -> Path:
        path = self._folder / f"{name}.tif"
        if name not in self._made:
            self._folder.mkdir(parents=True, exist_ok=True)
            write(path)
            self._made[name] = path
        return path

    def _write_image(self, path: Path, date: str) -> None:
        with self._open_readers() as readers:
            reader = readers[self._images[0]["source"]]
            write_true_color(path, reader, int(np.flatnonzero(reader.dates == np.datetime64(date))[0]))

    def _write_label(self, path: Path) -> None:
        assert self.recipe is not None
        with self._open_label() as label:
            write_label(path, label, self.recipe.task, self.shown.year)

    def _write_errors(self, path: Path) -> None:
        assert self.recipe is not None
        with self._open_label() as label:
            write_errors(path, label, self.recipe.task, self.shown.year, self.shown.path)

    def tile(self, layer: str, choice: str, zoom: int, x: int, y: int) -> bytes:
        """The PNG of a tile. `choice`: the date of an image, or the index of the class of a probability.

        Raises Missing for what the map does not have.
        """
        if layer == "probability":
            band = int(choice) + 1 if choice.isdecimal() else 0
            if not 1 <= band <= len(self.shown.classes):
                raise Missing(f"{self.shown.name} has no class number {choice}")
            stored = read_tile(self._raster(layer, ""), zoom, x, y, [band], NO_DATA)[0]
            return probability_png(stored, PROBABILITY_STEPS, NO_DATA)
        path = self._raster(layer, choice)
        if layer == "image":
            return png(read_tile(path, zoom, x, y, [1, 2, 3, 4], 0).transpose(1, 2, 0))
        outside = NOT_SCORED if layer == "errors" else NO_CLASS
        colors = self._error_colors if layer == "errors" else dict(enumerate(self.shown.colors))
        return class_png(read_tile(path, zoom, x, y, [1], outside)[0], colors)

    @cached_property
    def _error_colors(self) -> dict[int, tuple[int, int, int]]:
        assert self.recipe is not None
        found = [tuple(round(255 * part) for part in to_rgb(outcome.color)) for outcome in outcomes(self.recipe.task)]
        return dict(enumerate(found))  # type: ignore[arg-type]  # three parts each

    @cached_property
    def _shapes(self) -> FieldShapes:
        if self.shown.fields is None:
            raise Missing(f"{self.shown.name} has no fields")
        return FieldShapes(self.shown.fields)

    def fields(self, west: float, south: float, east: float, north: float) -> dict[str, Any]:
        """The fields in a box of degrees, as GeoJSON. Raises Missing for a map without fields."""
        with self._lock:
            return self._shapes.inside(west, south, east, north)

    # --- A pixel

    def pixel(self, lon: float, lat: float) -> dict[str, Any]:
        """What is known of the pixel at a place in degrees, as plain values. Raises Missing outside of the map."""
        shown, grid = self.shown, self.shown.grid
        cols, rows = grid.pixels_at(np.array([lon]), np.array([lat]))
        inside = np.isfinite([*rows, *cols]).all() and 0 <= rows[0] < grid.height and 0 <= cols[0] < grid.width
        if not inside:
            raise Missing("outside of the map")
        row, col = int(rows[0]), int(cols[0])
        window = Window(col, row, 1, 1)
        with rasterio.open(shown.path) as raster:
            predicted = int(raster.read(1, window=window)[0, 0])
        with self._lock:
            has_label, _ = _or_reason(lambda: self.has_errors, False)
            label, about_label = _or_reason(lambda: self._label_at(window), None) if has_label else (None, "")
            unknown: tuple[list[float] | None, str] = None, ""
            (probabilities, origin), about = _or_reason(lambda: self._probabilities(row, col, window), unknown)
            series, about_series = _or_reason(lambda: self._series(lon, lat), _NOTHING)
        return {
            "row": row,
            "col": col,
            "prediction": None if predicted == NO_DATA else shown.classes[predicted],
            "label": label,
            "has_label": has_label,
            "about_label": about_label,
            "probabilities": probabilities,
            "probabilities_from": about or origin,
            "series": series,
            "about_series": about_series,
        }

    def _label_at(self, window: Window) -> str | None:
        """The label of the one pixel of a window; None where it is not labelled."""
        with rasterio.open(self._make("label", self._write_label)) as raster:  # features are not rasterised for each pixel
            number = int(raster.read(1, window=window)[0, 0])
        return None if number == NO_CLASS else self.shown.classes[number]

    def _series(self, lon: float, lat: float) -> list[dict[str, Any]]:
        """The series of the pixel of each source at a place."""
        with self._open_readers() as readers:
            found = [pixel_series(reader, self._times(reader), lon, lat) for reader in readers.values()]
        return [one for one in found if one is not None]

    def _probabilities(self, row: int, col: int, window: Window) -> tuple[list[float] | None, str]:
        """The probability of each class at a pixel, and where they are from; None where there are none, and why."""
        if self.shown.probabilities:
            with rasterio.open(self.shown.probabilities) as raster:
                stored = raster.read(window=window)[:, 0, 0]
            if stored[0] == NO_DATA:
                return None, "no data"
            return [int(number) / PROBABILITY_STEPS for number in stored], self.shown.probabilities.name
        if self._model is None or self.recipe is None or self.shown.scene is None or self.shown.overlap is None:
            return None, "not written: map with --probabilities"
        series = self._model_series
        if series is None:
            return None, "the images have another grid than the map"
        found = predict_pixel(
            self._model, self.recipe, series, torch.device("cpu"), row, col, MapOptions(overlap=self.shown.overlap)
        )
        return (None, "no data") if found is None else ([round(float(value), 4) for value in found], "the model")

    @cached_property
    def _model_series(self) -> Any:
        """The scene as the model reads it, open; None where it is not on the grid of the map."""
        assert self.recipe is not None
        assert self.shown.scene is not None
        series = series_for_model(self.recipe, self.shown.scene.folder, self.shown.year)
        if series.grid.shape != self.shown.grid.shape or corner_distance_px(series.grid, self.shown.grid) > TOLERANCE:
            return None
        return self._opened.enter_context(series)


def _or_reason(value: Callable[[], _Value], default: _Value) -> tuple[_Value, str]:
    """The value and "", or a default and the reason why it cannot be known: one damaged file does not hide all others."""
    try:
        return value(), ""
    except (ValueError, FileNotFoundError) as error:
        return default, str(error)


def _entry(name: str, color: tuple[int, int, int]) -> dict[str, str]:
    return {"name": name.replace("_", " "), "color": _hex(color)}


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
