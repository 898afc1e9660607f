"""Parcels of EuroCrops and fiboa become an entry of labels.yaml with the codes and names of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import pytest
import yaml
from shapely.geometry import box

from finetune.import_dataset import import_dataset
from tests.support.public_datasets import write_parcels

WHEAT, MAIZE, UNKNOWN = 3301010101, 3301060400, 3399000000
EUROCROPS: dict[str, list[Any]] = {
    "fid_1": [1, 2, 3, 4, 5],
    "EC_trans_n": ["Winter wheat", "Maize", "Winter wheat", "?", "Spelt"],
    "EC_hcat_n": ["winter_common_soft_wheat", "grain_maize", "winter_common_soft_wheat", "not_known_and_other", None],
    "EC_hcat_c": [str(WHEAT), str(MAIZE), str(WHEAT), str(UNKNOWN), None],
}
FIBOA: dict[str, list[Any]] = {
    "id": ["a", "b", "c"],
    "determination:datetime": ["2021-05-15T00:00:00Z"] * 3,
    "hcat:code": [WHEAT, MAIZE, WHEAT],
    "hcat:name": ["wheat", "maize", "wheat"],
}


def labels_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((folder / "labels.yaml").read_text())
    return values


@pytest.mark.parametrize("name", ["at.gpkg", "at.parquet", "at.shp", "at.geojson"])
def test_eurocrops(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_parcels(tmp_path / name, EUROCROPS)
    import_dataset("parcels", tmp_path / name, tmp_path / "scenes", year=2021)
    assert labels_of(tmp_path / "scenes") == {
        "crop_type": {
            "vector": str(tmp_path / name),
            "column": "EC_hcat_c",
            "year": 2021,
            "classes": {str(WHEAT): "winter_common_soft_wheat", str(MAIZE): "grain_maize", str(UNKNOWN): None},
        }
    }
    shown = capsys.readouterr().out
    assert "without a code, not labelled" in shown
    assert "winter_common_soft_wheat" in shown


def test_fiboa_with_its_dates(tmp_path: Path) -> None:
    write_parcels(tmp_path / "scenes/at.parquet", FIBOA)
    import_dataset("parcels", tmp_path / "scenes/at.parquet", tmp_path / "scenes", label="crops")
    entry = labels_of(tmp_path / "scenes")["crops"]
    assert entry["vector"] == "at.parquet", "beside labels.yaml"
    assert (entry["column"], entry["date_column"]) == ("hcat:code", "determination:datetime")
    assert entry["classes"] == {str(WHEAT): "wheat", str(MAIZE): "maize"}
    import_dataset("parcels", tmp_path / "scenes/at.parquet", tmp_path / "scenes", label="in_2021", year=2021)
    assert "date_column" not in labels_of(tmp_path / "scenes")["in_2021"]
    assert "crops" in labels_of(tmp_path / "scenes"), "other labels stay"


def test_columns_of_ones_own(tmp_path: Path) -> None:
    write_parcels(tmp_path / "a.gpkg", {"Kultur": [12, 7, 12], "Name": ["Mais", "Weizen", "Mais"]})
    with pytest.raises(ValueError, match=r"has no column EC_hcat_c or .*; say which one counts .*; it has Kultur, Name"):
        import_dataset("parcels", tmp_path / "a.gpkg", tmp_path)
    import_dataset("parcels", tmp_path / "a.gpkg", tmp_path, column="Kultur", name_column="Name")
    assert labels_of(tmp_path)["crop_type"]["classes"] == {"12": "Mais", "7": "Weizen"}
    import_dataset("parcels", tmp_path / "a.gpkg", tmp_path, column="Kultur", label="codes")
    assert labels_of(tmp_path)["codes"]["classes"] == {"12": "12", "7": "7"}


def test_the_layer_of_several_must_be_chosen(tmp_path: Path) -> None:
    table = geopandas.GeoDataFrame(
        {"EC_hcat_c": [str(WHEAT)], "EC_hcat_n": ["wheat"]}, geometry=[box(0, 0, 1, 1)], crs="EPSG:3035"
    )
    for layer in ("parcels_2020", "parcels_2021"):
        table.to_file(tmp_path / "a.gpkg", layer=layer)
    with pytest.raises(ValueError, match="has the layers parcels_2020, parcels_2021; say which one counts with --layer"):
        import_dataset("parcels", tmp_path / "a.gpkg", tmp_path)
    import_dataset("parcels", tmp_path / "a.gpkg", tmp_path, layer="parcels_2021", year=2021)
    assert labels_of(tmp_path)["crop_type"]["layer"] == "parcels_2021"


def test_several_columns_of_crops_must_be_chosen_from(tmp_path: Path) -> None:
    write_parcels(tmp_path / "a.parquet", FIBOA | {"crop:code": ["1", "2", "1"], "crop:name": ["w", "m", "w"]})
    with pytest.raises(ValueError, match=r"several columns of crops, .*; say which one counts with --column"):
        import_dataset("parcels", tmp_path / "a.parquet", tmp_path)
    import_dataset("parcels", tmp_path / "a.parquet", tmp_path, column="crop:code")
    assert labels_of(tmp_path)["crop_type"]["classes"] == {"1": "w", "2": "m"}


def test_a_code_with_two_names_is_named(tmp_path: Path) -> None:
    write_parcels(tmp_path / "a.parquet", FIBOA | {"hcat:name": ["wheat", "maize", "rye"]})
    with pytest.raises(ValueError, match=rf"code {WHEAT} of hcat:code is named 'wheat' and 'rye'"):
        import_dataset("parcels", tmp_path / "a.parquet", tmp_path)
    assert not (tmp_path / "labels.yaml").exists()


def test_parcels_without_a_name_have_that_of_their_code(tmp_path: Path) -> None:
    write_parcels(tmp_path / "a.gpkg", {"crop": [110, 110, 7], "name": ["wheat", None, None]})
    import_dataset("parcels", tmp_path / "a.gpkg", tmp_path, column="crop", name_column="name")
    assert labels_of(tmp_path)["crop_type"]["classes"] == {"110": "wheat", "7": "7"}


def test_a_label_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    write_parcels(tmp_path / "a.parquet", FIBOA)
    import_dataset("parcels", tmp_path / "a.parquet", tmp_path, year=2021)
    before = (tmp_path / "labels.yaml").read_bytes()
    import_dataset("parcels", tmp_path / "a.parquet", tmp_path, year=2021)
    assert (tmp_path / "labels.yaml").read_bytes() == before
    with pytest.raises(ValueError, match=r"has another label 'crop_type' already; give another name with --label"):
        import_dataset("parcels", tmp_path / "a.parquet", tmp_path, year=2022)


def test_what_is_no_file_of_parcels_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.gpkg").write_bytes(b"nonsense")
    for name in ("a.gpkg", "missing.gpkg", "missing.parquet"):
        with pytest.raises(ValueError, match="cannot be read as a file of parcels"):
            import_dataset("parcels", tmp_path / name, tmp_path)
