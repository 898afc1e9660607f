"""What the options of `finetune/embed.py` and `finetune/probe.py` have in common."""

from __future__ import annotations

from pathlib import Path

from finetune.embedding.components import SampleOptions
from finetune.embedding.features import FeatureChoice, TimeAxis
from finetune.embedding.scene_blocks import WindowOptions


class EmbeddingOptions:
    """Options of embeddings, grouped as embeddings take them. A configuration declares them as its fields.

    It is no dataclass, since fields of a base come first in `--help`, before options that must be given.
    """

    levels: list[int]
    time: TimeAxis
    dimensions: int
    pca: Path | None
    pca_windows: int
    seed: int
    overlap: float
    batch_size: int

    def check_embedding(self) -> None:
        """Raises ValueError for values out of range, and for a number of dimensions beside components that are given."""
        if self.pca is not None and self.dimensions != SampleOptions.dimensions:
            raise ValueError(f"--dimensions {self.dimensions} has no effect with --pca {self.pca}; leave one of them out")
        _ = self.choice, self.sample, self.options

    @property
    def choice(self) -> FeatureChoice:
        """What of the encoder's maps are features. Raises ValueError for other values."""
        return FeatureChoice(levels=tuple(self.levels), time=self.time)

    @property
    def sample(self) -> SampleOptions:
        """How components are computed. Raises ValueError for values out of range."""
        return SampleOptions(dimensions=self.dimensions, pca_windows=self.pca_windows, seed=self.seed)

    @property
    def options(self) -> WindowOptions:
        """How windows cover a scene. Raises ValueError for values out of range."""
        return WindowOptions(overlap=self.overlap, batch_size=self.batch_size)
