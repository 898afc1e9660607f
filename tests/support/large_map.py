"""Map a large scene whose pixels take little space on disk, and print the peak memory; runs in a process of its own.

    python -m tests.support.large_map FOLDER SIDE

Landsat, 12 dates, SIDE x SIDE pixels of 30 m, almost all chunks copies of one. The model is a stand-in that takes almost
no time or memory, so the measurement shows reading, blending and writing.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml
import zarr
from torch import nn

from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data.scene_series import SceneSeries
from finetune.mapping.scene import MapOptions, predict_scene
from finetune.model.recipe import Recipe
from finetune.task import load_task
from tests.support.archives import CRS, days
from tests.support.memory import peak_kilobytes

DATES = 12


class OneBand(nn.Module):
    """Class scores from one band of the first frame."""

    def forward(self, data: dict[str, torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        band = data["landsat"][:, 0, 3]
        assert band.shape[-2:] == size
        return torch.stack([-band, band], dim=1)


def write_large_scene(folder: Path, side: int) -> None:
    """A scene of reflectance 0.25 everywhere but for a corner of 0.15, all clear."""
    sensor = load_sensors()["landsat"]
    group = zarr.open_group(
        folder / "landsat.zarr", mode="w", attributes={"crs": CRS, "transform": [30, 0, 500_040, 0, -30, 5e6]}
    )
    shape = DATES, len(sensor.bands), side, side
    pixels = group.create_array("reflectance", shape=shape, chunks=(1, shape[1], 512, 512), dtype="int16")
    fill(folder / "landsat.zarr", pixels, 2500)
    pixels[:, :, :700, :900] = 1500
    quality = group.create_array("Fmask", shape=(DATES, side, side), chunks=(1, 1024, 1024), dtype="uint8")
    fill(folder / "landsat.zarr", quality, 64)
    time_ = group.create_array("time", data=days(2021, DATES).astype(np.int64))
    time_.attrs["units"] = "days since 1970-01-01"
    source = {"container": "zarr_cube", "path": "landsat.zarr", "bands": list(sensor.bands)}
    (folder / "scene.yaml").write_text(yaml.safe_dump({"name": "large", "sources": {"landsat": source}}))


def fill(store: Path, array: zarr.Array, number: int) -> None:
    """Write `number` to all of an array: the first chunk, and copies of its file."""
    array[tuple(slice(0, side) for side in array.chunks)] = number
    chunks = store / array.path / "c"
    first = chunks.joinpath(*["0"] * array.ndim)
    for place in itertools.product(*(range(-(-size // chunk)) for size, chunk in zip(array.shape, array.chunks, strict=True))):
        if any(place):
            file = chunks.joinpath(*map(str, place))
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(first, file)


def main(folder: Path, side: int) -> None:
    write_large_scene(folder, side)
    task = replace(load_task("paddy_rice"), sources=("landsat",), season=("01-01", "12-31"), frames=DATES, window_px=256)
    sensors = {"landsat": load_sensors()["landsat"]}
    normalization = {"landsat": {"mean": [2000.0] * 6, "std": [1000.0] * 6}}
    recipe = Recipe(task=task, sensors=sensors, normalization=normalization, pixel=30.0, encoder={}, channels=8, origin="test")
    before = peak_kilobytes()
    begin = time.perf_counter()
    with SceneSeries(load_scene(folder), task, sensors, pixel_size=30.0) as series:
        options = MapOptions(overlap=0.125, batch_size=4)
        predict_scene(OneBand(), recipe, series, folder / "map.tif", torch.device("cpu"), options)
    gigabytes = {"before_gb": before * 1024 / 1e9, "peak_gb": peak_kilobytes() * 1024 / 1e9}
    print(json.dumps(gigabytes | {"seconds": time.perf_counter() - begin}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
