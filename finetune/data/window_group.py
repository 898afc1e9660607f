"""What the windows of one scene, or of one sample, have in common."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from finetune.data.season import Season

Shape = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class WindowGroup:
    """The windows of one scene, or of one sample.

    Attributes:
        name: of the scene or sample; names of windows begin with it.
        scene: the scene; windows of one scene are not independent samples.
        year: year in which the season ends; None if the dates are unknown.
        seasons: one per source of the task.
        shapes: of the stack of each window, by source of the task: images, bands, rows, columns. A missing source has no images.
    """

    name: str
    scene: Hashable
    year: int | None
    seasons: Mapping[str, Season]
    shapes: Mapping[str, Shape]

    def window_name(self, row: int, col: int) -> str:
        """Name of the window at (row, col)."""
        return f"{self.name}-r{row:05d}-c{col:05d}"
