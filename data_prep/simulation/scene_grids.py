"""The pixel grids of the three sensors of a scene, and what products call its location: UTM zone and MGRS tile."""

from __future__ import annotations

from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform as reproject

from common.grid import Grid
from data_prep.simulation.scene_settings import MODIS_LANDSATS, SceneSettings

LANDSAT_M, SENTINEL2_M = 30, 10


def scene_grids(settings: SceneSettings) -> dict[str, Grid]:
    """Nested grids by source: Landsat over the region, MODIS with pixels of 16 x 16 Landsat pixels, Sentinel-2 in the centre.

    The real MODIS product has a sinusoidal grid with pixels of 463.3 m; this one is as in archives that regrid it to UTM.
    """
    region = settings.region
    crs = utm_crs(region.longitude, region.latitude)
    (easting,), (northing,) = reproject("EPSG:4326", crs, [region.longitude], [region.latitude])
    n, name = settings.landsat_px, f"EPSG:{crs.to_epsg()}"
    # The upper left corner lies on the 30 m raster. Further landscapes of a region lie to the east of the first one.
    left = LANDSAT_M * round(easting / LANDSAT_M - n / 2 + 2 * n * settings.round)
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
    """Distance from the region's corner to that of the Sentinel-2 tile: whole Landsat pixels, so that the grids share edges."""
    return LANDSAT_M * ((3 * settings.landsat_px - settings.sentinel2_px) // 6)


def utm_crs(longitude: float, latitude: float) -> CRS:
    """The WGS 84 / UTM zone of a point in degrees."""
    return CRS.from_epsg((32600 if latitude >= 0 else 32700) + int((longitude + 180) // 6) + 1)


def mgrs_tile(longitude: float, latitude: float, easting: float, northing: float) -> str:
    """Name of the 100 km square of the Military Grid Reference System, as HLS and Sentinel-2 use it: `31TFJ`."""
    zone = int((longitude + 180) // 6) + 1
    band = "CDEFGHJKLMNPQRSTUVWX"[min(int((latitude + 80) // 8), 19)]
    columns = ("ABCDEFGH", "JKLMNPQR", "STUVWXYZ")[(zone - 1) % 3]
    rows = "ABCDEFGHJKLMNPQRSTUV" if zone % 2 else "FGHJKLMNPQRSTUVABCDE"
    return f"{zone:02d}{band}{columns[int(easting // 100_000) - 1]}{rows[int(northing // 100_000) % 20]}"
