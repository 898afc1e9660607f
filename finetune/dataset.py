"""Windows of labelled scenes for training and validation.

How a series of any length becomes the model's T frames: the season is dealt into T equal periods, and each gives one image:
the clearest over the window in evaluation, a random one in training, where the season is moved by some days, too. A period
without any clear pixel gives zeros. Pixels that are not clear are zero after normalisation, the mean of the band, never a
no-data number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rasterio
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from data_prep.scene import Scene
from data_prep.sensors import Sensor
from finetune.series import Clip, SceneSeries, Season, seen_until
from finetune.task import IGNORE, Task

Normalization = Mapping[str, Mapping[str, Sequence[float]]]


def origins(length: int, size: int, stride: int) -> list[int]:
    """Where windows begin so that 0..length is covered; the last may reach over the end."""
    return list(range(0, max(length - size + stride, 1), stride))


def origins_within(length: int, size: int, stride: int, step: int) -> list[int]:
    """Like `origins`, but the last window moves back, in whole steps, so that it reaches over the end as little as can be."""
    last = max(0, -(-(length - size) // step) * step)
    return [min(origin, last) for origin in origins(length, size, stride)]


def frames(
    clip: Clip, season: Season, known: Mapping[str, Sequence[float]], rng: np.random.Generator | None = None, shift: float = 0.0
) -> np.ndarray:
    """The model's input of one source: float32 (T, C, H, W), normalised by `known` mean and std, zero where not clear.

    H and W are those of the clip times `season.upsample`.
    """
    chosen = season.choose(clip.valid, rng, shift)
    taken = np.flatnonzero(chosen >= 0)
    images = clip.pixels[chosen[taken]]
    mean, std = (np.asarray(known[name], dtype=np.float32)[:, None, None] for name in ("mean", "std"))
    result = np.zeros((season.periods, *images.shape[1:]), dtype=np.float32)
    result[taken] = (images - mean) / std * clip.valid[chosen[taken]][:, None]
    return result.repeat(season.upsample, axis=-2).repeat(season.upsample, axis=-1) if season.upsample > 1 else result


class WindowDataset(Dataset[dict[str, Any]]):
    """Windows without overlap over the labels of some scenes; those without any labelled pixel are left out.

    An item is {"data": {source: float32 (T, C, H, W)}, "label": int64 (H, W) with `IGNORE` where not labelled, "file_name":
    "SCENE-rROW-cCOL"}. `dataset[i]` is how it is evaluated; `item(i, rng)` draws dates, flip and rotation.

    Args:
        scenes: scenes of one split.
        task, sensors: what to read.
        shift_days: when drawn at random, the whole season of a window is moved by up to so many days.
        cache_gb: windows are read once and kept in memory when they fit into so many gigabytes, else read when asked for.
        year: see SceneSeries.

    Raises ValueError for what SceneSeries refuses, and when nothing is labelled.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        task: Task,
        sensors: Mapping[str, Sensor],
        *,
        shift_days: float = 0.0,
        cache_gb: float = 4.0,
        year: int | None = None,
    ) -> None:
        self.shift_days = shift_days
        self.task = task
        self.normalization: Normalization | None = None
        self.series = [SceneSeries(scene, task, sensors, year=year) for scene in scenes]
        self.windows: list[tuple[int, int, int]] = []  # (scene, row, col)
        self.labels: list[np.ndarray] = []
        size = task.window_px
        for index, series in enumerate(self.series):
            series.check_window(size)
            classes = read_classes(series)
            for row in origins(series.grid.height, size, size):
                for col in origins(series.grid.width, size, size):
                    label = np.full((size, size), IGNORE, dtype=np.int8)
                    part = classes[row : row + size, col : col + size]
                    label[: part.shape[0], : part.shape[1]] = part
                    if (label != IGNORE).any():
                        self.windows.append((index, row, col))
                        self.labels.append(label)
        if not self.windows:
            raise ValueError(f"no labelled pixel in {', '.join(scene.name for scene in scenes)} (label {task.label})")
        needed = sum(self.series[index].window_bytes(size) for index, _, _ in self.windows)
        self._cache: dict[int, dict[str, Clip]] = {}
        self._open: SceneSeries | None = None  # without the cache: one scene at a time, each may be hundreds of files
        if needed <= cache_gb * 1e9:
            self._read_all()

    def _read_all(self) -> None:
        wanted = {window: index for index, window in enumerate(self.windows)}
        size = self.task.window_px
        with tqdm(total=len(self.windows), desc="reading windows", unit="window", leave=False) as bar:
            for scene, series in enumerate(self.series):
                rows, cols = (origins(length, size, size) for length in series.grid.shape)
                with series:
                    for row, col, clips in series.windows(rows, cols, size):
                        index = wanted.get((scene, row, col))
                        if index is not None:
                            # Copies: a view would keep its whole block in memory.
                            self._cache[index] = {
                                source: Clip(pixels=clip.pixels.copy(), valid=clip.valid.copy()) for source, clip in clips.items()
                            }
                            bar.update()

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.item(index)

    def clips(self, index: int) -> dict[str, Clip]:
        """All images of the season over window `index`, as stored."""
        if index in self._cache:
            return self._cache[index]
        scene, row, col = self.windows[index]
        series = self.series[scene]
        if series is not self._open:
            self.close()
            self._open = series.__enter__()
        return series.read(row, col, self.task.window_px, self.task.window_px)

    def item(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Item `index`; with `rng` random dates, and one random flip and rotation for pixels and label alike."""
        assert self.normalization is not None, "set dataset.normalization before items are drawn"
        scene, row, col = self.windows[index]
        series = self.series[scene]
        turns, flip = (0, 0) if rng is None else (int(rng.integers(4)), int(rng.integers(2)))
        # Seasons come earlier or later elsewhere: all sources are shifted alike.
        shift = 0.0 if rng is None else rng.uniform(-self.shift_days, self.shift_days)
        seasons = series.seasons
        if rng is not None and self.task.cut_dates:  # one model for every date at which the series may end
            seasons = seen_until(seasons, rng.choice(self.task.days_seen(series.year)))

        def turned(array: np.ndarray) -> np.ndarray:
            array = np.rot90(array, turns, axes=(-2, -1))
            # A copy and not ascontiguousarray: of a window of one pixel that keeps a negative stride, which torch refuses.
            return (array[..., ::-1] if flip else array).copy()

        data = {}
        for source, clip in self.clips(index).items():
            pixels = frames(clip, seasons[source], self.normalization[source], rng, shift)
            data[source] = torch.from_numpy(turned(pixels))
        label = torch.from_numpy(turned(self.labels[index].astype(np.int64)))
        return {"data": data, "label": label, "file_name": f"{series.scene.name}-r{row:05d}-c{col:05d}"}

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
            clip = self.clips(index)[source]
            clear = clip.pixels.transpose(1, 0, 2, 3)[:, clip.valid].astype(np.float64)  # (C, pixels)
            count, total, square = count + clear.shape[1], total + clear.sum(axis=1), square + (clear**2).sum(axis=1)
        if not count:
            raise ValueError(f"source {source} has no clear pixel in the training windows")
        mean = total / count
        std = np.sqrt(np.maximum(square / count - mean**2, 0))
        return {"mean": mean.tolist(), "std": np.where(std > 0, std, 1.0).tolist()}

    def class_pixels(self) -> np.ndarray:
        """Labelled pixels of each class, int64 (classes,)."""
        counts = np.zeros(len(self.task.classes), dtype=np.int64)
        for label in self.labels:
            counts += np.bincount(label[label != IGNORE], minlength=len(counts))
        return counts

    def close(self) -> None:
        """Close the readers of the scene that was read last."""
        if self._open is not None:
            self._open.__exit__()
            self._open = None


def read_classes(series: SceneSeries) -> np.ndarray:
    """The scene's label as class indices, int8 (H, W) on the map's grid, `IGNORE` where not labelled."""
    label = series.scene.labels[series.task.label]
    with rasterio.open(label.path) as raster:
        return series.task.class_indices(raster.read(1), label).astype(np.int8)
