"""Shards with labels of pixels: as the stock reader sees them, proved like all else, and as data for fine-tuning."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
import webdataset
import yaml
from rasterio.features import shapes

from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from data_prep.corpus.dataset import load_corpus
from data_prep.landcover.label_opening import LabelOnSource, grid_of_source
from data_prep.plan.build import make_plan
from data_prep.plan.settings import PlanSettings
from data_prep.shard import ShardConfig, shard
from data_prep.shards.tar_format import LABEL, MEMBERS
from data_prep.verify import verify
from finetune.data.opening import open_data
from finetune.data.scene_windows import SceneWindows
from finetune.data.shard_samples import ShardSamples
from finetune.task import IGNORE, load_task
from pretrain.model import EncoderConfig
from tests.support.archives import CODES, write_land_cover
from tests.support.finetune_runs import run
from tests.support.rice_scenes import CODES as CROPS
from tests.support.rice_scenes import write_label, write_rice_scene

SMALL = EncoderConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), drop_path_rate=0.0)
CHIP = 32
RICE = replace(load_task("paddy_rice"), sources=("landsat",), window_px=CHIP, frames=8)


def write_scenes(folder: Path) -> Path:
    for seed, (name, split) in enumerate([("a", "train"), ("b", "train"), ("c", "validation"), ("d", "test"), ("e", "test")]):
        write_rice_scene(folder / name, split, side=80, seed=seed)
        write_land_cover(folder / name / "landcover.tif", np.random.default_rng(seed).choice(CODES, (80, 80)))
        edit(folder / name, land_cover={"raster": "landcover.tif", "legend": "glc_fcs30d"})
    return folder


def edit(scene: Path, **changes: Any) -> None:
    description = yaml.safe_load((scene / "scene.yaml").read_text()) | changes
    (scene / "scene.yaml").write_text(yaml.safe_dump(description))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Scenes, their corpus with labels, and one without."""
    folder = tmp_path_factory.mktemp("labels")
    scenes = write_scenes(folder / "scenes")
    options: dict[str, Any] = {"input": scenes, "sources": ["landsat"], "chip_px": {"landsat": CHIP}}
    assert shard(ShardConfig(output=folder / "with", label={"landsat": "crop_type"}, **options)) == 0
    assert shard(ShardConfig(output=folder / "without", **options)) == 0
    return scenes, folder / "with", folder / "without"


def samples_of(corpus: Path, split: str = "train") -> dict[str, dict[str, Any]]:
    """By the stock reader."""
    shards = sorted(str(path) for path in corpus.glob(f"landsat-{split}-*.tar"))
    return {sample["__key__"]: sample for sample in webdataset.WebDataset(shards, shardshuffle=False).decode()}


def test_the_stock_reader_sees_the_label_of_each_sample(corpora: tuple[Path, Path, Path]) -> None:
    scenes, labelled, _ = corpora
    samples = samples_of(labelled)
    assert len(samples) == 8  # of 80 px two by two chips of 32 px, in two scenes
    for key, sample in samples.items():
        row, col = (int(part[1:]) for part in key.split("-")[-2:])
        with rasterio.open(scenes / sample["json"]["scene"] / "crop_type.tif") as raster:
            codes = raster.read(1)[row : row + CHIP, col : col + CHIP]
        np.testing.assert_array_equal(sample["label.npy"], codes)
        assert sample["label.npy"].dtype == np.uint8
    described = load_corpus(labelled).labels["landsat"]
    assert described.classes == {1: "paddy_rice", 2: "maize", 3: "not_cropland"}
    assert (described.name, described.nodata) == ("crop_type", 0)


def test_everything_else_is_as_without_a_label_and_lies_before_it(corpora: tuple[Path, Path, Path]) -> None:
    _, labelled, plain = corpora
    for name in sorted(path.name for path in plain.glob("*.tar")):
        with tarfile.open(labelled / name) as one, tarfile.open(plain / name) as other:
            kept = [info.name for info in one if not info.name.endswith(LABEL)]
            assert kept == other.getnames()
            assert [info.name.split(".", 1)[1] for info in one][: len(MEMBERS) + 1] == [*MEMBERS, LABEL]
            for member in kept:
                found, expected = one.extractfile(member), other.extractfile(member)
                assert found is not None
                assert expected is not None
                assert found.read() == expected.read()
    assert "labels" not in json.loads((plain / "dataset.json").read_text())
    assert "labels" not in json.loads((plain / "plan.json").read_text())["settings"]


def test_a_flipped_bit_of_a_label_is_found(
    corpora: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(corpora[1]) == 0
    folder = Path(shutil.copytree(corpora[1], tmp_path / "corpus"))
    corpus = load_corpus(folder)
    entry = corpus.samples("landsat", "train")[3]
    content = bytearray(entry.shard.read_bytes())
    content[entry.members[LABEL].offset + entry.members[LABEL].size - 5] ^= 1
    entry.shard.write_bytes(content)
    assert verify(folder) == 1
    assert f"{entry.key}.{LABEL}" in capsys.readouterr().out
    samples = ShardSamples(corpus, "train", RICE)
    assert samples[2]["file_name"] != entry.key
    with pytest.raises(ValueError, match=rf"{entry.key}\.label\.npy is not as it was written; run data_prep/verify.py"):
        samples[3]


def test_windows_of_shards_are_those_of_their_scenes(corpora: tuple[Path, Path, Path]) -> None:
    scenes, labelled, _ = corpora
    data = open_data(labelled)
    of_shards = data.windows("train", RICE, year=None)
    of_scenes = SceneWindows([load_scene(scenes / name) for name in ("a", "b")], RICE, data.sensors)
    of_shards.normalization = of_scenes.normalization = {"landsat": of_shards.statistics("landsat")}
    by_name = {of_scenes[i]["file_name"]: of_scenes[i] for i in range(len(of_scenes))}
    assert len(of_shards) == 8
    for index in range(8):
        item = of_shards[index]
        parts = item["file_name"].split("-")  # landsat-a-2021-r00000-c00032-r00000-c00000
        scene = by_name[f"{parts[1]}-{parts[3]}-{parts[4]}"]
        np.testing.assert_array_equal(item["data"]["landsat"], scene["data"]["landsat"])
        np.testing.assert_array_equal(item["label"], scene["label"])
    assert of_shards.labels[0][0, 0] == IGNORE
    of_shards.close()


def test_a_run_on_shards_has_intervals_over_scenes(corpora: tuple[Path, Path, Path], tmp_path: Path) -> None:
    settings = {"task": "paddy_rice", "encoder": SMALL, "decoder.channels": 8, "override.frames": 8, "training.epochs": 1}
    settings |= {"override.window_px": CHIP, "override.sources": ["landsat"]}
    run(data=corpora[1], output=tmp_path / "run", **settings)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert sorted(metrics["test"]["scenes"]) == ["d", "e"]
    assert metrics["test"]["bootstrap"]["scenes"] == 2
    assert len(list((tmp_path / "run" / "maps").glob("landsat-[de]-2021-*.png"))) == 8


def test_what_shards_lack_is_said(corpora: tuple[Path, Path, Path]) -> None:
    _, labelled, plain = corpora
    with pytest.raises(ValueError, match=r"has no label for landsat, as .*shard\.py \.\.\. --label\.landsat crop_type"):
        ShardSamples(load_corpus(plain), "train", RICE)
    with pytest.raises(ValueError, match=r"choose one with --override\.sources \[landsat\], or .* --missing_sources allow"):
        ShardSamples(load_corpus(labelled), "train", load_task("paddy_rice"))
    over_new_year = replace(RICE, season=("10-01", "07-31"))
    with pytest.raises(ValueError, match=r"the season of task paddy_rice, 10-01 to 07-31, begins in the year before: give"):
        ShardSamples(load_corpus(labelled), "train", over_new_year)
    with pytest.raises(ValueError, match=r"has no train samples of sentinel2; it has landsat \(test\), landsat \(train\)"):
        ShardSamples(load_corpus(labelled), "train", load_task("cropland"))


def test_a_label_without_a_year_beside_images_of_several_years_is_said(corpora: tuple[Path, Path, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(corpora[0] / "a", tmp_path / "a"))
    for year, said in ((None, True), (2021, False)):
        if year is not None:
            edit(folder, labels={"crop_type": {"path": "crop_type.tif", "classes": CROPS, "year": year}})
        scene, sensors = load_scene(folder), load_sensors()
        with LabelOnSource(scene, "crop_type", "landsat", grid_of_source(scene, "landsat", sensors), sensors) as label:
            found = label.notes({2021, 2022})
            assert label.notes({2021}) == []
        assert [("states no year" in text, "images of 2021, 2022" in text) for text in found] == ([(True, True)] if said else [])


def to_parcels(scenes: Path, shared: bool) -> None:
    """Parcels in place of the label rasters, with names as the codes; those of all scenes in one file, or in one for each.

    Of scenes that lie at one place, one stays where they share a file.
    """
    tables = {}
    for name in "be" if shared else ():
        shutil.rmtree(scenes / name)
    for name in "acd" if shared else "abcde":
        with rasterio.open(scenes / name / "crop_type.tif") as raster:
            codes, transform, crs = raster.read(1), raster.transform, raster.crs
        found = [(shapely.geometry.shape(g), CROPS[int(code)]) for g, code in shapes(codes, mask=codes > 0, transform=transform)]
        tables[name] = geopandas.GeoDataFrame({"crop": [c for _, c in found]}, geometry=[g for g, _ in found], crs=crs)
    if shared:
        pd.concat(tables.values()).to_parquet(scenes / "parcels.parquet")
        (scenes / "labels.yaml").write_text(yaml.safe_dump({"crop_type": {"vector": "parcels.parquet"}}))
    for name, table in tables.items():
        if not shared:
            table.to_file(scenes / name / "parcels.gpkg")
        edit(scenes / name, labels={} if shared else {"crop_type": {"vector": "parcels.gpkg"}})


@pytest.mark.parametrize("shared", [False, True])
def test_parcels_in_shards(corpora: tuple[Path, Path, Path], tmp_path: Path, shared: bool) -> None:
    scenes = Path(shutil.copytree(corpora[0], tmp_path / "scenes"))
    to_parcels(scenes, shared)
    options: dict[str, Any] = {"input": scenes, "sources": ["landsat"], "chip_px": {"landsat": CHIP}}
    options |= {"output": tmp_path / "corpus", "label": {"landsat": "crop_type"}}
    assert shard(ShardConfig(**options)) == 0
    assert load_corpus(tmp_path / "corpus").labels["landsat"].classes == {1: "maize", 2: "not_cropland", 3: "paddy_rice"}
    of_rasters, codes = samples_of(corpora[1]), np.array([0, 3, 1, 2])
    found = samples_of(tmp_path / "corpus")
    assert len(found) == (4 if shared else 8)
    for key, sample in found.items():
        np.testing.assert_array_equal(sample["label.npy"], codes[of_rasters[key]["label.npy"]])
        assert sample["label.npy"].dtype == np.uint8
    assert shard(ShardConfig(**options)) == 0
    if shared:
        table = geopandas.read_parquet(scenes / "parcels.parquet")
        table.iloc[1:].to_parquet(scenes / "parcels.parquet")
        with pytest.raises(ValueError, match="holds a corpus of another plan"):
            shard(ShardConfig(**options))


def test_a_damaged_file_of_parcels_rejects_the_series_of_its_scene(corpora: tuple[Path, Path, Path], tmp_path: Path) -> None:
    scenes = Path(shutil.copytree(corpora[0], tmp_path / "scenes"))
    to_parcels(scenes, shared=False)
    (scenes / "b" / "parcels.gpkg").write_bytes(b"no vector file")
    settings = PlanSettings(sources=("landsat",), chip_px={"landsat": CHIP}, labels={"landsat": "crop_type"})
    (rejected,) = make_plan(scenes, tmp_path / "corpus", settings).rejected()
    assert rejected.scene == "b"
    assert "parcels.gpkg cannot be read as a vector file" in rejected.reason


def no_label(scenes: Path) -> dict[str, str]:
    edit(scenes / "b", labels={})
    return {"landsat": "crop_type"}


def other_codes(scenes: Path) -> dict[str, str]:
    edit(scenes / "b", labels={"crop_type": {"path": "crop_type.tif", "classes": {1: "maize"}, "nodata": 0}})
    return {"landsat": "crop_type"}


def other_place(scenes: Path) -> dict[str, str]:
    write_label(scenes / "b" / "crop_type.tif", np.ones((80, 80), int), west=500_050.0)
    return {"landsat": "crop_type"}


def other_scene(scenes: Path) -> dict[str, str]:
    """The raster of a scene twelve kilometres to the east, whose pixels lie on the same lines."""
    write_label(scenes / "b" / "crop_type.tif", np.ones((80, 80), int), west=500_040.0 + 400 * 30)
    return {"landsat": "crop_type"}


def other_pixels(scenes: Path) -> dict[str, str]:
    write_label(scenes / "b" / "crop_type.tif", np.ones((240, 240), int), gsd=10.0)
    return {"landsat": "crop_type"}


def no_raster(scenes: Path) -> dict[str, str]:
    (scenes / "c" / "crop_type.tif").write_bytes(b"no raster")
    return {"landsat": "crop_type"}


@pytest.mark.parametrize(
    ("spoil", "scene", "reason"),
    [
        (no_label, "b", "scene b has no label 'crop_type'; it has none"),
        (other_place, "b", r"its pixels \(.* of 30 from \(500050, .* are not those of the images \(.* from \(500040"),
        (other_scene, "b", r"crop_type.tif \(80 x 80 px .* from \(512040, .* shares no pixel with the images \(.* from \(500040"),
        (other_pixels, "b", r"its pixels \(240 x 240 px of 10 from .* labels are not resampled"),
        (no_raster, "c", "crop_type.tif: cannot be read"),
    ],
)
def test_a_label_that_does_not_fit_rejects_the_series_of_its_scene(
    corpora: tuple[Path, Path, Path], tmp_path: Path, spoil: Any, scene: str, reason: str
) -> None:
    scenes = Path(shutil.copytree(corpora[0], tmp_path / "scenes"))
    settings = PlanSettings(sources=("landsat",), chip_px={"landsat": CHIP}, labels=spoil(scenes))
    plan = make_plan(scenes, tmp_path / "corpus", settings)
    (rejected,) = plan.rejected()
    assert (rejected.key, rejected.scene, rejected.source) == (f"landsat-{scene}", scene, "landsat")
    assert re.search(rf"cannot be read: scene\.yaml, label crop_type: .*{reason}", rejected.reason), rejected.reason
    assert scene not in {sample.scene for shard in plan.shards() for sample in shard.samples}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_codes, "of scene b has the codes .*; that of a .* samples of one corpus need the same"),
        (lambda _: {"landsat": "crop"}, r"--label.landsat crop: no scene with landsat has this label; they have \['crop_type'"),
        (lambda _: {"modis": "crop_type"}, r"--label names the sources \['modis'\]; this corpus has \['landsat'\]"),
    ],
)
def test_labels_that_fit_no_corpus_are_refused_before_anything_is_written(
    corpora: tuple[Path, Path, Path], tmp_path: Path, spoil: Any, message: str
) -> None:
    scenes = Path(shutil.copytree(corpora[0], tmp_path / "scenes"))
    label = spoil(scenes)
    with pytest.raises(ValueError, match=message):
        shard(ShardConfig(input=scenes, output=tmp_path / "corpus", sources=["landsat"], chip_px={"landsat": CHIP}, label=label))
    assert not (tmp_path / "corpus").exists()


def test_a_label_smaller_than_the_images_is_no_data_outside(corpora: tuple[Path, Path, Path], tmp_path: Path) -> None:
    scenes = tmp_path / "scenes"
    shutil.copytree(corpora[0] / "a", scenes / "a")
    codes = np.random.default_rng(0).choice([1, 2, 3], (30, 40))
    write_label(scenes / "a" / "crop_type.tif", codes, west=500_040.0 + 10 * 30)
    assert (
        shard(
            ShardConfig(
                input=scenes, output=tmp_path / "c", sources=["landsat"], chip_px={"landsat": 64}, label={"landsat": "crop_type"}
            )
        )
        == 0
    )
    (sample,) = samples_of(tmp_path / "c").values()
    expected = np.zeros((64, 64), np.uint8)
    expected[:30, 10:50] = codes
    np.testing.assert_array_equal(sample["label.npy"], expected)
    with pytest.raises(ValueError, match="holds a corpus of another plan"):
        shard(ShardConfig(input=scenes, output=tmp_path / "c", sources=["landsat"], chip_px={"landsat": 64}))


def test_codes_without_a_name_reject_their_samples(corpora: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """One pixel of scene b has a code that `classes` do not name: the sample around it is not written."""
    scenes = Path(shutil.copytree(corpora[0], tmp_path / "scenes"))
    with rasterio.open(scenes / "b" / "crop_type.tif", "r+") as raster:
        codes = raster.read(1)
        codes[40, 40] = 77
        raster.write(codes, 1)
    options: dict[str, Any] = {"input": scenes, "sources": ["landsat"], "chip_px": {"landsat": CHIP}, "max_failed_share": 0.1}
    assert shard(ShardConfig(output=tmp_path / "c", label={"landsat": "crop_type"}, **options)) == 0
    rejected = [json.loads(line) for line in (tmp_path / "c" / "rejected.jsonl").read_text().splitlines()]
    (reason,) = (entry["reason"] for entry in rejected if entry["key"].startswith("landsat-b"))
    assert re.search(r"crop_type.tif holds codes \[77\] that its `classes` do not name", reason)
    assert len(samples_of(tmp_path / "c")) == 7


def test_rasters_of_labels_yaml_that_are_described_anew_are_another_plan(
    corpora: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """The year of the shared raster is changed between two runs: one corpus must not hold labels of both."""
    scenes = Path(shutil.copytree(corpora[0], tmp_path / "scenes"))
    shutil.copy(scenes / "a" / "crop_type.tif", scenes / "crops.tif")
    classes = yaml.safe_load((scenes / "a" / "scene.yaml").read_text())["labels"]["crop_type"]["classes"]
    for scene in ("a", "b", "c", "d", "e"):
        edit(scenes / scene, labels={})
    shared = {"path": "crops.tif", "classes": classes, "nodata": 0}
    (scenes / "labels.yaml").write_text(yaml.safe_dump({"crop_type": shared}))
    settings = PlanSettings(sources=("landsat",), chip_px={"landsat": CHIP}, labels={"landsat": "crop_type"})
    plan = make_plan(scenes, tmp_path / "corpus", settings)
    assert make_plan(scenes, tmp_path / "corpus", settings).hash == plan.hash
    (scenes / "labels.yaml").write_text(yaml.safe_dump({"crop_type": shared | {"year": 2020}}))
    with pytest.raises(ValueError, match="holds a corpus of another plan"):
        make_plan(scenes, tmp_path / "corpus", settings)
