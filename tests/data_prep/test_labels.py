"""The command that shows labels: the same codes as those that are trained on, names and colours, a picture, and the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import yaml
from matplotlib.image import imread
from rasterio.features import shapes

from data_prep.label_overview.label_maps import class_colors, connected_areas
from data_prep.label_overview.settings import LabelsConfig
from data_prep.labels import labels
from data_prep.plan.label_blocks import SplitBlocks
from tests.support.parcels import scene_with
from tests.support.rice_scenes import CODES, write_rice_scene


def show(capsys: pytest.CaptureFixture[str], **options: Any) -> list[str]:
    """What the command prints, line by line."""
    assert labels(LabelsConfig(**options)) == 0
    return capsys.readouterr().out.splitlines()


def edit(folder: Path, **changes: Any) -> None:
    values = yaml.safe_load((folder / "scene.yaml").read_text()) | changes
    (folder / "scene.yaml").write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes whose labels are parcels; that of the first has an overlap, a parcel elsewhere, and one without a class."""
    folder = tmp_path_factory.mktemp("scenes")
    for seed, (name, split) in enumerate([("a", "train"), ("b", "train"), ("c", "test")]):
        write_rice_scene(folder / name, split, side=64, seed=seed, frames=6)
        with rasterio.open(folder / name / "crop_type.tif") as label:
            codes, transform, crs = label.read(1), label.transform, label.crs
        found = [(shapely.geometry.shape(g), int(code)) for g, code in shapes(codes, mask=codes > 0, transform=transform)]
        if name == "a":
            first, code = found[0]
            found.append((first, code % 3 + 1))
            found.append((shapely.transform(first, lambda at: at + 1e5), 1))
            found.append((first, None))
        geometry, values = [g for g, _ in found], [None if code is None else CODES[code] for _, code in found]
        geopandas.GeoDataFrame({"crop": values}, geometry=geometry, crs=crs).to_file(folder / name / "parcels.gpkg")
        edit(
            folder / name, labels={"crop_type": {"vector": "parcels.gpkg"}, "raster": {"path": "crop_type.tif", "classes": CODES}}
        )
    return folder


def test_geotiffs_pictures_and_the_table(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "labels"
    said = show(capsys, input=scenes, label="crop_type", output=out)
    names = {1: "maize", 2: "not_cropland", 3: "paddy_rice"}
    pixels: dict[str, np.ndarray] = {}
    for scene in "abc":
        with rasterio.open(out / f"{scene}.tif") as raster, rasterio.open(scenes / scene / "crop_type.tif") as truth:
            codes = raster.read(1)
            expected = np.vectorize({0: 0, 1: 3, 2: 1, 3: 2}.get)(truth.read(1))
            assert (raster.crs, raster.transform, raster.nodata) == (truth.crs, truth.transform, 0)
            assert {key: value for key, value in raster.tags(1).items() if key.startswith("class_")} == {
                f"class_{code}": name for code, name in names.items()
            }
            table = raster.colormap(1)
        same = codes == expected
        assert same.all() if scene != "a" else (codes[~same] == 0).all()
        made = scene_with(scenes, vector="x.gpkg", classes={"m": "maize", "n": "not_cropland", "p": "paddy_rice"}).labels["crop"]
        colors = class_colors(made)
        assert {code: "#{:02x}{:02x}{:02x}".format(*table[code]) for code in names} == colors
        assert "<Category>paddy_rice</Category>" in (out / f"{scene}.tif.aux.xml").read_text()
        picture = imread(out / f"{scene}.png")
        assert picture.shape[0] > 400
        assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 1_000, "the image shines through the label"
        pixels[scene] = codes
    overlap = int((pixels["a"] == 0).sum()) - 1
    rows = {line.split("  ")[0]: line.split()[-4:] for line in said[2:]}
    train = np.concatenate([pixels["a"], pixels["b"]])
    for code, name in names.items():
        assert rows[name][:2] == [f"{(train == code).sum():,}", f"{(pixels['c'] == code).sum():,}"]
    assert any(line.startswith("not labelled, in overlaps") and line.split()[-2:] == [str(overlap), "0"] for line in said)
    assert any(line.startswith("outside of the scenes") and line.split()[-2:] == ["1", "0"] for line in said)
    assert any(line.startswith("left out: without a class") and line.split()[-2:] == ["1", "0"] for line in said)
    assert f"scene a: parcels.gpkg: {overlap} pixels lie in features of different classes and are not labelled" in said
    assert said[-1] == f"3 labels in {out}"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    show(capsys, input=scenes, label="crop_type", output=out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before, "started again, the same bytes"


def test_rasters_and_their_connected_areas(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = show(capsys, input=scenes / "c", label="raster", output=tmp_path, pictures=False)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["c.tif", "c.tif.aux.xml"]
    codes = np.array([[1, 0, 1, 2], [1, 1, 0, 2], [0, 0, 1, 1]])
    made = scene_with(scenes, path="x.tif", classes={1: "a", 2: "b"}).labels["crop"]
    assert connected_areas(codes, made) == {1: 3, 2: 1}
    assert any(line.startswith("paddy_rice") for line in said)


def test_blocks_divide_scenes_without_a_split(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "scenes"
    write_rice_scene(folder / "a", "train", side=96, frames=4)
    edit(folder / "a", split=None)
    options = {"input": folder, "label": "crop_type", "output": tmp_path / "labels", "pictures": False}
    said = show(capsys, **options)
    assert said[0].split("  ")[-1].strip() == "no split stated, objects"
    blocks = SplitBlocks(side_m=600, buffer_m=60)
    said = show(capsys, **options, split_blocks=blocks)
    header = [part.strip() for part in said[0].split("  ") if part.strip()]
    assert header == ["class", "train, px", "validation, px", "test, px", "in the buffer, px", "objects"]
    rows = [[int(word.replace(",", "")) for word in line.split()[1:]] for line in said[2:5]]
    assert np.sum(rows, axis=0)[:4].sum() == 96 * 96 - 1
    with pytest.raises(ValueError, match=r"divides scenes that state no split; a, b, c state one"):
        labels(LabelsConfig(input=scenes, label="crop_type", output=tmp_path / "x", split_blocks=blocks))


def test_each_year_of_a_column_is_a_map(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "scenes"
    write_rice_scene(folder / "a", "train", side=64, frames=4)
    table = geopandas.read_file(scenes / "a" / "parcels.gpkg").iloc[:6]
    table["year"] = [2020, 2021] * 3
    table.to_file(folder / "a" / "parcels.gpkg")
    edit(folder / "a", labels={"crop_type": {"vector": "parcels.gpkg", "column": "crop", "year_column": "year"}})
    options = {"input": folder, "label": "crop_type", "output": tmp_path / "labels", "pictures": False}
    show(capsys, **options)
    assert sorted(path.name for path in (tmp_path / "labels").glob("*.tif")) == ["a_2020.tif", "a_2021.tif"]
    show(capsys, **(options | {"output": tmp_path / "one"}), year=2020)
    assert sorted(path.name for path in (tmp_path / "one").glob("*.tif")) == ["a.tif"]
    np.testing.assert_array_equal(
        *(rasterio.open(path).read(1) for path in (tmp_path / "one" / "a.tif", tmp_path / "labels" / "a_2020.tif"))
    )
    edit(folder / "a", split=None)
    with pytest.raises(ValueError, match=r"several years \(2020, 2021\), and fine-tuning divides the ground of one"):
        labels(LabelsConfig(**options, split_blocks=SplitBlocks(side_m=500)))
    with pytest.raises(ValueError, match=r"no label 'crop_type' in .* is of 2019"):
        labels(LabelsConfig(**options, year=2019))


def test_many_classes_have_different_colours(scenes: Path) -> None:
    made = scene_with(scenes, path="x.tif", classes={code: f"crop_{code}" for code in range(1, 200)}).labels["crop"]
    assert len(set(class_colors(made).values())) == 199


def test_mistakes(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no scene in .* has a label 'crops'; they have crop_type, raster"):
        labels(LabelsConfig(input=scenes, label="crops", output=tmp_path / "x"))
    with pytest.raises(ValueError, match=r"scene a has none of the sources \['radar'\]; it has landsat, modis"):
        labels(LabelsConfig(input=scenes, label="crop_type", output=tmp_path / "x", sources=["radar"]))
    with pytest.raises(ValueError, match=r"--season_begin is 'May'; expected month and day, MM-DD"):
        labels(LabelsConfig(input=scenes, label="crop_type", output=tmp_path / "x", season_begin="May"))
