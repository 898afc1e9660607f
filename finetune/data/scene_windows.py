"""Labelled windows of scenes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from data_prep.archive.scene import Scene
from data_prep.archive.sensor import Sensor
from data_prep.plan.label_blocks import SplitGround
from finetune.data.augmentation import Augmentation
from finetune.data.image_stack import ImageStack
from finetune.data.labelled_window import LabelledWindow
from finetune.data.scene_series import SceneSeries, read_classes, with_equal_scales
from finetune.data.window_dataset import LabelledWindows
from finetune.data.window_origins import origins
from finetune.task import CLASS_DTYPE, IGNORE, Task


class SceneWindows(LabelledWindows):
    """Windows without overlap over the labels of some scenes; windows without any labelled pixel are left out.

    "file_name" of an item is "SCENE-rROW-cCOL".

    Args:
        scenes: scenes of one split.
        task, sensors: sources to read and their sensors.
        augmentation: changes made to windows in training.
        cache_gb: windows are kept in memory if all fit into this many gigabytes; otherwise each is read when it is needed.
        year: see `SceneSeries`.
        ground: ground of the split, where scenes are divided by spatial blocks; None uses all labels.

    Raises ValueError if `SceneSeries` refuses a scene, and if no pixel is labelled.
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
        ground: SplitGround | None = None,
    ) -> None:
        super().__init__(task, sensors, augmentation)
        self.series = with_equal_scales([SceneSeries(scene, task, sensors, year=year) for scene in scenes])
        self.pixel_sizes = {one.pixel_size for one in self.series}
        self.years = Counter(one.year for one in self.series)
        size = task.window_px
        for index, series in enumerate(self.series):
            series.check_window(size)
            series.ground = ground
            self._add_windows(index, read_classes(series))
        if not self.windows:
            raise ValueError(f"no labelled pixel in {', '.join(scene.name for scene in scenes)} (label {task.label})")
        needed = sum(self.series[index].window_bytes(size) for index, _, _ in self.windows)
        self._open: SceneSeries | None = None  # without the cache one scene at a time: it may consist of hundreds of files
        if needed <= cache_gb * 1e9:
            self._read_all()
        self.augmentation.check_crop(math.lcm(*(one.step for one in self.series)), size)

    def _add_windows(self, scene: int, classes: np.ndarray) -> None:
        """Add the labelled windows of scene number `scene`; `classes` int16 (H, W) is its label."""
        size = self.task.window_px
        for row in origins(classes.shape[0], size, size):
            for col in origins(classes.shape[1], size, size):
                label = np.full((size, size), IGNORE, dtype=CLASS_DTYPE)
                part = classes[row : row + size, col : col + size]
                label[: part.shape[0], : part.shape[1]] = part
                if (label != IGNORE).any():
                    self.windows.append((scene, row, col))
                    self.labels.append(label)

    def _read_all(self) -> None:
        """Read all windows into memory."""
        index_of = {window: index for index, window in enumerate(self.windows)}
        size = self.task.window_px
        with tqdm(total=len(self.windows), desc="reading windows", unit="window", leave=False) as bar:
            for scene, series in enumerate(self.series):
                rows, cols = (origins(length, size, size) for length in series.grid.shape)
                with series:
                    for row, col, stacks in series.windows(rows, cols, size):
                        index = index_of.get((scene, row, col))
                        if index is not None:
                            # Copies: a view would keep all windows that were read together in memory.
                            self._cache[index] = {
                                source: ImageStack(pixels=stack.pixels.copy(), valid=stack.valid.copy())
                                for source, stack in stacks.items()
                            }
                            bar.update()

    def scene_of(self, index: int) -> int:
        """Number of the scene of window `index`."""
        return self.windows[index][0]

    def stacks(self, index: int) -> dict[str, ImageStack]:
        """All images of the season over window `index`, as stored."""
        if index in self._cache:
            stacks: dict[str, ImageStack] = self._cache[index]
            return stacks
        scene, row, col = self.windows[index]
        series = self.series[scene]
        if series is not self._open:
            self.close()
            self._open = series.open()
        return series.read(row, col, self.task.window_px, self.task.window_px)

    def window(self, index: int) -> LabelledWindow:
        """Window `index` with all images of the season, as stored."""
        scene, row, col = self.windows[index]
        series = self.series[scene]
        return LabelledWindow(
            name=f"{series.scene.name}-r{row:05d}-c{col:05d}",
            stacks=self.stacks(index),
            seasons=series.seasons,
            label=self.labels[index],
            year=series.year,
        )

    def close(self) -> None:
        """Close the readers of the scene that was read last."""
        if self._open is not None:
            self._open.close()
            self._open = None
