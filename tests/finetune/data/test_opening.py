"""Fine-tuning on the published layout and on your own dataset, as users start it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
import torch
import yaml
from sklearn.metrics import confusion_matrix

from finetune.data.opening import open_data
from finetune.model.model_file import load_model
from finetune.task import TASKS, load_task
from pretrain.model import EncoderConfig
from tests.support.finetune_runs import run, run_arguments
from tests.support.labelled_samples import FRAMES, SIDE, YEAR, make_sample, write_published
from tests.support.rice_scenes import write_split_scenes

SMALL = EncoderConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), drop_path_rate=0.0)
SETTINGS: dict[str, Any] = {
    "task": "paddy_rice",
    "encoder": SMALL,
    "decoder.channels": 16,
    "override.frames": FRAMES,
    "override.window_px": SIDE,
    "training.batch_size": 4,
    "training.epochs": 12,
    "training.learning_rate": 3e-3,
}
NAMES = {"landsat": "Landsat", "modis": "Modis"}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    splits = {"train": range(8), "val": range(8, 10), "test": range(10, 13)}
    write_published(folder, {split: [make_sample(seed) for seed in seeds] for split, seeds in splits.items()}, NAMES)
    return folder


@pytest.fixture(scope="module")
def trained(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "published"
    run(data=published, output=output, **SETTINGS)
    return output


def test_a_changed_label_is_another_data_set(tmp_path: Path) -> None:
    """So a run with a corrected label is never taken for the finished one."""
    task = load_task("paddy_rice")
    published = tmp_path / "published"
    write_published(published, {split: [make_sample(seed)] for seed, split in enumerate(("train", "val", "test"))}, NAMES)
    seen = {open_data(published).fingerprint(task)}

    def is_new(folder: Path) -> bool:
        before = len(seen)
        seen.add(open_data(folder).fingerprint(task))
        return len(seen) > before

    assert not is_new(published)
    for name in ("label", "Landsat"):
        with h5py.File(published / "h5_samples" / "s1.h5", "a") as file:
            if name == "label":
                file[name][0, 0] ^= 1
            else:
                file[name].attrs["bands"] = ["B02", "B03", "B04", "B05", "B07", "B06"]
        assert is_new(published), name
    (published / "data_lists" / "val.txt").write_text("s2")
    assert is_new(published)

    scenes = write_split_scenes(tmp_path / "scenes")
    assert is_new(scenes)
    assert not is_new(scenes)
    description = scenes / "a" / "scene.yaml"
    description.write_text(description.read_text().replace("maize", "sorghum"))
    assert is_new(scenes)
    with rasterio.open(scenes / "d" / "crop_type.tif", "r+") as raster:
        raster.write(4 - raster.read(1), 1)
    assert is_new(scenes)


@pytest.mark.slow
def test_the_published_layout_trains_and_is_scored_on_its_test_list(published: Path, trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["score"]["value"] > 0.9  # the seasons tell the classes apart; half of the pixels are rice
    assert list(metrics["test"]["scenes"]) == ["s10", "s11", "s12"]
    assert metrics["test"]["bootstrap"]["scenes"] == 3
    # The same by hand: each file through the model, and scikit-learn.
    model, recipe = load_model(trained)
    assert recipe.pixel == 30.0
    labels, found = [], []
    for name in ("s10", "s11", "s12"):
        with h5py.File(published / "h5_samples" / f"{name}.h5") as file:
            data = {}
            for source, dataset in NAMES.items():
                of_source = {key: np.array(values)[:, None, None] for key, values in recipe.normalization[source].items()}
                clipped = np.clip(file[dataset][()], of_source["low"], of_source["high"])
                data[source] = torch.from_numpy((clipped - of_source["mean"]) / of_source["std"]).float()[None]
            with torch.no_grad():
                found.append(model(data, (SIDE, SIDE)).argmax(dim=1).numpy().ravel())
            labels.append(file["label"][()].ravel())
    matrix = confusion_matrix(np.concatenate(labels), np.concatenate(found))
    np.testing.assert_array_equal(metrics["test"]["confusion"], matrix)
    assert sorted(path.name for path in (trained / "maps").iterdir()) == ["s10.png", "s11.png", "s12.png"]
    assert (trained / "report.html").is_file()


def missing_list(folder: Path) -> None:
    (folder / "data_lists" / "val.txt").unlink()


def no_list(folder: Path) -> None:
    shutil.rmtree(folder / "data_lists")


def empty_list(folder: Path) -> None:
    (folder / "data_lists" / "test.txt").write_text("\n")


def repeated_name(folder: Path) -> None:
    (folder / "data_lists" / "train.txt").write_text("s0\ns1\ns0.h5\n")


def missing_file(folder: Path) -> None:
    (folder / "data_lists" / "train.txt").write_text("s0\nnowhere\n")


def no_hdf5(folder: Path) -> None:
    (folder / "h5_samples" / "s0.h5").write_bytes(b"no HDF5")


def no_label(folder: Path) -> None:
    with h5py.File(folder / "h5_samples" / "s1.h5", "a") as file:
        del file["label"]


def other_source(folder: Path) -> None:
    with h5py.File(folder / "h5_samples" / "s1.h5", "a") as file:
        del file["Modis"]


def all_ones(folder: Path) -> None:
    for seed in range(2):
        with h5py.File(folder / "h5_samples" / f"s{seed}.h5", "a") as file:
            file["label"][...] = 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing_list, r"list .*val.txt of the validation samples is missing; expected train.txt, val.txt, test.txt"),
        (no_list, r"holds HDF5 samples and none of the lists train.txt, val.txt, test.txt"),
        (empty_list, r"list .*test.txt names no sample"),
        (repeated_name, r"list .*train.txt names s0 more than once"),
        (missing_file, r"list .*train.txt names 1 samples without a file, first .*nowhere.h5"),
        (no_hdf5, r"s0.h5: no readable HDF5"),
        (no_label, r"s1.h5 has no dataset label \(H, W\); it holds \['Landsat', 'Modis'\]"),
        (other_source, r"s1: has no modis, which the task needs; it has landsat; .* --missing_sources allow"),
        (all_ones, r"hold no pixel of class other"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Any, message: str
) -> None:
    write_published(
        tmp_path / "d", {"train": [make_sample(0), make_sample(1)], "val": [make_sample(2)], "test": [make_sample(3)]}, NAMES
    )
    spoil(tmp_path / "d")
    arguments = ["--task", "paddy_rice", "--data", str(tmp_path / "d"), "--output", str(tmp_path / "run")]
    arguments += ["--override.window_px", "32"]
    with pytest.raises(SystemExit) as stopped:
        run_arguments(arguments)
    assert stopped.value.code == 2
    errors = [line for line in capsys.readouterr().err.split("\n") if "error" in line]
    assert len(errors) == 1
    assert re.search(message, errors[0]), errors[0]
    assert not (tmp_path / "run").exists()


def test_a_run_may_lack_a_source_and_loses_nothing_to_nan(tmp_path: Path) -> None:
    samples = {seed: make_sample(seed) for seed in range(8)}
    for seed in (1, 4, 6):
        del samples[seed]["data"]["modis"]
    splits = {"train": range(4), "val": (4, 5), "test": (6, 7)}
    write_published(tmp_path / "d", {split: [samples[s] for s in seeds] for split, seeds in splits.items()})
    options = {
        "override.missing_sources": "allow",
        "augmentation.drop_sources": 0.3,
        "augmentation.drop_images": 0.2,
        "augmentation.crop_px": 16,
        "training.epochs": 2,
    }
    run(data=tmp_path / "d", output=tmp_path / "run", **(SETTINGS | options))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert all(np.isfinite(list(epoch.values())[:2]).all() for epoch in metrics["history"])
    model, recipe = load_model(tmp_path / "run")
    assert recipe.task.missing_sources == "allow"
    assert all(torch.isfinite(weight).all() for weight in model.state_dict().values())
    with pytest.raises(ValueError, match=r"other settings \(drop_images\)"):
        run(data=tmp_path / "d", output=tmp_path / "run", **(SETTINGS | options | {"augmentation.drop_images": 0.1}))


@pytest.mark.slow
def test_samples_with_dates_are_scored_as_the_season_goes_on(tmp_path: Path) -> None:
    dates = (YEAR + 22 + 45 * np.arange(FRAMES)).astype(np.int32)
    samples = [make_sample(seed) | {"dates": {"landsat": dates, "modis": dates}} for seed in range(8)]
    write_published(tmp_path / "d", {"train": samples[:6], "val": samples[6:7], "test": samples[7:]})
    task = yaml.safe_load((TASKS / "paddy_rice.yaml").read_text())
    task |= {"season": ["01-01", "12-31"], "cut_dates": ["03-31", "08-31"]}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
    run(data=tmp_path / "d", output=tmp_path / "run", **(SETTINGS | {"task": str(tmp_path / "task.yaml"), "training.epochs": 20}))
    found = json.loads((tmp_path / "run" / "early_season.json").read_text())
    assert [entry["last_date"] for entry in found["dates"]] == ["2021-03-31", "2021-08-31", "2021-12-31"]
    scores = [entry["mean_f1"] for entry in found["dates"]]
    assert scores[2] == json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["mean_f1"]
    assert scores[0] < 0.7 < 0.85 < scores[2]  # until July the two classes are the same noise
