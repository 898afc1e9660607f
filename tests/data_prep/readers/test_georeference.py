"""Transforms in another order, coordinates that contradict them, and pixels of another unit, in all containers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from affine import Affine

from common.grid import check_centres, grid_from_transform
from data_prep.readers.georeference import check_pixel_size
from data_prep.readers.opening import open_reader
from tests.support.archives import STRUCT_METADATA, mcd43a4_name, write_mcd43a4
from tests.support.containers import X, Y, write_hls, write_sample, write_stacked, write_zarr
from tests.support.series import CRS, DATES, HEIGHT, SENSORS, TRANSFORM, WIDTH, numbers, scene, write_raster

pytestmark = pytest.mark.filterwarnings("ignore")  # zarr: strings have no version 3 specification yet
SHAPE = HEIGHT, WIDTH
SINUSOIDAL = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"
PLACES = [
    (CRS, Affine(10, 0, 600_000, 0, -10, 4_300_020)),
    (CRS, Affine(30, 0, 166_020, 0, -30, 10_020)),
    (CRS, TRANSFORM @ Affine.rotation(30)),
    (SINUSOIDAL, Affine(463.3127, 0, -20_015_109, 0, -463.3127, 5_559_752)),
    ("EPSG:4326", Affine(0.0001, 0, 12.5, 0, -0.0001, 48.1)),
    ("EPSG:4326", Affine(0.0002, 0, -170.5, 0, -0.0001, -0.25)),  # nearly squares on the ground at 60 degrees
]


@pytest.mark.parametrize(("crs", "transform"), PLACES)
def test_the_order_of_a_transform(crs: str, transform: Affine) -> None:
    assert grid_from_transform(list(transform)[:6], crs, SHAPE, "g").transform == transform
    south_up = transform @ Affine.translation(0, HEIGHT) @ Affine.scale(1, -1)
    assert grid_from_transform(list(south_up)[:6], crs, SHAPE, "g").transform == south_up
    message = r"g: transform .* it is in GDAL's order: x origin, .*; expected rasterio's order, here \["
    with pytest.raises(ValueError, match=message) as caught:
        grid_from_transform(transform.to_gdal(), crs, SHAPE, "g")
    named = [float(number) for number in str(caught.value).rsplit("[", 1)[1].rstrip("]").split(",")]
    np.testing.assert_allclose(named, list(transform)[:6])


def test_numbers_in_no_order() -> None:
    for wrong in ([10, 0, 600_000, 0, -10_000_000, 4_300_020], [10, 9, 600_000, 0, -10, 4_300_020]):
        with pytest.raises(ValueError, match="no squares, not even nearly; expected a, b, c, d, e, f as rasterio orders them"):
            grid_from_transform(wrong, CRS, SHAPE, "g")


def test_coordinates_beside_a_transform() -> None:
    grid = grid_from_transform(list(TRANSFORM)[:6], CRS, SHAPE, "g")
    for shift in (0, -15, 15):  # centres, or corners
        check_centres(grid, X + shift, Y - shift, "g")
    for x, y, name in ((X + 30, Y, "x"), (X, Y[::-1], "y"), (X * 1.01, Y, "x"), (X, np.full(HEIGHT, np.nan), "y")):
        with pytest.raises(ValueError, match=rf"g: the attribute transform .* contradicts the coordinates {name}, which run"):
            check_centres(grid, x, y, "g")
    with pytest.raises(ValueError, match=r"g: 24 y and 19 x coordinates for images of \(24, 20\)"):
        check_centres(grid, X[1:], Y, "g")


def test_stores_with_both(tmp_path: Path) -> None:
    sensor = SENSORS["landsat"]
    pixels, quality = numbers(sensor)
    write_zarr(tmp_path / "l.zarr", sensor, pixels, quality)
    group = zarr.open_group(str(tmp_path / "l.zarr"))
    write_stacked(tmp_path / "l.h5", sensor, pixels, quality)
    for shift, refused in ((0, False), (300, True)):
        group.attrs["transform"] = [*list(TRANSFORM)[:2], TRANSFORM.c + shift, *list(TRANSFORM)[3:6]]
        with h5py.File(tmp_path / "l.h5", "a") as file:
            for name, values in (("x", X + shift), ("y", Y)):
                file.pop(name, None)
                file[name] = values
        for path, container in (("l.zarr", "zarr_cube"), ("l.h5", "hdf5_cube")):
            here = scene(tmp_path, "landsat", container=container, path=path)
            if refused:
                with pytest.raises(ValueError, match=f"{path}.*: the attribute transform .* contradicts the coordinates x"):
                    open_reader(here, "landsat", SENSORS)
            else:
                with open_reader(here, "landsat", SENSORS) as reader:
                    assert reader.grid.transform == TRANSFORM


DEGREES = Affine(0.00027, 0, 12.5, 0, -0.00027, 48.1)


def test_pixels_in_another_unit(tmp_path: Path) -> None:
    """Degrees under a CRS in metres, in every container."""
    sensor = SENSORS["landsat"]
    pixels, quality = numbers(sensor)
    write_zarr(tmp_path / "l.zarr", sensor, pixels, quality, skip=("x", "y"))
    zarr.open_group(str(tmp_path / "l.zarr")).attrs["transform"] = list(DEGREES)[:6]
    write_stacked(tmp_path / "l.h5", sensor, pixels, quality)
    write_sample(tmp_path / "0001.h5", pixels, "landsat")
    for name, dataset in (("l.h5", "reflectance"), ("0001.h5", "landsat")):
        with h5py.File(tmp_path / name, "a") as file:
            file[dataset].attrs.update({"transform": list(DEGREES)[:6], "crs": CRS})
    write_hls(tmp_path / "hls", pixels, quality)
    for path in (tmp_path / "hls").glob("*"):
        write_raster(path, np.zeros(SHAPE, np.uint8 if "Fmask" in path.name else np.int16), DEGREES)
    modis, _ = numbers(SENSORS["modis"])
    (tmp_path / "m").mkdir()
    degrees = STRUCT_METADATA.replace("({left:.6f},{top:.6f})", "(0,50)").replace("({right:.6f},{bottom:.6f})", "(10,40)")
    write_mcd43a4(tmp_path / "m" / mcd43a4_name(DATES[0]), modis[0], np.zeros(modis[0].shape, np.uint8), metadata=degrees)
    containers: list[tuple[str, str, dict[str, Any]]] = [
        ("landsat", "zarr_cube", {"path": "l.zarr"}),
        ("landsat", "hdf5_cube", {"path": "l.h5"}),
        ("landsat", "hdf5_sample", {"path": "0001.h5", "dates": [str(date) for date in DATES]}),
        ("landsat", "geotiff_scenes", {"path": "hls"}),
        ("modis", "modis_hdf4", {"path": "m"}),
    ]
    for source, container, options in containers:
        gsd = f"{SENSORS[source].gsd_m:g}"
        with pytest.raises(ValueError, match=rf"has pixels of \d.* m, but those of source {source} are of {gsd} m"):
            open_reader(scene(tmp_path, source, container=container, **options), source, SENSORS)


@pytest.mark.parametrize(
    ("crs", "side", "fits"),
    [
        (CRS, 30, True),
        (CRS, 1000, True),  # aggregated
        (CRS, 0.00027, False),
        ("EPSG:4326", 0.00027, True),
        ("EPSG:4326", 30, False),
        ("EPSG:2263", 98.4, True),  # feet
        ("+proj=sinu +R=6371007.181 +units=km", 0.03, True),
        ("+proj=sinu +R=6371007.181 +units=km", 30, False),
    ],
)
def test_units_of_pixels(crs: str, side: float, fits: bool) -> None:
    grid = grid_from_transform([side, 0, 0, 0, -side, 0], crs, SHAPE, "g")
    if fits:
        check_pixel_size(grid, SENSORS["landsat"], "g")
    else:
        with pytest.raises(ValueError, match=r"g: its grid, 24 x 20 px of .* but those of source landsat are of 30 m"):
            check_pixel_size(grid, SENSORS["landsat"], "g")
