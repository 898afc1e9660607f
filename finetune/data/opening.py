"""What `--data` may be: scenes with label rasters, HDF5 samples as published, shards with labels, or a dataset of one's own."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from data_prep.archive.scene import SPLITS, Scene, find_scenes
from data_prep.archive.sensor import Sensor, load_sensors
from data_prep.corpus.dataset import DATASET, load_corpus
from finetune.data.augmentation import Augmentation
from finetune.data.hdf5_samples import LISTS, SAMPLE_FOLDER, Hdf5Samples, list_folder
from finetune.data.sample_windows import SampleWindows
from finetune.data.samples import Samples
from finetune.data.scene_series import SceneSeries
from finetune.data.scene_windows import SceneWindows, read_classes
from finetune.data.shard_samples import ShardSamples
from finetune.data.windows import LabelledWindows
from finetune.evaluation import evaluate_samples, evaluate_scenes
from finetune.model.crop_mapper import Recipe
from finetune.task import Task


class TaskData(Protocol):
    """Labelled data in three splits.

    Attributes:
        sensors: all known sensors.
    """

    sensors: dict[str, Sensor]

    def training_set(
        self, split: str, task: Task, *, augmentation: Augmentation | None, cache_gb: float, year: int | None
    ) -> LabelledWindows:
        """The windows of a split. Raises ValueError for data that are not as the task needs them."""
        ...

    def tests(self, task: Task, *, cache_gb: float, year: int | None) -> Tests:
        """What the finished model is tested on. Raises ValueError as `training_set` does."""
        ...


class Tests(Protocol):
    """The test split, ready to be mapped and scored.

    Attributes:
        pixels: sizes of the label's pixels.
    """

    pixels: set[float]

    def evaluate(
        self, model: nn.Module, recipe: Recipe, output: Path, device: torch.device, overlap: float, pictures: bool
    ) -> dict[str, Any]:
        """Scores as of `evaluate_scenes`; maps and pictures go into `output/maps`."""
        ...


def open_data(data: Path) -> TaskData:
    """The data at `data`, by what is there.

        FILE.py:CLASS                                  a dataset of one's own: CLASS(split) for train, validation and test
        a folder with dataset.json                     shards with labels (`shard.py --label.SOURCE NAME`)
        a folder with train.txt, or data_lists/        HDF5 samples as published
        else                                           scenes

    Raises ValueError when it is none of them, and when a split is empty.
    """
    if data.suffix == ".py":
        raise ValueError(f"--data {data} names a file; name the class in it, too: {data}:CLASS")
    file, _, name = str(data).rpartition(":")
    if file.endswith(".py"):
        return SampleData(own_dataset(Path(file), name), load_sensors(Path(file).parent / "sources"))
    if (data / DATASET).is_file():
        corpus = load_corpus(data)
        return SampleData(lambda split, task: ShardSamples(corpus, split, task), corpus.sensors)
    if list_folder(data) is not None:
        return SampleData(lambda split, task: Hdf5Samples(data, split, task.sources), load_sensors(data / "sources"))
    if (data / SAMPLE_FOLDER).is_dir() or next(data.glob("*.h5"), None) is not None:
        raise ValueError(f"{data} holds HDF5 samples and none of the lists {', '.join(LISTS.values())}, one name a line")
    return SceneData(data)


def own_dataset(file: Path, name: str) -> Callable[[str, Task], Samples]:
    """The class (or function) `name` of a Python file: called with the split, and with the task where it takes two arguments.

    Raises ValueError when there is none.
    """
    if not file.is_file():
        raise ValueError(f"--data: no file {file}; expected FILE.py:CLASS, a dataset of your own, or a folder")
    spec = importlib.util.spec_from_file_location(f"dataset_of_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as an import does
    spec.loader.exec_module(module)
    made = getattr(module, name, None)
    if not callable(made):
        known = sorted(n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == spec.name)
        raise ValueError(f"--data: {file} has no class {name!r}; it has {', '.join(known) or 'none'}")

    def samples(split: str, task: Task) -> Samples:
        found: Samples = made(split) if len(inspect.signature(made).parameters) < 2 else made(split, task)
        if not len(found):
            raise ValueError(f"{file}:{name} has no sample of split {split}")
        return found

    return samples


class SampleData:
    """Samples by split; see `finetune/data/samples.py`."""

    def __init__(self, samples: Callable[[str, Task], Samples], sensors: dict[str, Sensor]) -> None:
        self._samples, self.sensors = samples, sensors

    def training_set(
        self, split: str, task: Task, *, augmentation: Augmentation | None, cache_gb: float, year: int | None
    ) -> SampleWindows:
        samples = self._samples(split, task)
        return SampleWindows(samples, task, self.sensors, augmentation=augmentation, cache_gb=cache_gb, year=year)

    def tests(self, task: Task, *, cache_gb: float, year: int | None) -> SampleTests:  # noqa: ARG002
        # Read when they are scored, once: kept, they would lie in memory while the model trains.
        return SampleTests(self.training_set("test", task, augmentation=None, cache_gb=0, year=year))


class SampleTests:
    """Test samples: scores of their windows, and pictures. There are no maps, since samples lie nowhere."""

    def __init__(self, windows: SampleWindows) -> None:
        self._windows, self.pixels = windows, windows.pixels

    def evaluate(
        self,
        model: nn.Module,
        recipe: Recipe,
        output: Path,
        device: torch.device,
        overlap: float,  # noqa: ARG002
        pictures: bool,
    ) -> dict[str, Any]:
        self._windows.normalization = recipe.normalization
        try:
            return evaluate_samples(model, recipe, self._windows, output, device, pictures=pictures)
        finally:
            self._windows.close()


class SceneData:
    """Scenes with label rasters; `split` in each scene.yaml says where it belongs. Raises ValueError when a split is empty."""

    def __init__(self, folder: Path) -> None:
        self._scenes = scenes_by_split(folder)
        self.sensors = load_sensors(folder / "sources")

    def training_set(
        self, split: str, task: Task, *, augmentation: Augmentation | None, cache_gb: float, year: int | None
    ) -> SceneWindows:
        scenes = self._scenes[split]
        return SceneWindows(scenes, task, self.sensors, augmentation=augmentation, cache_gb=cache_gb, year=year)

    def tests(self, task: Task, *, cache_gb: float, year: int | None) -> SceneTests:  # noqa: ARG002
        return SceneTests([SceneSeries(scene, task, self.sensors, year=year) for scene in self._scenes["test"]])


class SceneTests:
    """Test scenes, mapped whole with overlapping windows."""

    def __init__(self, series: list[SceneSeries]) -> None:
        self._series = series
        self._truths: dict[str, np.ndarray] = {}
        for one in series:
            one.check_window(one.task.window_px)
            self._truths[one.scene.name] = read_classes(one)
        self.pixels = {one.pixel for one in series}

    def evaluate(
        self, model: nn.Module, recipe: Recipe, output: Path, device: torch.device, overlap: float, pictures: bool
    ) -> dict[str, Any]:
        return evaluate_scenes(model, recipe, self._series, self._truths, output, device, overlap, pictures)


def scenes_by_split(data: Path) -> dict[str, list[Scene]]:
    """The scenes of each split. Raises ValueError when one is empty."""
    scenes = find_scenes(data)
    splits = {split: [scene for scene in scenes if scene.split == split] for split in SPLITS}
    empty = [split for split in SPLITS if not splits[split]]
    if empty:
        raise ValueError(
            f"no scenes of split {' and '.join(empty)} in {data}; found "
            + ", ".join(f"{scene.name} ({scene.split})" for scene in scenes)
            + "; `split` in each scene.yaml says where it belongs"
        )
    return splits


def check_sources(task: Task, sensors: dict[str, Sensor]) -> None:
    """Raises ValueError for a source of the task without a description."""
    unknown = [source for source in task.sources if source not in sensors]
    if unknown:
        raise ValueError(
            f"unknown source {', '.join(unknown)}; known: {', '.join(sensors)} (a YAML in a folder `sources` adds "
            "one: in the folder of scenes or samples, or beside your own dataset)"
        )


def one_pixel_size(task: Task, *sets: LabelledWindows | Tests) -> float:
    """The size of the label's pixels. Raises ValueError when it is not the same in all sets."""
    pixels = set().union(*(one.pixels for one in sets))
    if len(pixels) > 1:
        raise ValueError(f"labels {task.label!r} have pixels of different size: {sorted(pixels)}; all must have the same")
    return float(pixels.pop())
