"""Writes one simulated scene: a region in a year, as a folder with image series, land cover, labels and scene.yaml."""

from __future__ import annotations

import calendar
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from common.atomic_files import sync
from common.grid import Grid
from data_prep.archive.scene import SCENE_FILE, SPLITS
from data_prep.archive.sensor import Sensor, load_sensors
from data_prep.simulation import container_writers
from data_prep.simulation.acquisitions import Acquisition, plan_acquisitions
from data_prep.simulation.covers import COVERS
from data_prep.simulation.label_maps import write_maps
from data_prep.simulation.phenology import Season
from data_prep.simulation.scene_grids import mgrs_tile, scene_grids
from data_prep.simulation.scene_land import SceneLand, make_scene_land
from data_prep.simulation.scene_settings import SceneSettings
from data_prep.simulation.sensor_images import SENTINEL2_ADD, modis_images, optical_images
from data_prep.simulation.spectra import Spectra
from data_prep.simulation.surface import Surface
from data_prep.simulation.weather import make_weather

RECORD = "simulation.json"  # the settings that a finished scene was made with
SUMMARY = "summary.json"  # its row in the table of scenes
VERSION = 3  # raise it when the same settings give other bytes
CLOUD_LIMIT = {"sentinel2": 0.75, "landsat": 0.80}


def is_finished(folder: Path, settings: SceneSettings) -> bool:
    """True when the scene exists already. Raises ValueError when a scene of that name was made with other settings."""
    if not folder.exists():
        return False
    record = folder / RECORD
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
    (unfinished / RECORD).write_text(json.dumps(_record(settings), indent=1) + "\n")
    for path in sorted(unfinished.rglob("*")):
        if path.is_file():
            sync(path)
    os.rename(unfinished, target)
    sync(output)
    return summary


def _record(settings: SceneSettings) -> dict[str, Any]:
    """The content of simulation.json, where the location is called `place`."""
    values = asdict(settings)
    return {"place": values.pop("location"), **values, "version": VERSION}


def _write_scene(settings: SceneSettings, folder: Path) -> dict[str, Any]:
    """Write all files of a scene; returns its row in the table of scenes."""
    sensors, grids = load_sensors(), scene_grids(settings)
    land = make_scene_land(settings)
    dates = _write_series(settings, land, sensors, grids, folder)
    labels = write_maps(land.objects, land.pixels, grids, folder)
    (folder / SCENE_FILE).write_text(yaml.safe_dump(_scene_values(settings, labels), sort_keys=False))
    crops = np.array([cover.crop for cover in COVERS])[land.objects.cover]
    rice = float((land.pixels["landsat"].majority(crops.astype(np.uint8)) == 1).mean())
    return {
        "scene": settings.name,
        "split": settings.region.split,
        "crs": grids["landsat"].crs,
        "sentinel2 dates": len(dates["sentinel2"]),
        "landsat dates": len(dates["landsat"]),
        "modis dates": len(range(0, _days_of(settings.year), settings.modis_days)),
        "fields": int(land.objects.parcel.astype(bool).sum()),
        "rice %": round(100 * rice, 1),
    }


def _write_series(
    settings: SceneSettings, land: SceneLand, sensors: dict[str, Sensor], grids: dict[str, Grid], folder: Path
) -> dict[str, list[Acquisition]]:
    """Write the image series of all sensors; returns the acquisitions of Sentinel-2 and Landsat."""
    region, year, days = settings.region, settings.year, _days_of(settings.year)
    names = (region.name, year, settings.seed)
    weather = make_weather(region, year, settings.seed)
    season = Season(region, land.objects, weather, year, settings.seed)
    surface = {source: Surface(land.objects, Spectra(source), settings.seed) for source in land.pixels}
    dates = {
        source: plan_acquisitions((*names, source), weather, round(sensors[source].revisit_days), CLOUD_LIMIT[source], days)
        for source in ("sentinel2", "landsat")
    }
    images = {
        source: optical_images(
            source, region, sensors[source], season, surface[source], land.pixels[source], dates[source], names
        )
        for source in dates
    }
    container_writers.write_zarr(
        folder / "sentinel2.zarr",
        images["sentinel2"],
        [date.day for date in dates["sentinel2"]],
        year,
        grids["sentinel2"],
        sensors["sentinel2"],
    )
    corner = grids["landsat"].transform
    tile = mgrs_tile(region.longitude, region.latitude, corner.c, corner.f)
    hour = (10.25 - region.longitude / 15) % 24  # 10:15 local solar time
    time = f"{int(hour):02d}{int(hour * 60 % 60):02d}{int(hour * 3600 % 60):02d}"
    container_writers.write_geotiff_scenes(
        folder / "landsat", images["landsat"], year, grids["landsat"], sensors["landsat"], tile, time
    )
    modis = modis_images(
        sensors["modis"], season, weather, surface["modis"], land.pixels["modis"], settings.modis_days, days, names
    )
    container_writers.write_hdf5(folder / "modis.h5", modis, year, grids["modis"], sensors["modis"])
    return dates


def _scene_values(settings: SceneSettings, labels: dict[str, Any]) -> dict[str, Any]:
    """The content of scene.yaml."""
    assert settings.region.split in SPLITS
    return {
        "name": settings.name,
        "region": settings.region.name,
        "split": settings.region.split,
        "sources": {
            "sentinel2": {"container": "zarr_cube", "path": "sentinel2.zarr", "offset": -SENTINEL2_ADD},
            "landsat": {"container": "geotiff_scenes", "path": "landsat"},
            "modis": {"container": "hdf5_cube", "path": "modis.h5"},
        },
        "land_cover": {"raster": "landcover.tif", "legend": "glc_fcs30d"},
        "labels": labels,
    }


def _days_of(year: int) -> int:
    return 366 if calendar.isleap(year) else 365
