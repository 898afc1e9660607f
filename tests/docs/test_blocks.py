"""Every block of Python and YAML in README and docs works as it stands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from data_prep.archive.scene import LABELS_FILE, load_scene, shared_labels
from data_prep.archive.sensor import load_sensors
from data_prep.landcover.legend import load_legend
from data_prep.stac_search.settings import SearchSettings
from docs.generate.commands import ROOT
from finetune.data.tables.description import load_table
from finetune.embedding import load_projection
from finetune.task import load_task
from pretrain.model import EncoderConfig, build_encoder, load_encoder, save_encoder
from tests.support.documentation import CodeBlock, block, blocks, command_lines
from tests.support.embedded_scenes import run_embed, write_encoder
from tests.support.labelled_samples import FRAMES, SIDE, make_sample
from tests.support.rice_scenes import write_rice_scene

SMALL = EncoderConfig(
    sources={"sentinel2": 10}, embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), drop_path_rate=0.0
)
RUN_BELOW = {"features.py", "my_dataset.py", "windows.py", "read.py", "random_weights.py"}
RUN_BELOW |= {"notebook.py", "read_geotiff.py", "read_zarr.py"}


@pytest.mark.parametrize("code", blocks("python"), ids=str)
def test_python_compiles_and_is_run_by_a_test(code: CodeBlock) -> None:
    compile(code.text, str(code), "exec")
    assert code.title in RUN_BELOW


@pytest.mark.parametrize("page", ["README.md", "docs/howto/pretraining.md"])
def test_an_encoder_makes_five_maps(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/agrifm").mkdir(parents=True)
    save_encoder(build_encoder(SMALL), Path("runs/agrifm/encoder.safetensors"))
    names: dict[str, Any] = {"pixels": torch.zeros(1, 4, 10, 16, 16)}
    exec(block("features.py", page).text, names)
    assert len(names["maps"]) == 5
    assert all(map.ndim == 4 for map in names["maps"])


def test_random_weights_keep_the_normalisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/tiny").mkdir(parents=True)
    encoder = build_encoder(SMALL)
    encoder.normalization = {"sentinel2": {"mean": [1.0] * 10, "std": [2.0] * 10}}
    save_encoder(encoder, Path("runs/tiny/encoder.safetensors"))
    exec(block("random_weights.py").text, {})
    assert load_encoder("random.safetensors").normalization == encoder.normalization


def test_an_embedding_is_made_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documented lines embed a scene in a notebook, and read it without this project."""
    monkeypatch.chdir(tmp_path)
    Path("runs/agrifm").mkdir(parents=True)
    write_encoder(Path("runs/agrifm/encoder.safetensors"))
    write_rice_scene(Path("scenes/delta"), "train", frames=6)
    names: dict[str, Any] = {}
    exec(block("notebook.py").text, names)
    exec(block("read_geotiff.py").text.replace("delta_2021", names["path"].stem), names)
    np.testing.assert_allclose(names["embedding"], names["values"], rtol=1e-4, atol=1e-5)
    run_embed(
        Path("runs/agrifm"), Path("scenes/delta"), Path("embeddings"), format="zarr", pca=Path("embeddings/pca.safetensors")
    )
    exec(block("read_zarr.py").text, names)
    assert names["embedding"].shape == (1, *names["values"].shape)
    step = np.array(load_projection(Path("embeddings/pca.safetensors")).scale)[:, None, None]
    assert (np.abs(names["embedding"].values[0] - names["values"]) <= 0.51 * step + 0.02).all()


@pytest.fixture
def rice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with my_dataset.py as it is documented, and the files that it describes."""
    for split, seeds in {"train": range(4), "validation": (4,), "test": (5, 6)}.items():
        (tmp_path / "rice" / split).mkdir(parents=True)
        for seed in seeds:
            sample = make_sample(seed)
            np.savez(tmp_path / "rice" / split / f"{seed}.npz", landsat=sample["data"]["landsat"], label=sample["label"])
    (tmp_path / "my_dataset.py").write_text(block("my_dataset.py").text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_dataset_of_ones_own_trains(rice: Path) -> None:
    """The documented command on the documented class, with a small model and two epochs."""
    (line,) = [words for _, words in command_lines() if "my_dataset.py:RiceDataset" in words]
    small = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": [2, 3, 3], "drop_path_rate": 0.0}
    options = {f"encoder.{name}": value for name, value in small.items()}
    options |= {"override.frames": FRAMES, "override.window_px": SIDE, "training.epochs": 2, "training.batch_size": 4}
    options |= {"decoder.channels": 16, "device": "cpu"}
    script, arguments = ROOT / line[1], line[2:] + [f"--{name}={value}" for name, value in options.items()]
    result = subprocess.run([sys.executable, script, *arguments], cwd=rice, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert list(json.loads((rice / "runs/mine/metrics.json").read_text())["test"]["scenes"]) == ["5", "6"]


@pytest.mark.usefixtures("rice")
def test_windows_of_a_dataset_of_ones_own() -> None:
    names: dict[str, Any] = {}
    exec(block("windows.py").text, names)
    assert len(names["windows"]) == 4
    assert names["windows"].task.sources == ("landsat",)


def test_a_stock_reader_opens_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documented lines read a shard that shard.py wrote from a simulated scene."""
    from data_prep.shard import ShardConfig, shard
    from data_prep.simulate import simulate

    monkeypatch.chdir(tmp_path)
    simulate(Path("scenes"), regions=1, landsat_px=64, sentinel2_px=96, modis_days=16, workers=1)
    config = ShardConfig(input=Path("scenes"), output=Path("corpus"), sources=["sentinel2"], chip_px={"sentinel2": 16})
    assert shard(config) == 0
    seen: list[tuple[int, ...]] = []
    text = block("read.py").text
    line = 'sample["pixels.npy"], sample["valid.npy"], sample["dates.npy"], sample["landcover.npy"]'
    assert line in text
    exec(text.replace(line, f'seen.append(sample["pixels.npy"].shape); {line}'), {"seen": seen})
    assert seen
    assert all(shape[1:] == (10, 16, 16) for shape in seen)


@pytest.mark.parametrize("code", blocks("yaml"), ids=str)
def test_yaml_is_read_by_what_it_is_for(code: CodeBlock, tmp_path: Path) -> None:
    values = yaml.safe_load(code.text)
    path = tmp_path / Path(code.title).name
    if "scene.yaml" in code.title:
        if code.title == "part of scene.yaml":
            values = {"name": "part", "sources": {"landsat": {"container": "geotiff_scenes", "path": "x"}}} | values
        (tmp_path / "scene.yaml").write_text(yaml.safe_dump(values))
        scene = load_scene(tmp_path)
        known = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/reference/containers.md").read_text(), re.MULTILINE))
        assert {options["container"] for options in scene.sources.values()} <= known
    elif "table.yaml" in code.title:
        if code.title == "part of table.yaml":
            values = {
                "files": "x.parquet",
                "layout": "wide",
                "columns": {},
                "dates": {"first": "2021-01-01", "every_days": 10},
            } | values
        (tmp_path / "table.yaml").write_text(yaml.safe_dump(values))
        assert load_table(tmp_path / "table.yaml").layout == values["layout"]
    elif path.name == LABELS_FILE:
        path.write_text(code.text)
        assert sorted(shared_labels(tmp_path / "scene")) == sorted(values)
    elif "catalogue" in values:
        assert SearchSettings(output=tmp_path, **values).sources()
    elif "gsd_m" in values:
        (tmp_path / "sources").mkdir()
        (tmp_path / "sources" / code.title).write_text(code.text)
        assert values["name"] in load_sensors(tmp_path / "sources")
    elif "codes" in values:
        path.write_text(code.text)
        assert load_legend(str(path)).name == values["name"]
    else:
        path.write_text(code.text)
        assert load_task(str(path)).name == values["name"]


def test_tables_of_the_six_tasks_are_those_of_the_benchmark() -> None:
    """README and the results page show the numbers of six_tasks.json."""
    tasks = json.loads((ROOT / "tests/bench/results/six_tasks.json").read_text())["tasks"].values()
    readme, page = (ROOT / "README.md").read_text(), (ROOT / "docs/results/tasks.md").read_text()
    for task in tasks:
        cells = {cell["encoder"]: cell for cell in task["cells"]}
        scratch = next(cell for cell in task["pretrained_minus"] if cell["encoder"] == "scratch")
        mean = {name: f"{100 * cell['mean']:.1f}" for name, cell in cells.items()}
        difference = f"{100 * scratch['mean']:+.1f} ({100 * scratch['standard_error']:.1f})".replace("-", "−")
        row = f"| {task['title']} | {mean['pretrained']} | {mean['scratch']} | {difference} | {mean['unet']} |"
        assert row in readme
        spread = [f"{mean[name]} ± {100 * cells[name]['standard_deviation']:.1f}" for name in cells]
        assert f"| {task['title']}, {task['score']} | {' | '.join(spread)} |" in page
        assert f"| {task['title']} | {difference} |" in page
