"""The maps that are shown: those of a run's test scenes, or one map, with what lies beside them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio

from common.grid import Grid, raster_grid, unwrapped
from common.json_files import read_json
from common.storage import AnyPath, any_path
from data_prep.archive.scene import Scene, load_scene, scan_archive
from finetune.mapping.cog import class_names, fields_paths, probabilities_path
from finetune.model.model_file import MODEL_FILE
from finetune.run_folder import MAPS_FOLDER, RUN_FILE
from finetune.task import Task

EDGE_POINTS = 33  # along each side of a map, for its bounds in degrees


@dataclass(frozen=True, kw_only=True)
class ShownMap:
    """A map, and where the things lie that are shown with it.

    Attributes:
        name: that of the scene, or of the file.
        path: the GeoTIFF of class indices.
        grid: its grid.
        classes: names of its classes.
        colors: red, green and blue of each class, 0 to 255.
        task_name, scene_name: as the map states them; "" where it does not.
        year: year in which its season ends; None where the map does not state it.
        probabilities: the GeoTIFF of class probabilities, or None.
        fields: the GeoParquet or GeoJSON of polygons, or None.
        scene: the scene that was mapped, or None where it was not found.
        overlap: overlap of the windows that it was made with; None where it is not known.
    """

    name: str
    path: Path
    grid: Grid
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    task_name: str
    scene_name: str
    year: int | None
    probabilities: Path | None
    fields: Path | None
    scene: Scene | None = None
    overlap: float | None = None

    def bounds(self) -> tuple[float, float, float, float]:
        """South, west, north and east of the map in degrees; the east may be above 180 where it crosses the antimeridian."""
        along = np.linspace(0, 1, EDGE_POINTS)
        ends = np.zeros(EDGE_POINTS)
        rows = np.concatenate([ends, ends + 1, along, along]) * self.grid.height
        cols = np.concatenate([along, along, ends, ends + 1]) * self.grid.width
        lon, lat = self.grid.lon_lat(rows, cols)
        middle, _ = self.grid.lon_lat(np.array([self.grid.height / 2]), np.array([self.grid.width / 2]))
        lon = unwrapped(lon, middle)
        return float(lat.min()), float(lon.min()), float(lat.max()), float(lon.max())


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Everything that a web map shows.

    Attributes:
        title: heading of the page.
        maps: the maps, at least one.
        model: the folder of the run, or the file of the model, that made the maps; None where it is not known.
        notes: what is missing, and how to add it.
    """

    title: str
    maps: tuple[ShownMap, ...]
    model: Path | None
    notes: tuple[str, ...] = ()


def maps_of(
    path: Path, data: AnyPath | None = None, scene: AnyPath | None = None, model: Path | None = None, fields: Path | None = None
) -> Shown:
    """What to show of `path`, the folder of a fine-tuning run or a map of finetune/predict.py.

    Args:
        path: the folder or the GeoTIFF.
        data: the scenes of a run; None uses those that its run.json names.
        scene: the scene of a single map; None shows the map alone.
        model: the run that made a single map, whose task says what its label means.
        fields: polygons to show with a single map; None uses NAME_fields.parquet beside it.

    Raises ValueError for a path that is neither, and for options that do not belong to it.
    """
    if path.is_dir():
        given = {"--input": scene, "--model": model, "--fields": fields}
        wrong = [option for option, value in given.items() if value is not None]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} belong to a single map; {path} is the folder of a run")
        return _run_maps(path, data)
    if data is not None:
        raise ValueError(f"--data belongs to the folder of a run; {path} is a single map: give its scene as --input")
    if not path.is_file():
        raise ValueError(f"there is no run and no map at {path}: give a folder of finetune/run.py or a GeoTIFF of predict.py")
    found = _single_map(path, scene, fields)
    notes = () if scene else ("image, label and series are missing: give the scene with --input",)
    return Shown(title=f"{found.task_name or 'Map'}: {found.name}", maps=(found,), model=model, notes=notes)


def _run_maps(folder: Path, data: AnyPath | None) -> Shown:
    """The maps of the test scenes of a run."""
    if not (folder / RUN_FILE).is_file():
        raise ValueError(f"{folder} holds no run of finetune/run.py: it has no {RUN_FILE}")
    settings = read_json(folder / RUN_FILE)
    found = sorted((folder / MAPS_FOLDER).glob("*.tif"))
    beside = {probabilities_path(path) for path in found}
    paths = [path for path in found if path not in beside]
    if not paths:
        raise ValueError(
            f"{folder / MAPS_FOLDER} has no maps: the run is not finished, was made with --maps false, or its test data are "
            "samples without a place; report.html shows what there is"
        )
    known, notes = _scenes_by_name(data or any_path(str(settings["data"])))
    overlap = settings.get("overlap")
    maps = [opened_map(path, known, None, None if overlap is None else float(overlap)) for path in paths]
    lost = [shown.scene_name for shown in maps if shown.scene is None]
    if known and lost:
        notes = (*notes, f"the scenes {', '.join(lost)} are not among the data of the run any more: their maps are shown alone")
    model = folder if (folder / MODEL_FILE).is_file() else None
    return Shown(title=str(settings.get("task.title", folder.name)), maps=tuple(maps), model=model, notes=notes)


def _scenes_by_name(data: AnyPath) -> tuple[dict[str, Scene], tuple[str, ...]]:
    """The scenes of a run's data by name, and a note when they cannot be read."""
    try:
        return {scene.name: scene for scene in scan_archive(data).scenes}, ()
    except (FileNotFoundError, ValueError) as error:
        return {}, (f"image, label and series are missing: {error}; give the scenes with --data",)


def _single_map(path: Path, scene: AnyPath | None, fields: Path | None) -> ShownMap:
    """A map with its scene. Raises ValueError when it was made of another scene."""
    if fields is not None and not fields.is_file():
        raise ValueError(f"there is no file {fields}; --fields is a GeoParquet or GeoJSON of polygons")
    loaded = None if scene is None else load_scene(scene)
    found = opened_map(path, {} if loaded is None else {loaded.name: loaded}, fields, None)
    if loaded is not None and found.scene is None:
        of = found.scene_name or "that it does not name"
        raise ValueError(f"{path} is a map of scene {of}, but --input is {loaded.name}; give the scene of this map")
    return found


def opened_map(path: Path, scenes: dict[str, Scene], fields: Path | None, overlap: float | None) -> ShownMap:
    """Read what a map states of itself. Raises ValueError for a raster that is no map of finetune/predict.py."""
    try:
        with rasterio.open(path) as raster:
            names, tags = class_names(raster.tags(1)), raster.tags()
            if not names or raster.count != 1:
                raise ValueError(f"{path} does not name its classes; give a GeoTIFF that finetune/predict.py wrote")
            grid, table = raster_grid(raster, str(path)), raster.colormap(1)
    except rasterio.errors.RasterioIOError as error:
        raise ValueError(f"{path} cannot be read as a raster: {error}") from error
    if not grid.georeferenced:
        raise ValueError(f"{path} has no place on the ground, so it cannot be shown on a web map; look at its picture instead")
    if fields is None:
        fields = next((file for file in fields_paths(path) if file.is_file()), None)
    stated = probabilities_path(path)
    name = tags.get("scene", "")
    year = tags.get("year", "")
    return ShownMap(
        name=name or path.stem,
        path=path,
        grid=grid,
        classes=tuple(names),
        colors=tuple(table[index][:3] for index in range(len(names))),
        task_name=tags.get("task", ""),
        scene_name=name,
        year=int(year) if year.isdecimal() else None,
        probabilities=stated if stated.is_file() else None,
        fields=fields,
        scene=scenes.get(name),
        overlap=overlap,
    )


def check_task(shown: ShownMap, task: Task) -> None:
    """Raises ValueError unless a map has the classes of a task."""
    names = [c.name for c in task.classes]
    if list(shown.classes) != names:
        raise ValueError(
            f"{shown.path} has the classes {json.dumps(shown.classes)}, the model {json.dumps(names)}; give the model of this map"
        )
