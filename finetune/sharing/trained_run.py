"""A trained model with what is recorded of its run: everything that its descriptions say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.checksums import sha256_of
from common.json_files import read_json, without_nan
from finetune.model.model_file import MODEL_FILE, load_model
from finetune.model.random_forest import RandomForest
from finetune.model.recipe import Recipe
from finetune.run_folder import METRICS_FILE, RUN_FILE


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A model and the record of its run.

    Attributes:
        recipe: recipe of the model.
        parameters: number of its parameters; of a random forest that of its trees' numbers.
        is_forest: whether it is a random forest.
        size, sha256: of the model's file.
        settings: content of run.json; empty where there is none beside the model.
        metrics: content of metrics.json; empty where there is none beside the model.
    """

    recipe: Recipe
    parameters: int
    is_forest: bool
    size: int
    sha256: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, Any]

    @property
    def origin(self) -> Mapping[str, Any]:
        """What metrics.json says of where the training data are from; empty for runs of versions that did not record it."""
        known: Mapping[str, Any] = self.metrics.get("training_origin", {})
        return known

    @property
    def is_simulated(self) -> bool:
        """Whether scenes that it was trained on are known to be simulated."""
        return bool(self.origin.get("simulated_scenes"))


def trained_run(path: Path, settings: Mapping[str, Any] | None = None, metrics: Mapping[str, Any] | None = None) -> TrainedRun:
    """The model in the folder of a run, with what the run recorded; or that in a file of its own, of which nothing else is known.

    `settings` and `metrics`: contents of run.json and metrics.json, where they are not read from the folder.

    Raises ValueError when there is no model, when it is damaged, and for a folder whose run is not finished.
    """
    is_run = path.is_dir()
    file = path / MODEL_FILE if is_run else path
    model, recipe = load_model(file)
    is_forest = isinstance(model, RandomForest)
    if metrics is None and is_run and (path / RUN_FILE).is_file() and not (path / METRICS_FILE).is_file():
        raise ValueError(f"{path} holds a run that is not finished; start its finetune/run.py again to end it")
    return TrainedRun(
        recipe=recipe,
        parameters=sum(numbers.numel() for numbers in (model.state_dict().values() if is_forest else model.parameters())),
        is_forest=is_forest,
        size=file.stat().st_size,
        sha256=sha256_of(file),
        settings=_recorded(path / RUN_FILE if is_run else None, settings),
        metrics=_recorded(path / METRICS_FILE if is_run else None, metrics),
    )


def _recorded(path: Path | None, values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Values as they are in a JSON file: those given, else those of the file; none without a file."""
    if values is not None:
        plain: dict[str, Any] = json.loads(json.dumps(without_nan(dict(values))))
        return plain
    return read_json(path) if path is not None and path.is_file() else {}
