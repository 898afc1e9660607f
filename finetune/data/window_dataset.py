"""Labelled windows for training, validation and test, whatever data they come from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from common.notes import note
from data_prep.archive.sensor import Sensor
from data_prep.shards.band_statistics import is_enough, with_limits
from finetune.data.augmentation import Augmentation, augment
from finetune.data.frames import Normalization, model_frames
from finetune.data.image_stack import ImageStack
from finetune.data.label_fraction import label_subset
from finetune.data.labelled_window import LabelledWindow
from finetune.data.normalization import other_scale
from finetune.data.season import seen_until
from finetune.data.window_group import WindowGroup
from finetune.task import IGNORE, Task

WINDOWS_COMPARED = 64  # at most about so many


class LabelledWindows(ABC):
    """Labelled windows of equal size, for training, validation and test.

    An item is {"data": {source: float32 (T, C, H, W)}, "label": int64 (H, W) with `IGNORE` where not labelled, "file_name": the
    window's name}, of tensors. `dataset[i]` is the item for evaluation; `item(i, rng)` chooses random dates and augments the
    window.

    Attributes:
        task: sources, season and classes.
        sensors: meaning of the pixels of each source of the task.
        augmentation: changes made to windows in training.
        normalization: mean and standard deviation of each band of each source; set it before you read items.
        windows: (number of the scene or sample, row, column) of each window, in ascending order.
        labels: label of each window, int16 (H, W).
        pixel_sizes: sides of the label's pixels in units of the CRS. `one_pixel_size` requires that there is only one.
        years: number of scenes or samples by the year in which their season ends; those without dates do not count.
        seen_days: the season is cut off after this many days; see `ended_after`.
    """

    def __init__(self, task: Task, sensors: Mapping[str, Sensor], augmentation: Augmentation | None = None) -> None:
        self.task, self.sensors = task, sensors
        self.augmentation = augmentation or Augmentation()
        self.normalization: Normalization | None = None
        self.windows: list[tuple[int, int, int]] = []
        self.labels: Sequence[np.ndarray] = []
        self.pixel_sizes: set[float] = set()
        self.years: Counter[int] = Counter()
        self.seen_days = math.inf

    @abstractmethod
    def group(self, number: int) -> WindowGroup:
        """What the windows of scene or sample `number` have in common."""

    @abstractmethod
    def stacks(self, index: int) -> dict[str, ImageStack]:
        """All images of the season over window `index`, as stored, by source of the task."""

    @abstractmethod
    def close(self) -> None:
        """Close the files that are open."""

    def stacks_from(self, first: int) -> Iterator[dict[str, ImageStack]]:
        """`stacks` of the windows from `first` on, in their order; a subclass may read neighbouring windows together."""
        return map(self.stacks, range(first, len(self)))

    def window(self, index: int) -> LabelledWindow:
        """Window `index` with all images of the season, as stored."""
        number, row, col = self.windows[index]
        group = self.group(number)
        name, label = group.window_name(row, col), self.labels[index]
        return LabelledWindow(name=name, stacks=self.stacks(index), seasons=group.seasons, label=label, year=group.year)

    def scene_of(self, index: int) -> Hashable:
        """The scene of window `index`. Windows of one scene are not independent samples."""
        return self.group(self.windows[index][0]).scene

    def keep_share(self, fraction: float, seed: int) -> None:
        """Keep only the windows of `share`. Raises ValueError for a fraction out of range."""
        self.keep(self.share(fraction, seed))

    def share(self, fraction: float, seed: int) -> np.ndarray:
        """Indices of the windows that `label_subset` chooses. Raises ValueError for a fraction out of range."""
        names = [c.name for c in self.task.classes]
        target = None if self.task.target is None else names.index(self.task.target)
        numbers: dict[Hashable, int] = {}
        scenes = [numbers.setdefault(self.scene_of(index), len(numbers)) for index in range(len(self))]
        return label_subset(scenes, self.labels, fraction, seed, target)

    def keep(self, kept: np.ndarray) -> None:
        """Keep only the windows of these indices, int64, ascending."""
        self.windows = [self.windows[index] for index in kept]
        self.labels = [self.labels[index] for index in kept]

    @contextmanager
    def ended_after(self, days: float) -> Iterator[None]:
        """Inside this context, only images of the first `days` days of the season exist; later periods are zeros."""
        before, self.seen_days = self.seen_days, days
        try:
            yield
        finally:
            self.seen_days = before

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.item(index)

    def read(self, index: int, rng: np.random.Generator | None = None) -> tuple[dict[str, np.ndarray], np.ndarray, str]:
        """Frames float32 (T, C, H, W) of each source, label int16 (H, W) and name of window `index`.

        With `rng` the window is augmented and its dates are random.
        """
        assert self.normalization is not None, "set dataset.normalization before you read items"
        window, seen = self.window(index), self.seen_days
        if rng is not None:
            window = augment(window, self.augmentation, rng)
            if self.task.cut_dates:  # one model learns every date at which the series may end
                assert window.year is not None, "a task with cut dates needs windows with dates"
                seen = rng.choice(self.task.days_seen(window.year))
        seasons = seen_until(window.seasons, seen)
        frames = {
            source: model_frames(window.stacks[source], seasons[source], self.normalization[source], rng)
            for source in self.task.sources
        }
        return frames, window.label, window.name

    def item(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Item `index`; with `rng` the window is augmented and its dates are random."""
        from torch import from_numpy  # imported here because processes that only read windows do without torch

        frames, label, name = self.read(index, rng)
        return {
            "data": {source: from_numpy(pixels) for source, pixels in frames.items()},
            "label": from_numpy(label.astype(np.int64, order="C")),
            "file_name": name,
        }

    def batch(self, indices: Sequence[int], rng: np.random.Generator | None = None) -> dict[str, Any]:
        """A batch of items: data {source: (B, T, C, H, W)}, label (B, H, W), file_name list."""
        from torch import stack

        items = [self.item(int(index), rng) for index in indices]
        return {
            "data": {source: stack([item["data"][source] for item in items]) for source in self.task.sources},
            "label": stack([item["label"] for item in items]),
            "file_name": [item["file_name"] for item in items],
        }

    def statistics(self, source: str, *, robust: bool = True) -> dict[str, list[float]]:
        """Mean and standard deviation of each band over the clear pixels of all windows, in stored numbers.

        `robust`: without those that are as bright as snow (`Sensor.white`), unless nearly all are; with limits `low` and `high`.

        Raises ValueError if no window has a clear pixel of the source.
        """
        found = self.statistics_of(range(len(self)), source, robust=robust)
        if found is None:
            raise ValueError(f"source {source} has no clear pixel in the training windows; leave it out with --override.sources")
        return found

    def statistics_of(self, windows: Sequence[int], source: str, *, robust: bool = True) -> dict[str, list[float]] | None:
        """`statistics` over some of the windows; None where these have no clear pixel of the source."""
        everything, rest = _Sums(), _Sums()
        is_all = windows == range(len(self))
        for stacks in self.stacks_from(0) if is_all else map(self.stacks, windows):
            stack = stacks[source]
            everything.add(stack.pixels, stack.valid)
            if robust:
                rest.add(stack.pixels, stack.valid & ~self.sensors[source].white(stack.pixels))
        if not everything.count:
            return None
        mean, std = (rest if is_enough(rest.count, everything.count) else everything).mean_and_std()
        return with_limits(mean, std) if robust else {"mean": mean.tolist(), "std": std.tolist()}

    def class_pixels(self) -> np.ndarray:
        """Labelled pixels of each class, int64 (classes,)."""
        counts = np.zeros(len(self.task.classes), dtype=np.int64)
        for label in self.labels:
            counts += np.bincount(label[label != IGNORE], minlength=len(counts))
        return counts


def compared_windows(windows: LabelledWindows) -> range:
    """The windows whose magnitudes are compared with those of the sensor, the checkpoint or other windows."""
    return range(0, len(windows), math.ceil(len(windows) / WINDOWS_COMPARED))


def note_windows_of_other_scale(windows: LabelledWindows, what: str, normalization: Normalization) -> None:
    """Show a note when the numbers of `what` windows are on another scale than those that the model was trained on."""
    for source in windows.task.sources:
        found = windows.statistics_of(compared_windows(windows), source)
        ratio = other_scale(found["mean"], normalization[source]["mean"]) if found is not None else None
        if ratio is not None:
            note(
                f"the numbers of {source} in the {what} windows are {ratio:.2g} times those that the model was trained on; on "
                "another scale what it says is worthless: check the scale and offset of the data"
            )


class _Sums:
    """Number of some pixels, and of each band the sums of their numbers and of the squares."""

    def __init__(self) -> None:
        self.count, self._total, self._squares = 0, np.zeros(1), np.zeros(1)

    def add(self, pixels: np.ndarray, chosen: np.ndarray) -> None:
        """Add those of `pixels` (N, C, H, W) for which `chosen`, bool (N, H, W), is True."""
        added = pixels.transpose(1, 0, 2, 3)[:, chosen].astype(np.float64)  # (C, pixels)
        self.count += added.shape[1]
        self._total, self._squares = self._total + added.sum(axis=1), self._squares + (added**2).sum(axis=1)

    def mean_and_std(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each band, (C,); 1 in place of a standard deviation of 0."""
        mean = self._total / self.count
        std = np.sqrt(np.maximum(self._squares / self.count - mean**2, 0))
        return mean, np.where(std > 0, std, 1.0)
