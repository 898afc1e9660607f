"""The land of a scene: its objects, and which of them fill each pixel of each sensor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from data_prep.simulation.context_landscape import ContextLandscape
from data_prep.simulation.landscape import Landscape
from data_prep.simulation.landscape_raster import rasterise
from data_prep.simulation.objects import Objects, find_objects
from data_prep.simulation.pixels import Pixels
from data_prep.simulation.randomness import SmoothNoise
from data_prep.simulation.scene_grids import LANDSAT_M, tile_margin_m
from data_prep.simulation.scene_settings import MODIS_LANDSATS, SceneSettings

LANDSCAPES = {"plain": Landscape, "context": ContextLandscape}


@dataclass(frozen=True, kw_only=True)
class SceneLand:
    """The land of a scene: its landscape, its objects, and the pixels of each source with the objects that fill them."""

    landscape: Landscape
    objects: Objects
    pixels: dict[str, Pixels]


def make_scene_land(settings: SceneSettings) -> SceneLand:
    """Rasterise the landscape on cells of 10 m for the region and of 5 m for the Sentinel-2 tile, and find its objects."""
    extent = LANDSAT_M * settings.landsat_px
    landscape = LANDSCAPES[settings.world](settings.region, extent, settings.seed)
    variation = partial(SmoothNoise, "texture", settings.region.name, settings.seed, extent=min(extent, 4096.0), octaves=4)
    texture = variation("vigour", scale=180.0), variation("brightness", scale=110.0)
    margin = tile_margin_m(settings)
    region = rasterise(landscape, 0, 0, 10, 3 * settings.landsat_px, texture)
    tile = rasterise(landscape, margin, margin, 5, 2 * settings.sentinel2_px, texture)
    objects = find_objects(landscape, [region, tile], settings.year, settings.seed)
    pixels = {
        "landsat": Pixels(region, objects, 3),
        "modis": Pixels(region, objects, 3 * MODIS_LANDSATS),
        "sentinel2": Pixels(tile, objects, 2),
    }
    return SceneLand(landscape=landscape, objects=objects, pixels=pixels)
