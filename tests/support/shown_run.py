"""A small run of fine-tuning with two mapped test scenes, by an untrained model, for the tests of the web map."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from finetune.mapping.model_series import series_for_model
from finetune.mapping.polygons import write_polygons
from finetune.mapping.scene import MapOptions, predict_scene
from finetune.model.model_file import save_model
from tests.support.archives import Cube
from tests.support.rice_scenes import write_rice_scene
from tests.support.stand_in_models import random_mapper

SIDE = 64


def write_shown_run(folder: Path) -> dict[str, dict[str, Cube]]:
    """Write `folder`/scenes with the scenes a and b, and `folder`/run with their maps; returns the cubes of each scene by source.

    Scene a is simulated. The map of b has probabilities and fields.
    """
    run, cubes = folder / "run", {}
    (run / "maps").mkdir(parents=True)
    mapper, recipe = random_mapper()
    save_model(run / "model.safetensors", mapper, recipe)
    (run / "run.json").write_text(
        json.dumps({"data": str(folder / "scenes"), "overlap": 0.25, "task.title": "Paddy <rice> & more"})
    )
    for seed, name in enumerate("ab"):
        scene = folder / "scenes" / name
        cubes[name], _ = write_rice_scene(scene, "test", side=SIDE, seed=seed, frames=12)
        if name == "a":
            (scene / "scene.yaml").write_text((scene / "scene.yaml").read_text() + "simulated: true\n")
        options = MapOptions(overlap=0.25, probabilities=name == "b")
        with series_for_model(recipe, scene, None) as series:
            predict_scene(mapper, recipe, series, run / "maps" / f"{name}.tif", torch.device("cpu"), options)
    write_polygons(run / "maps" / "b.tif", "paddy_rice", run / "maps" / "b_fields.parquet")
    return cubes
