"""Writes one simulated scene: a region in a year, as a folder with image series, land cover, labels and scene.yaml."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from common.atomic_files import sync
from data_prep.archive.scene import SCENE_FILE, SIMULATION_RECORD, SPLITS
from data_prep.simulation.context_labels import write_context_labels
from data_prep.simulation.covers import COVERS
from data_prep.simulation.label_maps import write_labels
from data_prep.simulation.land_cover_map import write_land_cover
from data_prep.simulation.scene_grids import scene_grids
from data_prep.simulation.scene_land import make_scene_land
from data_prep.simulation.scene_series import write_series
from data_prep.simulation.scene_settings import SceneSettings
from data_prep.simulation.sensor_images import SENTINEL2_ADD

SUMMARY = "summary.json"  # its row in the table of scenes
LATER_SETTINGS = ("world", "sources", "split", "map_errors")
VERSION = 3  # raise it when the same settings give other bytes
_CONTAINERS = {
    "sentinel2": {"container": "zarr_cube", "path": "sentinel2.zarr", "offset": -SENTINEL2_ADD},
    "landsat": {"container": "geotiff_scenes", "path": "landsat"},
    "modis": {"container": "hdf5_cube", "path": "modis.h5"},
}


def is_finished(folder: Path, settings: SceneSettings) -> bool:
    """True when the scene exists already. Raises ValueError when a scene of that name was made with other settings."""
    if not folder.exists():
        return False
    record = folder / SIMULATION_RECORD
    found = json.loads(record.read_text()) if record.is_file() else None
    expected = _record(settings)
    if found != expected:
        differs = sorted(k for k in expected if not isinstance(found, dict) or found.get(k) != expected[k])
        raise ValueError(
            f"{folder} exists with other settings ({', '.join(differs)} differ); choose another output folder or delete it"
        )
    return True


def write_scene_folder(settings: SceneSettings, output: Path) -> dict[str, Any]:
    """Write the folder `output`/NAME of a simulated scene, first under a temporary name; return its row of the table."""
    target = output / settings.name
    if is_finished(target, settings):
        return json.loads((target / SUMMARY).read_text())
    unfinished = output / f".{settings.name}.partial"
    if unfinished.exists():  # left by an interrupted run
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    summary = _write_scene(settings, unfinished)
    (unfinished / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n")
    (unfinished / SIMULATION_RECORD).write_text(json.dumps(_record(settings), indent=1) + "\n")
    for path in sorted(unfinished.rglob("*")):
        if path.is_file():
            sync(path)
    os.rename(unfinished, target)
    sync(output)
    return summary


def _record(settings: SceneSettings) -> dict[str, Any]:
    """The content of simulation.json, where the location is called `place`. Later settings are left out at their default."""
    values = asdict(settings)
    later = {field.name: field.default for field in fields(settings) if field.name in LATER_SETTINGS}
    values = {name: value for name, value in values.items() if name not in later or getattr(settings, name) != later[name]}
    return json.loads(json.dumps({"place": values.pop("location"), **values, "version": VERSION}))


def _write_scene(settings: SceneSettings, folder: Path) -> dict[str, Any]:
    """Write all files of a scene; returns its row in the table of scenes."""
    grids, land = scene_grids(settings), make_scene_land(settings)
    dates = write_series(settings, land, grids, folder)
    write_land_cover(land, settings.map_errors, settings.seed, grids["landsat"], folder)
    write = write_labels if settings.world == "plain" else write_context_labels
    labels = write(land.objects, land.pixels, {source: grids[source] for source in settings.sources}, folder)
    (folder / SCENE_FILE).write_text(yaml.safe_dump(_scene_values(settings, labels), sort_keys=False))
    crops = np.array([cover.crop for cover in COVERS])[land.objects.cover]
    rice = float((land.pixels["landsat"].majority(crops.astype(np.uint8)) == 1).mean())
    return {
        "scene": settings.name,
        "split": settings.region.split,
        "crs": grids["landsat"].crs,
        **{f"{source} dates": count for source, count in dates.items()},
        "fields": int(land.objects.parcel.max(initial=0)),
        "rice %": round(100 * rice, 1),
    }


def _scene_values(settings: SceneSettings, labels: dict[str, Any]) -> dict[str, Any]:
    """The content of scene.yaml."""
    assert settings.region.split in SPLITS
    return {
        "name": settings.name,
        "region": settings.region.name,
        "split": settings.region.split,
        "sources": {source: _CONTAINERS[source] for source in settings.sources},
        "land_cover": {"raster": "landcover.tif", "legend": "glc_fcs30d"},
        "labels": labels,
    }
