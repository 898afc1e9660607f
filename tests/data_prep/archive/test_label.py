"""Entries of labels in scene.yaml and labels.yaml: which codes they give, and which mistakes they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.archive.label import Label, Parcels, Points, label_from_values
from data_prep.archive.scene import load_scene, scan_archive

FOLDER = Path("scenes/a")


def label(**entry: Any) -> Label:
    return label_from_values(entry, FOLDER, "here: label crop")


def codes(**entry: Any) -> tuple[dict[int, str], dict[str, int] | None, int]:
    made = label(vector="a.gpkg", **entry)
    assert made.features is not None
    return dict(made.classes), None if made.features.codes is None else dict(made.features.codes), made.nodata


def test_small_whole_numbers_stay_codes() -> None:
    assert codes(classes={1: "rice", 40: "wheat", 7: "rice"}) == (
        {1: "rice", 40: "wheat", 7: "rice"},
        {"1": 1, "40": 40, "7": 7},
        0,
    )
    assert codes(classes={0: "rice", 255: "wheat", 3: None}) == ({0: "rice", 255: "wheat"}, {"0": 0, "255": 255, "3": 1}, 1)
    assert codes(classes={1: "rice", "*": "other"}) == ({1: "rice", 2: "other"}, {"1": 1, "*": 2}, 0)
    assert codes(classes={1: "rice", 5: "other", "*": "other"}) == ({1: "rice", 5: "other"}, {"1": 1, "5": 5, "*": 5}, 0)
    assert codes(classes={1: "rice", "*": None}, nodata=99) == ({1: "rice"}, {"1": 1, "*": 99}, 99)


def test_texts_and_large_numbers_are_numbered_by_name() -> None:
    entry = {"3301010100": "wheat", 3301060000: "maize", "3301010200": "wheat", "33": None}
    expected = ({1: "wheat", 2: "maize"}, {"3301010100": 1, "3301060000": 2, "3301010200": 1, "33": 0}, 0)
    assert codes(classes=entry) == codes(classes=entry, match="prefix") == expected
    assert codes(classes={1: "rice", 2: "wheat"}, match="prefix") == ({1: "rice", 2: "wheat"}, {"1": 1, "2": 2}, 0)
    assert codes(classes={"a": "rice", "b": "wheat"}, nodata=1) == ({2: "rice", 3: "wheat"}, {"a": 2, "b": 3}, 1)
    assert codes() == ({}, None, 0)


def test_texts_of_a_file_are_names() -> None:
    made = label(vector="a.gpkg", nodata=2).named_by(["barley", "rice"])
    assert made.classes == {1: "barley", 3: "rice"}
    made = label(vector="a.gpkg", outside="rice").named_by(["barley", "rice"])
    assert isinstance(made.features, Parcels)
    assert (made.classes, made.features.outside) == ({1: "barley", 2: "rice"}, 2)


def test_kinds() -> None:
    assert label(path="a.tif", classes={1: "rice"}).is_stored_raster
    assert not label(path="a.tif", classes={1: "rice"}, grid="landsat", resample="mode").is_stored_raster
    assert isinstance(label(path="a.GPKG", classes={1: "rice"}).features, Parcels)
    assert isinstance(label(points="a.csv", crs="EPSG:4326").features, Points)
    fields = label(vector="a.gpkg", boundary_m=20, outside="not_field")
    assert fields.classes == {1: "interior", 2: "boundary", 3: "not_field"}
    assert label(vector="a.gpkg").path == FOLDER / "a.gpkg"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"classes": {1: "rice"}}, r"here: label crop needs `path` and `classes` of a raster, or `vector` or `points`; it has"),
        ({"path": "a.tif", "vector": "a.gpkg"}, r"needs `path` and `classes` of a raster, or `vector` or `points`; it has"),
        ({"path": "a.tif"}, r"here: label crop needs `path` and `classes` and knows \[.*; it has \['path'\]"),
        ({"path": "a.tif", "classes": {1: "a"}, "column": "b"}, r"and knows \['classes', 'grid', .*'year'\]; it has"),
        ({"path": "a.csv", "classes": {1: "a"}}, r"a.csv is a table; if its rows are points, name it with `points`"),
        ({"vector": "a.tif"}, r"vector is 'a.tif'; expected a name that ends in .gpkg"),
        ({"points": "a.xlsx"}, r"points is 'a.xlsx'; expected a name that ends in .csv, .gpkg"),
        ({"vector": "a.gpkg", "sqare_px": 3}, r"needs `vector` and knows"),
        ({"path": "a.tif", "classes": {1: "a"}, "resample": "mode"}, r"`grid` \(the source\) and `resample` .* together"),
        ({"path": "a.tif", "classes": {1: "a"}, "grid": "modis"}, r"`grid` \(the source\) and `resample` .* together"),
        ({"path": "a.tif", "classes": {1: "a"}, "grid": "modis", "resample": "mean"}, r"resample is 'mean'; expected nearest or"),
        ({"vector": "a.gpkg", "assign": "most"}, r"assign is 'most'; expected centre or area"),
        ({"vector": "a.gpkg", "least_share": 0.7}, r"least_share is 0.7; expected more than 0 and at most 1, and `assign: area`"),
        ({"vector": "a.gpkg", "assign": "area", "least_share": 1.5}, r"least_share is 1.5; expected more than 0"),
        ({"vector": "a.gpkg", "boundary_m": -1}, r"boundary_m is -1 and inner_buffer_m 0.0; expected widths above 0"),
        ({"vector": "a.gpkg", "boundary_m": 9, "column": "c"}, r"interior and boundary of all parcels, .* leave column out"),
        ({"vector": "a.gpkg", "boundary_m": 9, "assign": "area"}, r"interior and boundary of all parcels, .* leave assign out"),
        ({"vector": "a.gpkg", "match": "regex"}, r"match is 'regex'; expected exact or prefix"),
        ({"vector": "a.gpkg", "match": "prefix"}, r"match is prefix, and there are no `classes`"),
        ({"vector": "a.gpkg", "year": 2021, "year_column": "y"}, r"states year and year_column; give one of them"),
        ({"vector": "a.gpkg", "crs": "EPSG:1"}, r"crs: 'EPSG:1' is no coordinate reference system"),
        ({"vector": "a.gpkg", "classes": {1: "rice", "1": "wheat"}}, r"classes name 1 twice, as a number and as a text"),
        ({"vector": "a.gpkg", "classes": {1: None}}, r"they name no class"),
        ({"vector": "a.gpkg", "classes": {1: "rice"}, "nodata": 1}, r"code 1 is class 'rice' and also `nodata`"),
        ({"points": "a.csv", "square_px": 4}, r"square_px is 4; expected an odd number"),
        ({"vector": "a.gpkg", "classes": {1: 2}}, r"here: label crop classes is .*; expected a mapping"),
    ],
)
def test_mistakes(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label(**entry)


def write(folder: Path, **values: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    source = {"landsat": {"container": "zarr_cube", "path": "x.zarr"}}
    (folder / "scene.yaml").write_text(yaml.safe_dump({"name": folder.name, "sources": source} | values))


def test_labels_of_all_scenes(tmp_path: Path) -> None:
    """Paths begin at the folder of scenes; an entry of the scene's own replaces the shared one as a whole."""
    own = {"crop": {"path": "own.tif", "classes": {1: "rice"}}}
    write(tmp_path / "a")
    write(tmp_path / "b", labels=own)
    shared = {"crop": {"vector": "parcels.gpkg", "column": "crop"}, "plots": {"points": "plots.csv", "crs": 4326}}
    (tmp_path / "labels.yaml").write_text(yaml.safe_dump(shared))
    one, other = scan_archive(tmp_path).scenes
    assert (one, other) == (load_scene(tmp_path / "a"), load_scene(tmp_path / "b"))
    assert {name: made.path for name, made in one.labels.items()} == {
        "crop": tmp_path / "parcels.gpkg",
        "plots": tmp_path / "plots.csv",
    }
    assert other.labels["crop"].path == tmp_path / "b" / "own.tif"
    assert other.labels["crop"].features is None
    assert not one.split_stated
    (tmp_path / "labels.yaml").write_text("crop: parcels.gpkg\n")
    with pytest.raises(ValueError, match=r"labels\.yaml: expected the entries of labels by name"):
        load_scene(tmp_path / "a")
    (tmp_path / "labels.yaml").write_text("labels: {crop: {vector: parcels.gpkg}}\n")
    with pytest.raises(ValueError, match=r"labels\.yaml: label labels needs `path` and `classes` of a raster, or"):
        load_scene(tmp_path / "a")


def test_the_folder_of_scenes_of_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a")
    (tmp_path / "labels.yaml").write_text(yaml.safe_dump({"crop": {"vector": "parcels.gpkg", "column": "crop"}}))
    monkeypatch.chdir(tmp_path / "a")
    assert list(load_scene(Path()).labels) == ["crop"]
    monkeypatch.chdir(tmp_path)
    assert list(load_scene(Path("a")).labels) == ["crop"]
