"""The series of a scene for a trained model."""

from __future__ import annotations

from common.storage import AnyPath
from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data.scene_series import SceneSeries
from finetune.model.recipe import Recipe


def series_for_model(recipe: Recipe, scene: AnyPath, year: int | None) -> SceneSeries:
    """The series of the scene in a folder, on the grid and with the sources of the model.

    Raises ValueError if a source has other bands than in training.
    """
    sensors = recipe.sensors | load_sensors(scene.resolve().parent / "sources")
    for source in recipe.task.sources:
        trained, here = recipe.sensors[source].bands, sensors[source].bands
        if here != trained:
            raise ValueError(f"the model knows {source} with bands {list(trained)}; here it has {list(here)}")
    return SceneSeries(load_scene(scene), recipe.task, sensors, pixel_size=recipe.pixel, year=year)
