"""A small map of given classes, as finetune/predict.py writes maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from affine import Affine

from common.grid import Grid
from finetune.mapping.cog import write_classes
from finetune.mapping.tiling import Tiling
from finetune.task import load_task

TAGS = {"task": "paddy_rice", "scene": "delta_2021", "last_image": "2021-10-28"}
CRS, PLACE = "EPSG:32631", Affine(10, 0, 500_000, 0, -10, 5_000_000)  # at the zone's central meridian, 45 degrees north


def write_map(
    path: Path,
    classes: np.ndarray,
    crs: str = CRS,
    transform: Affine = PLACE,
    block: int = 16,
) -> Path:
    """A map with classes other (0) and paddy_rice (1), written in blocks of 16 px."""
    height, width = classes.shape
    tiling = Tiling(height=height, width=width, window=16, stride=16, step=1, block=block)
    blocks = [(b, classes[b.row : b.row + b.height, b.col : b.col + b.width].astype(np.uint8)) for b in tiling.blocks]
    write_classes(
        path, path.parent, Grid(crs=crs, transform=transform, height=height, width=width), load_task("paddy_rice"), blocks, TAGS
    )
    return path
