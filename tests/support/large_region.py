"""Peak memory of a large mosaic: `python -m tests.support.large_region FOLDER SIDE CLASSES`, in a process of its own.

Two scenes of SIDE x SIDE pixels, in two UTM zones, overlap by a half; the mosaic is in a third CRS, so that both are resampled.
Their maps are written first, tile by tile. Prints JSON: gigabytes before and at the peak, seconds, and the size of the mosaic.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window

from common.grid import Grid
from finetune.mapping.cog import NO_DATA, probabilities_path
from finetune.mapping.mosaic_grid import MosaicOptions, mosaic_grid
from finetune.mapping.region import write_mosaic
from finetune.mapping.resampling import SceneMap
from finetune.task import MapClass, Task, load_task
from tests.support.memory import peak_kilobytes

TILE = 512


def task_of(classes: int) -> Task:
    names = tuple(MapClass(name=f"c{i}", color=f"#{i:02x}4080", labels=(f"c{i}",)) for i in range(classes))
    return replace(load_task("paddy_rice"), classes=names, target=None)


def write_scene_map(folder: Path, name: str, grid: Grid, classes: int) -> SceneMap:
    """A map whose probabilities are the same noise in every tile."""
    one = SceneMap(name=name, path=folder / f"{name}.tif", grid=grid)
    noise = np.random.default_rng(0).dirichlet(np.ones(classes), (TILE, TILE)).transpose(2, 0, 1)
    stored = np.rint(250 * noise).astype(np.uint8)
    profile = {"driver": "GTiff", "dtype": "uint8", "nodata": NO_DATA, "tiled": True, "blockxsize": TILE, "blockysize": TILE}
    for path, bands in ((one.path, stored.argmax(axis=0)[None].astype(np.uint8)), (probabilities_path(one.path), stored)):
        with rasterio.open(path, "w", count=len(bands), compress="deflate", zlevel=1, **profile, **grid.profile()) as raster:
            raster.update_tags(scene=name, year="2021", last_image="2021-10-01")
            for row in range(0, grid.height, TILE):
                for col in range(0, grid.width, TILE):
                    height, width = min(TILE, grid.height - row), min(TILE, grid.width - col)
                    raster.write(bands[:, :height, :width], window=Window(col, row, width, height))
    return one


def main(folder: Path, side: int, classes: int) -> None:
    task = task_of(classes)
    reach = 10 * side
    grids = {
        "west": Grid(
            crs="EPSG:32631", transform=Affine(10, 0, 736_000 - 0.75 * reach, 0, -10, 5_000_000), height=side, width=side
        ),
        "east": Grid(
            crs="EPSG:32632", transform=Affine(10, 0, 263_000 - 0.25 * reach, 0, -10, 5_000_000), height=side, width=side
        ),
    }
    maps = [write_scene_map(folder, name, grid, classes) for name, grid in grids.items()]
    grid = mosaic_grid(grids, MosaicOptions(crs="EPSG:3035", pixel_m=10))
    before, begin = peak_kilobytes(), time.perf_counter()
    write_mosaic(maps, grid, task, folder / "map.tif", False, {"test": 1})
    measured = {"before_gb": before * 1024 / 1e9, "peak_gb": peak_kilobytes() * 1024 / 1e9, "shape": grid.shape}
    print(json.dumps({**measured, "seconds": time.perf_counter() - begin}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
