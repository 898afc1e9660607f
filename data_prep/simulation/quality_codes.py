"""The quality codes of the simulated products: scene classification of Sentinel-2 and Fmask of HLS."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.simulation.sky import Sky


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


def dilated(mask: np.ndarray, pixels: int) -> np.ndarray:
    """True within `pixels` (in rows and columns) of a True, as Fmask marks pixels next to clouds: bool (H, W)."""
    out = mask
    for axis in (0, 1):
        padded = np.pad(out, [(pixels, pixels) if a == axis else (0, 0) for a in (0, 1)])
        sums = np.cumsum(np.insert(padded.astype(np.int32), 0, 0, axis=axis), axis=axis)
        n = out.shape[axis]
        width = 2 * pixels + 1
        out = np.take(sums, np.arange(width, width + n), axis) - np.take(sums, np.arange(n), axis) > 0
    return out
