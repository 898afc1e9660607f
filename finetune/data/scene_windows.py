"""Labelled windows of scenes, read from the scenes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np

from data_prep.archive.scene import Scene
from data_prep.archive.sensor import Sensor
from data_prep.plan.label_blocks import SplitGround
from finetune.data.augmentation import Augmentation
from finetune.data.image_stack import ImageStack
from finetune.data.scene_series import SceneSeries, read_classes, with_equal_scales
from finetune.data.window_dataset import LabelledWindows
from finetune.data.window_group import WindowGroup
from finetune.data.window_origins import origins
from finetune.task import CLASS_DTYPE, IGNORE, Task


class SceneWindows(LabelledWindows):
    """Windows without overlap over the labels of some scenes; windows without any labelled pixel are left out.

    "file_name" of an item is "SCENE-rROW-cCOL". Each window is read when it is needed, and the readers of one scene stay open: a
    training reads from a store of the windows instead (`finetune/data/window_store.py`).

    Args:
        scenes: scenes of one split.
        task, sensors: sources to read and their sensors.
        augmentation: changes made to windows in training.
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
        year: int | None = None,
        ground: SplitGround | None = None,
    ) -> None:
        super().__init__(task, sensors, augmentation)
        self.series = with_equal_scales([SceneSeries(scene, task, sensors, year=year) for scene in scenes])
        self.pixel_sizes = {one.pixel_size for one in self.series}
        self.years = Counter(one.year for one in self.series)
        size = task.window_px
        self.labels: list[np.ndarray] = []
        for index, series in enumerate(self.series):
            series.check_window(size)
            series.ground = ground
            self._add_windows(index, read_classes(series))
        if not self.windows:
            raise ValueError(f"no labelled pixel in {', '.join(scene.name for scene in scenes)} (label {task.label})")
        self._open: SceneSeries | None = None  # one scene at a time: it may consist of hundreds of files
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

    def group(self, number: int) -> WindowGroup:
        """What the windows of scene `number` have in common."""
        series, size = self.series[number], self.task.window_px
        shapes = {source: series.stack_shape(source, size, size) for source in self.task.sources}
        return WindowGroup(name=series.scene.name, scene=number, year=series.year, seasons=series.seasons, shapes=shapes)

    def stacks(self, index: int) -> dict[str, ImageStack]:
        """All images of the season over window `index`, as stored."""
        number, row, col = self.windows[index]
        series = self.series[number]
        if series is not self._open:
            self.close()
            self._open = series.open()
        return series.read(row, col, self.task.window_px, self.task.window_px)

    def stacks_from(self, first: int) -> Iterator[dict[str, ImageStack]]:
        """`stacks` of the windows from `first` on; neighbouring windows are read together, and scenes opened one by one."""
        self.close()
        for number, windows in groupby(self.windows[first:], key=lambda window: window[0]):
            with self.series[number] as series:
                yield from series.windows_at([(row, col) for _, row, col in windows], self.task.window_px)

    def close(self) -> None:
        """Close the readers of the scene that was read last."""
        if self._open is not None:
            self._open.close()
            self._open = None
