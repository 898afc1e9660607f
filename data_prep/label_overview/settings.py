"""The options of `data_prep/labels.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from common.storage import AnyPath
from data_prep.plan.label_blocks import SplitBlocks


@dataclass(frozen=True, kw_only=True)
class LabelsConfig:
    """Write the labels of scenes as GeoTIFFs, draw them, and count pixels and objects per class and split.

    Attributes:
        input: folder of scenes, or one scene; also a URL.
        label: name of the label in scene.yaml or labels.yaml.
        output: folder for SCENE.tif and SCENE.png; written again where they exist.
        sources: sources that will be used with the label, as in a task; polygons and points without `grid` get the grid of the
            finest of them. Default: all sources of the scene.
        year: only labels of the season that ends in this year; default: all years of the label, one map for each.
        season_begin: MM-DD at which the season begins in the year before, for labels with a `date_column`; default: seasons
            lie within a year.
        pictures: false writes no PNG.
        split_blocks: how fine-tuning shall divide the ground of scenes that state no split.
    """

    input: AnyPath
    label: str
    output: Path
    sources: list[str] | None = None
    year: int | None = None
    season_begin: str | None = None
    pictures: bool = True
    split_blocks: SplitBlocks = field(default_factory=SplitBlocks)

    @property
    def season_start(self) -> tuple[int, int] | None:
        """Month and day of `season_begin`. Raises ValueError for anything but MM-DD."""
        if self.season_begin is None:
            return None
        try:
            month, day = (int(part) for part in self.season_begin.split("-"))
        except ValueError as error:
            raise ValueError(f"--season_begin is {self.season_begin!r}; expected month and day, MM-DD") from error
        return month, day
