"""Labelled data in three splits: scenes with label rasters, or samples."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import numpy as np

from common.checksums import sha256_of
from common.grid import SAME_SIZE
from common.storage import AnyPath
from data_prep.archive.footprints import LEAST_SHARE, Footprints, overlap_text
from data_prep.archive.scene import SPLITS, Label, Scene, find_scenes, scene_file_sha256
from data_prep.archive.sensor import Sensor, load_sensors
from finetune.data.augmentation import Augmentation
from finetune.data.labelled_sample import Samples
from finetune.data.sample_windows import SampleWindows
from finetune.data.scene_series import SceneSeries, read_classes
from finetune.data.scene_windows import SceneWindows
from finetune.data.season import seen_until
from finetune.data.window_dataset import LabelledWindows
from finetune.task import IGNORE, MapClass, Task

LABELS_COMPARED = 100_000
MOST_NAMES = 10  # in a message


class LabelledScenes:
    """Whole test scenes, to be mapped with overlapping windows and compared with their labels.

    Args:
        series: the series of each scene, on the grid of its label.

    Attributes:
        series: as given.
        labels: class indices int16 (H, W) of each scene by name, `IGNORE` where not labelled.
        pixel_sizes: sides of the labels' pixels in units of the CRS.
        years: number of scenes by the year in which their season ends.

    Raises ValueError if the task's windows do not hold whole pixels of every source.
    """

    def __init__(self, series: list[SceneSeries]) -> None:
        self.series = series
        self.labels: dict[str, np.ndarray] = {}
        for one in series:
            one.check_window(one.task.window_px)
            self.labels[one.scene.name] = read_classes(one)
        self.pixel_sizes = {one.pixel_size for one in series}
        self.years = Counter(one.year for one in series)

    @contextmanager
    def ended_after(self, days: float) -> Iterator[None]:
        """Inside this context, only images of the first `days` days of the season exist; later periods are zeros."""
        before = [one.seasons for one in self.series]
        for one in self.series:
            one.seasons = seen_until(one.seasons, days)
        try:
            yield
        finally:
            for one, seasons in zip(self.series, before, strict=True):
                one.seasons = seasons


class LabelledData(Protocol):
    """Labelled data in three splits.

    Attributes:
        sensors: all known sensors.
    """

    sensors: dict[str, Sensor]

    def windows(self, split: str, task: Task, *, augmentation: Augmentation | None = None, year: int | None) -> LabelledWindows:
        """The windows of a split, read from the data. Raises ValueError if the task cannot use the data."""
        ...

    def test_data(self, task: Task, *, year: int | None) -> LabelledScenes | SampleWindows:
        """Data for the final scores: whole scenes, or samples. Raises ValueError as `windows` does."""
        ...

    def labels(self, task: Task) -> list[Label]:
        """The labels of the task in all splits, whose names of classes are the task's; none where labels are class indices."""
        ...

    def fingerprint(self, task: Task) -> str:
        """sha256 of what describes the data, labels included, but not of the pixels of images: whether it has changed."""
        ...


class SampleData:
    """Samples by split; see `finetune/data/labelled_sample.py`.

    Args:
        samples: (split, task) -> samples.
        sensors: all known sensors.
        fingerprint: sha256 of what describes the samples.
        labels: task -> the labels whose codes the samples hold.
    """

    def __init__(
        self,
        samples: Callable[[str, Task], Samples],
        sensors: dict[str, Sensor],
        fingerprint: Callable[[], str],
        labels: Callable[[Task], list[Label]] = lambda _: [],
    ) -> None:
        self._samples, self.sensors, self._fingerprint, self._labels = samples, sensors, fingerprint, labels

    def labels(self, task: Task) -> list[Label]:
        """The labels whose codes the samples hold; none where they hold class indices."""
        return self._labels(task)

    def fingerprint(self, task: Task) -> str:
        """sha256 of what describes the samples, and of the sensors of the task."""
        return _sha256(self._fingerprint(), *_sensor_texts(task, self.sensors))

    def windows(self, split: str, task: Task, *, augmentation: Augmentation | None = None, year: int | None) -> SampleWindows:
        """The windows of a split."""
        return SampleWindows(self._samples(split, task), task, self.sensors, augmentation=augmentation, year=year)

    def test_data(self, task: Task, *, year: int | None) -> SampleWindows:
        """The windows of the test samples."""
        return self.windows("test", task, year=year)


class SceneData:
    """Scenes with label rasters. `split` in each scene.yaml says to which split a scene belongs.

    Raises ValueError if a split is empty.
    """

    def __init__(self, folder: AnyPath) -> None:
        self._scenes = scenes_by_split(folder)
        self.sensors = load_sensors(folder / "sources")

    def windows(self, split: str, task: Task, *, augmentation: Augmentation | None = None, year: int | None) -> SceneWindows:
        """The windows of a split."""
        return SceneWindows(self._scenes[split], task, self.sensors, augmentation=augmentation, year=year)

    def labels(self, task: Task) -> list[Label]:
        """The task's label of each scene that has it."""
        return [scene.labels[task.label] for split in SPLITS for scene in self._scenes[split] if task.label in scene.labels]

    def fingerprint(self, task: Task) -> str:
        """sha256 of every scene.yaml, of the task's label rasters and of its sensors."""
        scenes = (scene_file_sha256(scene.folder) for split in SPLITS for scene in self._scenes[split])
        rasters = (sha256_of(label.path) for label in self.labels(task) if label.path.is_file())
        return _sha256(*scenes, *rasters, *_sensor_texts(task, self.sensors))

    def test_data(self, task: Task, *, year: int | None) -> LabelledScenes:
        """The test scenes."""
        return LabelledScenes([SceneSeries(scene, task, self.sensors, year=year) for scene in self._scenes["test"]])


def _sensor_texts(task: Task, sensors: Mapping[str, Sensor]) -> list[str]:
    return [json.dumps(sensors[source].to_dict(), sort_keys=True) for source in task.sources if source in sensors]


def _sha256(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def scenes_by_split(folder: AnyPath) -> dict[str, list[Scene]]:
    """The scenes of each split. Raises ValueError if a split is empty, and for any scene.yaml that cannot be read."""
    scenes = find_scenes(folder)
    splits = {split: [scene for scene in scenes if scene.split == split] for split in SPLITS}
    empty = [split for split in SPLITS if not splits[split]]
    if empty:
        raise ValueError(
            f"no scenes of split {' and '.join(empty)} in {folder}; found "
            + ", ".join(f"{scene.name} ({scene.split})" for scene in scenes)
            + "; `split` in each scene.yaml says where it belongs"
        )
    return splits


def check_sources(task: Task, sensors: dict[str, Sensor]) -> None:
    """Raises ValueError for a source of the task whose sensor the labelled data do not define."""
    unknown = [source for source in task.sources if source not in sensors]
    if unknown:
        raise ValueError(
            f"unknown source {', '.join(unknown)}; known: {', '.join(sensors)} (a YAML in a folder `sources` adds "
            "one: in the folder of scenes or samples, or beside your own dataset)"
        )


def check_classes(training: LabelledWindows, labels: Sequence[Label]) -> str:
    """A note about classes of the task without a pixel in the labelled training data, "" when there is none.

    The model cannot learn them. Raises ValueError where that is a mistake: for the task's target class, for classes whose names
    none of the `labels` has, and when fewer than two classes have a pixel.
    """
    task, pixels = training.task, training.class_pixels()
    absent = [c for c, count in zip(task.classes, pixels, strict=True) if count == 0]
    named = {name for label in labels for name in label.classes.values()}
    unknown = [c for c in absent if c.name == task.target or not named & set(c.labels)]
    if unknown or len(task.classes) - len(absent) < 2:
        found = sorted(named)
        raise ValueError(
            f"the training labels {task.label!r} hold no pixel of class {', '.join(c.name for c in unknown or absent)}; the task "
            f"expects these names in the labels: {[list(c.labels) or 'everything else' for c in unknown or absent]}"
            + (f"; they have {', '.join(found)}" if found else "")
        )
    if not absent:
        return ""
    return f"{len(absent)} of {len(task.classes)} classes have no training pixel and are not learned: {_some_names(absent)}"


def rest_in_words(task: Task, labels: Sequence[Label]) -> str:
    """Which names in labels count as the first class, as no class lists them; "" for none.

    Raises ValueError for names that are nearly those that a class lists (`Task.names_of_rest`).
    """
    times = Counter(name for label in labels for name in task.names_of_rest(label))
    if not times:
        return ""
    names = (f"{name} ({count} of {len(labels)} labels)" for name, count in sorted(times.items()))
    return f"class {task.classes[0].name} gets what no class lists: {', '.join(names)}"


def _some_names(classes: Sequence[MapClass]) -> str:
    return ", ".join(c.name for c in classes[:MOST_NAMES]) + (", ..." if len(classes) > MOST_NAMES else "")


def check_splits_apart(training: LabelledWindows, validation: LabelledWindows, test_data: LabelledScenes | SampleWindows) -> None:
    """Raises ValueError when scenes of different splits have labels of common ground, in whatever years."""
    series: dict[str, SceneSeries] = {}
    footprints = Footprints()
    for split, data in zip(SPLITS, (training, validation, test_data), strict=True):
        for one in data.series if isinstance(data, SceneWindows | LabelledScenes) else ():
            series[one.scene.name] = one
            footprints.add(one.scene.name, split, one.grid)
    overlaps = (replace(found, share=common_labels(*(series[name] for name in found.scenes))) for found in footprints.overlaps())
    too_large = [found for found in overlaps if found.share > LEAST_SHARE]
    if too_large:
        raise ValueError(
            "scenes of different splits have labels of common ground, in percent of the fewer labelled pixels: "
            f"{overlap_text(too_large)}; scores on ground that was trained on are too high: give such scenes one region and one "
            f"split in their scene.yaml, or set their label {training.task.label!r} to no data there in one of them"
        )


def common_labels(one: SceneSeries, other: SceneSeries) -> float:
    """Share of the labelled pixels of one scene that are labelled in another one, too: of the scene that has fewer of them.

    It is that of LABELS_COMPARED random pixels where there are more.
    """
    labelled = ((read_classes(series) != IGNORE, series.grid) for series in (one, other))
    (fewer, grid), (more, other_grid) = sorted(labelled, key=lambda of_scene: int(of_scene[0].sum()))
    pixels = np.flatnonzero(fewer)
    if len(pixels) > LABELS_COMPARED:
        pixels = np.random.default_rng(0).choice(pixels, LABELS_COMPARED)
    rows, cols = np.divmod(pixels, grid.width)
    other_cols, other_rows = (np.floor(at) for at in other_grid.pixels_at(*grid.lon_lat(rows + 0.5, cols + 0.5)))
    inside = (other_rows >= 0) & (other_rows < other_grid.height) & (other_cols >= 0) & (other_cols < other_grid.width)
    found = more[other_rows[inside].astype(int), other_cols[inside].astype(int)]
    return float(found.sum() / max(len(pixels), 1))


def one_pixel_size(task: Task, *data: LabelledWindows | LabelledScenes) -> float:
    """The pixel size of the labels in units of the CRS. Raises ValueError if it differs among `data` by more than SAME_SIZE."""
    sizes = sorted(set().union(*(one.pixel_sizes for one in data)))
    if sizes[-1] > sizes[0] * (1 + SAME_SIZE):
        raise ValueError(f"labels {task.label!r} have pixels of different size: {sizes}; all must have the same")
    return sizes[0]
