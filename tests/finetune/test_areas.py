"""The command that estimates areas: its tables against a world whose truth is known, and mistakes of users."""

from __future__ import annotations

import os
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio

from common.command_line import run_command
from common.exit_codes import USER_ERROR
from finetune.areas import areas
from tests.support.class_maps import CRS, PLACE, write_map

SIDE = 100
NAMES = np.array(["other", "paddy_rice"])


@pytest.fixture
def world(tmp_path: Path) -> dict[str, np.ndarray]:
    """Two maps in `tmp_path`, and the truth in both years; the maps err in a tenth of the pixels, mostly in one direction."""
    rng = np.random.default_rng(3)
    truth = {"2019": (rng.random((SIDE, SIDE)) < 0.3).astype(np.uint8)}
    truth["2021"] = np.where(rng.random((SIDE, SIDE)) < 0.2, 1 - truth["2019"], truth["2019"]).astype(np.uint8)
    for year, classes in truth.items():
        wrong = rng.random((SIDE, SIDE)) < np.where(classes == 0, 0.12, 0.05)
        write_map(tmp_path / f"map_{year}.tif", np.where(wrong, 1 - classes, classes))
    return truth


def write_points(path: Path, truth: dict[str, np.ndarray], count: int = 900, crs: str = CRS) -> None:
    rng = np.random.default_rng(4)
    rows, cols = rng.integers(0, SIDE, (2, count))
    x, y = PLACE @ (cols + rng.random(count), rows + rng.random(count))
    table = {f"class_{year}": NAMES[classes[rows, cols]] for year, classes in truth.items()}
    points = geopandas.GeoDataFrame(table, geometry=geopandas.points_from_xy(x, y, crs=CRS)).to_crs(crs)
    if path.suffix == ".csv":
        pd.DataFrame({**table, "lon": points.geometry.x, "lat": points.geometry.y}).to_csv(path, index=False)
    elif path.suffix == ".parquet":
        points.to_parquet(path)
    else:
        points.to_file(path)


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        run_command(areas, [str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.mark.parametrize(("name", "crs"), [("points.csv", "EPSG:4326"), ("points.gpkg", CRS), ("points.parquet", "EPSG:3035")])
def test_adjusted_areas_and_transitions_are_near_the_truth(
    world: dict[str, np.ndarray], tmp_path: Path, name: str, crs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_points(tmp_path / name, world, crs=crs)
    maps = [tmp_path / f"map_{year}.tif" for year in world]
    columns = [f"class_{year}" for year in world]
    assert (
        run("--map", *maps, "--reference", tmp_path / name, "--reference_column", *columns, "--output", tmp_path / "areas") == 0
    )
    assert sorted(os.listdir(tmp_path / "areas")) == ["areas.csv", "areas.md", "error_matrix.csv", "transitions.csv"]
    table = pd.read_csv(tmp_path / "areas" / "areas.csv")
    assert list(table["class"]) == [*NAMES, *NAMES]
    ha = 0.01 / 0.9996**2
    truth = np.concatenate([np.bincount(classes.ravel()) * ha for classes in world.values()])
    mapped_error, error = np.abs(table["mapped_ha"] - truth), np.abs(table["area_ha"] - truth)
    assert (error < 3 * table["standard_error_ha"]).all()
    assert error.mean() < 0.5 * mapped_error.mean()
    assert (table["low_ha"] < table["area_ha"]).all()
    np.testing.assert_allclose(table.groupby("map")["area_ha"].sum(), SIDE**2 * ha, rtol=1e-4)
    np.testing.assert_allclose(table.groupby("map")["points"].sum(), 900)
    transitions = pd.read_csv(tmp_path / "areas" / "transitions.csv")
    true_transitions = [((world["2019"] == a) & (world["2021"] == b)).sum() * ha for a in (0, 1) for b in (0, 1)]
    assert list(zip(transitions["from"], transitions["to"], strict=True))[1] == ("other", "paddy_rice")
    assert (np.abs(transitions["area_ha"] - true_transitions) < 3 * transitions["standard_error_ha"]).all()
    matrix = pd.read_csv(tmp_path / "areas" / "error_matrix.csv")
    assert matrix[list(NAMES)].to_numpy().sum() == 1800
    assert "| map_2019.tif | other" in capsys.readouterr().out


def test_without_points_areas_are_counted(world: dict[str, np.ndarray], tmp_path: Path) -> None:
    assert run("--map", tmp_path / "map_2019.tif", "--output", tmp_path / "areas") == 0
    assert sorted(os.listdir(tmp_path / "areas")) == ["areas.csv", "areas.md"]
    table = pd.read_csv(tmp_path / "areas" / "areas.csv")
    assert list(table.columns) == ["map", "class", "mapped_ha"]
    assert table["mapped_ha"].sum() == pytest.approx(SIDE**2 * 0.01 / 0.9996**2, rel=1e-4)
    before = {path.name: path.read_bytes() for path in (tmp_path / "areas").iterdir()}
    assert run("--map", tmp_path / "map_2019.tif", "--output", tmp_path / "areas") == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "areas").iterdir()} == before
    assert world


def test_tables_of_other_maps_do_not_stay(world: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Maps of one name are told apart by their folders, and what an earlier call wrote is gone."""
    write_points(tmp_path / "points.csv", world, 300, "EPSG:4326")
    for year in world:
        (tmp_path / year).mkdir()
        (tmp_path / f"map_{year}.tif").rename(tmp_path / year / "map.tif")
    maps = [tmp_path / year / "map.tif" for year in world]
    columns = [f"class_{year}" for year in world]
    output = ("--output", tmp_path / "areas")
    assert run("--map", *maps, "--reference", tmp_path / "points.csv", "--reference_column", *columns, *output) == 0
    assert list(pd.read_csv(tmp_path / "areas" / "areas.csv")["map"].unique()) == ["2019/map.tif", "2021/map.tif"]
    assert len(os.listdir(tmp_path / "areas")) == 4
    assert run("--map", maps[0], *output) == 0
    assert sorted(os.listdir(tmp_path / "areas")) == ["areas.csv", "areas.md"]
    assert list(pd.read_csv(tmp_path / "areas" / "areas.csv")["map"].unique()) == ["map.tif"]


def test_strata_without_points_are_refused_or_left_out(world: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Points in the 2019 map's rice alone say nothing of the rest of it."""
    write_points(tmp_path / "all.csv", world, 300, "EPSG:4326")
    points = pd.read_csv(tmp_path / "all.csv")
    with rasterio.open(tmp_path / "map_2019.tif") as raster:
        x, y = (
            geopandas.GeoSeries(geopandas.points_from_xy(points["lon"], points["lat"], crs=4326))
            .to_crs(CRS)
            .get_coordinates()
            .T.values
        )
        mapped = np.array([value[0] for value in raster.sample(zip(x, y, strict=True))])
    points[mapped == 1].to_csv(tmp_path / "rice.csv", index=False)
    arguments = ("--map", tmp_path / "map_2019.tif", "--reference", tmp_path / "rice.csv", "--reference_column", "class_2019")
    assert run(*arguments, "--output", tmp_path / "areas") == USER_ERROR
    assert not (tmp_path / "areas").exists()
    assert run(*arguments, "--output", tmp_path / "areas", "--unsampled", "leave_out") == 0
    text = (tmp_path / "areas" / "areas.md").read_text()
    assert "have fewer than two points and are in no estimate: other" in text
    table = pd.read_csv(tmp_path / "areas" / "areas.csv")
    assert table["area_ha"].sum() == pytest.approx(table["mapped_ha"][1])


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("lon,lat,kind\n5,45,rice\n", ["kind"], "kind holds ['rice']; the map has the classes other, paddy_rice"),
        ("lon,lat,kind\n5,45,\n", ["kind"], "points without a class must be left out"),
        ("lon,lat,kind\n5,45,other\n", ["kin"], "has no column 'kin', did you mean kind?"),
        ("x,y,kind\n5,45,other\n", ["kind"], "has no column lat and no lon; it has x, y, kind"),
        ("lon,lat,kind\n500000,5000000,other\n", ["kind"], "lon 500000 and lat 5000000 of row 1 are no degrees"),
        ("lon,lat,kind\n", ["kind"], "holds no point"),
        ("lon,lat,kind\n50,45,other\n", ["kind"], "no reference point lies in the map where it has data"),
        ("lon,lat,kind\n5,45,other\n", ["kind", "kind"], "give one --reference_column for each map"),
    ],
)
def test_points_that_cannot_be_used(
    world: dict[str, np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
    columns: list[str],
    message: str,
) -> None:
    (tmp_path / "points.csv").write_text(content)
    arguments = ("--map", tmp_path / "map_2019.tif", "--reference", tmp_path / "points.csv", "--reference_column", *columns)
    assert run(*arguments, "--output", tmp_path / "areas") == USER_ERROR
    assert message in capsys.readouterr().err
    assert not (tmp_path / "areas").exists()
    assert world
