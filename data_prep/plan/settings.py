"""Settings that shape a plan besides the scenes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.storage import AnyPath
from data_prep.plan.splits import SpatialBlocks


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """Settings that shape a plan besides the scenes.

    Attributes:
        sources: only these sources; None for all that the scenes have.
        chip_px: side of a sample in pixels by source, instead of the sensors' own.
        shard_mb: largest mean size of a shard in megabytes (1e6 bytes).
        min_frames: samples with fewer dates are rejected.
        spatial_blocks: split by place; None for the split that each scene states.
        sites: table of sites where samples are cut (`data_prep/plan/sites.py`); None for all windows that tile a grid.
        labels: name of the scenes' label that the samples hold for fine-tuning, by source; empty for no labels.
        land_cover_maps: the samples hold a land-cover map on their pixels.
    """

    sources: tuple[str, ...] | None = None
    chip_px: Mapping[str, int] = field(default_factory=dict)
    shard_mb: float = 256.0
    min_frames: int = 16
    spatial_blocks: SpatialBlocks | None = None
    sites: AnyPath | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    land_cover_maps: bool = True

    def __post_init__(self) -> None:
        if self.shard_mb <= 0 or self.min_frames < 1:
            raise ValueError(f"shard_mb must be above 0 and min_frames at least 1, got {self.shard_mb} and {self.min_frames}")
        wrong = {source: size for source, size in self.chip_px.items() if size < 1}
        if wrong:
            raise ValueError(f"chip_px must be at least 1 pixel, got {wrong}")
