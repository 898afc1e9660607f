"""The points of a table as labelled data for fine-tuning."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

import numpy as np

from common.notes import note
from common.storage import AnyPath
from data_prep.archive.scene import SPLITS, Label
from data_prep.archive.sensor import load_sensors
from finetune.data.augmentation import Augmentation
from finetune.data.labelled_data import SampleData
from finetune.data.tables.description import TableDescription, load_table
from finetune.data.tables.files import TableFiles
from finetune.data.tables.point_series import PointSeries, joined_series
from finetune.data.tables.point_windows import PointSamples, PointWindows
from finetune.data.tables.reading import TableReader
from finetune.data.tables.spatial_blocks import LEFT_OUT, PointSplits, block_names, split_by_blocks
from finetune.task import IGNORE, Task

TABLE_SUFFIXES = (".yaml", ".yml")
NOT_LABELLED = 0  # code; names of classes have codes from 1 on
MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledPoints:
    """All points of a table, with their labels and splits.

    Attributes:
        points: points and their series.
        codes: code of the label of each point, int64 (n,); NOT_LABELLED where there is none.
        label: what the codes mean.
        splits: index into SPLITS, or LEFT_OUT, int8 (n,).
        blocks: name of the block of each point, which counts as its scene, str (n,).
    """

    points: PointSeries
    codes: np.ndarray
    label: Label
    splits: np.ndarray
    blocks: np.ndarray


class TableData(SampleData):
    """The points of a table. It is read when it is first needed, and stays in memory.

    Args:
        path: the table.yaml. Sensors may be described in the folder `sources` beside it.

    Raises ValueError for a table.yaml that is wrong, or that says neither by which column nor by which blocks points are split.
    """

    def __init__(self, path: AnyPath) -> None:
        self.table = load_table(path)
        self._files = TableFiles(self.table)
        if self.table.columns.label is None:
            raise ValueError(f"{path}: fine-tuning needs labels: name the column of the `label` in `columns`")
        if self.table.columns.split is None and self.table.blocks is None:
            raise ValueError(
                f"{path}: says neither by `blocks` nor by a column `split` which points are for training; state for instance "
                "`blocks: {side_m: 50000, buffer_m: 1000}`: neighbouring points are too alike to be split at random"
            )
        self._read: tuple[tuple[str, ...], LabelledPoints] | None = None
        super().__init__(self._samples_of, load_sensors(path.parent / "sources"), self._sha256, self._labels_of)

    def _sha256(self) -> str:
        return hashlib.sha256("\n".join([self.table.sha256(), *self._files.sha256()]).encode()).hexdigest()

    def windows(self, split: str, task: Task, *, augmentation: Augmentation | None = None, year: int | None) -> PointWindows:
        """The points of a split as windows of one pixel."""
        samples = self._samples_of(split, task)
        return PointWindows(samples, task, self.sensors, augmentation=augmentation, year=year)

    def _labels_of(self, task: Task) -> list[Label]:
        return [self.labelled_points(task).label]

    def _samples_of(self, split: str, task: Task) -> PointSamples:
        """The labelled points of a split. Raises ValueError when there is none, and for a class that training lacks."""
        found = self.labelled_points(task)
        classes = task.class_indices(found.codes, found.label)
        self._check_classes(found, classes, task)
        chosen = np.flatnonzero((found.splits == SPLITS.index(split)) & (classes != IGNORE))
        if not len(chosen):
            counts = _counts(found.splits[classes != IGNORE])
            raise ValueError(f"{self.table.path}: no labelled point is in split {split}; {counts}")
        sensors = {source: self.sensors[source] for source in found.points.sources}
        return PointSamples(found.points, chosen, classes, found.blocks.tolist(), sensors)

    def _check_classes(self, found: LabelledPoints, classes: np.ndarray, task: Task) -> None:
        """Raises ValueError for a class that has points, but none of them in the training split."""
        in_training = np.unique(classes[found.splits == 0])
        absent = sorted(set(np.unique(classes).tolist()) - set(in_training.tolist()) - {IGNORE})
        if absent:
            named = ", ".join(f"{task.classes[index].name} ({(classes == index).sum()} points)" for index in absent)
            raise ValueError(
                f"{self.table.path}: no training point is of class {named}, so that it could not be learned; choose another "
                "seed, test_fold or side of the blocks, or let another class of the task list its labels"
            )

    def labelled_points(self, task: Task) -> LabelledPoints:
        """All points of the table, with the sources of the task that it has. Raises ValueError for a table that is wrong."""
        sources = tuple(source for source in task.sources if source in self.table.sources)
        if not sources or (len(sources) < len(task.sources) and task.missing_sources == "error"):
            missing = [source for source in task.sources if source not in sources]
            raise ValueError(
                f"{self.table.path}: has no source {', '.join(missing)}, which task {task.name} needs; it has "
                f"{', '.join(self.table.sources)}; choose others with --override.sources"
                + (", or allow missing sources with --missing_sources allow" if sources else "")
            )
        if self._read is None or self._read[0] != sources:
            self._read = sources, self._read_points(sources)
        return self._read[1]

    def _read_points(self, sources: tuple[str, ...]) -> LabelledPoints:
        path, columns, blocks = self.table.path, self.table.columns, self.table.blocks
        sensors = {source: self.sensors[source] for source in sources}
        parts = list(TableReader(table=self.table, files=self._files, sensors=sensors, labelled=True).read())
        if not parts:
            raise ValueError(f"{path}: the table has no rows")
        points = joined_series(parts)
        codes, label = codes_of_labels(points, self.table)
        if blocks is None:
            names = np.array([points.name(number) for number in range(len(points))])
        else:
            names = block_names(points.lon, points.lat, blocks)
        if columns.split is None:
            assert blocks is not None
            # Points without a label neither take part nor keep others apart.
            labelled = np.flatnonzero(codes != NOT_LABELLED)
            found = split_by_blocks(points.lon[labelled], points.lat[labelled], names[labelled], blocks)
            splits = np.full(len(points), LEFT_OUT, dtype=np.int8)
            splits[labelled] = found.splits
            self._say_splits(found, names[labelled])
        else:
            splits = splits_of_column(points, path)
        unlabelled = int((codes == NOT_LABELLED).sum())
        if unlabelled:
            note(f"{path}: {unlabelled} of {len(points)} points have no label and are left out")
        return LabelledPoints(points=points, codes=codes, label=label, splits=splits, blocks=names)

    def _say_splits(self, found: PointSplits, names: np.ndarray) -> None:
        blocks = self.table.blocks
        assert blocks is not None
        left_out = (
            f"; {found.in_buffer} nearer than {blocks.buffer_m:g} m to another split are left out" if found.in_buffer else ""
        )
        note(f"{self.table.path}: points in {len(np.unique(names))} blocks: {_counts(found.splits)}{left_out}")


def codes_of_labels(points: PointSeries, table: TableDescription) -> tuple[np.ndarray, Label]:
    """Code of the label of each point, int64 (n,), and what the codes mean.

    Raises ValueError for labels that `classes` does not name, and for codes without `classes`.
    """
    column = f"{table.path}: column {table.columns.label!r}"
    unlabelled = set(table.not_labelled)
    found = Counter(label for label in points.labels if label is not None and label not in unlabelled)
    if not found:
        raise ValueError(f"{column} holds no label")
    if table.classes:
        unknown = [label for label in found if label not in table.classes]
        if unknown:
            some = ", ".join(f"{label!r} ({found[label]} points)" for label in unknown[:MOST_NAMED])
            raise ValueError(
                f"{column} holds {some}, which `classes` does not name; name them there, or in `not_labelled`; it names "
                f"{', '.join(map(repr, table.classes))}"
            )
        name_of = dict(table.classes)
    else:
        if all(isinstance(label, int) or label.strip().lstrip("-").isdecimal() for label in found):
            some = ", ".join(str(label) for label in list(found)[:MOST_NAMED])
            raise ValueError(f"{column} holds codes ({some}); say what they mean: `classes: {{1: maize, 2: wheat}}`")
        name_of = {label: str(label) for label in found}
    names = sorted(set(name_of.values()))
    code_of = {label: names.index(name) + 1 for label, name in name_of.items()}
    codes = np.array([code_of.get(label, NOT_LABELLED) if label is not None else NOT_LABELLED for label in points.labels])
    label = Label(path=table.path, classes=dict(enumerate(names, 1)), nodata=NOT_LABELLED)
    return codes.astype(np.int64), label


def splits_of_column(points: PointSeries, path: AnyPath) -> np.ndarray:
    """The splits that a column states, int8 (n,).

    Raises ValueError for other words, and for points of different splits at one place.
    """
    unknown = Counter(split for split in points.splits if split not in SPLITS)
    if unknown:
        some = ", ".join(f"{split!r} ({count} points)" for split, count in unknown.most_common(MOST_NAMED))
        raise ValueError(f"{path}: the column of splits holds {some}; expected {', '.join(SPLITS)}")
    splits = np.array([SPLITS.index(split) for split in points.splits if split is not None], dtype=np.int8)
    known = np.flatnonzero(np.isfinite(points.lon))
    for what, values, of_points in (
        ("id", np.array(points.ids), np.arange(len(points))),
        ("place", points.lon[known] + 1j * points.lat[known], known),
    ):
        _, first, same = np.unique(values, return_index=True, return_inverse=True)
        other = of_points[first[same.reshape(-1)]]
        differs = splits[of_points] != splits[other]
        if differs.any():
            at = int(np.argmax(differs))
            one, two = int(of_points[at]), int(other[at])
            raise ValueError(
                f"{path}: points {points.name(one)} ({points.splits[one]}) and {points.name(two)} ({points.splits[two]}) have "
                f"one {what} and different splits; scores at places that were trained on are too high: give them one split"
            )
    return splits


def _counts(splits: np.ndarray) -> str:
    """Number of points in each split, in words."""
    return ", ".join(f"{int((splits == index).sum())} {split}" for index, split in enumerate(SPLITS))
