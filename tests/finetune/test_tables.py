"""Tables of points through the commands: every model trains, scores are scikit-learn's, predictions are what scores saw."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from common.notes import collected_notes
from data_prep.archive.scene import SPLITS
from finetune.data.opening import open_data
from finetune.data.tables import files
from finetune.data.tables.pixel_task import pixel_task
from finetune.data.tables.table_data import TableData
from finetune.mapping import point_table
from finetune.mapping.point_table import PointTablePredictor
from finetune.model.model_file import load_model
from finetune.predict import predict
from finetune.task import load_task
from tests.support.archives import Cube
from tests.support.finetune_runs import SMALL_ENCODER, run, run_arguments
from tests.support.memory import in_own_process, peak_kilobytes
from tests.support.point_tables import (
    BANDS,
    CLASSES,
    MISSING,
    TIMES,
    Points,
    description,
    long_table,
    simulate_points,
    wide_table,
    write_points,
    write_table,
    write_task,
)
from tests.support.rice_scenes import CODES, write_rice_scene

POINTS = simulate_points(150, seed=3)
MODELS: dict[str, Any] = {
    "random_forest": {"encoder": "random_forest"},
    "temporal_cnn": {"encoder": "temporal_cnn", "training.epochs": 4},
    "unet": {"encoder": "unet", "training.epochs": 2},
    "encoder": {"encoder": SMALL_ENCODER, "training.epochs": 1},
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    write_task(folder)
    return write_points(folder, POINTS)


@pytest.fixture(scope="module")
def runs(table: Path) -> dict[str, Path]:
    """A run of each model."""
    found = {}
    for name, options in MODELS.items():
        found[name] = table.parent / name
        settings = {"training.batch_size": 16, "training.learning_rate": 3e-3, "decoder.channels": 16, "maps": False} | options
        assert run(task=str(table.parent / "task.yaml"), data=table, output=found[name], **settings) == 0
    return found


def metrics_of(run_folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((run_folder / "metrics.json").read_text())
    return metrics


def numbers_in(table: Path, split: str) -> list[int]:
    """Numbers of the points in a split, in their order."""
    data = open_data(table)
    assert isinstance(data, TableData)
    task = pixel_task(load_task(str(table.parent / "task.yaml")), 1)
    return np.flatnonzero(data.labelled_points(task).splits == SPLITS.index(split)).tolist()


def normalised_series(model: Path, numbers: list[int]) -> np.ndarray:
    """The series of points as models read them, by NumPy alone: float32 (n, T * C), 0 where a band is missing."""
    _, recipe = load_model(model)
    by_band = {name: np.asarray(values, np.float32) for name, values in recipe.normalization["sentinel2"].items()}
    pixels = POINTS.pixels[numbers].astype(np.float32)
    clear = (POINTS.pixels[numbers] != MISSING).all(axis=2, keepdims=True)
    clipped = np.minimum(np.maximum(pixels, by_band["low"]), by_band["high"])
    return np.where(clear, (clipped - by_band["mean"]) / by_band["std"], np.float32(0)).reshape(len(numbers), -1)


def test_the_forest_is_that_of_scikit_learn(table: Path, runs: dict[str, Path]) -> None:
    train, test = numbers_in(table, "train"), numbers_in(table, "test")
    labels = np.array([CLASSES.index(label) for label in POINTS.labels])
    forest = RandomForestClassifier(100, class_weight="balanced", max_samples=len(train), random_state=0)
    forest.fit(normalised_series(runs["random_forest"], train), labels[train])
    expected = forest.predict(normalised_series(runs["random_forest"], test))
    metrics = metrics_of(runs["random_forest"])["test"]
    np.testing.assert_array_equal(metrics["confusion"], confusion_matrix(labels[test], expected))
    assert metrics["overall_accuracy"] == pytest.approx(accuracy_score(labels[test], expected))
    assert metrics["mean_f1"] == pytest.approx(f1_score(labels[test], expected, average="macro"))
    assert metrics["overall_accuracy"] > 0.8  # the seasons tell the classes apart


def test_statistics_are_those_of_the_training_points(table: Path, runs: dict[str, Path]) -> None:
    train = POINTS.pixels[numbers_in(table, "train")]
    clear = train[(train != MISSING).all(axis=2)].astype(float)
    snow = (clear[:, [BANDS.index(band) for band in ("B04", "B03", "B02")]] > 3000).all(axis=1)
    _, recipe = load_model(runs["random_forest"])
    np.testing.assert_allclose(recipe.normalization["sentinel2"]["mean"], clear[~snow].mean(axis=0))
    np.testing.assert_allclose(recipe.normalization["sentinel2"]["std"], clear[~snow].std(axis=0))


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_trains_and_its_predictions_are_what_the_scores_saw(
    name: str, table: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    metrics = metrics_of(runs[name])
    test = numbers_in(table, "test")
    output = tmp_path / "predictions.parquet"
    predict(model=runs[name], input=[table], output=output, batch_size=37)
    found = pq.read_table(output).to_pandas()
    assert found.columns.tolist() == ["id", "lon", "lat", "year", "class", *(f"probability_{c}" for c in CLASSES)]
    assert found["id"].tolist() == POINTS.ids
    assert set(found["year"]) == {2021}
    np.testing.assert_array_equal(found["lon"], POINTS.lon)
    shares = found[[f"probability_{c}" for c in CLASSES]].to_numpy()
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert found["class"].tolist() == [CLASSES[index] for index in shares.argmax(axis=1)]
    labels = [POINTS.labels[number] for number in test]
    matrix = confusion_matrix(labels, found["class"].iloc[test], labels=list(CLASSES))
    np.testing.assert_array_equal(metrics["test"]["confusion"], matrix)
    data = open_data(table)
    assert isinstance(data, TableData)
    blocks = data.labelled_points(load_task(str(table.parent / "task.yaml"))).blocks
    assert set(metrics["test"]["scenes"]) == set(blocks[test].tolist())
    assert metrics["test"]["bootstrap"]["scenes"] == len(metrics["test"]["scenes"]) > 3
    _, recipe = load_model(runs[name])
    assert (recipe.task.window_px, dict(recipe.task.upsample)) == (1, {"sentinel2": 4} if name == "encoder" else {})
    assert recipe.pixel == 10.0


def test_the_same_table_in_another_layout_is_predicted_alike(runs: dict[str, Path], table: Path, tmp_path: Path) -> None:
    predict(model=runs["temporal_cnn"], input=[table], output=tmp_path / "wide.parquet")
    unlabelled = long_table(POINTS).drop_columns(["crop"])
    values = description("long", blocks=None)
    del values["columns"]["label"]
    path = write_table(tmp_path / "long", unlabelled, values)
    predict(model=runs["temporal_cnn"], input=[path], output=tmp_path / "long.parquet")
    wide, long = (pq.read_table(tmp_path / f"{layout}.parquet").to_pandas() for layout in ("wide", "long"))
    # Batches of other sizes are computed with other roundings.
    pandas.testing.assert_frame_equal(wide, long, rtol=0, atol=1e-5)


def test_the_season_of_points_of_two_years_is_told(runs: dict[str, Path], tmp_path: Path) -> None:
    days = np.concatenate([POINTS.days, POINTS.days + 365])
    series = Points(**{**vars(POINTS), "pixels": np.concatenate([POINTS.pixels] * 2, axis=1), "days": days})
    values = description("long", blocks=None)
    path = write_table(tmp_path / "unstated", long_table(series), values)
    with collected_notes() as notes:
        predict(model=runs["random_forest"], input=[path], output=tmp_path / "a.parquet")
    (said,) = (text for text in notes if "several seasons" in text)
    assert "of those that end in 2021 and 2022; the year with most images is used, which the column year tells" in said
    assert set(pq.read_table(tmp_path / "a.parquet")["year"].to_pylist()) <= {2021, 2022}
    with collected_notes() as notes:
        predict(model=runs["random_forest"], input=[path], output=tmp_path / "b.parquet", year=2022)
    assert not [text for text in notes if "several seasons" in text]
    assert set(pq.read_table(tmp_path / "b.parquet")["year"].to_pylist()) == {2022}


def test_points_without_a_clear_observation_have_no_class(runs: dict[str, Path], tmp_path: Path) -> None:
    pixels = POINTS.pixels.copy()
    pixels[[4, 9]] = MISSING
    pixels[11, 1:] = MISSING
    dark = Points(**{**vars(POINTS), "pixels": pixels})
    output = tmp_path / "predictions.parquet"
    predict(model=runs["random_forest"], input=[write_points(tmp_path, dark)], output=output)
    found = pq.read_table(output)
    missing = [4, 9] if (POINTS.pixels[11, 0] != MISSING).all() else [4, 9, 11]
    for name in ("class", *(f"probability_{c}" for c in CLASSES)):
        assert np.flatnonzero(found[name].is_null().to_numpy()).tolist() == missing


def test_an_interrupted_prediction_resumes_to_the_same_table(
    runs: dict[str, Path], table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(files, "BATCH_ROWS", 40)
    whole, output = tmp_path / "whole.parquet", tmp_path / "predictions.parquet"
    predict(model=runs["random_forest"], input=[table], output=whole)
    assert pq.ParquetFile(whole).num_row_groups == 4
    predicted, parts = PointTablePredictor._predict, []

    def fail_at_third(self: PointTablePredictor, points: Any) -> Any:
        parts.append(len(points))
        if len(parts) == 3:
            raise KeyboardInterrupt
        return predicted(self, points)

    monkeypatch.setattr(PointTablePredictor, "_predict", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        predict(model=runs["random_forest"], input=[table], output=output)
    assert not output.exists()
    assert len(list((tmp_path / ".predictions.parquet.parts").glob("*.npz"))) == 2
    predict(model=runs["random_forest"], input=[table], output=output)
    assert parts == [40, 40, 40, 40, 30]
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.parquet", "whole.parquet"]
    # Parts of another model are not mixed in.
    parts.clear()
    with pytest.raises(KeyboardInterrupt):
        predict(model=runs["random_forest"], input=[table], output=output)
    predict(model=runs["temporal_cnn"], input=[table], output=output)
    assert "holds blocks of another model" in capsys.readouterr().out
    predict(model=runs["temporal_cnn"], input=[table], output=whole)
    assert output.read_bytes() == whole.read_bytes()


def test_a_table_that_cannot_be_written_leaves_the_old_one(
    runs: dict[str, Path], table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "predictions.parquet"
    output.write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(point_table, "_batch", full)
    with pytest.raises(OSError, match=r"writing .*predictions.parquet: OSError: .* No space left"):
        predict(model=runs["random_forest"], input=[table], output=output)
    assert output.read_text() == "old"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "map.tif"}, "predictions of a table are Parquet"),
        ({"overlap": 0.25, "polygons": "maize"}, "--overlap, --polygons: for maps of scenes only"),
        ({"batch_size": 0}, "--batch_size is 0"),
        ({"year": 2019}, "no image of sentinel2 in the season .* that ends in 2019"),
    ],
)
def test_bad_options_of_predictions(
    runs: dict[str, Path], table: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    options = {"model": runs["random_forest"], "input": [table], "output": "predictions.parquet"} | options
    with pytest.raises(ValueError, match=message):
        predict(**options | {"output": tmp_path / options["output"]})
    assert not list(tmp_path.iterdir())


def test_windows_of_more_than_one_pixel_are_refused(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--task", str(table.parent / "task.yaml"), "--data", str(table), "--output", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as ended:
        run_arguments([*arguments, "--override.window_px", "32"])
    assert ended.value.code == 2
    assert "--override.window_px is 32, and a table holds single pixels" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_recognised_until_its_table_changes(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "table"
    task, path, output = write_task(tmp_path), write_points(folder, POINTS), tmp_path / "run"
    settings: dict[str, Any] = {"task": str(task), "data": path, "output": output, "encoder": "random_forest", "maps": False}
    assert run(**settings) == 0
    capsys.readouterr()
    assert run(**settings) == 0
    assert "holds this run, finished" in capsys.readouterr().out
    assert metrics_of(output)["test"]["confusion"] == metrics_of(runs["random_forest"])["test"]["confusion"]
    write_points(folder, POINTS, blocks={"side_deg": 0.5, "seed": 1})
    with pytest.raises(ValueError, match=r"other settings \(data_sha256\)"):
        run(**settings)


def test_a_report_and_scores_as_the_season_goes_on(table: Path, tmp_path: Path) -> None:
    task = write_task(tmp_path, cut_dates=["04-30", "08-31"], objects="meadow")
    assert run(task=str(task), data=table, output=tmp_path / "run", encoder="random_forest") == 0
    season = json.loads((tmp_path / "run" / "early_season.json").read_text())
    scores = [entry["mean_f1"] for entry in season["dates"]]
    assert scores[-1] == metrics_of(tmp_path / "run")["test"]["mean_f1"]
    assert scores[0] < scores[-1]  # maize and meadow look alike in April
    assert "block " in (tmp_path / "run" / "report.html").read_text()


def table_of_scene(folder: Path, cube: Cube, codes: np.ndarray) -> Path:
    """All pixels of a Landsat scene as a wide table; those that are not clear are empty cells."""
    rows, cols = (at.ravel() for at in np.mgrid[0 : codes.shape[0], 0 : codes.shape[1]])
    clear = np.isin(cube.quality[:, rows, cols], [0, 64])
    columns: dict[str, Any] = {"id": np.arange(len(rows)), "lon": cols * 0.1 - 100, "lat": rows * 0.1 + 10}
    columns["label"] = [CODES.get(code) for code in codes.ravel().tolist()]
    for time, day in enumerate(cube.dates):
        for at, band in enumerate(("B02", "B03", "B04", "B05", "B06", "B07")):
            columns[f"{band}_{day}"] = pa.array(cube.pixels[time, at, rows, cols].astype(float), mask=~clear[time])
    values = {
        "files": "points.parquet",
        "layout": "wide",
        "columns": {"id": "id", "lon": "lon", "lat": "lat", "label": "label"},
        "sources": {"landsat": {"pattern": r"(?P<band>B\d\d)_(?P<date>.+)"}},
        "blocks": {"side_deg": 0.5},
    }
    return write_table(folder, pa.table(columns), values)


def test_a_forest_of_points_maps_a_scene_as_it_predicts_its_pixels(tmp_path: Path) -> None:
    """In a scene without clouds, where the clearest image of a window is that of each pixel."""
    cubes, codes = write_rice_scene(tmp_path / "cloudy", "train", side=32, seed=1)
    path = table_of_scene(tmp_path / "train", cubes["landsat"], codes)
    options: dict[str, Any] = {"override.sources": ["landsat"], "override.frames": 8, "encoder": "random_forest", "maps": False}
    assert run(task="paddy_rice", data=path, output=tmp_path / "run", **options) == 0
    cubes, codes = write_rice_scene(tmp_path / "scenes" / "clear", "test", side=32, seed=2, cloudy=0.0)
    path = table_of_scene(tmp_path / "clear", cubes["landsat"], codes)
    predict(model=tmp_path / "run", input=[path], output=tmp_path / "predictions.parquet")
    predict(model=tmp_path / "run", input=[tmp_path / "scenes" / "clear"], output=tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as raster:
        classes = raster.read(1)
    names = np.array(pq.read_table(tmp_path / "predictions.parquet")["class"].to_pylist()).reshape(classes.shape)
    np.testing.assert_array_equal(np.array(["other", "paddy_rice"])[classes], names)
    assert set(np.unique(classes)) == {0, 1}


def test_a_model_that_reads_surroundings_predicts_no_points(table: Path, tmp_path: Path) -> None:
    for seed, (name, split) in enumerate([("a", "train"), ("b", "validation"), ("c", "test")]):
        write_rice_scene(tmp_path / "scenes" / name, split, side=32, seed=seed, frames=6)
    options: dict[str, Any] = {
        "override.sources": ["landsat"], "override.frames": 4, "override.window_px": 32, "training.epochs": 1, "maps": False,
        "decoder.channels": 4,
    }  # fmt: skip
    assert run(task="paddy_rice", data=tmp_path / "scenes", output=tmp_path / "run", encoder="unet", **options) == 0
    with pytest.raises(ValueError, match=r"was trained on windows of 32 x 32 pixels and reads what surrounds a pixel"):
        predict(model=tmp_path / "run", input=[table], output=tmp_path / "predictions.parquet")


def _peak_of_prediction(model: Path, path: Path, output: Path) -> int:
    predict(model=model, input=[path], output=output)
    return peak_kilobytes()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_table(runs: dict[str, Path], tmp_path: Path) -> None:
    peaks = []
    for times in (60, 240):
        part = simulate_points(150)
        table = wide_table(part)
        repeated = pa.concat_tables(
            [table.set_column(0, "sample_id", pa.array([f"{k}-{name}" for name in part.ids])) for k in range(times)]
        )
        path = write_table(tmp_path / str(times), repeated, description("wide", blocks=None))
        work = partial(_peak_of_prediction, runs["random_forest"], path, tmp_path / f"{times}.parquet")
        peaks.append(in_own_process(work))
    assert pq.ParquetFile(tmp_path / "240.parquet").metadata.num_rows == 150 * 240
    assert peaks[1] < peaks[0] + 100_000, peaks


def test_a_checkpoint_of_the_published_shape_trains_on_points(table: Path, tmp_path: Path) -> None:
    from pretrain.model import EncoderConfig, build_encoder, save_encoder

    shape = EncoderConfig(
        sources={"sentinel2": len(BANDS)}, embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3)
    )
    encoder = build_encoder(shape)
    encoder.normalization = {"sentinel2": {"mean": [1500.0] * len(BANDS), "std": [800.0] * len(BANDS)}}
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    options: dict[str, Any] = {"training.epochs": 1, "training.batch_size": 32, "decoder.channels": 8, "maps": False}
    task = str(table.parent / "task.yaml")
    assert run(task=task, data=table, output=tmp_path / "run", checkpoint=tmp_path / "encoder.safetensors", **options) == 0
    _, recipe = load_model(tmp_path / "run")
    assert recipe.normalization == encoder.normalization
    assert dict(recipe.task.upsample) == {"sentinel2": 4}
    other = build_encoder(EncoderConfig(**{**vars(shape), "patch_size": (4, 2, 2)}))
    other.normalization = encoder.normalization
    save_encoder(other, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"has patches of \(2, 2\) pixels; points of a table fill patches of 4 x 4 pixels"):
        run(task=task, data=table, output=tmp_path / "other", checkpoint=tmp_path / "other.safetensors", **options)


def test_frames_are_those_of_the_dates(table: Path) -> None:
    """Twelve observations a month apart, twelve periods: each period has its own."""
    data = open_data(table)
    task = pixel_task(load_task(str(table.parent / "task.yaml")), 1)
    windows = data.windows("train", task, augmentation=None, year=None)
    for index in range(5):
        window = windows.window(index)
        season, valid = window.seasons["sentinel2"], window.stacks["sentinel2"].valid
        chosen = season.choose(valid)
        np.testing.assert_array_equal(chosen, np.where(valid[:, 0, 0], np.arange(TIMES), -1))
