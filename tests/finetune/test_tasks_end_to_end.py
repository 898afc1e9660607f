"""Each task of finetune/tasks/ by its command, as a user runs it: scenes in, scores, report, maps and polygons out."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import geopandas
import matplotlib.image
import numpy as np
import pytest
import rasterio

from data_prep.archive.scene import find_scenes
from finetune.mapping.cog import NO_DATA
from finetune.model.model_file import load_model
from finetune.scoring.metrics import scores
from finetune.task import load_task
from pretrain.model import EncoderConfig
from tests.support.launching import ROOT
from tests.support.pretraining import options

pytestmark = pytest.mark.slow
TASKS = ("cropland", "early_season", "field_boundary", "lulc", "paddy_rice", "winter_wheat")
ENCODER = EncoderConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), drop_path_rate=0.1)
EPOCHS = 2


def command(*arguments: object) -> str:
    """A command of the project, with exit code 0; what it printed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The seven regions, 3.8 km of each, and 1.9 km in Sentinel-2 pixels: so small that all 16 classes still grow somewhere."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    size = ["--landsat_px", 128, "--sentinel2_px", 192, "--modis_days", 8]
    command("data_prep/simulate.py", "--output", folder, "--regions", 7, "--workers", 1, *size)
    return folder


@pytest.mark.parametrize("model", ["scratch", "unet"])
@pytest.mark.parametrize("name", TASKS)
def test_a_task_from_scenes_to_maps(scenes: Path, tmp_path: Path, name: str, model: str) -> None:
    task = load_task(name)
    classes = [c.name for c in task.classes]
    run = tmp_path / "run"
    chosen = ["--encoder", "unet"] if model == "unet" else options(ENCODER, "encoder")
    small = [
        "--training.epochs",
        EPOCHS,
        "--override.frames",
        8,
        "--decoder.channels",
        8,
        "--training.batch_size",
        4,
        "--seed",
        1,
    ]
    printed = command("finetune/run.py", "--task", name, "--data", scenes, "--output", run, *small, *chosen)

    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["task"] == name
    assert metrics["encoder"] == model
    assert len(metrics["history"]) == EPOCHS
    assert all(math.isfinite(epoch[score]) for epoch in metrics["history"] for score in ("loss", "validation_loss"))
    assert set(metrics["validation"]["classes"]) == set(metrics["test"]["classes"]) == set(classes)
    assert math.isfinite(metrics["score"]["value"])
    assert metrics["score"]["name"] == ("mean F1" if task.target is None else f"{task.target.replace('_', ' ')} F1")
    assert metrics["score"]["name"] in printed
    assert set(metrics["test"]["scenes"]) == {"sacramento_2022"}
    assert set(metrics["test"]["boundaries"]) >= {"1 px", "2 px"}
    assert set(metrics["test"].get("objects", {})) == ({task.objects} if task.objects else set())
    # No winter wheat grows in the validation region: nothing there can choose an epoch.
    assert (metrics["best_epoch_by"] == "last") == (name == "winter_wheat")
    assert name != "winter_wheat" or metrics["best_epoch"] == EPOCHS

    (scene,) = (s for s in find_scenes(scenes) if s.split == "test")
    label = scene.labels[task.label]
    with rasterio.open(run / "maps" / "sacramento_2022.tif") as found, rasterio.open(label.path) as truth:
        assert (found.crs, found.transform, found.shape) == (truth.crs, truth.transform, truth.shape)
        named = {key: value for key, value in found.tags(1).items() if key.startswith("class_")}
        assert [named[f"class_{index}"] for index in range(len(classes))] == classes
        for index, c in enumerate(task.classes):
            assert "#{:02x}{:02x}{:02x}".format(*found.colormap(1)[index][:3]) == c.color
        mapped, wanted = found.read(1), task.class_indices(truth.read(1), label)
    # The scores are those of the map that was written.
    known = (mapped != NO_DATA) & (wanted >= 0)
    matrix = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(matrix, (wanted[known], mapped[known]), 1)
    assert metrics["test"]["confusion"] == matrix.tolist()
    assert metrics["test"]["overall_accuracy"] == pytest.approx(scores(matrix, classes)["overall_accuracy"])
    report = (run / "report.html").read_text()
    assert all(
        text in report for text in (task.title, "Confusion matrix", "sacramento_2022", *(n.replace("_", " ") for n in classes))
    )
    assert "Simulated data: the images and labels of this run are not real." in report
    assert f"agrifm predict --model {run}" in report
    assert "sacramento_2022" in metrics["simulated"]
    assert load_model(run)[1].task == replace(task, frames=8)

    if task.cut_dates:
        season = json.loads((run / "early_season.json").read_text())
        assert [date["last_date"] for date in season["dates"]][:2] == ["2022-03-01", "2022-04-01"]
        assert len(season["dates"]) == len(task.cut_dates) + 1
        whole = season["dates"][-1]
        assert {name: whole[name] for name in metrics["test"]} == metrics["test"], "one number for the whole season"
        assert (run / "early_season.md").read_text().count("2022-") >= len(season["dates"])
        picture = np.round(255 * matplotlib.image.imread(run / "early_season.png")[..., :3])
        for c in task.classes:  # a line in the class's colour
            color = [int(c.color[i : i + 2], 16) for i in (1, 3, 5)]
            assert (picture == color).all(axis=-1).any(), c.name
        assert "As the season goes on" in report
    if task.objects:
        command(
            "finetune/predict.py",
            "--model",
            run,
            "--input",
            scene.folder,
            "--output",
            tmp_path / "map.tif",
            "--polygons",
            task.objects,
        )
        with rasterio.open(tmp_path / "map.tif") as again:
            np.testing.assert_array_equal(again.read(1), mapped)
        fields = geopandas.read_parquet(tmp_path / "map_fields.parquet")
        assert fields.is_valid.all()
        assert bool(len(fields)) == bool((mapped == classes.index(task.objects)).any())
