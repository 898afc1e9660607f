"""The command that embeds scenes: what it computes, restarts, components, refusals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import finetune.embed as embed_module
from common.command_line import run_command
from common.exit_codes import USER_ERROR
from common.run_lock import LOCK, RunLock
from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data.frames import model_frames
from finetune.data.scene_series import FINEST, SceneSeries
from finetune.embed import embed_scenes
from finetune.embedding import EmbedConfig, EmbeddingMap, load_projection
from finetune.embedding.scene_blocks import BlockEmbedder
from finetune.model.model_file import save_model
from finetune.model.recipe import build_model
from finetune.task import load_task
from pretrain.model import build_encoder, save_encoder
from tests.support.embedded_scenes import NORMALIZATION, run_embed, small_encoder, write_encoder, write_striped_scenes
from tests.support.launching import ROOT, wait_for
from tests.support.rice_scenes import write_rice_scene
from tests.support.stand_in_models import SMALL, make_recipe, random_mapper

pytestmark = pytest.mark.usefixtures("one_thread")
EMBED_BLOCK = BlockEmbedder.embed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("model") / "encoder.safetensors")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_striped_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def undisturbed(model: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embeddings of both scenes, each in nine blocks."""
    output = tmp_path_factory.mktemp("undisturbed")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run_embed(model, scenes, output, block_cells=10)
    torch.set_num_threads(threads)
    return output


def same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same embeddings, byte by byte, and nothing else."""
    names = ["a_2021.tif", "a_2021.tif.json", "b_2021.tif", "b_2021.tif.json", "pca.safetensors"]
    assert sorted(os.listdir(one)) == names
    assert sorted(os.listdir(other)) == names
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_a_scene_of_one_window_is_the_projected_map_of_the_encoder(model: Path, tmp_path: Path) -> None:
    """Computed here from the images: the encoder's last level, standardised and projected."""
    write_rice_scene(tmp_path / "scenes" / "a", "test", side=64, seed=4, frames=12)
    (path,) = run_embed(model, tmp_path / "scenes", tmp_path / "out", levels=[1], dimensions=5, dtype="float16")
    projection = load_projection(tmp_path / "out" / "pca.safetensors")
    task = replace(load_task("paddy_rice"), season=("01-01", "12-31"))
    with SceneSeries(load_scene(tmp_path / "scenes" / "a"), task, load_sensors(), pixel_size=FINEST, year=2021) as series:
        stacks = series.read(0, 0, 64, 64)
        frames = {source: model_frames(stacks[source], series.seasons[source], NORMALIZATION[source]) for source in stacks}
    with torch.no_grad():
        landsat, modis = (
            small_encoder()(torch.from_numpy(frames[s])[None], source=s)[1][0].numpy() for s in ("landsat", "modis")
        )
    assert landsat.shape == (32, 8, 8)
    assert modis.shape[1:] == (1, 1)
    features = np.concatenate([landsat, np.broadcast_to(modis, (len(modis), 8, 8))])
    standard = (features - projection.mean[:, None, None]) / projection.std[:, None, None]
    expected = np.einsum("df,fhw->dhw", projection.components, standard)
    found = EmbeddingMap.open(path).read()
    assert found.shape == (5, 8, 8)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_two_scenes_of_one_region_share_their_components(model: Path, scenes: Path, undisturbed: Path, tmp_path: Path) -> None:
    """A scene that lies elsewhere and looks the same has the same embedding, whichever scenes it is embedded with."""
    pca = undisturbed / "pca.safetensors"
    shutil.copytree(scenes / "b", tmp_path / "scenes" / "twin")
    description = yaml.safe_load((tmp_path / "scenes" / "twin" / "scene.yaml").read_text()) | {"name": "twin"}
    (tmp_path / "scenes" / "twin" / "scene.yaml").write_text(yaml.safe_dump(description))
    (alone,) = run_embed(model, tmp_path / "scenes", tmp_path / "alone", pca=pca, block_cells=10)
    one, other = EmbeddingMap.open(alone), EmbeddingMap.open(undisturbed / "b_2021.tif")
    np.testing.assert_array_equal(one.read(), other.read())
    assert one.tags["components"] == other.tags["components"] == load_projection(pca).digest
    (own,) = run_embed(model, tmp_path / "scenes", tmp_path / "own")
    assert EmbeddingMap.open(own).tags["components"] != one.tags["components"]


def test_the_sample_of_the_components_is_stated(undisturbed: Path) -> None:
    projection = load_projection(undisturbed / "pca.safetensors")
    assert projection.dimensions == 12
    assert (projection.sample["scenes"], projection.sample["years"]) == (["a", "b"], [2021, 2021])
    assert projection.sample["windows"] == {"a": 4, "b": 4}  # all that there are without overlap
    assert projection.sample["cells"] > 1000
    assert projection.features["levels"] == [0, 1, 2, 3, 4]


def test_blocks_and_overlaps_change_little(model: Path, scenes: Path, undisturbed: Path, tmp_path: Path) -> None:
    pca = undisturbed / "pca.safetensors"
    run_embed(model, scenes / "a", tmp_path / "blocks", pca=pca, dtype="float16")
    run_embed(model, scenes / "a", tmp_path / "cut", pca=pca, dtype="float16", overlap=0.0)
    whole, cut = (EmbeddingMap.open(tmp_path / name / "a_2021.tif").read() for name in ("blocks", "cut"))
    parts = EmbeddingMap.open(undisturbed / "a_2021.tif").read()
    scale = load_projection(pca).scale[:, None, None]
    seen = ~np.isnan(whole)
    inside = seen & (np.abs(parts - load_projection(pca).offset[:, None, None]) < 126 * scale)
    assert (np.abs(parts - whole) <= 0.51 * scale + np.abs(whole) * 2.0**-10)[inside].all()
    np.testing.assert_array_equal(np.isnan(cut), np.isnan(whole))
    assert np.nanmax(np.abs(cut - whole)) > 0


def interrupt_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Make the embedding of block number `count` end as by Ctrl-C."""
    calls = []

    def interrupted(*arguments: Any) -> dict[str, np.ndarray]:
        calls.append(1)
        if len(calls) > count:
            raise KeyboardInterrupt
        return EMBED_BLOCK(*arguments)

    monkeypatch.setattr(BlockEmbedder, "embed", interrupted)


def test_interrupted_embeddings_resume_to_the_same_bytes(
    model: Path,
    scenes: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    interrupt_after(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        run_embed(model, scenes, output, block_cells=10)
    assert sorted(os.listdir(output)) == [".a_2021.tif.parts", "pca.safetensors"]
    interrupt_after(monkeypatch, 7)  # the other five of the first scene, two of the second
    with pytest.raises(KeyboardInterrupt):
        run_embed(model, scenes, output, block_cells=10)
    assert sorted(os.listdir(output)) == [".b_2021.tif.parts", "a_2021.tif", "a_2021.tif.json", "pca.safetensors"]
    (output / "a_2021.tif.json").unlink()  # as if it had been killed between the two files of a scene
    monkeypatch.undo()
    run_embed(model, scenes, output, block_cells=10)
    said = capsys.readouterr().out
    assert "a: resuming, 4 of 9 blocks are finished" in said
    assert "b: resuming, 2 of 9 blocks are finished" in said
    assert same_files(output, undisturbed)
    run_embed(model, scenes, output, block_cells=10)
    assert capsys.readouterr().out.count("is finished") == 2
    assert same_files(output, undisturbed)


@pytest.mark.slow
def test_a_killed_command_resumes_to_the_same_bytes(model: Path, scenes: Path, undisturbed: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ["--model", str(model), "--input", str(scenes), "--output", str(output), "--year", "2021"]
    command = [sys.executable, str(Path(embed_module.__file__)), *arguments, "--dimensions", "12", "--block_cells", "10"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for blocks in (2, 5):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: len(list(output.glob(".*.parts/*.npz"))) >= blocks or process.poll() is not None, 300)  # noqa: B023
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    subprocess.run(command, env=environment, check=True, capture_output=True)
    for lock in output.glob(f"{LOCK}*"):
        lock.unlink()
    assert same_files(output, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "dask"])
def test_workers_make_the_same_files(model: Path, scenes: Path, undisturbed: Path, tmp_path: Path, engine: Any) -> None:
    run_embed(model, scenes, tmp_path / "out", block_cells=10, workers=2, engine=engine)
    assert same_files(tmp_path / "out", undisturbed)


def test_two_jobs_never_write_the_same_folder(
    model: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(model), "--input", str(scenes), "--output", str(tmp_path), "--year", "2021", "--dimensions", "4"]
    with RunLock(tmp_path / LOCK, tmp_path) as lock:
        lock.acquire()
        with pytest.raises(SystemExit) as ended:
            run_command(embed_scenes, arguments, config_class=EmbedConfig)
    assert ended.value.code == USER_ERROR
    assert "is in use by process" in capsys.readouterr().err


def test_a_fine_tuned_model_reads_the_images_of_its_task(scenes: Path, tmp_path: Path) -> None:
    """Its encoder, sources, season, frames, windows and normalisation."""
    mapper, recipe = random_mapper(3, ("landsat",))
    season = ("04-01", "10-31")
    recipe = replace(recipe, task=replace(recipe.task, season=season, frames=8, window_px=32))
    mapper = build_model(recipe, mapper.encoder)  # type: ignore[assignment]
    save_model(tmp_path / "model.safetensors", mapper, recipe)
    save_encoder(mapper.encoder, tmp_path / "encoder.safetensors")
    (tmp_path / "statistics.json").write_text(json.dumps(recipe.normalization))
    (path,) = run_embed(tmp_path / "model.safetensors", scenes / "a", tmp_path / "tuned", dimensions=4)
    override = {"sources": ["landsat"], "frames": 8, "window_px": 32}
    same = embed_config_override(override)
    normalization = str(tmp_path / "statistics.json")
    (other,) = run_embed(
        tmp_path / "encoder.safetensors", scenes / "a", tmp_path / "plain", dimensions=4, season=season,
        normalization=normalization, **same,
    )  # fmt: skip
    np.testing.assert_array_equal(EmbeddingMap.open(path).read(), EmbeddingMap.open(other).read())
    others = {source: {"mean": [900.0] * len(of["mean"]), "std": of["std"]} for source, of in recipe.normalization.items()}
    (tmp_path / "statistics.json").write_text(json.dumps(others))
    with pytest.raises(ValueError, match="components of other features: normalization, compositing and windows"):
        run_embed(
            tmp_path / "encoder.safetensors", scenes / "b", tmp_path / "plain", dimensions=4, season=season,
            normalization=normalization, **same,
        )  # fmt: skip
    with pytest.raises(ValueError, match="was fine-tuned for task paddy_rice, whose images it reads; leave --task out"):
        run_embed(tmp_path / "model.safetensors", scenes / "a", tmp_path / "x", task="cropland")


def embed_config_override(values: dict[str, Any]) -> dict[str, Any]:
    from finetune.config import TaskOverride

    return {"override": TaskOverride(**values)}


def test_a_baseline_has_no_encoder(scenes: Path, tmp_path: Path) -> None:
    recipe = replace(make_recipe(32), encoder="unet", channels=4)
    save_model(tmp_path / "model.safetensors", build_model(recipe), recipe)
    with pytest.raises(ValueError, match="is the baseline unet, which has no encoder"):
        run_embed(tmp_path / "model.safetensors", scenes, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_known_is_asked_for(model: Path, scenes: Path, tmp_path: Path) -> None:
    encoder = build_encoder(replace(SMALL, sources={"landsat": 6, "modis": 7}))
    save_encoder(encoder, tmp_path / "bare.safetensors")  # as AgriFM.pth, which does not say how it was normalised
    with pytest.raises(ValueError, match=r"does not say by which mean and standard deviation landsat, modis .*--normalization"):
        run_embed(tmp_path / "bare.safetensors", scenes, tmp_path / "out")
    shutil.copytree(scenes / "a", tmp_path / "scenes" / "a")
    shutil.copytree(scenes / "b", tmp_path / "scenes" / "b")
    description = yaml.safe_load((tmp_path / "scenes" / "b" / "scene.yaml").read_text())
    description["sources"].pop("modis")
    (tmp_path / "scenes" / "b" / "scene.yaml").write_text(yaml.safe_dump(description))
    with pytest.raises(ValueError, match=r"which sources to read cannot be known.*landsat or landsat, modis; state --override"):
        run_embed(model, tmp_path / "scenes", tmp_path / "out")
    with pytest.raises(ValueError, match="no image of landsat between 1999-01-01"):
        run_embed(model, scenes, tmp_path / "out", year=1999)
    assert not (tmp_path / "out").exists()


def test_components_of_other_features_are_refused(model: Path, scenes: Path, undisturbed: Path, tmp_path: Path) -> None:
    pca = undisturbed / "pca.safetensors"
    other = write_encoder(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(ValueError, match=r"holds components of other features: weights \w+ instead of \w+; give the same model"):
        run_embed(other, scenes, tmp_path / "out", pca=pca)
    with pytest.raises(ValueError, match=r"levels \[0, 1, 2, 3, 4\] instead of \[4\]"):
        run_embed(model, scenes, tmp_path / "out", pca=pca, levels=[4])
    with pytest.raises(ValueError, match="has no effect with --pca"):
        run_embed(model, scenes, tmp_path / "out", pca=pca, dimensions=3)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    shutil.copy(pca, tmp_path / "out" / "pca.safetensors")
    with pytest.raises(ValueError, match=r"was computed from another sample .*add embeddings to it with --pca"):
        run_embed(model, scenes, tmp_path / "out", seed=5)
    run_embed(model, scenes / "b", tmp_path / "b_alone", dimensions=12)
    with pytest.raises(ValueError, match="holds other components than --pca"):
        run_embed(model, scenes, tmp_path / "out", pca=tmp_path / "b_alone" / "pca.safetensors")


def test_all_features_without_components(model: Path, scenes: Path, tmp_path: Path) -> None:
    (path,) = run_embed(model, scenes / "b", tmp_path / "out", levels=[2], time="mean", dimensions=0)
    found = EmbeddingMap.open(path)
    assert found.read().shape == (2 * 32, 7, 7)
    assert found.names[:2] == ("e00", "e01")
    assert found.grid.pixel_side == 16 * 30


def test_a_scene_that_was_never_clear_is_a_map_without_data(model: Path, scenes: Path, undisturbed: Path, tmp_path: Path) -> None:
    import zarr

    shutil.copytree(scenes / "a", tmp_path / "scenes" / "a")
    zarr.open_group(tmp_path / "scenes" / "a" / "landsat.zarr")["Fmask"][:] = 2
    (path,) = run_embed(model, tmp_path / "scenes", tmp_path / "out", pca=undisturbed / "pca.safetensors")
    assert np.isnan(EmbeddingMap.open(path).read()).all()
    with pytest.raises(ValueError, match="no scene has a clear pixel in the season"):
        run_embed(model, tmp_path / "scenes", tmp_path / "own")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--levels", "7"], "--levels are [7]"),
        (["--overlap", "1"], "--overlap is 1.0"),
        (["--dimensions", "-1"], "--dimensions is -1; expected at least 0"),
        (["--workers", "0"], "--workers is 0"),
        (["--block_cells", "0"], "--block_cells is 0"),
        (["--pca", "nothing.safetensors"], "no components at nothing.safetensors"),
        (["--points", "nothing.csv"], "no file nothing.csv"),
        (["--override.window_px", "40"], "do not hold whole p"),
        (["--season", "[04-01, 13-31]"], "expected two dates of the form MM-DD"),
        (["--format", "netcdf"], "format"),
    ],
)
def test_bad_input_is_one_line(
    model: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    known = ["--model", str(model), "--input", str(scenes), "--output", str(tmp_path / "out"), "--year", "2021"]
    with pytest.raises(SystemExit) as ended:
        run_command(embed_scenes, [*known, *arguments], config_class=EmbedConfig)
    assert ended.value.code == USER_ERROR
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    assert not (tmp_path / "out").exists()
