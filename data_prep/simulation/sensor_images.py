"""The images of the three sensors, date by date, as their products deliver them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_prep.archive.sensor import Sensor
from data_prep.simulation.acquisitions import Acquisition, sun_position, swath_mask
from data_prep.simulation.camera import Camera
from data_prep.simulation.phenology import Season
from data_prep.simulation.pixels import Pixels
from data_prep.simulation.quality_codes import fmask, looks, scene_classification
from data_prep.simulation.randomness import generator, power_law_field
from data_prep.simulation.regions import Region
from data_prep.simulation.sky import make_sky
from data_prep.simulation.spectra import Spectra
from data_prep.simulation.surface import Surface
from data_prep.simulation.weather import Weather

SENTINEL2_ADD = 1000  # processing baseline 04.00 and later add this to reflectance * 10000
COMPOSITE_DAYS = 16
POINT_SPREAD = (0.06, 0.88, 0.06)  # along rows and columns: share of the light of neighbouring MODIS pixels


@dataclass(frozen=True, kw_only=True)
class Image:
    """One date of one source: day of the year (1 January is 0), stored pixels (C, H, W), and quality uint8 (H, W)."""

    day: int
    pixels: np.ndarray
    quality: np.ndarray


def optical_images(
    source: str,
    region: Region,
    sensor: Sensor,
    season: Season,
    surface: Surface,
    pixels: Pixels,
    dates: list[Acquisition],
    names: tuple,
) -> Iterator[Image]:
    """Images of Sentinel-2 (with SCL and the offset of its archives) or Landsat (with Fmask), one per date."""
    spectra = Spectra(source)
    camera = Camera(spectra)
    shape = pixels.shape
    position = {band: i for i, band in enumerate(spectra.bands)}
    nir, swir = ("B8A", "B11") if source == "sentinel2" else ("B05", "B06")
    colours = [position[band] for band in ("B02", "B03", "B04", nir, swir)]
    coarse = [i for band, i in position.items() if source == "sentinel2" and band not in ("B02", "B03", "B04", "B08")]
    for date in dates:
        rng = generator(*names, source, "image", date.day)
        ground = pixels.render(surface.spectra(season.state(date.day)))
        sky = make_sky(rng, shape, sensor.gsd_m, date.cloud_cover, sun_position(region.latitude, date.day))
        seen, haze = camera.see(ground, sky, rng)
        if coarse:  # bands of 20 m, repeated onto the grid of 10 m
            seen[..., coarse] = block_mean(seen[..., coarse], 2).repeat(2, axis=0).repeat(2, axis=1)
        missing = swath_mask(rng, shape) if date.cut_by_swath else np.zeros(shape, dtype=bool)
        kinds = looks(*(seen[..., i] for i in colours))
        if source == "sentinel2":
            quality, add = scene_classification(kinds, sky, missing), SENTINEL2_ADD
        else:
            quality, add = fmask(kinds, sky, haze, missing), 0
        yield Image(day=date.day, pixels=_to_numbers(seen, sensor, add, missing), quality=quality)


def modis_images(
    sensor: Sensor, season: Season, weather: Weather, surface: Surface, pixels: Pixels, every_days: int, days: int, names: tuple
) -> Iterator[Image]:
    """MODIS nadir reflectance, one image per date: a mean of the 16 days around it that weights days near it more.

    Quality is 0 for a full inversion (at least 7 clear days), 1 for a fit of the magnitude only (at least 3), and 255 for fill.
    """
    rng = generator(*names, "modis")
    height, width = pixels.shape
    half = COMPOSITE_DAYS // 2
    size = 1 << int(np.ceil(np.log2(max(16, 1.5 * height))))
    clear = np.empty((days + COMPOSITE_DAYS, height, width), dtype=bool)
    for i in range(len(clear)):
        expected = weather.cloudiness[min(max(i - half, 0), days - 1)]
        cover = rng.beta(1.3 * expected + 0.05, 1.3 * (1 - expected) + 0.05)
        field = power_law_field(rng, size, 1.3)
        clear[i] = (field < np.quantile(field, 1 - cover))[:height, :width]
    step = 4
    ground = {
        day: point_spread(pixels.render(surface.spectra(season.state(day)))) for day in range(-half, days + half + step, step)
    }
    for day in range(0, days, every_days):
        near = [(t, 1 - abs(t - day) / (half + 1)) for t in ground if abs(t - day) <= half]
        mean = np.average([ground[t] for t, _ in near], axis=0, weights=[weight for _, weight in near])
        looked = clear[day : day + COMPOSITE_DAYS].sum(axis=0)
        quality = np.select([looked >= 7, looked >= 3], [0, 1], default=255).astype(np.uint8)
        uncertain = np.where(quality == 1, 0.03, 0.006)[..., None] * rng.standard_normal((height, width, 1))
        noise = 0.0015 * rng.standard_normal(mean.shape)
        yield Image(day=day, pixels=_to_numbers(mean * (1 + uncertain) + noise, sensor, 0, quality == 255), quality=quality)


def block_mean(image: np.ndarray, n: int) -> np.ndarray:
    """Mean of n x n pixels of the image of a sensor: (H, W, C) -> (H / n, W / n, C)."""
    height, width, bands = image.shape
    return image.reshape(height // n, n, width // n, n, bands).mean(axis=(1, 3))


def point_spread(image: np.ndarray) -> np.ndarray:
    """A mild blur of an image (H, W, C): a MODIS pixel receives a little light of its neighbours."""
    before, centre, after = POINT_SPREAD
    for axis in (0, 1):
        padded = np.pad(image, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        n = image.shape[axis]
        shifted = [np.take(padded, np.arange(i, i + n), axis) for i in range(3)]
        image = before * shifted[0] + centre * shifted[1] + after * shifted[2]
    return image


def _to_numbers(reflectance: np.ndarray, sensor: Sensor, add: int, missing: np.ndarray) -> np.ndarray:
    """Reflectance (H, W, C) -> stored numbers (C, H, W) in the dtype of the sensor: scaled, plus `add`, no data where missing."""
    low, high = sensor.valid_range
    numbers = np.rint(reflectance * (1.0 / sensor.scale)) + add
    numbers = np.clip(numbers, low, high).astype(sensor.dtype)
    numbers[missing] = sensor.nodata
    return np.ascontiguousarray(np.moveaxis(numbers, -1, 0))
