"""The simulated sky of a date: clouds, cirrus and cloud shadows above each pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.simulation.randomness import power_law_field

CLOUD_CELL_M = 30.0  # resolution of the cloud field


@dataclass(frozen=True, kw_only=True)
class Sky:
    """The sky above each pixel: opacity of clouds and of cirrus, and depth of cloud shadows, each float32 (H, W) in 0..1."""

    cloud: np.ndarray
    cirrus: np.ndarray
    shadow: np.ndarray


def make_sky(rng: np.random.Generator, shape: tuple[int, int], pixel_m: float, cover: float, sun: tuple[float, float]) -> Sky:
    """Draw the sky of a date.

    Clouds are the highest parts of a random field; their shadows lie away from the sun by their height times tan(zenith).
    """
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
        return _resampled(a[top : top + cells, left : left + cells], shape)

    return Sky(cloud=onto_pixels(cloud), cirrus=onto_pixels(cirrus), shadow=onto_pixels(shadow))


def _resampled(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
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
