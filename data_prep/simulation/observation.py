"""How a sensor observes a surface: clouds and their shadows, haze, noise, swath edges, and the quality codes of the product."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.archive.sensor import Sensor
from data_prep.simulation.randomness import generator, power_law_field
from data_prep.simulation.spectra import Spectra
from data_prep.simulation.weather import Weather

CLOUD_CELL_M = 30.0  # resolution of the cloud field
KEEP_AT_LEAST = 20  # acquisitions per sensor and year, however cloudy they are


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """One overpass: day of the year (1 January is 0), cloud cover 0..1, and whether the edge of the swath crosses the scene."""

    day: int
    cloud_cover: float
    cut_by_swath: bool


def plan_acquisitions(
    names: tuple[object, ...], weather: Weather, every_days: int, max_cover: float, days: int
) -> list[Acquisition]:
    """The overpasses of a year that an archive would hold: some are missing, and those above the cloud limit are left out.

    When fewer than KEEP_AT_LEAST remain, the clearest of the others are kept, too.
    """
    rng = generator(*names, "overpasses")
    start = int(rng.integers(every_days))
    passes = []
    for day in range(start, days, every_days):
        expected = weather.cloudiness[min(day, len(weather.cloudiness) - 1)]
        cover = float(rng.beta(1.1 * expected + 0.08, 1.1 * (1 - expected) + 0.08))  # mostly clear or mostly overcast
        missing, cut = rng.random() < 0.06, rng.random() < 0.10
        if not missing:
            passes.append(Acquisition(day=day, cloud_cover=cover, cut_by_swath=bool(cut)))
    clearest = sorted(passes, key=lambda p: p.cloud_cover)
    limit = max(max_cover, clearest[min(KEEP_AT_LEAST, len(clearest)) - 1].cloud_cover)
    return [p for p in passes if p.cloud_cover <= limit]


def sun_position(latitude: float, day: int) -> tuple[float, float]:
    """Zenith and azimuth of the sun in radians at 10:30 local solar time (Cooper 1969 for the declination)."""
    declination = np.radians(23.45) * np.sin(2 * np.pi * (284 + day + 1) / 365)
    hour, lat = np.radians(-22.5), np.radians(latitude)
    cosine = np.sin(lat) * np.sin(declination) + np.cos(lat) * np.cos(declination) * np.cos(hour)
    zenith = np.arccos(cosine)
    azimuth = np.arctan2(np.sin(hour), np.cos(hour) * np.sin(lat) - np.tan(declination) * np.cos(lat)) + np.pi
    return float(zenith), float(azimuth)


@dataclass(frozen=True, kw_only=True)
class Sky:
    """The sky above each pixel: opacity of clouds and of cirrus, and depth of cloud shadows, each float32 (H, W) in 0..1."""

    cloud: np.ndarray
    cirrus: np.ndarray
    shadow: np.ndarray


def make_sky(rng: np.random.Generator, shape: tuple[int, int], pixel_m: float, cover: float, sun: tuple[float, float]) -> Sky:
    """Clouds are the highest parts of a random field; their shadows lie away from the sun by their height times tan(zenith)."""
    cells = max(round(shape[0] * pixel_m / CLOUD_CELL_M), 2)
    size = 1 << int(np.ceil(np.log2(max(64.0, 1.3 * cells))))
    field = power_law_field(rng, size, rng.uniform(1.6, 2.0))
    softness = rng.uniform(0.10, 0.5)
    cloud = (
        np.clip((field - np.quantile(field, 1 - np.clip(cover, 0.0, 0.999))) / softness, 0.0, 1.0) if cover > 0.004 else 0 * field
    )
    zenith, azimuth = sun
    reach = rng.uniform(600, 2600) * np.tan(min(zenith, 1.35)) / CLOUD_CELL_M
    down, right = round(reach * np.cos(azimuth)), round(-reach * np.sin(azimuth))
    shadow = np.roll(cloud, (down, right), axis=(0, 1)) * (1 - cloud)
    cirrus = np.zeros_like(field)
    if rng.random() < 0.15:
        cirrus = np.clip(0.22 * (power_law_field(rng, size, 2.2) - 0.4), 0.0, 0.5)
    top, left = rng.integers(0, size - cells + 1, 2)

    def onto_pixels(a: np.ndarray) -> np.ndarray:
        return resampled(a[top : top + cells, left : left + cells], shape)

    return Sky(cloud=onto_pixels(cloud), cirrus=onto_pixels(cirrus), shadow=onto_pixels(shadow))


def resampled(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bilinear resampling of (h, w) over the same square to `shape`: float32."""
    out = field.astype(np.float32)
    for axis, n in enumerate(shape):
        have = out.shape[axis]
        position = np.clip((np.arange(n) + 0.5) * have / n - 0.5, 0, have - 1)
        low = np.minimum(position.astype(int), max(have - 2, 0))
        weight = (position - low).astype(np.float32)
        weight = weight[:, None] if axis == 0 else weight[None, :]
        high = np.minimum(low + 1, have - 1)
        out = np.take(out, low, axis) * (1 - weight) + np.take(out, high, axis) * weight
    return out


class Camera:
    """Turns surface reflectance into the reflectance that one sensor sees through the sky on a date.

    The residual errors of atmospheric correction (haze in the blue, a factor for the whole date) and the noise of the
    detector are of the size that validation reports give: about 0.005 + 5 % for surface reflectance.
    """

    def __init__(self, spectra: Spectra) -> None:
        self._cloud, self._cirrus = spectra.surface("cloud"), spectra.surface("cirrus")
        wavelength = spectra.center_nm
        self._haze = ((wavelength / 480.0) ** -1.6).astype(np.float32)
        # Sky light fills shadows at short wavelengths, hardly in the short-wave infrared.
        self._sky_light = np.clip(0.22 + 0.30 * (480.0 / wavelength) ** 1.5, 0.0, 0.6).astype(np.float32)

    def see(self, surface: np.ndarray, sky: Sky, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """Observed reflectance float32 (H, W, bands), and the haze of the date (reflectance that it adds at 480 nm)."""
        bands = surface.shape[-1]
        haze = 0.012 * rng.gamma(1.2) - 0.008
        gain = 1 + 0.018 * rng.standard_normal() + 0.006 * rng.standard_normal(bands)
        seen = surface * np.asarray(gain, dtype=np.float32) + np.float32(haze) * self._haze
        if sky.shadow.any():
            seen *= 1 - sky.shadow[..., None] * (1 - self._sky_light)
        for opacity, bright in ((sky.cirrus, self._cirrus), (sky.cloud, self._cloud)):
            if opacity.any():
                alpha = opacity[..., None]
                seen += alpha * ((0.75 + 0.30 * alpha) * bright - seen)
        noise = rng.standard_normal(seen.shape, dtype=np.float32)
        return seen + noise * (0.0015 + 0.008 * np.abs(seen)), float(haze)


def swath_mask(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """True outside the swath of a date, that is beyond a slanted line: bool (H, W)."""
    row, column = np.ogrid[: shape[0], : shape[1]]
    slope, side, share = np.tan(np.radians(13.0)), rng.integers(2), rng.uniform(0.15, 0.7)
    beyond = column + slope * row > share * (shape[1] + slope * shape[0])
    return beyond if side else ~beyond


def dilated(mask: np.ndarray, pixels: int) -> np.ndarray:
    """True within `pixels` (in rows and columns) of a True: bool (H, W)."""
    out = mask
    for axis in (0, 1):
        padded = np.pad(out, [(pixels, pixels) if a == axis else (0, 0) for a in (0, 1)])
        sums = np.cumsum(np.insert(padded.astype(np.int32), 0, 0, axis=axis), axis=axis)
        n = out.shape[axis]
        width = 2 * pixels + 1
        out = np.take(sums, np.arange(width, width + n), axis) - np.take(sums, np.arange(n), axis) > 0
    return out


@dataclass(frozen=True, kw_only=True)
class Looks:
    """Classes of pixels by their spectra: bool (H, W) each."""

    snow: np.ndarray
    water: np.ndarray
    vegetation: np.ndarray
    dark: np.ndarray


def looks(blue: np.ndarray, green: np.ndarray, red: np.ndarray, nir: np.ndarray, swir: np.ndarray) -> Looks:
    """Thresholds on NDSI, NDWI and NDVI as in the scene classification of Level-2A processors."""

    def index(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a - b) / np.maximum(a + b, 1e-3)

    snow = (index(green, swir) > 0.4) & (nir > 0.18) & (blue > 0.2)
    water = (index(green, nir) > 0.05) & (nir < 0.18) & ~snow
    vegetation = (index(nir, red) > 0.38) & (nir > 0.1) & ~snow & ~water
    dark = (nir < 0.09) & (swir < 0.08) & ~(snow | water | vegetation)
    return Looks(snow=snow, water=water, vegetation=vegetation, dark=dark)


def scene_classification(seen: Looks, sky: Sky, missing: np.ndarray) -> np.ndarray:
    """Sentinel-2 SCL codes uint8 (H, W), see archive/sensors/sentinel2.yaml. They miss thin edges of clouds, as real ones do."""
    codes = np.full(missing.shape, 5, dtype=np.uint8)
    codes[seen.vegetation] = 4
    codes[seen.dark] = 2
    codes[seen.water] = 6
    codes[seen.snow] = 11
    codes[(sky.cloud > 0.08) & (codes == 5)] = 7
    codes[sky.shadow > 0.35] = 3
    codes[sky.cirrus > 0.08] = 10
    codes[sky.cloud > 0.2] = 8
    codes[sky.cloud > 0.6] = 9
    codes[missing] = 0
    return codes


def fmask(seen: Looks, sky: Sky, haze: float, missing: np.ndarray) -> np.ndarray:
    """HLS Fmask bits uint8 (H, W): 1 cloud, 2 adjacent, 3 shadow, 4 snow, 5 water, 6-7 aerosol level; 255 fill."""
    cloud = (sky.cloud > 0.25) | (sky.cirrus > 0.3)
    shadow = (sky.shadow > 0.35) & ~cloud
    adjacent = dilated(cloud | shadow, 5) & ~cloud & ~shadow  # 150 m
    aerosol = 1 if haze < 0.008 else 2 if haze < 0.02 else 3
    codes = np.full(missing.shape, aerosol << 6, dtype=np.uint8)
    for bit, where in ((1, cloud), (2, adjacent), (3, shadow), (4, seen.snow), (5, seen.water)):
        codes[where] |= np.uint8(1 << bit)
    codes[missing] = 255
    return codes


def to_numbers(reflectance: np.ndarray, sensor: Sensor, add: int, missing: np.ndarray) -> np.ndarray:
    """Reflectance (H, W, C) -> stored numbers (C, H, W) in the dtype of the sensor: scaled, plus `add`, no data where missing."""
    low, high = sensor.valid_range
    numbers = np.rint(reflectance * (1.0 / sensor.scale)) + add
    numbers = np.clip(numbers, low, high).astype(sensor.dtype)
    numbers[missing] = sensor.nodata
    return np.ascontiguousarray(np.moveaxis(numbers, -1, 0))
