"""Writes the image series of a simulated scene, each in the container of its archive."""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from common.grid import Grid
from data_prep.archive.sensor import Sensor, load_sensors
from data_prep.simulation import container_writers
from data_prep.simulation.acquisitions import Acquisition, plan_acquisitions
from data_prep.simulation.phenology import Season
from data_prep.simulation.scene_grids import mgrs_tile
from data_prep.simulation.scene_land import SceneLand
from data_prep.simulation.scene_settings import SceneSettings
from data_prep.simulation.sensor_images import Image, modis_images, optical_images
from data_prep.simulation.spectra import Spectra
from data_prep.simulation.surface import Surface
from data_prep.simulation.weather import Weather, make_weather

CLOUD_LIMIT = {"sentinel2": 0.75, "landsat": 0.80}
# Where clouds are heavy, an archive holds everything but overcast images, and those of one satellite of Sentinel-2 only.
CONTEXT_CLOUD_LIMIT = {"sentinel2": 0.97, "landsat": 0.97}
CONTEXT_REVISIT_DAYS = {"sentinel2": 10, "landsat": 16}
CONTEXT_CLEAR_DATES = 8.3  # expected in a year without clouds; shadows, thin clouds and swath edges leave about five


def write_series(settings: SceneSettings, land: SceneLand, grids: dict[str, Grid], folder: Path) -> dict[str, int]:
    """Write the series of the sources of a scene; returns the number of dates of each."""
    weather = make_weather(settings.region, settings.year, settings.seed)
    season = Season(settings.region, land.objects, weather, settings.year, settings.seed)
    sensors, counts = load_sensors(), {}
    for source in settings.sources:
        surface = Surface(land.objects, Spectra(source), settings.seed)
        if source == "modis":
            counts[source] = _write_modis(settings, land, weather, season, surface, sensors[source], grids[source], folder)
            continue
        dates = planned_dates(settings, weather, sensors[source])
        names, pixels = _names(settings), land.pixels[source]
        images = optical_images(source, settings.region, sensors[source], season, surface, pixels, dates, names)
        if source == "sentinel2":
            days = [date.day for date in dates]
            container_writers.write_zarr(folder / "sentinel2.zarr", images, days, settings.year, grids[source], sensors[source])
        else:
            _write_landsat(settings, images, grids[source], sensors[source], folder)
        counts[source] = len(dates)
    return counts


def planned_dates(settings: SceneSettings, weather: Weather, sensor: Sensor) -> list[Acquisition]:
    """The overpasses of Sentinel-2 or Landsat that the archive holds."""
    source, days = sensor.name, _days_of(settings.year)
    names = (*_names(settings), source)
    if settings.world == "plain":
        return plan_acquisitions(names, weather, round(sensor.revisit_days), CLOUD_LIMIT[source], days)
    dates = plan_acquisitions(names, weather, CONTEXT_REVISIT_DAYS[source], CONTEXT_CLOUD_LIMIT[source], days)
    return _scaled_to(CONTEXT_CLEAR_DATES, dates)


def _scaled_to(clear_dates: float, dates: list[Acquisition]) -> list[Acquisition]:
    """Acquisitions whose shares of clear sky are scaled so that they sum to `clear_dates`, as far as they stay below 1."""
    scale = clear_dates / sum(1 - date.cloud_cover for date in dates)
    return [replace(date, cloud_cover=max(0.0, 1 - scale * (1 - date.cloud_cover))) for date in dates]


def _names(settings: SceneSettings) -> tuple[object, ...]:
    """What the random numbers of the images of a scene depend on."""
    return settings.region.name, settings.year, settings.seed


def _write_landsat(settings: SceneSettings, images: Iterator[Image], grid: Grid, sensor: Sensor, folder: Path) -> None:
    longitude, corner = settings.region.longitude, grid.transform
    tile = mgrs_tile(longitude, settings.region.latitude, corner.c, corner.f)
    hour = (10.25 - longitude / 15) % 24  # 10:15 local solar time
    time = f"{int(hour):02d}{int(hour * 60 % 60):02d}{int(hour * 3600 % 60):02d}"
    container_writers.write_geotiff_scenes(folder / "landsat", images, settings.year, grid, sensor, tile, time)


def _write_modis(
    settings: SceneSettings,
    land: SceneLand,
    weather: Weather,
    season: Season,
    surface: Surface,
    sensor: Sensor,
    grid: Grid,
    folder: Path,
) -> int:
    """Write the series of MODIS; returns its number of dates."""
    days, pixels, names = _days_of(settings.year), land.pixels["modis"], _names(settings)
    images = modis_images(sensor, season, weather, surface, pixels, settings.modis_days, days, names)
    container_writers.write_hdf5(folder / "modis.h5", images, settings.year, grid, sensor)
    return len(range(0, days, settings.modis_days))


def _days_of(year: int) -> int:
    return 366 if calendar.isleap(year) else 365
