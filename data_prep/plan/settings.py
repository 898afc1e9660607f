"""What shapes a plan beside the scenes: the arguments of the command that plans, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.plan.splits import SplitBlocks


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """What shapes a plan beside the scenes.

    Attributes:
        sources: only these; None for all that the scenes hold.
        chip_px: side of a sample in pixels by source, in place of the sensors' own.
        shard_mb: bytes of a shard in 1e6, on average at most.
        min_frames: samples with fewer dates in the year are rejected.
        split_blocks: blocks of places that decide on splits, in place of the scenes'.
        sites: table of the places where samples are cut (`data_prep/plan/sites.py`); None for all windows of a grid.
        labels: name of the scenes' label that travels with the samples, by source; empty for none.
    """

    sources: tuple[str, ...] | None = None
    chip_px: Mapping[str, int] = field(default_factory=dict)
    shard_mb: float = 256.0
    min_frames: int = 16
    split_blocks: SplitBlocks | None = None
    sites: Path | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.shard_mb <= 0 or self.min_frames < 1:
            raise ValueError(f"shard_mb must be above 0 and min_frames at least 1, got {self.shard_mb} and {self.min_frames}")
        wrong = {source: size for source, size in self.chip_px.items() if size < 1}
        if wrong:
            raise ValueError(f"chip_px must be at least 1 pixel, got {wrong}")
