"""The land-cover map of a scene, which pretraining learns from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.grid import Grid
from data_prep.landcover.legend import load_legend
from data_prep.simulation.container_writers import write_raster
from data_prep.simulation.covers import COVERS
from data_prep.simulation.landscape import Kind
from data_prep.simulation.map_errors import MapErrors
from data_prep.simulation.objects import Objects, whole_key
from data_prep.simulation.scene_land import SceneLand

# Kinds whose class in the map is not that of what covers them.
_GLC = {
    Kind.MARGIN: 10,  # a map of 30 m does not resolve the narrow strips between fields: they have the class of the fields
    Kind.STRIP: 20,
    Kind.PIVOT: 20,
    Kind.ORCHARD: 12,
    Kind.PLANTATION: 62,
    Kind.FOREST: 62,
    Kind.OPEN_WOODLAND: 61,
    Kind.GREENHOUSE: 11,
    Kind.BUILDINGS: 190,
    Kind.FISH_POND: 210,
    Kind.STILL_WATER: 210,
}


def write_land_cover(land: SceneLand, errors: MapErrors | None, seed: int, grid: Grid, folder: Path) -> None:
    """Write `landcover.tif` on the grid of Landsat, codes of GLC_FCS30D, with `errors`."""
    legend = load_legend("glc_fcs30d")
    group_colors = dict(zip(legend.classes, legend.colors, strict=True))
    cover_colors = {code: group_colors[group] for code, group in zip(legend.codes, legend.groups, strict=True)}
    codes = land_cover_codes(land.objects)
    if errors is not None:
        codes = errors.confused(codes, whole_key(land.objects.key), seed)
    cover = land.pixels["landsat"].majority(codes)
    if errors is not None:
        cover = errors.without_small_areas(cover)
    write_raster(folder / "landcover.tif", cover, grid, legend.fill[0], cover_colors)


def land_cover_codes(objects: Objects) -> np.ndarray:
    """The true code of GLC_FCS30D of each object, uint8 (N,)."""
    codes = np.array([cover.glc for cover in COVERS], dtype=np.uint8)[objects.cover]
    for kind, code in _GLC.items():
        codes[objects.kind == kind] = code
    return codes
