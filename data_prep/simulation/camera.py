"""The camera of a simulated sensor: surface reflectance through the sky, with haze, noise and errors of correction."""

from __future__ import annotations

import numpy as np

from data_prep.simulation.sky import Sky
from data_prep.simulation.spectra import Spectra


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
