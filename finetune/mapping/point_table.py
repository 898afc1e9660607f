"""Prediction of a table of points: a Parquet file with a row for each point, made in parts and in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn
from tqdm import tqdm

from common.atomic_files import whole_file
from common.errors import while_running
from common.json_files import json_bytes
from common.notes import note
from common.storage import AnyPath
from finetune.data.normalization import other_scale
from finetune.data.tables.description import load_table
from finetune.data.tables.files import TableFiles
from finetune.data.tables.pixel_task import pixel_task
from finetune.data.tables.point_frames import PointFrames
from finetune.data.tables.point_series import PointSeries
from finetune.data.tables.reading import TableReader
from finetune.mapping.cog import NO_DATA
from finetune.mapping.finished_blocks import FinishedBlocks, weights_digest
from finetune.mapping.model_series import sensors_for_model
from finetune.mapping.points import POINTS_PER_BATCH, predict_points
from finetune.model.recipe import Recipe, reads_single_pixels

CLASS_COLUMN, PROBABILITY_COLUMN = "class", "probability_{}"


class PointTablePredictor:
    """Predicts the points of a table.

    Args:
        model: the model, in the memory of `device`.
        recipe: the recipe that `load_model` gives with the model.
        path: the table.yaml; it needs no labels and no splits.
        device: the device that computes.
        year: year in which the season ends, for points whose table does not state it; None for that with most dates.
        batch_size: points that the model reads together.

    Raises ValueError for a table that is wrong or lacks a source of the model, and for a model that reads the surroundings of a
    pixel and was trained with them.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        path: AnyPath,
        device: torch.device,
        year: int | None = None,
        batch_size: int = POINTS_PER_BATCH,
    ) -> None:
        self.table = load_table(path)
        task = recipe.task
        if task.window_px > 1:
            if not reads_single_pixels(recipe):
                raise ValueError(
                    f"this model was trained on windows of {task.window_px} x {task.window_px} pixels and reads what surrounds a "
                    "pixel, which a table does not hold; train one on a table, or use a temporal_cnn or random_forest"
                )
            task = pixel_task(task, 1)
        self._model, self._device, self._batch_size, self._year = model, device, batch_size, year
        self._has_noted_years = False
        self._recipe = replace(recipe, task=task)
        self._files = TableFiles(self.table)
        self._sensors = sensors_for_model(recipe.sensors, recipe.task.sources, path.resolve().parent)
        sources = [source for source in task.sources if source in self.table.sources]
        missing = [source for source in task.sources if source not in sources]
        if not sources or (missing and task.missing_sources == "error"):
            raise ValueError(
                f"{path}: has no source {', '.join(missing)}, which the model reads; it has {', '.join(self.table.sources)}"
                + ("; allow missing sources with --missing_sources allow" if sources else "")
            )
        self._reader = TableReader(
            table=self.table,
            files=self._files,
            sensors={source: self._sensors[source] for source in sources},
            labelled=False,
        )

    def identity(self) -> dict[str, Any]:
        """Everything that the predictions depend on, as plain values: equal identities mean equal parts."""
        return {
            "format": 2,
            "weights": weights_digest(self._model),
            "recipe": repr(self._recipe),
            "table": self.table.sha256(),
            "sensors": repr(self._sensors),
            "files": self._files.sha256(),
            "device": self._device.type,
            "batch_size": self._batch_size,
            "year": self._year,
        }

    def schema(self) -> pa.Schema:
        """The columns of the predictions; `year` is that in which the season that was read ends.

        The metadata `agrifm` holds the names of the classes by their indices.
        """
        columns = self.table.columns
        fields = [("id", pa.string())]
        if columns.has_place:
            fields += [("lon", pa.float64()), ("lat", pa.float64())]
        fields += [("year", pa.int32()), (CLASS_COLUMN, pa.string())]
        fields += [(PROBABILITY_COLUMN.format(c.name), pa.float32()) for c in self._recipe.task.classes]
        about = {"task": self._recipe.task.name, "classes": [c.name for c in self._recipe.task.classes]}
        return pa.schema(fields, metadata={b"agrifm": json_bytes(about)})

    def write(self, output: Path, check_lock: Callable[[], None] = lambda: None) -> dict[str, int]:
        """Write the predictions as Parquet, whole or not at all; returns the number of points of each class, and of none.

        Finished parts are kept in a folder beside `output` until the file is whole, and the same call resumes from them.
        `check_lock`: called before every write; raises when another job writes this file.
        """
        finished = FinishedBlocks(output, self.identity(), check_lock)
        try:
            parts = self._predict_parts(finished)
            check_lock()
            counts = self._write_parts(output, finished, parts)
            finished.remove()
        except BaseException:
            check_lock()
            finished.remove_if_empty()
            raise
        return counts

    def _predict_parts(self, finished: FinishedBlocks) -> int:
        """Predict and store all parts that are not finished; returns the number of parts."""
        number = 0
        with while_running(f"reading {self.table.path}"), tqdm(desc="predicting", unit="point") as bar:
            for number, points in enumerate(self._reader.read(in_order=True), 1):
                if number == 1:
                    self._note_other_scale(points)
                if number - 1 not in finished:
                    finished.write(number - 1, self._predict(points))
                bar.update(len(points))
        if not number:
            raise ValueError(f"{self.table.path}: the table has no rows")
        return number

    def _predict(self, points: PointSeries) -> dict[str, np.ndarray]:
        """The predictions of some points, and what is told of the points themselves."""
        frames = PointFrames(
            points=points,
            chosen=np.arange(len(points)),
            task=self._recipe.task,
            sensors=self._sensors,
            normalization=self._recipe.normalization,
            year=self._year,
        )
        found = predict_points(self._model, frames, self._device, self._batch_size)
        self._note_several_years(frames)
        return {
            "id": np.array(points.ids, dtype=str),
            "lon": points.lon,
            "lat": points.lat,
            "year": frames.years_of(frames.chosen).astype(np.int32),
            "classes": found.classes,
            "probabilities": found.probabilities,
        }

    def _write_parts(self, output: Path, finished: FinishedBlocks, parts: int) -> dict[str, int]:
        schema, names = self.schema(), [c.name for c in self._recipe.task.classes]
        counts = np.zeros(len(names) + 1, dtype=np.int64)
        with (
            while_running(f"writing {output}"),
            whole_file(output) as temporary,
            pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
        ):
            for arrays in (finished.read(number) for number in range(parts)):
                known = arrays["classes"] != NO_DATA
                indices = np.where(known, arrays["classes"], len(names))
                counts += np.bincount(indices, minlength=len(counts))
                writer.write_batch(_batch(arrays, schema, names, known, indices))
        return dict(zip([*names, "no data"], counts.tolist(), strict=True))

    def _note_several_years(self, frames: PointFrames) -> None:
        """Show a note, once, when points have many images of several seasons and no year is stated."""
        found = [] if self._has_noted_years else frames.of_several_years()
        if found:
            name, years = found[0]
            note(
                f"{self.table.path}: points have many images of several seasons, such as {name} of those that end in "
                f"{' and '.join(map(str, years))}; the year with most images is used, which the column year tells: state another "
                "with --year, or the year of each point in the table"
            )
            self._has_noted_years = True

    def _note_other_scale(self, points: PointSeries) -> None:
        """Show a note when numbers are on another scale than those that the model was trained on."""
        for source, series in points.sources.items():
            pixels = series.pixels[:, :, None, None]
            clear = series.pixels[(self._sensors[source].observed(pixels) & pixels.any(axis=1))[:, 0, 0]]
            known = self._recipe.normalization[source]["mean"]
            ratio = other_scale(clear.mean(axis=0).tolist(), known) if len(clear) else None
            if ratio is not None:
                note(
                    f"{self.table.path}: the numbers of {source} are {ratio:.2g} times those that the model was trained on; on "
                    "another scale predictions are worthless: check the scale and offset of the table"
                )


def _batch(
    arrays: Mapping[str, np.ndarray], schema: pa.Schema, names: Sequence[str], known: np.ndarray, indices: np.ndarray
) -> pa.RecordBatch:
    """Rows of the table of predictions."""
    columns: dict[str, Any] = {name: pa.array(arrays[name]) for name in ("id", "lon", "lat", "year") if name in schema.names}
    columns[CLASS_COLUMN] = pa.array(np.array([*names, ""])[indices], mask=~known)
    for index, name in enumerate(names):
        columns[PROBABILITY_COLUMN.format(name)] = pa.array(arrays["probabilities"][:, index], mask=~known)
    return pa.record_batch(
        [columns[name].cast(kind) for name, kind in zip(schema.names, schema.types, strict=True)], schema=schema
    )
