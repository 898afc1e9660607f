"""Small hand-made scenes with a label that the seasons of the pixels tell apart, for the tests of fine-tuning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from data_prep.archive.sensor import load_sensors
from tests.support.archives import CRS, NORTH, Cube, days, west_of_scene, write_scene

CODES = {1: "paddy_rice", 2: "maize", 3: "not_cropland"}
MODIS_PX = 16  # Landsat pixels of 30 m along a side of a MODIS pixel of 480 m


def write_label(path: Path, codes: np.ndarray, gsd: float = 30.0, west: float | None = None) -> None:
    """A label GeoTIFF uint8 (rows, columns) whose corner is that of the scene in its folder."""
    transform = Affine(gsd, 0, west_of_scene(path.parent) if west is None else west, 0, -gsd, NORTH)
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": CRS, "transform": transform}
    with rasterio.open(path, "w", height=codes.shape[0], width=codes.shape[1], **profile) as raster:
        raster.write(codes.astype(np.uint8), 1)


def write_rice_scene(
    folder: Path, split: str, *, side: int = 64, seed: int = 0, field: int = 8, cloudy: float = 0.2, frames: int = 24
) -> tuple[dict[str, Cube], np.ndarray]:
    """A scene of `side` x `side` Landsat pixels, MODIS averaged from them, label `crop_type`; returns cubes and codes.

    Square fields of `field` px. Rice is flooded in June and green in August, maize green in July, the rest never. `cloudy`: the
    share of blocks of 16 px, at each date, without a clear observation.
    """
    rng = np.random.default_rng(seed)
    sensors = load_sensors()
    fields = rng.choice(list(CODES), (-(-side // field), -(-side // field)))
    codes = np.kron(fields, np.ones((field, field), int))[:side, :side]
    codes[0, 0] = 0  # not labelled
    dates = days(2021, frames)
    day = (dates - np.datetime64("2021-01-01")).astype(int)

    def bump(centre: float, width: float) -> np.ndarray:
        return np.exp(-(((day - centre) / width) ** 2))

    green = np.stack([np.zeros(len(day)), bump(225, 30), bump(195, 30), 0 * day])[codes.ravel()].reshape(side, side, -1)
    wet = np.stack([np.zeros(len(day)), bump(160, 20), 0 * day, 0 * day])[codes.ravel()].reshape(side, side, -1)
    vigour = 1 + 0.2 * np.kron(rng.standard_normal(fields.shape), np.ones((field, field)))[:side, :side, None]
    red = 0.15 - 0.08 * green * vigour - 0.06 * wet
    near_infrared = 0.2 + 0.3 * green * vigour - 0.12 * wet
    short_wave = 0.25 - 0.05 * green - 0.18 * wet
    spectra = {"landsat": [red, red, red, near_infrared, short_wave, short_wave]}
    spectra["modis"] = [red, near_infrared, red, red, short_wave, short_wave, short_wave]
    cubes = {}
    for source, bands in spectra.items():
        surface = np.stack(bands).transpose(3, 0, 1, 2)
        if source == "modis":
            blocks = side // MODIS_PX
            surface = surface.reshape(len(day), -1, blocks, MODIS_PX, blocks, MODIS_PX).mean(axis=(3, 5))
        sensor = sensors[source]
        pixels = np.clip((surface + rng.normal(0, 0.01, surface.shape)) * 10_000, 1, 15_000).astype(sensor.dtype)
        size = surface.shape[-1]
        coarse = rng.random((len(day), -(-size // 16), -(-size // 16))) < cloudy
        clouds = np.kron(coarse, np.ones((16, 16), bool))[:, :size, :size]
        if source == "landsat":
            pixels[np.broadcast_to(clouds[:, None], pixels.shape)] = 9_000
        quality = np.where(clouds, 2 if source == "landsat" else 255, 64 if source == "landsat" else 0).astype(np.uint8)
        cubes[source] = Cube(pixels, quality, dates)
    labels = {"crop_type": {"path": "crop_type.tif", "classes": CODES, "nodata": 0}}
    write_scene(folder, cubes, {"landsat": 30.0, "modis": 30.0 * MODIS_PX}, split=split, labels=labels)
    write_label(folder / "crop_type.tif", codes)
    return cubes, codes


def write_split_scenes(folder: Path) -> Path:
    """Three small scenes of six dates, one for each split; returns their folder."""
    for seed, (name, split) in enumerate([("a", "train"), ("c", "validation"), ("d", "test")]):
        write_rice_scene(folder / name, split, side=64, seed=seed, frames=6)
    return folder
