"""Several images of one day: datastrips, orbits and processings, in all containers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from data_prep.archive.sensor import Sensor
from data_prep.readers.opening import open_reader
from data_prep.readers.same_day import ImageName, chosen_images, mosaicked
from tests.support.archives import safe_name
from tests.support.containers import (
    expected_of_safe,
    safe_numbers,
    write_safe_products,
    write_sample,
    write_stacked,
    write_zarr,
)
from tests.support.series import (
    BOX,
    DATES,
    FRAMES,
    SENSORS,
    assert_windows_equal,
    coarse,
    numbers,
    repeated,
    scene,
    write_raster,
)
from tests.support.stac_scenes import sentinel2_item, write_cogs, write_items

LANDSAT, SENTINEL2 = SENSORS["landsat"], SENSORS["sentinel2"]
SHARED = np.array([0, 0, 1, 2, 2, 2, 3])  # the day of each image


def joined(pixels: np.ndarray, quality: np.ndarray, sensor: Sensor) -> tuple[np.ndarray, np.ndarray]:
    """The mosaic of images (N, C, H, W) and (N, H, W) of one day in order of preference, pixel by pixel."""
    frames, _, height, width = pixels.shape
    low, high = sensor.valid_range
    out, codes = pixels[0].copy(), quality[0].copy()
    for row in range(height):
        for col in range(width):
            complete = [bool(((spectrum >= low) & (spectrum <= high)).all()) for spectrum in pixels[:, :, row, col]]
            clear = [
                whole and bool(sensor.quality.clear(code)) for whole, code in zip(complete, quality[:, row, col], strict=True)
            ]
            best = next((n for n in range(frames) if clear[n]), next((n for n in range(frames) if complete[n]), 0))
            out[:, row, col], codes[row, col] = pixels[best, :, row, col], quality[best, row, col]
    return out, codes


def of_days(pixels: np.ndarray, quality: np.ndarray, sensor: Sensor) -> tuple[np.ndarray, np.ndarray]:
    """The mosaics of the days in SHARED."""
    found = [joined(pixels[day == SHARED], quality[day == SHARED], sensor) for day in np.unique(SHARED)]
    return np.stack([of_day[0] for of_day in found]), np.stack([of_day[1] for of_day in found])


def landsat_numbers() -> tuple[np.ndarray, np.ndarray]:
    pixels, _ = numbers(LANDSAT)
    quality = np.random.default_rng(4).choice(np.array([64, 2, 255], np.uint8), (FRAMES, *pixels.shape[2:]), p=[0.5, 0.3, 0.2])
    return pixels, quality


def test_a_mosaic_equals_one_made_pixel_by_pixel() -> None:
    pixels, quality = landsat_numbers()
    expected = of_days(pixels, quality, LANDSAT)
    valid = LANDSAT.valid(pixels, quality)
    got = mosaicked(pixels.copy(), quality.copy(), valid.copy(), DATES[SHARED], LANDSAT)
    np.testing.assert_array_equal(got.pixels, expected[0])
    np.testing.assert_array_equal(got.quality, expected[1])
    np.testing.assert_array_equal(got.valid, LANDSAT.valid(*expected))
    assert got.valid.mean() > valid.mean()


@pytest.mark.parametrize("container", ["zarr_cube", "hdf5_cube", "hdf5_sample"])
def test_images_of_one_day_in_one_file(tmp_path: Path, container: str) -> None:
    pixels, quality = landsat_numbers()
    days = DATES[SHARED].astype("datetime64[D]").astype(np.int64)
    more: dict[str, Any] = {}
    if container == "zarr_cube":
        write_zarr(tmp_path / "a", LANDSAT, pixels, quality)
        zarr.open_group(str(tmp_path / "a"))["time"][:] = days - days[0]
    elif container == "hdf5_cube":
        write_stacked(tmp_path / "a", LANDSAT, pixels, quality, dates=days)
    else:
        write_sample(tmp_path / "a", pixels, "landsat", dates=days, Fmask=quality)
        more = {"quality": "Fmask"}
    here = scene(tmp_path, "landsat", container=container, path="a", **more)
    with open_reader(here, "landsat", SENSORS) as reader:
        assert_windows_equal(reader, *of_days(pixels, quality, LANDSAT), DATES[:4])
    for policy, message in (
        ("error", f"2 of 4 days have several images, such as {DATES[0]}; mosaic them, or say `same_day: mosaic`"),
        ("newest_baseline", "same_day is 'newest_baseline'; expected one of mosaic, error"),
    ):
        with pytest.raises(ValueError, match=message):
            open_reader(scene(tmp_path, "landsat", container=container, path="a", same_day=policy, **more), "landsat", SENSORS)


def test_two_granules_of_hls_on_one_day(tmp_path: Path) -> None:
    """Granules of one day differ in the time; of one time, version 2.0 replaces 1.5, also where it is cloudy."""
    pixels, quality = landsat_numbers()
    pixels, quality = pixels[:3], quality[:3]
    names = ("2021003T103000.v2.0", "2021003T103024.v1.5", "2021003T103024.v2.0")
    for time, name in enumerate(names):
        for channel, band in enumerate(LANDSAT.bands):
            write_raster(tmp_path / "hls" / f"HLS.L30.T31TFJ.{name}.{band}.tif", pixels[time, channel], nodata=-9999)
        write_raster(tmp_path / "hls" / f"HLS.L30.T31TFJ.{name}.Fmask.tif", quality[time], nodata=255)
    options = {"container": "geotiff_scenes", "path": "hls"}
    note = r"1 of 1 days have several images: 1 images are replaced by newer processings, 1 days are mosaics"
    with pytest.warns(UserWarning, match=note):
        opened = open_reader(scene(tmp_path, "landsat", **options), "landsat", SENSORS)
    with opened as reader:
        expected = joined(pixels[[2, 0]], quality[[2, 0]], LANDSAT)  # of equal versions the later one is preferred
        assert_windows_equal(reader, expected[0][None], expected[1][None], DATES[:1], tries=3)
    with pytest.raises(ValueError, match=r"2 images of 2021-01-03 are of the newest processing baseline: .*; keep one, or say"):
        open_reader(scene(tmp_path, "landsat", same_day="newest_baseline", **options), "landsat", SENSORS)
    for file in (tmp_path / "hls").glob("*T103000*"):
        file.unlink()
    with pytest.warns(UserWarning, match="0 days are mosaics"):
        opened = open_reader(scene(tmp_path, "landsat", same_day="newest_baseline", **options), "landsat", SENSORS)
    with opened as reader:
        np.testing.assert_array_equal(reader.read(*BOX, slice(None)).quality[0], quality[2])


def test_safe_datastrips_and_processings(tmp_path: Path) -> None:
    """Two datastrips of one orbit with different offsets from another day's, and an older processing of the first."""
    pixels, scl = safe_numbers()
    rng = np.random.default_rng(8)
    scl = rng.choice(np.array([4, 9, 0], np.uint8), scl.shape)
    pixels[2, :, 90:], scl[2, 90:] = 0, 0  # the first datastrip ends here
    pixels[3, :, :80], scl[3, :80] = 0, 0
    written = write_safe_products(tmp_path / "all", pixels, scl, ["02.09", "03.01", "04.00", "05.09"])
    (tmp_path / "s2").mkdir()
    day = f"{DATES[2].item():%Y%m%d}"
    shutil.copytree(written[0], tmp_path / "s2" / written[0].name)
    for product, end in ((written[2], "T154321"), (written[3], "T160000")):  # both of the day of the third
        name = f"S2A_MSIL2A_{day}T103021_N0509_R108_T31TFJ_{day}{end}.SAFE"
        shutil.copytree(product, tmp_path / "s2" / name)
        rename_day(tmp_path / "s2" / name, day)
    older = tmp_path / "s2" / safe_name(DATES[2], "03.01")
    shutil.copytree(written[1], older)
    rename_day(older, day)

    def reader(**options: Any) -> Any:
        return open_reader(scene(tmp_path, "sentinel2", container="sentinel2_safe", path="s2", **options), "sentinel2", SENSORS)

    codes = repeated(coarse(scl))
    values = expected_of_safe(pixels)
    both = joined(values[[3, 2]], codes[[3, 2]], SENTINEL2)  # T160000 is later
    with pytest.warns(
        UserWarning, match="1 of 2 days have several images: 1 images are replaced by newer .*, 1 days are mosaics"
    ):
        opened = reader()
    with opened:
        expected = np.stack([values[0], both[0]]), np.stack([codes[0], both[1]])
        assert_windows_equal(opened, *expected, DATES[[0, 2]], tries=4)
    with pytest.raises(ValueError, match=r"1 of 2 days have several images, such as .*N0301.*, .*T154321.*, .*T160000"):
        reader(same_day="error")
    with pytest.raises(ValueError, match="same_day is 'first'; expected one of mosaic, newest_baseline, error"):
        reader(same_day="first")


def rename_day(product: Path, day: str) -> None:
    """Give the images of a product another day."""
    for file in product.glob("GRANULE/*/IMG_DATA/*/*.jp2"):
        parts = file.name.split("_")
        parts[1] = f"{day}T103021"
        file.rename(file.with_name("_".join(parts)))


def test_stac_items_of_one_day(tmp_path: Path) -> None:
    collection = "planetary_computer/sentinel-2-l2a"
    rng = np.random.default_rng(3)
    dates = np.datetime64("2022-03-01") + np.arange(3)
    pixels = rng.integers(1100, 9000, (3, 10, 60, 60)).astype(np.uint16)
    scl = repeated(rng.choice(np.array([4, 9, 0], np.uint8), (3, 30, 30)))
    write_cogs(tmp_path, pixels, scl, dates)
    items = [
        sentinel2_item(collection, date, (60, 60), baseline)
        for date, baseline in zip(dates, ("05.09", "05.09", "04.00"), strict=True)
    ]
    moments = [item.datetime for item in items]
    for item, moment, discriminator in zip(items, (moments[0],) * 3, ("T120000", "T110000", "T100000"), strict=True):
        item.datetime = moment
        item.id = f"S2B_MSIL2A_20220301T103021_R108_T31TFJ_20220301{discriminator}"
        item.properties["s2:datatake_id"] = f"GS2B_20220301T103021_026039_N{item.properties['s2:processing_baseline']}"
    items[1].datetime = moments[0].replace(minute=31)  # the second datastrip
    write_items(tmp_path / "items.json", items)
    here = scene(tmp_path, "sentinel2", container="stac", path="items.json", signer="none")
    with pytest.warns(UserWarning, match="1 of 1 days have several images: 1 images are replaced"):
        opened = open_reader(here, "sentinel2", SENSORS)
    fine = pixels.copy()
    fine[:, 4:] = repeated(coarse(pixels[:, 4:]))
    expected = joined(fine[:2] - 1000, scl[:2], SENTINEL2)
    with opened:
        assert_windows_equal(opened, expected[0][None], expected[1][None], dates[:1], tries=3)


class Named:
    """An image that is only its name."""

    def __init__(self, acquisition: str, baseline: str | None, name: str) -> None:
        self.image = ImageName(date=DATES[0], acquisition=acquisition, baseline=baseline, name=name)


@pytest.mark.filterwarnings("ignore")
def test_which_processing_is_newer() -> None:
    def chosen(*images: Named, same_day: str = "mosaic") -> list[str]:
        return [image.image.name for image in chosen_images(images, same_day, "here")]

    assert chosen(Named("", "N0214", "a"), Named("", "05.00", "b"), Named("", "N0500", "c")) == ["c", "b"]
    assert chosen(Named("", "061.2021010041045", "a"), Named("", "061.2022001000000", "b")) == ["b"]
    assert chosen(Named("x", "05.00", "a"), Named("y", "05.10", "b"), Named("x", "04.00", "c")) == ["b", "a"]
    assert chosen(Named("x", None, "a"), Named("y", None, "b")) == ["b", "a"]
    assert chosen(Named("x", "05.00", "a"), Named("y", "05.10", "b"), same_day="newest_baseline") == ["b"]
    with pytest.raises(ValueError, match=r"2 images of one acquisition .*: a, b; their names state no processing baseline"):
        chosen(Named("x", None, "a"), Named("x", None, "b"))


def test_a_file_that_holds_one_day_twice_reads_chosen_days(tmp_path: Path) -> None:
    """Days are asked for by their number, not by that of their images."""
    pixels, quality = landsat_numbers()
    write_stacked(tmp_path / "a.h5", LANDSAT, pixels, quality, dates=DATES[SHARED].astype("datetime64[D]").astype(np.int64))
    with h5py.File(tmp_path / "a.h5") as file:
        assert len(file["dates"]) == FRAMES
    with open_reader(scene(tmp_path, "landsat", container="hdf5_cube", path="a.h5"), "landsat", SENSORS) as reader:
        got = reader.read(*BOX, np.array([1, 3]))
    np.testing.assert_array_equal(got.pixels, pixels[[2, 6]])
    np.testing.assert_array_equal(got.dates, DATES[[1, 3]])
