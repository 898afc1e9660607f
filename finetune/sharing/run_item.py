"""The STAC item of a trained model; see `common/model_item.py`."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np

from common.hub import is_hub_url
from common.model_item import Box, ModelDescription, ModelInput, ModelOutput, model_item
from data_prep.archive.sensor import Sensor
from finetune.data.normalization import BandStatistics
from finetune.model.model_file import MODEL_FILE
from finetune.model.recipe import SCRATCH
from finetune.sharing.trained_run import TrainedRun
from pretrain.sharing import ARTIFACT, band_descriptions

# Settings of run.json that say how the model was trained.
_HYPERPARAMETERS = (
    *("epochs", "steps", "batch_size", "min_steps", "learning_rate", "weight_decay", "warmup_share", "final_share", "seed"),
    *("label_fraction", "tuning.mode", "tuning.layer_decay", "tuning.lora_rank", "tuning.encoder_rate", "tuning.decoder_rate"),
    *("best", "statistics", "rotations", "flips", "shift_days", "crop_px", "drop_images", "drop_sources"),
)


def run_item(run: TrainedRun, license: str | None = None) -> dict[str, Any]:
    """The STAC item of a trained model, as JSON values. `license`: see `run_card`."""
    recipe, task = run.recipe, run.recipe.task
    size = task.window_px
    simulated = " Trained on simulated data." if run.is_simulated else ""
    description = ModelDescription(
        name=task.name,
        title=task.title,
        description=f"Maps {', '.join(c.name for c in task.classes)} from {', '.join(task.sources)}.{simulated}",
        architecture=recipe.encoder if isinstance(recipe.encoder, str) else "Video Swin Transformer (AgriFM)",
        inputs=[_input(recipe.sensors[name], recipe.normalization.get(name), task.frames) for name in task.sources],
        output=ModelOutput(
            name="class scores",
            description="Scores of the classes before the softmax, on the grid of the map.",
            tasks=["semantic-segmentation"],
            shape=[-1, len(task.classes), size, size],
            axes=["batch", "class", "height", "width"],
            classes=[
                (i, c.name, f"{c.name}: {', '.join(c.labels) or 'all others'}", c.color) for i, c in enumerate(task.classes)
            ],
        ),
        parameters=run.parameters,
        pretrained_source=_pretrained_source(run),
        hyperparameters={name: run.settings[name] for name in _HYPERPARAMETERS if run.settings.get(name) is not None}
        | {"season": list(task.season), "frames": task.frames, "compositing": task.compositing}
        | {f"limits.{s}": {k: v[k] for k in ("low", "high")} for s, v in recipe.normalization.items() if "low" in v},
        file=MODEL_FILE,
        artifact=ARTIFACT,
        size=run.size,
        sha256=run.sha256,
        boxes=_boxes(run),
        period=_period(run),
        license=license,
    )
    return model_item(description)


def _input(sensor: Sensor, statistics: BandStatistics | None, frames: int) -> ModelInput:
    """The input of one source, whose pixels are normalised by `statistics`."""
    return ModelInput(
        name=sensor.name,
        description=f"{sensor.title}: numbers as the product stores them, without additive offset, normalised band by band; zero "
        "where nothing was clear.",
        bands=band_descriptions(sensor.name, len(sensor.bands), sensor, statistics),
        shape=(-1, frames, len(sensor.bands), -1, -1),
    )


def _pretrained_source(run: TrainedRun) -> str | None:
    origin = run.recipe.origin
    if origin == SCRATCH:
        return None
    return origin if is_hub_url(origin) else f"encoder with sha256 {run.settings.get('checkpoint', 'not recorded')}"


def _boxes(run: TrainedRun) -> list[Box] | None:
    """The boxes around the training regions; None unless the place of each is known."""
    boxes = list(run.origin.get("regions", {}).values())
    return None if not boxes or None in boxes else [(west, south, east, north) for west, south, east, north in boxes]


def _period(run: TrainedRun) -> tuple[date, date] | None:
    """First and last day of the seasons of the training data; None where their years are not known."""
    years = [int(year) for year in run.origin.get("years", {})]
    if not years:
        return None
    first, _ = run.recipe.task.season_of(min(years))
    _, end = run.recipe.task.season_of(max(years))
    return first.astype(date), (end - np.timedelta64(1, "D")).astype(date)
