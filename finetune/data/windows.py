"""What training asks of labelled data, wherever it comes from: windows, batches, statistics.

How a series of any length becomes the model's T frames: the season is dealt into T equal periods, and each gives one image:
the clearest over the window in evaluation, a random one in training. A period without any clear pixel gives zeros, and so does
every period of a source that is not there. Pixels that are not clear are zero after normalisation, the mean of the band, never a
no-data number.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from finetune.data.augmentation import Augmentation, augment
from finetune.data.label_fraction import label_subset
from finetune.data.season import Clip, LabelledWindow, Season, seen_until
from finetune.task import IGNORE, Task

Normalization = Mapping[str, Mapping[str, Sequence[float]]]


def frames(
    clip: Clip, season: Season, known: Mapping[str, Sequence[float]], rng: np.random.Generator | None = None
) -> np.ndarray:
    """The model's input of one source: float32 (T, C, H, W), normalised by `known` mean and std, zero where not clear.

    H and W are those of the clip times `season.upsample`.
    """
    chosen = season.choose(clip.valid, rng)
    taken = np.flatnonzero(chosen >= 0)
    images = clip.pixels[chosen[taken]]
    mean, std = (np.asarray(known[name], dtype=np.float32)[:, None, None] for name in ("mean", "std"))
    result = np.zeros((season.periods, *images.shape[1:]), dtype=np.float32)
    result[taken] = (images - mean) / std * clip.valid[chosen[taken]][:, None]
    return result.repeat(season.upsample, axis=-2).repeat(season.upsample, axis=-1) if season.upsample > 1 else result


class LabelledWindows(Dataset[dict[str, Any]], ABC):
    """Labelled windows of equal size, for training and validation.

    An item is {"data": {source: float32 (T, C, H, W)}, "label": int64 (H, W) with `IGNORE` where not labelled, "file_name": the
    window's}. `dataset[i]` is how it is evaluated; `item(i, rng)` draws dates and augments.

    Attributes:
        task: what to read.
        augmentation: what happens to windows that are drawn.
        normalization: mean and std of each band of each source; set before items are drawn.
        windows: (scene or sample, row, col) of each.
        labels: of each window, int8 (H, W).
        pixels: sizes of the label's pixels in units of the CRS; one unless something is wrong.
        seen_days: days of the season after which there are no images, as if it had not gone on.
    """

    def __init__(self, task: Task, augmentation: Augmentation | None = None) -> None:
        self.task = task
        self.augmentation = augmentation or Augmentation()
        self.normalization: Normalization | None = None
        self.windows: list[tuple[int, int, int]] = []
        self.labels: list[np.ndarray] = []
        self._cache: dict[int, Any] = {}  # what is in memory of each window
        self.pixels: set[float] = set()
        self.seen_days = math.inf

    @abstractmethod
    def window(self, index: int) -> LabelledWindow:
        """Window `index` with all images of the season, as stored."""

    @abstractmethod
    def scene_of(self, index: int) -> Hashable:
        """What window `index` shares with those that are no independent samples of it."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open of the data."""

    def keep_share(self, fraction: float, seed: int) -> None:
        """Keep only the windows that `label_subset` chooses. Raises ValueError for a fraction out of range."""
        names = [c.name for c in self.task.classes]
        target = None if self.task.target is None else names.index(self.task.target)
        numbers: dict[Hashable, int] = {}
        scenes = [numbers.setdefault(self.scene_of(index), len(numbers)) for index in range(len(self))]
        kept = label_subset(scenes, self.labels, fraction, seed, target)
        self.windows = [self.windows[index] for index in kept]
        self.labels = [self.labels[index] for index in kept]
        self._cache = {new: self._cache[old] for new, old in enumerate(kept) if old in self._cache}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.item(index)

    def item(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Item `index`; with `rng` augmented, and with random dates."""
        assert self.normalization is not None, "set dataset.normalization before items are drawn"
        window, seen = self.window(index), self.seen_days
        if rng is not None:
            window = augment(window, self.augmentation, rng)
            if self.task.cut_dates:  # one model for every date at which the series may end
                assert window.year is not None, "a task with cut dates takes windows with dates only"
                seen = rng.choice(self.task.days_seen(window.year))
        seasons = seen_until(window.seasons, seen)
        data = {
            source: torch.from_numpy(frames(window.clips[source], seasons[source], self.normalization[source], rng))
            for source in self.task.sources
        }
        return {
            "data": data,
            "label": torch.from_numpy(window.label.astype(np.int64, order="C")),
            "file_name": window.name,
        }

    def batch(self, indices: Sequence[int], rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Items stacked: data {source: (B, T, C, H, W)}, label (B, H, W), file_name list."""
        items = [self.item(int(index), rng) for index in indices]
        return {
            "data": {source: torch.stack([item["data"][source] for item in items]) for source in self.task.sources},
            "label": torch.stack([item["label"] for item in items]),
            "file_name": [item["file_name"] for item in items],
        }

    def statistics(self, source: str) -> dict[str, list[float]]:
        """Mean and standard deviation of each band over the clear pixels of all windows, in stored numbers."""
        count, total, square = 0, np.zeros(1), np.zeros(1)
        for index in range(len(self)):
            clip = self.window(index).clips[source]
            clear = clip.pixels.transpose(1, 0, 2, 3)[:, clip.valid].astype(np.float64)  # (C, pixels)
            count, total, square = count + clear.shape[1], total + clear.sum(axis=1), square + (clear**2).sum(axis=1)
        if not count:
            raise ValueError(f"source {source} has no clear pixel in the training windows; leave it out with --sources")
        mean = total / count
        std = np.sqrt(np.maximum(square / count - mean**2, 0))
        return {"mean": mean.tolist(), "std": np.where(std > 0, std, 1.0).tolist()}

    def class_pixels(self) -> np.ndarray:
        """Labelled pixels of each class, int64 (classes,)."""
        counts = np.zeros(len(self.task.classes), dtype=np.int64)
        for label in self.labels:
            counts += np.bincount(label[label != IGNORE], minlength=len(counts))
        return counts
