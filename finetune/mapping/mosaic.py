"""The mosaic of the maps of several scenes: one raster without seams, made block by block in constant memory.

Where scenes overlap, their class probabilities are averaged, and the class is the most probable one of the mean. The weight of a
scene rises with the distance from the nearest pixel where it has no data, or from its edge, up to `FEATHER_PX` pixels. So it
fades out towards its own edge, where the model has seen too little of the surroundings, and no edge is seen in the mosaic.
The other rules were not taken: "the clearest scene" and "the most certain scene" change from pixel to pixel, and with them the
dates and the conditions of light; "the nearest centre" leaves a straight seam where two scenes disagree. The mean does not depend
on the order of the scenes: they are added in the order of their names.

Scenes on the mosaic's own pixels are copied. Others are resampled (`finetune/mapping/resampling.py`): probabilities first, the
class is taken afterwards. Taking the nearest class instead would repeat and drop pixels, and shift borders by up to half a pixel;
the mode of classes would lose narrow ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

from common.grid import Grid
from finetune.mapping.cog import NO_DATA
from finetune.mapping.resampling import SceneMap, probabilities_on
from finetune.mapping.tiling import Block

FEATHER_PX = 64  # distance over which a scene fades out, in pixels of the mosaic
LARGEST_BLOCK_PX = 1024
BLOCK_BYTES = 256_000_000  # of the sums of one block


@dataclass(frozen=True, kw_only=True, eq=False)
class Mosaic:
    """The mosaic of some scenes.

    Attributes:
        scenes: the maps, in any order.
        grid: grid of the mosaic.
        num_classes: number of classes.
        block_px: side of the blocks.
        probabilities: whether blocks also hold probabilities.
    """

    scenes: Sequence[SceneMap]
    grid: Grid
    num_classes: int
    block_px: int
    probabilities: bool

    @property
    def blocks(self) -> list[Block]:
        """All blocks, row by row."""
        (height, width), side = self.grid.shape, self.block_px
        return [
            Block(row, col, min(side, height - row), min(side, width - col))
            for row in range(0, height, side)
            for col in range(0, width, side)
        ]

    def block(self, block: Block) -> dict[str, np.ndarray]:
        """A block as it is stored: `classes` uint8 (height, width), `NO_DATA` where no scene has data.

        If wanted, also `probabilities` uint8 (classes, height, width).
        """
        shape = block.height, block.width
        total, weights = np.zeros((self.num_classes, *shape)), np.zeros(shape)
        count, single = np.zeros(shape, np.int32), np.full(shape, NO_DATA, np.uint8)
        inner = np.s_[..., FEATHER_PX : FEATHER_PX + block.height, FEATHER_PX : FEATHER_PX + block.width]
        around = Block(
            block.row - FEATHER_PX, block.col - FEATHER_PX, block.height + 2 * FEATHER_PX, block.width + 2 * FEATHER_PX
        )
        for scene in sorted(self.scenes, key=lambda one: one.name):
            found = probabilities_on(self.grid, around, scene, self.num_classes)
            if found is None:
                continue
            probabilities, classes = found
            valid = probabilities[0] != NO_DATA
            weight = np.where(valid, edge_distance(valid, FEATHER_PX), 0)[inner].astype(np.float64)
            # Products are exact in 64 bits, so a pixel of one scene keeps its numbers.
            for band, into in zip(probabilities[inner], total, strict=True):
                into += weight * band
            weights += weight
            count += weight > 0
            if classes is not None:
                single = np.where(weight > 0, classes[inner], single)
        total /= np.where(weights > 0, weights, 1)
        best = total.argmax(axis=0)
        # Of one scene alone the class is known; stored probabilities are rounded, and may be equal where they were not.
        best = np.where((count == 1) & (single != NO_DATA), single, best)
        result = {"classes": np.where(weights > 0, best, NO_DATA).astype(np.uint8)}
        if self.probabilities:
            result["probabilities"] = np.where(weights > 0, np.rint(total), NO_DATA).astype(np.uint8)
        return result


def default_mosaic_block(num_classes: int) -> int:
    """Side of the blocks of a mosaic, a power of two from 128 on, so that the sums of a block take at most `BLOCK_BYTES`."""
    side = LARGEST_BLOCK_PX
    while side > 128 and 8 * num_classes * side**2 > BLOCK_BYTES:
        side //= 2
    return side


def edge_distance(valid: np.ndarray, most: int) -> np.ndarray:
    """Distance in pixels from each pixel to the nearest one that is not valid, at most `most`, float32 of the shape of `valid`.

    Pixels outside the array count as unknown: the result is exact at least `most` pixels away from its edges.
    """
    if valid.all():
        return np.full(valid.shape, most, dtype=np.float32)
    return np.minimum(distance_transform_edt(valid), most).astype(np.float32)
