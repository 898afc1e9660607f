"""The series of a scene for a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import numpy as np

from common.errors import while_running
from common.notes import note
from common.storage import AnyPath
from data_prep.archive.scene import home_of_scenes, load_scene
from data_prep.archive.sensor import Sensor, described_sensors, load_sensors
from finetune.data.frames import Normalization
from finetune.data.normalization import other_scale
from finetune.data.scene_series import SceneSeries
from finetune.model.recipe import Recipe, reads_single_pixels

MAP_WINDOW_PX = 64  # of models that read single pixels; one pixel at a time would take a thousand times as long
ABOUT_SAMPLES = ("title", "chip_px")  # what of a sensor says nothing of the meaning of its pixels
PLACES = 3  # along each side of a scene, at which its numbers are compared with those of the model


def with_map_window(recipe: Recipe) -> Recipe:
    """The recipe for maps of scenes. A model of single pixels that was trained on points gives the same map by larger windows."""
    if recipe.task.window_px > 1 or not reads_single_pixels(recipe):
        return recipe
    return replace(recipe, task=replace(recipe.task, window_px=MAP_WINDOW_PX))


def series_for_model(recipe: Recipe, scene: AnyPath, year: int | None) -> SceneSeries:
    """The series of the scene in a folder, on the grid and with the sources of the model.

    Raises ValueError if a source has other bands than in training.
    """
    sensors = sensors_for_model(recipe.sensors, recipe.task.sources, home_of_scenes(scene))
    return SceneSeries(load_scene(scene), recipe.task, sensors, pixel_size=recipe.pixel, year=year)


def sensors_for_model(trained: Mapping[str, Sensor], sources: Sequence[str], home: AnyPath) -> dict[str, Sensor]:
    """The sensors by which a model reads images: those described in `home`/sources, then those it was `trained` on, then ours.

    `home`: the folder of scenes, or of a table. A note names `sources` that it describes otherwise than in training.

    Raises ValueError if one of the `sources` has other bands than in training.
    """
    own = described_sensors(home / "sources")
    for source in sources:
        if source not in trained or source not in own:
            continue
        before, here = trained[source], own[source]
        if here.bands != before.bands:
            raise ValueError(f"the model knows {source} with bands {list(before.bands)}; here it has {list(here.bands)}")
        changed = [field.name for field in fields(here) if getattr(here, field.name) != getattr(before, field.name)]
        if changed := [name for name in changed if name not in ABOUT_SAMPLES]:
            note(f"{home / 'sources'} describes {source} otherwise than in training, and counts: {', '.join(changed)}")
    return {**load_sensors(), **trained, **own}


def note_other_scale(series: SceneSeries, normalization: Normalization, size: int) -> None:
    """Show a note when the numbers of a scene are on another scale than those that the model was trained on.

    Those of windows of `size` pixels at `PLACES` x `PLACES` places are compared. The series must be open.
    """
    step = series.step
    rows, cols = (
        sorted({int(at) // step * step for at in np.linspace(0, max(side - size, 0), PLACES)}) for side in series.grid.shape
    )
    with while_running(f"reading {series.scene.name}"):
        stacks = [series.read(row, col, size, size) for row in rows for col in cols]
    for source in series.sources:
        clear = [stack[source].pixels.transpose(1, 0, 2, 3)[:, stack[source].valid] for stack in stacks]  # (C, pixels) each
        pixels = np.concatenate(clear, axis=1)
        ratio = other_scale(pixels.mean(axis=1).tolist(), normalization[source]["mean"]) if pixels.size else None
        if ratio is not None:
            note(
                f"scene {series.scene.name}: the numbers of {source} are {ratio:.2g} times those that the model was trained on; "
                "on another scale what it says is worthless: check the scale and offset of the files"
            )
