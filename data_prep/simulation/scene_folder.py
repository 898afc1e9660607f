"""One simulated scene: a region in a year, as a folder that holds what archives hold, with labels and scene.yaml."""

from __future__ import annotations

import calendar
import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from affine import Affine
from rasterio.warp import transform as reproject

from common.atomic_files import sync
from common.grid import Grid
from data_prep.archive.scene import SCENE_FILE, SPLITS
from data_prep.archive.sensor import load_sensors
from data_prep.simulation import archives
from data_prep.simulation.covers import COVERS
from data_prep.simulation.label_maps import write_maps
from data_prep.simulation.landscape import Landscape
from data_prep.simulation.observation import plan_acquisitions
from data_prep.simulation.phenology import Season, make_weather
from data_prep.simulation.randomness import SmoothNoise
from data_prep.simulation.regions import REGIONS, Region
from data_prep.simulation.sources import SENTINEL2_ADD, modis_images, optical_images
from data_prep.simulation.spectra import Spectra
from data_prep.simulation.surface import Objects, Pixels, Surface, find_objects, rasterise

RECORD = "simulation.json"  # the settings a finished scene was made with
VERSION = 3  # raise it when the same settings give other bytes
LANDSAT_M, SENTINEL2_M = 30, 10
MODIS_LANDSATS = 16  # a MODIS pixel is 16 x 16 Landsat pixels: 480 m
CLOUD_LIMIT = {"sentinel2": 0.75, "landsat": 0.80}


@dataclass(frozen=True, kw_only=True)
class SceneSettings:
    """What a scene depends on, and nothing else.

    Attributes:
        place: 0, 1, ... in the endless list of regions: beyond the last they come again with other landscapes.
        year: calendar year of the images.
        seed: of everything random.
        landsat_px: side of the region in Landsat pixels, a multiple of 16 (one MODIS pixel).
        sentinel2_px: side of the Sentinel-2 tile in its centre in pixels of 10 m, a multiple of 6.
        modis_days: days between MODIS composites.
    """

    place: int
    year: int
    seed: int = 0
    landsat_px: int = 384
    sentinel2_px: int = 384
    modis_days: int = 4

    def __post_init__(self) -> None:
        if self.landsat_px < 32 or self.landsat_px % MODIS_LANDSATS:
            raise ValueError(f"landsat_px is {self.landsat_px}; expected a multiple of {MODIS_LANDSATS}, at least 32")
        if self.sentinel2_px < 12 or self.sentinel2_px % 6 or self.sentinel2_px > 3 * self.landsat_px:
            raise ValueError(
                f"sentinel2_px is {self.sentinel2_px}; expected a multiple of 6 from 12 to 3 x landsat_px = {3 * self.landsat_px}"
            )
        if self.modis_days < 1:
            raise ValueError(f"modis_days is {self.modis_days}; expected at least 1")
        if not 1985 <= self.year <= 2100:
            raise ValueError(f"year is {self.year}; expected a year from 1985 to 2100")

    @property
    def region(self) -> Region:
        """The region at `place`; later rounds have a number in their names and are for training."""
        round_, index = divmod(self.place, len(REGIONS))
        region = REGIONS[index]
        return replace(region, name=f"{region.name}{round_ + 1}", split="train") if round_ else region

    @property
    def name(self) -> str:
        return f"{self.region.name}_{self.year}"


def is_finished(folder: Path, settings: SceneSettings) -> bool:
    """Whether the scene is there already. Raises ValueError when one of that name was made with other settings."""
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


def simulate_scene(settings: SceneSettings, output: Path) -> dict[str, Any]:
    """Write the scene as `output`/NAME, under a temporary name first; returns a row for the table of scenes."""
    target = output / settings.name
    if is_finished(target, settings):
        return json.loads((target / "summary.json").read_text())
    unfinished = output / f".{settings.name}.partial"
    if unfinished.exists():  # what an interrupted run left
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    summary = _write(settings, unfinished)
    (unfinished / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    (unfinished / RECORD).write_text(json.dumps(_record(settings), indent=1) + "\n")
    for path in sorted(unfinished.rglob("*")):
        if path.is_file():
            sync(path)
    os.rename(unfinished, target)
    sync(output)
    return summary


def _record(settings: SceneSettings) -> dict[str, Any]:
    return asdict(settings) | {"version": VERSION}


def grids(settings: SceneSettings) -> dict[str, Grid]:
    """Grids that nest: Landsat over the region, MODIS of 16 x 16 Landsat pixels, Sentinel-2 in the centre.

    The real MODIS product lies on a sinusoidal grid of 463.3 m; here it is as archives give it when regridded to UTM.
    """
    region = settings.region
    crs = archives.utm_crs(region.longitude, region.latitude)
    (easting,), (northing,) = reproject("EPSG:4326", crs, [region.longitude], [region.latitude])
    n, name = settings.landsat_px, f"EPSG:{crs.to_epsg()}"
    # Upper left corner on the 30 m raster; rounds of the same region lie beside each other.
    left = LANDSAT_M * round(easting / LANDSAT_M - n / 2 + 2 * n * (settings.place // len(REGIONS)))
    top = LANDSAT_M * round(northing / LANDSAT_M + n / 2)

    def grid(x: float, y: float, pixel_m: float, side: int) -> Grid:
        return Grid(crs=name, transform=Affine(pixel_m, 0, x, 0, -pixel_m, y), height=side, width=side)

    margin = tile_margin_m(settings)
    return {
        "landsat": grid(left, top, LANDSAT_M, n),
        "modis": grid(left, top, LANDSAT_M * MODIS_LANDSATS, n // MODIS_LANDSATS),
        "sentinel2": grid(left + margin, top - margin, SENTINEL2_M, settings.sentinel2_px),
    }


def tile_margin_m(settings: SceneSettings) -> int:
    """From the region's corner to the Sentinel-2 tile's, in whole Landsat pixels so that the grids share edges."""
    return LANDSAT_M * ((3 * settings.landsat_px - settings.sentinel2_px) // 6)


@dataclass(frozen=True, kw_only=True)
class Place:
    """The land of a scene: its objects and which of them fill each pixel of each source."""

    landscape: Landscape
    objects: Objects
    pixels: dict[str, Pixels]


def make_place(settings: SceneSettings) -> Place:
    """Rasterise the landscape on cells of 10 m for the region and of 5 m for the Sentinel-2 tile, and find its objects."""
    extent = LANDSAT_M * settings.landsat_px
    landscape = Landscape(settings.region, extent, settings.seed)
    variation = partial(SmoothNoise, "texture", settings.region.name, settings.seed, extent=min(extent, 4096.0), octaves=4)
    texture = variation("vigour", scale=180.0), variation("brightness", scale=110.0)
    margin = tile_margin_m(settings)
    whole = rasterise(landscape, 0, 0, 10, 3 * settings.landsat_px, texture)
    tile = rasterise(landscape, margin, margin, 5, 2 * settings.sentinel2_px, texture)
    objects = find_objects(landscape, [whole, tile], settings.year, settings.seed)
    pixels = {
        "landsat": Pixels(whole, objects, 3),
        "modis": Pixels(whole, objects, 3 * MODIS_LANDSATS),
        "sentinel2": Pixels(tile, objects, 2),
    }
    return Place(landscape=landscape, objects=objects, pixels=pixels)


def _write(settings: SceneSettings, folder: Path) -> dict[str, Any]:
    region, year = settings.region, settings.year
    names = (region.name, year, settings.seed)
    days = 366 if calendar.isleap(year) else 365
    sensors, grid = load_sensors(), grids(settings)
    place = make_place(settings)
    weather = make_weather(region, year, settings.seed)
    season = Season(region, place.objects, weather, year, settings.seed)
    surface = {source: Surface(place.objects, Spectra(source), settings.seed) for source in place.pixels}

    dates = {
        source: plan_acquisitions((*names, source), weather, round(sensors[source].revisit_days), CLOUD_LIMIT[source], days)
        for source in ("sentinel2", "landsat")
    }
    images = {
        source: optical_images(
            source, region, sensors[source], season, surface[source], place.pixels[source], dates[source], names
        )
        for source in dates
    }
    archives.write_zarr(
        folder / "sentinel2.zarr",
        images["sentinel2"],
        [date.day for date in dates["sentinel2"]],
        year,
        grid["sentinel2"],
        sensors["sentinel2"],
    )
    corner = grid["landsat"].transform
    tile = archives.mgrs_tile(region.longitude, region.latitude, corner.c, corner.f)
    hour = (10.25 - region.longitude / 15) % 24  # 10:15 local solar time
    time = f"{int(hour):02d}{int(hour * 60 % 60):02d}{int(hour * 3600 % 60):02d}"
    archives.write_geotiff_scenes(folder / "landsat", images["landsat"], year, grid["landsat"], sensors["landsat"], tile, time)
    modis = modis_images(
        sensors["modis"], season, weather, surface["modis"], place.pixels["modis"], settings.modis_days, days, names
    )
    archives.write_hdf5(folder / "modis.h5", modis, year, grid["modis"], sensors["modis"])
    labels = write_maps(place.objects, place.pixels, grid, folder)
    description = {
        "name": settings.name,
        "region": region.name,
        "split": region.split,
        "sources": {
            "sentinel2": {"container": "zarr_cube", "path": "sentinel2.zarr", "offset": -SENTINEL2_ADD},
            "landsat": {"container": "geotiff_scenes", "path": "landsat"},
            "modis": {"container": "hdf5_cube", "path": "modis.h5"},
        },
        "land_cover": {"raster": "landcover.tif", "legend": "glc_fcs30d"},
        "labels": labels,
    }
    assert region.split in SPLITS
    (folder / SCENE_FILE).write_text(yaml.safe_dump(description, sort_keys=False))
    crops = np.array([cover.crop for cover in COVERS])[place.objects.cover]
    rice = float((place.pixels["landsat"].majority(crops.astype(np.uint8)) == 1).mean())
    return {
        "scene": settings.name,
        "split": region.split,
        "crs": grid["landsat"].crs,
        "sentinel2 dates": len(dates["sentinel2"]),
        "landsat dates": len(dates["landsat"]),
        "modis dates": len(range(0, days, settings.modis_days)),
        "fields": int(place.objects.parcel.astype(bool).sum()),
        "rice %": round(100 * rice, 1),
    }
