"""The frames that a model reads: one normalised image per period of the season.

A season with any number of images becomes the model's T frames. The season is divided into T equal periods, and each period gives
one image (`Season.choose`): the clearest one in evaluation, a random one in training. Its pixels that are not clear may be filled
from the period's other images (`Season.used`). A period without a clear pixel gives zeros, and so does every period of a missing
source. Pixels that are not clear are zero after normalisation, which is the mean of the
band; the model never sees a no-data number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from finetune.data.image_stack import ImageStack
from finetune.data.season import Season

# For each source the "mean" and "std" of each band, and perhaps the limits "low" and "high", in stored numbers.
Normalization = Mapping[str, Mapping[str, Sequence[float]]]


def model_frames(
    stack: ImageStack, season: Season, statistics: Mapping[str, Sequence[float]], rng: np.random.Generator | None = None
) -> np.ndarray:
    """The model's input of one source: float32 (T, C, H, W), zero where not clear.

    Args:
        stack: the images; H and W are its rows and columns times `season.upsample`.
        season: says which images are chosen.
        statistics: "mean" and "std" of each band, in stored numbers; numbers beyond "low" and "high", if they are given, count as
            these.
        rng: chooses random images; without it the clearest are chosen.
    """
    by_band = {name: np.asarray(values, dtype=np.float32)[:, None, None] for name, values in statistics.items()}
    mean, std = by_band["mean"], by_band["std"]
    frames = np.zeros((season.periods, *stack.pixels.shape[1:]), dtype=np.float32)
    for frame, images in zip(frames, season.used(stack.valid, rng), strict=True):
        missing = np.ones(stack.shape, dtype=bool)
        for image in images:
            taken = missing & stack.valid[image]
            pixels = stack.pixels[image]
            if "low" in by_band:
                pixels = pixels.clip(by_band["low"], by_band["high"])
            frame += (pixels - mean) / std * taken
            missing &= ~taken
    return frames.repeat(season.upsample, axis=-2).repeat(season.upsample, axis=-1) if season.upsample > 1 else frames
