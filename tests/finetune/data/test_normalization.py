"""Where the statistics come from by which bands are normalised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.archive.sensor import load_sensors
from data_prep.corpus.dataset import load_corpus
from finetune.data.normalization import check_magnitudes, choose_normalization
from finetune.model.model_file import load_model
from tests.support.finetune_runs import code_of_run
from tests.support.rice_scenes import write_rice_scene
from tests.support.small_corpus import write_corpus

SENSORS = {name: load_sensors()[name] for name in ("landsat", "modis")}


def statistics(number: float, bands: int = 6) -> dict[str, list[float]]:
    return {"mean": [number] * bands, "std": [1.0 + number] * bands}


def of_windows(source: str) -> dict[str, list[float]]:
    return statistics(7.0, len(SENSORS[source].bands))


def test_of_the_checkpoint_of_the_task_and_of_a_file(tmp_path: Path) -> None:
    checkpoint = {"landsat": statistics(1.0), "sentinel2": statistics(2.0, 10)}
    found, origins = choose_normalization("checkpoint", SENSORS, checkpoint, of_windows)
    assert found == {"landsat": statistics(1.0), "modis": of_windows("modis")}
    assert origins == {"landsat": "the checkpoint", "modis": "the training windows"}
    for choice, known in (("task", checkpoint), ("checkpoint", None)):
        found, origins = choose_normalization(choice, SENSORS, known, of_windows)
        assert found == {source: of_windows(source) for source in SENSORS}
        assert set(origins.values()) == {"the training windows"}
    file = tmp_path / "statistics.json"
    given = {
        "landsat": statistics(3.0) | {"low": [0.0] * 6, "high": [9.0] * 6},
        "modis": statistics(4.0, 7),
        "other": "not looked at",
    }
    file.write_text(json.dumps(given))
    found, origins = choose_normalization(str(file), SENSORS, checkpoint, of_windows)
    assert found == {source: given[source] for source in SENSORS}
    assert set(origins.values()) == {str(file)}


def test_magnitudes_are_those_of_the_sensor_and_of_the_checkpoint() -> None:
    """Samples in reflectance, in percent or in eight bits train well, and map scenes of stored numbers to nonsense."""
    landsat = SENSORS["landsat"]
    means = np.array([450.0, 700.0, 650.0, 2600.0, 2000.0, 1300.0])

    def of(factor: float) -> dict[str, list[float]]:
        return {"mean": (means * factor).tolist(), "std": (means * factor / 3).tolist()}

    for factor in (0.5, 1, 2.5):  # dark forests and bright deserts
        check_magnitudes("landsat", of(factor), landsat, None)
        check_magnitudes("landsat", of(factor), landsat, of(1))
    check_magnitudes("landsat", None, landsat, of(1))
    for factor in (1e-4, 1e-2):
        with pytest.raises(ValueError, match=r"brightest band of landsat has a mean of .* which no land has; .* / 0\.0001"):
            check_magnitudes("landsat", of(factor), landsat, None)
    check_magnitudes("landsat", of(0.1), landsat, None)
    with pytest.raises(ValueError, match=r"landsat in the training windows are 0\.1 times .* means \[45, 70, 65, .* \[450, "):
        check_magnitudes("landsat", of(0.1), landsat, of(1))


def test_a_corpus_has_them_in_its_dataset_json(tmp_path: Path) -> None:
    corpus = load_corpus(write_corpus(tmp_path, {"modis": 2, "landsat": 2}))
    found, _ = choose_normalization(str(tmp_path / "dataset.json"), SENSORS, None, of_windows)
    for source in SENSORS:
        np.testing.assert_array_equal(found[source]["mean"], corpus.mean[source])
        np.testing.assert_array_equal(found[source]["std"], corpus.std[source])


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        [],
        {"landsat": statistics(1.0)},
        {"landsat": statistics(1.0, 5), "modis": statistics(1.0, 7)},
        {"landsat": statistics(-1.0), "modis": statistics(1.0, 7)},
        {"landsat": statistics(1.0) | {"low": [0.0] * 6}, "modis": statistics(1.0, 7)},
        {"landsat": statistics(1.0) | {"low": [0.0] * 6, "high": [0.0] * 6}, "modis": statistics(1.0, 7)},
        {"landsat": statistics(1.0) | {"low": [0.0] * 6, "high": [9.0] * 5}, "modis": statistics(1.0, 7)},
        {"landsat": {"mean": [float("nan")] * 6, "std": [1.0] * 6}, "modis": statistics(1.0, 7)},
        {"landsat": {"mean": ["1"] * 6, "std": [1.0] * 6}, "modis": statistics(1.0, 7)},
    ],
)
def test_what_is_no_such_file_is_named(tmp_path: Path, content: Any) -> None:
    file = tmp_path / "statistics.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=r"--normalization .*statistics\.json (is no readable JSON|has no mean and std above 0)"):
        choose_normalization(str(file), SENSORS, None, of_windows)


def test_a_run_keeps_what_it_was_normalised_by(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, (name, split) in enumerate([("a", "train"), ("b", "validation"), ("c", "test")]):
        write_rice_scene(tmp_path / "scenes" / name, split, side=48, seed=seed, frames=6)
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps({"landsat": statistics(3.0)}))
    arguments = ["--task", "paddy_rice", "--override.sources", "[landsat]", "--override.frames", "4", "--training.epochs", "1"]
    arguments += ["--encoder", "temporal_cnn", "--decoder.channels", "4", "--maps", "false", "--data", str(tmp_path / "scenes")]
    arguments += ["--override.window_px", "48", "--output", str(tmp_path / "run"), "--normalization"]
    assert code_of_run([*arguments, str(file)]) == 0
    assert f"pixels are normalised by {file} (landsat)" in capsys.readouterr().out
    assert load_model(tmp_path / "run")[1].normalization == {"landsat": statistics(3.0)}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["normalization"] == {"landsat": statistics(3.0)}
    file.write_text(json.dumps({"landsat": statistics(4.0)}))
    assert code_of_run([*arguments, str(file)]) == 2
    assert "holds a run with other settings (normalization)" in capsys.readouterr().err
    assert code_of_run([*arguments, "tsk"]) == 2
    assert "--normalization tsk is no readable JSON" in capsys.readouterr().err
