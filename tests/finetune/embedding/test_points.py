"""Embeddings of points: tables in and out, the same numbers as the map's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely

from finetune.embedding import read_points
from finetune.embedding.scene_blocks import BlockEmbedder
from tests.support.embedded_scenes import run_embed, write_encoder, write_striped_scenes

pytestmark = pytest.mark.usefixtures("one_thread")
WEST, NORTH = 500_040.0, 5_000_040.0


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder, two scenes of the same ground, and their embeddings as 16-bit floats."""
    base = tmp_path_factory.mktemp("points")
    model, scenes = write_encoder(base / "encoder.safetensors"), write_striped_scenes(base / "scenes")
    run_embed(model, scenes, base / "maps", dtype="float16")
    return base


def some_points(count: int = 60) -> geopandas.GeoDataFrame:
    """Random points in the scenes, in the stripe of `a`, at edges of cells, and outside."""
    rng = np.random.default_rng(3)
    x, y = rng.uniform(0, 3360, count), rng.uniform(0, 3360, count)
    x[:4], y[:4] = (0.01, 3359.9, 1320, 5000), (0.01, 3359.9, 1000, 10)  # corners, the stripe, outside
    crop = rng.choice(["rice", "maize"], count)
    geometry = shapely.points(WEST + x, NORTH - y)
    return geopandas.GeoDataFrame({"plot": np.arange(count) + 100, "crop": crop}, geometry=geometry, crs="EPSG:32631")


def run_points(embedded: Path, points: Path, output: Path, **options: Any) -> pd.DataFrame:
    pca = embedded / "maps" / "pca.safetensors"
    (path,) = run_embed(embedded / "encoder.safetensors", embedded / "scenes", output, points=points, pca=pca, **options)
    return pd.read_parquet(path)


def test_a_point_has_the_embedding_of_the_cell_that_holds_it(embedded: Path, tmp_path: Path) -> None:
    points = some_points()
    points.to_file(tmp_path / "plots.gpkg")
    table = run_points(embedded, tmp_path / "plots.gpkg", tmp_path / "out")
    assert list(table.columns) == ["id", "lon", "lat", "plot", "crop", "scene", *(f"e{number:02}" for number in range(12))]
    assert table["plot"].tolist() == points["plot"].tolist()
    assert table["crop"].tolist() == points["crop"].tolist()
    degrees = points.to_crs("EPSG:4326").geometry
    np.testing.assert_allclose(table[["lon", "lat"]], np.stack([degrees.x, degrees.y], axis=1), atol=1e-9)
    values = table.filter(regex=r"^e\d\d$").to_numpy()
    assert values.dtype == np.float32
    maps = {}
    for scene in ("a", "b"):
        with rasterio.open(embedded / "maps" / f"{scene}_2021.tif") as raster:
            found = np.array(list(raster.sample([(point.x, point.y) for point in points.geometry])))
            inside = [raster.bounds.left <= p.x < raster.bounds.right and p.y > raster.bounds.bottom for p in points.geometry]
            maps[scene] = np.where(np.array(inside)[:, None], found, np.nan)
    expected = np.where(np.isnan(maps["a"]), maps["b"], maps["a"])
    np.testing.assert_array_equal(np.isnan(values), np.isnan(expected))
    np.testing.assert_allclose(values, expected, rtol=2.0**-10, atol=2e-3)
    scenes = np.where(~np.isnan(maps["a"][:, 0]), "a", np.where(~np.isnan(maps["b"][:, 0]), "b", ""))
    assert table["scene"].fillna("").tolist() == scenes.tolist()
    assert {"a", "b", ""} == set(scenes)


def test_tables_of_all_kinds_give_the_same(tmp_path: Path) -> None:
    points = some_points(6)
    degrees = points.to_crs("EPSG:4326")
    points.to_parquet(tmp_path / "p.parquet")
    plain = pd.DataFrame(
        {"Longitude": degrees.geometry.x, "LAT": degrees.geometry.y, "plot": points["plot"], "crop": points["crop"]}
    )
    plain.to_csv(tmp_path / "p.csv", index=False)
    degrees.to_file(tmp_path / "p.geojson")
    tables = [read_points(tmp_path / f"p.{kind}") for kind in ("parquet", "csv", "geojson")]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], check_dtype=False, atol=1e-6)
    assert tables[0].columns.tolist() == ["id", "lon", "lat", "plot", "crop"]


@pytest.mark.slow
def test_interrupted_points_resume_to_the_same_bytes(
    embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    some_points().to_file(tmp_path / "plots.gpkg")
    run_points(embedded, tmp_path / "plots.gpkg", tmp_path / "straight", block_cells=10)
    at, calls = BlockEmbedder.at, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return at(*arguments)

    monkeypatch.setattr(BlockEmbedder, "at", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_points(embedded, tmp_path / "plots.gpkg", tmp_path / "disturbed", block_cells=10)
    assert not list((tmp_path / "disturbed").glob("*.parquet"))
    monkeypatch.undo()
    run_points(embedded, tmp_path / "plots.gpkg", tmp_path / "disturbed", block_cells=10)
    assert "4 of 9 blocks are finished" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path / "disturbed")) == ["pca.safetensors", "plots_2021.parquet"]
    for name in ("pca.safetensors", "plots_2021.parquet"):
        assert (tmp_path / "disturbed" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x,y\n1,2\n", "expected one column lon or longitude"),
        ("lon,lat\n1,a\n", "expected one column lat or latitude"),
        ("lon,lat\n1,95\n", "row 0 has longitude 1.0 and latitude 95.0"),
        ("lon,lat\n1,2\n,3\n", "row 1 has longitude nan"),
        ("id,lon,lat\n7,1,2\n7,1,3\n", "ids must be unique; np.int64\\(7\\) repeats|ids must be unique; 7 repeats"),
        ("lon,longitude,lat\n1,2,3\n", "expected one column lon or longitude"),
    ],
)
def test_tables_without_places_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "p.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_points(tmp_path / "p.csv")


def test_vector_files_that_are_no_points_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file"):
        read_points(tmp_path / "p.gpkg")
    (tmp_path / "p.gpkg").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="cannot be read as a vector file"):
        read_points(tmp_path / "p.gpkg")
    geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:4326").to_file(tmp_path / "box.gpkg")
    with pytest.raises(ValueError, match="holds Polygon"):
        read_points(tmp_path / "box.gpkg")
    geopandas.GeoDataFrame(geometry=[shapely.Point(0, 0)]).to_parquet(tmp_path / "p.parquet")
    with pytest.raises(ValueError, match="does not say its CRS"):
        read_points(tmp_path / "p.parquet")


def test_columns_of_the_result_must_be_free(embedded: Path, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("lon,lat,e03,scene\n3.01,45.14,1,x\n")
    with pytest.raises(ValueError, match="the points have columns e03, scene"):
        run_points(embedded, tmp_path / "p.csv", tmp_path / "out")
