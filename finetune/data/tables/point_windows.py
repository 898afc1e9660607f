"""Points of a table as samples for fine-tuning: images and labels of one pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.archive.sensor import Sensor
from finetune.data.augmentation import Augmentation
from finetune.data.frames import Normalization
from finetune.data.sample_windows import SampleWindows
from finetune.data.tables.point_frames import PointFrames
from finetune.data.tables.point_series import NO_YEAR, PointSeries
from finetune.task import Task


class PointSamples:
    """Some points of a table as samples (`finetune/data/labelled_sample.py`) of 1 x 1 pixels.

    Args:
        points: points and their series.
        chosen: numbers of the points that are the samples.
        classes: index of the task's class of each point in `points`, integer (n,).
        blocks: name of the scene of each point in `points`: points of one block are not independent.
        sensors: sensor of each source.
    """

    def __init__(
        self,
        points: PointSeries,
        chosen: np.ndarray,
        classes: np.ndarray,
        blocks: Sequence[str],
        sensors: Mapping[str, Sensor],
    ) -> None:
        self.points, self.chosen = points, chosen
        self._classes, self._blocks = classes, blocks
        # All points have one pixel size, also those that lack the finest source.
        self._pixel = min(sensors[source].gsd_m for source in points.sources)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(self.chosen[index])
        data, dates = {}, {}
        for source, series in self.points.sources.items():
            mine = series.of_point(number)
            if mine.stop > mine.start:
                data[source] = series.pixels[mine][:, :, None, None]
                dates[source] = series.days[mine]
        year = int(self.points.years[number])
        item = {
            "file_name": self.points.name(number),
            "scene": str(self._blocks[number]),
            "data": data,
            "dates": dates,
            "label": np.array([[self._classes[number]]]),
            "pixel": self._pixel,
        }
        return item if year == NO_YEAR else item | {"year": year}


class PointWindows(SampleWindows):
    """Windows of one pixel, one for each point.

    Args:
        samples: the points.
        task: a `pixel_task`.
        sensors, augmentation, year: as for `SampleWindows`.

    Raises ValueError as `SampleWindows` does.
    """

    def __init__(
        self,
        samples: PointSamples,
        task: Task,
        sensors: Mapping[str, Sensor],
        *,
        augmentation: Augmentation | None = None,
        year: int | None = None,
    ) -> None:
        assert task.window_px == 1, "a point is a window of one pixel"
        super().__init__(samples, task, sensors, augmentation=augmentation, year=year)
        self._points = samples

    def _side(self, source: str, number: int) -> int:  # noqa: ARG002
        """One pixel, also of a source that the point lacks."""
        return 1

    def frames(self, normalization: Normalization) -> PointFrames:
        """Reads the frames of all points for evaluation."""
        return PointFrames(
            points=self._points.points,
            chosen=self._points.chosen,
            task=self.task,
            sensors=self.sensors,
            normalization=normalization,
            year=self._year,
        )
