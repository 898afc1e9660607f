"""Windows of labelled scenes for training and validation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import rasterio
from tqdm import tqdm

from data_prep.archive.scene import Scene
from data_prep.archive.sensor import Sensor
from finetune.data.augmentation import Augmentation
from finetune.data.scene_series import SceneSeries, with_equal_sizes
from finetune.data.season import Clip, LabelledWindow
from finetune.data.windows import LabelledWindows
from finetune.task import IGNORE, Task


def origins(length: int, size: int, stride: int) -> list[int]:
    """Where windows begin so that 0..length is covered; the last may reach over the end."""
    return list(range(0, max(length - size + stride, 1), stride))


def origins_within(length: int, size: int, stride: int, step: int) -> list[int]:
    """Like `origins`, but the last window moves back, in whole steps, so that it reaches over the end as little as can be."""
    last = max(0, -(-(length - size) // step) * step)
    return [min(origin, last) for origin in origins(length, size, stride)]


class SceneWindows(LabelledWindows):
    """Windows without overlap over the labels of some scenes; those without any labelled pixel are left out.

    "file_name" of an item is "SCENE-rROW-cCOL".

    Args:
        scenes: scenes of one split.
        task, sensors: what to read.
        augmentation: what happens to windows that are drawn.
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
        augmentation: Augmentation | None = None,
        cache_gb: float = 4.0,
        year: int | None = None,
    ) -> None:
        super().__init__(task, augmentation)
        self.series = with_equal_sizes([SceneSeries(scene, task, sensors, year=year) for scene in scenes])
        self.pixels = {one.pixel for one in self.series}
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
        self._open: SceneSeries | None = None  # without the cache: one scene at a time, each may be hundreds of files
        if needed <= cache_gb * 1e9:
            self._read_all()
        self.augmentation.check_crop(math.lcm(*(one.step for one in self.series)), size)

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

    def scene_of(self, index: int) -> int:
        """The scene of window `index`."""
        return self.windows[index][0]

    def clips(self, index: int) -> dict[str, Clip]:
        """All images of the season over window `index`, as stored."""
        if index in self._cache:
            clips: dict[str, Clip] = self._cache[index]
            return clips
        scene, row, col = self.windows[index]
        series = self.series[scene]
        if series is not self._open:
            self.close()
            self._open = series.__enter__()
        return series.read(row, col, self.task.window_px, self.task.window_px)

    def window(self, index: int) -> LabelledWindow:
        """Window `index` with all images of the season, as stored."""
        scene, row, col = self.windows[index]
        series = self.series[scene]
        name = f"{series.scene.name}-r{row:05d}-c{col:05d}"
        clips = self.clips(index)
        return LabelledWindow(name=name, clips=clips, seasons=series.seasons, label=self.labels[index], year=series.year)

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
