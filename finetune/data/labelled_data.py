"""Labelled data in three splits: scenes with labels, or samples."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress
from typing import Protocol

import numpy as np

from common.checksums import sha256_of
from common.grid import SAME_SIZE, pixel_sides_m
from common.storage import AnyPath
from data_prep.archive.footprints import LEAST_SHARE, Footprints, overlap_text
from data_prep.archive.label import Label
from data_prep.archive.scene import (
    SCENE_FILE,
    SPLITS,
    Scene,
    find_scenes,
    home_of_scenes,
    is_simulated,
    labels_file,
    scene_file_sha256,
)
from data_prep.archive.sensor import Sensor, load_sensors
from data_prep.landcover.label_classes import with_classes
from data_prep.plan.label_blocks import LabelledGround, SplitBlocks, SplitGround
from data_prep.plan.splits import IN_BUFFER
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
        series: as given, but those without labels.
        labels: class indices int16 (H, W) of each scene by name, `IGNORE` where not labelled.
        pixel_sizes: sides of the labels' pixels in units of the CRS.
        years: number of scenes by the year in which their season ends.

    Scenes without labels on their ground are left out where scenes are divided by spatial blocks.

    Raises ValueError if the task's windows do not hold whole pixels of every source.
    """

    def __init__(self, series: list[SceneSeries]) -> None:
        labels = []
        for one in series:
            one.check_window(one.task.window_px)
            labels.append(read_classes(one))
        used = [one.ground is None or bool((label != IGNORE).any()) for one, label in zip(series, labels, strict=True)]
        series = list(compress(series, used))
        self.series = series
        self.labels: dict[str, np.ndarray] = dict(zip((one.scene.name for one in series), compress(labels, used), strict=True))
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


@dataclass(frozen=True, kw_only=True)
class DataOrigin:
    """What labelled data are called, for reports.

    Attributes:
        scenes: names of the scenes by split; empty where the data are samples.
        simulated: names of the scenes whose images are simulated.
    """

    scenes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    simulated: Sequence[str] = ()


class LabelledData(Protocol):
    """Labelled data in three splits.

    Attributes:
        sensors: all known sensors.
        about_splits: how one scene's ground is divided, for people; "" where every scene or sample is of one split.
    """

    sensors: dict[str, Sensor]
    about_splits: str

    def windows(self, split: str, task: Task, *, augmentation: Augmentation | None = None, year: int | None) -> LabelledWindows:
        """The windows of a split, read from the data. Raises ValueError if the task cannot use the data."""
        ...

    def test_data(self, task: Task, *, year: int | None) -> LabelledScenes | SampleWindows:
        """Data for the final scores: whole scenes, or samples. Raises ValueError as `windows` does."""
        ...

    def labels(self, task: Task) -> list[Label]:
        """The labels of the task in all splits, whose names of classes are the task's; none where labels are class indices."""
        ...

    def origin(self) -> DataOrigin:
        """What the data are called, and which of them are simulated as far as it is known."""
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
        self.about_splits = ""

    def labels(self, task: Task) -> list[Label]:
        """The labels whose codes the samples hold; none where they hold class indices."""
        return self._labels(task)

    def origin(self) -> DataOrigin:
        """Nothing: samples do not say which scenes they are from, nor whether these are simulated."""
        return DataOrigin()

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
    """Scenes with labels. `split` in each scene.yaml says to which split a scene belongs, or `blocks` divide the ground of all.

    Raises ValueError if a split is empty, and if scenes that `blocks` divide state a split.
    """

    def __init__(self, folder: AnyPath, blocks: SplitBlocks | None = None) -> None:
        self._blocks = blocks if blocks is not None and blocks.side_m is not None else None
        self._scenes = scenes_by_split(folder) if self._blocks is None else dict.fromkeys(SPLITS, scenes_without_split(folder))
        self.sensors = load_sensors(home_of_scenes(folder) / "sources")
        self.about_splits = ""
        self._grounds: dict[str, tuple[SplitGround, ...]] = {}  # by task and year

    def windows(self, split: str, task: Task, *, augmentation: Augmentation | None = None, year: int | None) -> SceneWindows:
        """The windows of a split."""
        scenes, ground = self._scenes[split], self._ground(split, task, year)
        return SceneWindows(scenes, task, self.sensors, augmentation=augmentation, year=year, ground=ground)

    def labels(self, task: Task) -> list[Label]:
        """The task's label of each scene that has it."""
        return [
            with_classes(scene.labels[task.label], f"{scene.folder / SCENE_FILE}, label {task.label}")
            for scene in self._all_scenes()
            if task.label in scene.labels
        ]

    def origin(self) -> DataOrigin:
        """The names of the scenes, and which of them are simulated."""
        scenes = {split: [scene.name for scene in self._scenes[split]] for split in SPLITS}
        return DataOrigin(scenes=scenes, simulated=self._simulated)

    @cached_property
    def _simulated(self) -> list[str]:
        return [scene.name for split in SPLITS for scene in self._scenes[split] if is_simulated(scene)]

    def fingerprint(self, task: Task) -> str:
        """sha256 of every scene.yaml and of labels.yaml, of the files of the task's labels and of its sensors."""
        scenes = self._all_scenes()
        texts = [scene_file_sha256(scene.folder) for scene in scenes]
        known: dict[str, str] = {}  # several scenes may share a file
        for path in (path for scene in scenes if task.label in scene.labels for path in scene.labels[task.label].files):
            if str(path) not in known:
                known[str(path)] = sha256_of(path)
            texts.append(known[str(path)])
        shared = labels_file(scenes[0].folder)
        texts += [] if shared is None else [sha256_of(shared)]
        return _sha256(*texts, *_sensor_texts(task, self.sensors))

    def test_data(self, task: Task, *, year: int | None) -> LabelledScenes:
        """The test scenes."""
        series = [SceneSeries(scene, task, self.sensors, year=year) for scene in self._scenes["test"]]
        for one in series:
            one.ground = self._ground("test", task, year)
        return LabelledScenes(series)

    def _all_scenes(self) -> list[Scene]:
        """Every scene once."""
        return [scene for split in SPLITS for scene in self._scenes[split]] if self._blocks is None else self._scenes["test"]

    def _ground(self, split: str, task: Task, year: int | None) -> SplitGround | None:
        """The ground of a split; None where the scenes state their splits. Raises ValueError when a split has no label."""
        if self._blocks is None:
            return None
        key = json.dumps([task.to_dict(), year], default=str)
        if key not in self._grounds:
            series = [SceneSeries(scene, task, self.sensors, year=year) for scene in self._all_scenes()]
            self._grounds[key], self.about_splits = divided_ground(series, self._blocks)
        return self._grounds[key][SPLITS.index(split)]


def _sensor_texts(task: Task, sensors: Mapping[str, Sensor]) -> list[str]:
    return [json.dumps(sensors[source].to_dict(), sort_keys=True) for source in task.sources if source in sensors]


def _sha256(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def divided_ground(series: Sequence[SceneSeries], blocks: SplitBlocks) -> tuple[tuple[SplitGround, ...], str]:
    """The ground of each split in the labels of some scenes, and how it is divided, for people.

    Raises ValueError when blocks are narrower than a window, and when there are too few for every split to have labels.
    """
    assert blocks.side_m is not None
    ground = LabelledGround(blocks)
    for one in series:
        window_m = one.task.window_px * float(np.max(pixel_sides_m(one.grid, *np.array([one.grid.shape[::-1]]).T / 2)))
        if blocks.side_m < window_m:
            raise ValueError(
                f"--split_blocks.side_m is {blocks.side_m:g}, less than a window of {one.task.window_px} px, {window_m:.0f} m; "
                "state larger blocks or smaller windows (--override.window_px)"
            )
        ground.add(one.grid, read_classes(one) != IGNORE)
    grounds = ground.divided()
    pixels = np.zeros(len(SPLITS) + 1, np.int64)  # the last: in the buffer
    for one in series:
        labelled = read_classes(one) != IGNORE
        splits = grounds[0].splits_of(one.grid, labelled)[labelled]
        pixels += np.bincount(np.where(splits == IN_BUFFER, len(SPLITS), splits), minlength=len(pixels))
    parts = [f"{name} {of.num_blocks} blocks, {count} pixels" for name, of, count in zip(SPLITS, grounds, pixels, strict=False)]
    text = (
        f"labels are divided by blocks of {blocks.side_m:g} m with a buffer of {blocks.buffer_m:g} m: {'; '.join(parts)}; "
        f"{100 * pixels[-1] / pixels.sum():.1f} % of the labelled pixels lie in the buffer and are not used"
    )
    if not pixels[:-1].all():
        raise ValueError(f"--split_blocks: {text}; every split needs labels: state smaller blocks, a smaller buffer or a seed")
    return grounds, text


def scenes_by_split(folder: AnyPath) -> dict[str, list[Scene]]:
    """The scenes of each split. Raises ValueError if a split is empty, and for any scene.yaml that cannot be read."""
    scenes = find_scenes(folder)
    splits = {split: [scene for scene in scenes if scene.split == split] for split in SPLITS}
    empty = [split for split in SPLITS if not splits[split]]
    if empty:
        named = ", ".join(f"{scene.name} ({scene.split if scene.split_stated else 'no split stated'})" for scene in scenes)
        if any(scene.split_stated for scene in scenes):
            advice = "`split` in each scene.yaml says where it belongs (train where it says nothing)"
        else:
            advice = (
                "no scene.yaml states a `split`: state train, validation or test in each, or divide the ground of all scenes by "
                "spatial blocks, for instance --split_blocks.side_m 2000 --split_blocks.buffer_m 200"
            )
        raise ValueError(f"no scenes of split {' and '.join(empty)} in {folder}; found {named}; {advice}")
    return splits


def scenes_without_split(folder: AnyPath) -> list[Scene]:
    """All scenes, whose ground is to be divided. Raises ValueError if one states a split."""
    scenes = find_scenes(folder)
    stated = [f"{scene.name} ({scene.split})" for scene in scenes if scene.split_stated]
    if stated:
        raise ValueError(
            f"--split_blocks divides the ground of scenes that state no split, and {', '.join(stated[:MOST_NAMES])} "
            f"state{'s' if len(stated) == 1 else ''} one: remove `split` from every scene.yaml, or leave --split_blocks out"
        )
    return scenes


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
    none of the `labels` has, where there are any, and when fewer than two classes have a pixel.
    """
    task, pixels = training.task, training.class_pixels()
    absent = [c for c, count in zip(task.classes, pixels, strict=True) if count == 0]
    named = {name for label in labels for name in label.classes.values()}
    # The class of the rest may have no pixel: labels of fields alone do not say what is none.
    unknown = [c for c in absent if c.name == task.target or (labels and c.labels and not named & set(c.labels))]
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
            if one.ground is not None:
                continue  # of divided ground, every place is of one split
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
