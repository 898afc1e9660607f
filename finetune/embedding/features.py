"""Features of an encoder on a grid of cells: which levels, what becomes of time, and where their cells lie.

An encoder gives five maps. Level 0 is the patch embedding, levels 1 to 3 are the stages after their merging, level 4 is the last
stage after its norm. The patches of levels 0 to 4 have 4, 8, 16, 32 and 32 pixels along a side; a cell is as large as a patch of
the finest level that is chosen. Maps of coarser levels and of coarser sources are interpolated to the cells, as the decoders do.

Each level keeps some frames of the series: of 16 frames and patches of 4 frames, level 0 keeps 4, level 1 keeps 2, and the others
keep one. They are features side by side, or their mean.

Shapes: B batch, F features, D dimensions, n x n cells of a window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.nn import functional as F

from finetune.data.scene_series import SceneSeries
from pretrain.model import VideoSwin
from pretrain.model.resampling import resize

LEVELS = (0, 1, 2, 3, 4)
HALVINGS = (0, 1, 2, 3, 3)  # of the patch grid, at each level
TimeAxis = Literal["keep", "mean"]


@dataclass(frozen=True, kw_only=True)
class FeatureChoice:
    """What of an encoder's maps are features.

    Attributes:
        levels: levels of the encoder, ascending.
        time: `keep` makes features of all frames that a level keeps, `mean` of their mean.

    Raises ValueError for other values.
    """

    levels: tuple[int, ...] = LEVELS
    time: TimeAxis = "keep"

    def __post_init__(self) -> None:
        if not self.levels or list(self.levels) != sorted(set(self.levels) & set(LEVELS)):
            raise ValueError(
                f"--levels are {list(self.levels)}; expected some of {', '.join(map(str, LEVELS))} in this order, each once"
            )
        if self.time not in get_args(TimeAxis):
            raise ValueError(f"--time is {self.time!r}; expected keep or mean")


@dataclass(frozen=True, kw_only=True)
class CellGeometry:
    """The cells of a scene's embedding, in pixels of the finest source.

    Attributes:
        cell_px: side of a cell.
        window_px: side of a window of the encoder, a multiple of the largest patch.
        step_px: windows begin at multiples of it.
        patch_cells: side of a patch in cells, by source and level.
    """

    cell_px: int
    window_px: int
    step_px: int
    patch_cells: Mapping[tuple[str, int], Fraction]

    @property
    def window(self) -> int:
        """Cells along a side of a window."""
        return self.window_px // self.cell_px


def cell_geometry(series: SceneSeries, patch_px: int, levels: Sequence[int], window_px: int) -> CellGeometry:
    """The cells of a scene whose map has the pixels of its finest source.

    Args:
        series: the scene.
        patch_px: side of a patch of the encoder in pixels of a source.
        levels: levels of the encoder.
        window_px: side of a window in pixels of the map.

    Raises ValueError unless cells are whole pixels and windows whole patches of the finest source.
    """
    sides = {}
    for source in series.task.sources:
        scale = series.scales[source][0] * series.task.upsample.get(source, 1)
        sides.update({(source, level): patch_px * 2 ** HALVINGS[level] / scale for level in levels})
    finest = [sides[series.finest, level] for level in levels]
    cell, largest = min(finest), max(finest)
    if cell.denominator > 1:
        raise ValueError(
            f"scene {series.scene.name}: a patch of level {levels[0]} is {cell} of a pixel of {series.finest}, which is repeated "
            f"{series.task.upsample[series.finest]} times; choose coarser --levels, or a smaller --override.upsample"
        )
    series.check_window(window_px)
    whole = math.lcm(int(largest), series.step)
    if window_px % whole:
        raise ValueError(
            f"scene {series.scene.name}: windows of {window_px} px do not hold whole patches of level {max(levels)} of "
            f"{series.finest}; expected a multiple of {whole}, for instance --override.window_px "
            f"{max(1, round(window_px / whole)) * whole}"
        )
    return CellGeometry(
        cell_px=int(cell),
        window_px=window_px,
        step_px=math.lcm(int(cell), series.step),
        patch_cells={key: side / cell for key, side in sides.items()},
    )


class EncoderFeatures:
    """Features of windows by an encoder.

    Args:
        encoder: the encoder, in evaluation mode.
        sources: sources to read; their features lie side by side.
        frames: images per source.
        choice: levels and what becomes of time.
        device: the device that computes; the encoder is moved there.
    """

    def __init__(
        self, encoder: VideoSwin, sources: Sequence[str], frames: int, choice: FeatureChoice, device: torch.device
    ) -> None:
        self.encoder = encoder.to(device).eval()
        self.sources, self.frames, self.choice, self.device = tuple(sources), frames, choice, device

    @property
    def widths(self) -> list[int]:
        """Features of each level, for each source."""
        config = self.encoder.config
        widths = self.encoder.output_channels(self.frames)
        if self.choice.time == "mean":
            widths = [config.embed_dim * 2 ** HALVINGS[level] for level in LEVELS]
        return [widths[level] for level in self.choice.levels]

    @property
    def num_features(self) -> int:
        """Number of features of a cell (F)."""
        return len(self.sources) * sum(self.widths)

    def describe(self) -> dict[str, Any]:
        """What the features are, beside the encoder's weights, as plain values."""
        return {
            "sources": list(self.sources),
            "frames": self.frames,
            "levels": list(self.choice.levels),
            "time": self.choice.time,
            "num_features": self.num_features,
        }

    @torch.no_grad()
    def on_cells(self, data: Mapping[str, np.ndarray], geometry: CellGeometry) -> np.ndarray:
        """Features float32 (B, F, n, n) of windows from their frames {source: float32 (B, T, C, H, W)}."""
        maps = [_on_cells(found, side, geometry.window) for found, side in self._maps(data, geometry)]
        features: np.ndarray = torch.cat(maps, dim=1).cpu().numpy()
        return features

    @torch.no_grad()
    def projected(
        self, data: Mapping[str, np.ndarray], geometry: CellGeometry, weight: np.ndarray, bias: np.ndarray
    ) -> np.ndarray:
        """`weight @ features + bias` of each cell, float32 (B, D, n, n), from a matrix (D, F) and a vector (D,).

        Interpolation and matrix products commute. So the maps of each level are multiplied first, which leaves little to
        interpolate.
        """
        total, first = torch.from_numpy(bias).to(self.device).view(1, -1, 1, 1), 0
        matrix = torch.from_numpy(weight).to(self.device)
        for found, side in self._maps(data, geometry):
            part = matrix[:, first : first + found.shape[1]]
            first += found.shape[1]
            total = total + _on_cells(torch.einsum("df,bfhw->bdhw", part, found), side, geometry.window)
        assert first == matrix.shape[1]
        projected: np.ndarray = total.cpu().numpy()
        return projected

    def _maps(self, data: Mapping[str, np.ndarray], geometry: CellGeometry) -> list[tuple[torch.Tensor, Fraction]]:
        """The map of each source and level, (B, F, h, w), and the side of its patches in cells."""
        maps = []
        for source in self.sources:
            found = self.encoder.tokens(torch.from_numpy(data[source]).to(self.device), source)  # (B, T, h, w, C) each
            for level in self.choice.levels:
                tokens = found[level].permute(0, 4, 1, 2, 3)
                tokens = tokens.mean(dim=2) if self.choice.time == "mean" else tokens.flatten(1, 2)
                maps.append((tokens, geometry.patch_cells[source, level]))
        return maps


def _on_cells(maps: torch.Tensor, patch_cells: Fraction, cells: int) -> torch.Tensor:
    """Maps (B, F, h, w) of patches, interpolated to the cells of a window: (B, F, cells, cells).

    Patches of coarse sources may extend beyond the window, as the encoder pads what is no multiple of them.
    """
    covered = [side * patch_cells for side in maps.shape[-2:]]
    if all(side.denominator == 1 for side in covered):
        resized = resize(maps, (int(covered[0]), int(covered[1])))
    else:
        resized = F.interpolate(maps, scale_factor=float(patch_cells), mode="bilinear", align_corners=False)
    return resized[..., :cells, :cells]
