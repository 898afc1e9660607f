"""Whether the grid that a file states can be that of a sensor."""

from __future__ import annotations

from functools import lru_cache

from common.grid import LARGEST_FACTOR, Grid, grid_summary
from data_prep.archive.sensor import Sensor

METRES_PER_DEGREE = 111_320.0  # along a meridian, and along the equator


def check_pixel_size(grid: Grid, sensor: Sensor, origin: str) -> None:
    """Raises ValueError when pixels differ so much from the sensor's in size that the unit or the order of numbers is wrong.

    A grid without a place on the globe is not checked.
    """
    if not grid.georeferenced:
        return
    side_m = abs(grid.transform.determinant) ** 0.5 * _metres_per_unit(grid.crs)
    if not 1 / LARGEST_FACTOR <= side_m / sensor.gsd_m <= LARGEST_FACTOR:
        raise ValueError(
            f"{origin}: its grid, {grid_summary(grid)}, has pixels of {side_m:.3g} m, but those of source {sensor.name} are of "
            f"{sensor.gsd_m:g} m; correct the transform, the coordinates or the coordinate reference system, which may have "
            "another unit"
        )


@lru_cache(maxsize=64)
def _metres_per_unit(crs: str) -> float:
    from rasterio.crs import CRS

    parsed = CRS.from_user_input(crs)
    return METRES_PER_DEGREE if parsed.is_geographic else float(parsed.linear_units_factor[1])
