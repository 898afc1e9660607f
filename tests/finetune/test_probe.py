"""The command that probes embeddings: the labels and scores of fine-tuning, restarts, refusals."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from sklearn.metrics import f1_score

from common.command_line import run_command
from common.exit_codes import USER_ERROR
from finetune.config import TaskOverride
from finetune.data.opening import open_data
from finetune.embedding import EmbeddingMap
from finetune.probe import probe_embeddings
from finetune.probing import probe_run
from finetune.probing.config import ProbeConfig
from finetune.probing.labelled_pixels import map_scene
from finetune.probing.probe_run import open_labels, probe
from finetune.task import IGNORE, load_task
from pretrain.model import EncoderConfig, build_encoder, save_encoder
from tests.support.embedded_scenes import NORMALIZATION, run_embed, write_encoder
from tests.support.finetune_runs import finetune_config
from tests.support.rice_scenes import write_rice_scene, write_split_scenes

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("model") / "encoder.safetensors")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes, one for each split, and a second test scene."""
    folder = write_split_scenes(tmp_path_factory.mktemp("scenes"))
    write_rice_scene(folder / "e", "test", side=64, seed=9, frames=6)
    return folder


@pytest.fixture(scope="module")
def finished(model: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("probes") / "run"
    probe(config_of(scenes, output, model=model, dimensions=16))
    return output


def config_of(data: Path, output: Path, **options: Any) -> ProbeConfig:
    return ProbeConfig(**({"task": "paddy_rice", "data": data, "output": output} | options))


def test_metrics_are_those_of_fine_tuning(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert sorted(os.listdir(finished)) == ["embeddings", "metrics.json", "report.html", "run.json"]
    assert set(metrics["probes"]) == {"knn", "logistic", "forest"}
    assert set(metrics["test"]["scenes"]) == {"d", "e"}
    assert metrics["test"]["bootstrap"]["scenes"] == 2
    assert {"mean_f1", "kappa", "confusion", "intervals", "boundaries", "scene_pixels"} <= set(metrics["test"])
    best = metrics["probes"][metrics["probe"]]
    assert metrics["score"] == best["score"]
    assert metrics["score"]["name"] == "paddy rice F1"
    low, high = metrics["score"]["interval"]
    assert low <= metrics["score"]["value"] <= high
    f1 = {kind: found["validation"]["classes"]["paddy_rice"]["f1"] for kind, found in metrics["probes"].items()}
    assert f1[metrics["probe"]] == max(f1.values())
    assert metrics["score"]["value"] > 0.6  # random weights keep much of the pixels' series
    page = (finished / "report.html").read_text()
    assert all(title in page for title in ("nearest neighbours", "logistic regression", "random forest"))


def test_scores_are_those_of_scikit_learn(finished: Path, scenes: Path) -> None:
    """The embedding of each test scene is read by rasterio, interpolated by hand, and classified by the probe."""
    config = config_of(scenes, finished, embeddings=finished / "embeddings", probes=["logistic"])
    data = open_data(scenes)
    labelled = open_labels(config, load_task("paddy_rice"), data)  # type: ignore[arg-type]
    maps = probe_run.read_maps(finished / "embeddings", [*labelled.training.series, *labelled.test.series])
    training = probe_run.pixels_of_windows(labelled.training, maps, 0)
    fitted = probe_run.fit_probe("logistic", training, training, labelled.task, 5, 0)
    truth, predicted = [], []
    for series in labelled.test.series:
        name = series.scene.name
        label = labelled.test.labels[name]
        mapped = map_scene(series, label, maps[name, 2021], fitted.predict)
        with rasterio.open(scenes / name / "crop_type.tif") as raster:
            codes = raster.read(1)
        np.testing.assert_array_equal(mapped == 255, codes == 0)
        truth.append((codes[codes != 0] == 1).astype(int))
        predicted.append(mapped[codes != 0])
    metrics = probe_run._test_scores(fitted, labelled.test, maps, labelled.task)
    expected = f1_score(np.concatenate(truth), np.concatenate(predicted))
    assert metrics["classes"]["paddy_rice"]["f1"] == pytest.approx(expected)


def test_a_finished_probe_is_shown_again(
    finished: Path, scenes: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    monkeypatch.setattr(probe_run, "_metrics", None)
    probe(config_of(scenes, finished, model=model, dimensions=16))
    said = capsys.readouterr().out
    assert "holds this probe, finished" in said
    assert "paddy rice F1 %" in said
    assert {path.name: path.stat().st_mtime_ns for path in finished.iterdir()} == before
    with pytest.raises(ValueError, match=r"holds a run with other settings \(k\)"):
        probe(config_of(scenes, finished, model=model, dimensions=16, k=9))


def test_an_interrupted_probe_resumes(
    finished: Path, scenes: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(probe_run, "_metrics", interrupted)
    with pytest.raises(KeyboardInterrupt):
        probe(config_of(scenes, tmp_path / "run", model=model, dimensions=16))
    assert not (tmp_path / "run" / "metrics.json").exists()
    monkeypatch.undo()
    probe(config_of(scenes, tmp_path / "run", model=model, dimensions=16))
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "run", finished))
    assert ours == theirs


def test_embeddings_of_a_folder_give_the_same_scores(finished: Path, scenes: Path, tmp_path: Path) -> None:
    metrics = probe(config_of(scenes, tmp_path / "run", embeddings=finished / "embeddings"))
    assert metrics["probes"] == json.loads((finished / "metrics.json").read_text())["probes"]
    assert not (tmp_path / "run" / "embeddings").exists()


def test_components_are_those_of_the_training_scenes(finished: Path) -> None:
    from finetune.embedding import load_projection

    assert load_projection(finished / "embeddings" / "pca.safetensors").sample["scenes"] == ["a"]


def test_the_windows_of_a_label_fraction_are_those_of_fine_tuning(tmp_path: Path) -> None:
    for name, split in (("a", "train"), ("c", "validation"), ("d", "test")):
        write_rice_scene(tmp_path / "scenes" / name, split, side=192, frames=4)
    from common.run_lock import LOCK, RunLock
    from finetune.fine_tuning import prepare
    from finetune.training.best_epoch import best_epoch_criterion

    options = {"task": "paddy_rice", "data": tmp_path / "scenes", "output": tmp_path / "out"}
    for seed in (0, 1):
        config = finetune_config(**options, label_fraction=0.3, seed=seed, encoder="random_forest")
        task = load_task("paddy_rice")
        criterion = best_epoch_criterion(config.best, task)
        with RunLock(config.output / LOCK, config.output) as lock:
            run = prepare(config, task, {"data": "d", "data_sha256": "0"}, open_data(config.data), criterion, lock)
        ours = open_labels(
            config_of(tmp_path / "scenes", tmp_path / "p", model=tmp_path, label_fraction=0.3, seed=seed),
            task,
            open_data(config.data),  # type: ignore[arg-type]
        )
        assert ours.training.windows == run.training.windows
        assert len(ours.training) == 3
        assert ours.all_windows == 9


def test_pixels_without_an_embedding_are_neither_learned_nor_scored(scenes: Path, finished: Path) -> None:
    labelled = open_labels(config_of(scenes, finished, model=finished), load_task("paddy_rice"), open_data(scenes))  # type: ignore[arg-type]
    maps = probe_run.read_maps(finished / "embeddings", [*labelled.training.series, *labelled.test.series])

    class Half(EmbeddingMap):
        def read(self, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None) -> np.ndarray:
            values = super().read(row, col, height, width)
            rows = row + np.arange(values.shape[1])
            return np.where((rows < 8)[:, None], np.float32("nan"), values)

    halves = {key: Half(path=one.path, grid=one.grid, names=one.names, tags=one.tags) for key, one in maps.items()}
    pixels = probe_run.pixels_of_windows(labelled.training, halves, 0)
    assert len(pixels) == 32 * 64
    series = labelled.test.series[0]
    label = labelled.test.labels[series.scene.name]
    mapped = map_scene(series, label, halves[series.scene.name, 2021], lambda values: np.zeros(len(values), int))
    assert (mapped[:32] == 255).all()
    assert (mapped[32:][label[32:] != IGNORE] == 0).all()


def test_embeddings_that_do_not_fit_are_refused(finished: Path, scenes: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "embeddings", tmp_path / "some")
    (tmp_path / "some" / "e_2021.tif").unlink()
    with pytest.raises(ValueError, match=r"no embedding of scene e and year 2021 in .*\(e_2021.tif\)"):
        probe(config_of(scenes, tmp_path / "run", embeddings=tmp_path / "some"))
    run_embed(model, scenes / "e", tmp_path / "other", dimensions=16)
    shutil.copy(tmp_path / "other" / "e_2021.tif", tmp_path / "some")
    with pytest.raises(ValueError, match="have different components, so their numbers do not mean the same"):
        probe(config_of(scenes, tmp_path / "run", embeddings=tmp_path / "some"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --model, to compute the embeddings, or --embeddings"),
        (["--model", "m", "--embeddings", "e"], "give either --model"),
        (["--model", "m", "--k", "0"], "--k is 0"),
        (["--model", "m", "--probes", "knn", "knn"], "--probes are ['knn', 'knn']"),
        (["--model", "nothing"], "no encoder at nothing"),
        (["--model", "m", "--label_fraction", "0"], "--label_fraction is 0"),
    ],
)
def test_bad_input_is_one_line(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    known = ["--task", "paddy_rice", "--data", str(scenes), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        run_command(probe_embeddings, [*known, *arguments], config_class=ProbeConfig)
    assert ended.value.code == USER_ERROR
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_probe_is_near_a_frozen_encoder_with_a_linear_decoder(tmp_path: Path) -> None:
    """On scenes of their own fields, years of clouds and labels: F1 of paddy rice within three points, or above."""
    splits = {"a": "train", "b": "train", "c": "validation", "d": "test", "e": "test"}
    for seed, (name, split) in enumerate(splits.items()):
        write_rice_scene(tmp_path / "scenes" / name, split, side=128, seed=seed, frames=24)
    shape = EncoderConfig(
        sources={"landsat": 6, "modis": 7}, embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), window_size=(4, 7, 7)
    )
    import torch

    torch.manual_seed(0)
    save_encoder(build_encoder(shape, NORMALIZATION), tmp_path / "encoder.safetensors")
    from finetune.fine_tuning import fine_tune

    options: dict[str, Any] = {"tuning.mode": "frozen", "decoder.kind": "linear", "training.learning_rate": 3e-3}
    options |= {"training.epochs": 30, "training.batch_size": 4, "maps": False, "device": "cpu"}
    config = finetune_config(
        task="paddy_rice",
        data=tmp_path / "scenes",
        output=tmp_path / "frozen",
        checkpoint=tmp_path / "encoder.safetensors",
        **options,
    )
    assert fine_tune(config) == 0
    frozen = json.loads((tmp_path / "frozen" / "metrics.json").read_text())["score"]["value"]
    found = probe(config_of(tmp_path / "scenes", tmp_path / "probe", model=tmp_path / "encoder.safetensors"))["score"]["value"]
    assert frozen > 0.7, "a decoder that did not learn proves nothing"
    assert found > frozen - 0.03, (found, frozen)


def test_an_override_chooses_the_images(model: Path, scenes: Path, tmp_path: Path) -> None:
    override = TaskOverride(sources=["landsat"], frames=8)
    probe(config_of(scenes, tmp_path / "run", model=model, dimensions=8, probes=["logistic"], override=override))
    found = EmbeddingMap.open(tmp_path / "run" / "embeddings" / "a_2021.tif")
    assert found.tags["sources"] == ["landsat"]
