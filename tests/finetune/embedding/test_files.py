"""Files of embeddings, read by rasterio, xarray and pystac: numbers, places, dates, no data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import shapely
import xarray
import zarr
from affine import Affine
from pyproj import CRS
from rasterio.warp import transform
from rio_cogeo import cog_validate

from common.grid import Grid
from finetune.embedding import EmbeddingMap, load_projection
from finetune.embedding.files import EmbeddingFile, write_zarr
from finetune.embedding.stac_item import embedding_item
from tests.support.embedded_scenes import STRIPE, run_embed, write_encoder, write_striped_scenes

DIMENSIONS, CELLS, CELL_M = 12, 28, 120.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The embeddings of two scenes in all forms, with the same components."""
    base = tmp_path_factory.mktemp("embedded")
    model, scenes = write_encoder(base / "encoder.safetensors"), write_striped_scenes(base / "scenes")
    run_embed(model, scenes, base / "cog_float16", dtype="float16")
    pca = base / "cog_float16" / "pca.safetensors"
    for name in ("cog_int8", "zarr_float16", "zarr_int8"):
        kind, _, dtype = name.partition("_")
        run_embed(model, scenes, base / name, format=kind, dtype=dtype, pca=pca)
    return {path.name: path for path in base.iterdir() if path.is_dir()}


def test_geotiffs_are_what_they_say(folders: dict[str, Path]) -> None:
    projection = load_projection(folders["cog_int8"] / "pca.safetensors")
    for name, dtype in (("cog_int8", "int8"), ("cog_float16", "float32")):
        path = folders[name] / "a_2021.tif"
        assert cog_validate(path, strict=True) == (True, [], [])
        with rasterio.open(path) as found, rasterio.open(folders["scenes"] / "a" / "crop_type.tif") as label:
            assert found.crs == label.crs
            assert found.transform == label.transform @ Affine.scale(4)
            assert found.shape == (CELLS, CELLS)
            assert found.bounds == label.bounds
            assert found.count == DIMENSIONS
            assert found.dtypes[0] == dtype
            assert found.descriptions == tuple(projection.names)
            assert (found.tags()["scene"], found.tags()["year"], found.tags()["levels"]) == ("a", "2021", "[0, 1, 2, 3, 4]")
            if dtype == "int8":
                assert found.nodata == -128
                np.testing.assert_allclose(found.scales, projection.scale, rtol=1e-6)
                np.testing.assert_allclose(found.offsets, projection.offset, rtol=1e-6, atol=1e-12)
            else:
                assert np.isnan(found.nodata)
                assert found.tags(1, ns="IMAGE_STRUCTURE")["NBITS"] == "16"


def test_no_data_is_where_no_pixel_of_a_cell_was_ever_clear(folders: dict[str, Path]) -> None:
    never = np.zeros(CELLS, bool)
    never[STRIPE.start // 4 : STRIPE.stop // 4] = True
    for scene, expected in (("a", np.broadcast_to(never, (CELLS, CELLS))), ("b", np.zeros((CELLS, CELLS), bool))):
        for name, file in (("cog_int8", f"{scene}_2021.tif"), ("zarr_float16", f"{scene}_2021.zarr")):
            missing = np.isnan(EmbeddingMap.open(folders[name] / file).read())
            np.testing.assert_array_equal(missing, np.broadcast_to(expected, missing.shape))


def test_numbers_of_all_files_are_the_same_within_their_steps(folders: dict[str, Path]) -> None:
    with rasterio.open(folders["cog_float16"] / "a_2021.tif") as found:
        halves = found.read()
    assert np.nanstd(halves, axis=(1, 2)).min() > 0.1
    with rasterio.open(folders["cog_int8"] / "a_2021.tif") as found:
        stored, scale, offset = found.read(), np.array(found.scales)[:, None, None], np.array(found.offsets)[:, None, None]
    decoded = np.where(stored == -128, np.nan, stored * scale + offset)
    step = 0.5 * scale + np.abs(halves) * 2.0**-11 + 1e-3  # of a byte, and of 16 bits
    inside = np.abs(stored) < 127
    assert inside.mean() > 0.9
    assert (np.abs(decoded - halves) <= step)[inside & (stored != -128)].all()
    for kind in ("int8", "float16"):
        for suffix, folder in (("tif", f"cog_{kind}"), ("zarr", f"zarr_{kind}")):
            read = EmbeddingMap.open(folders[folder] / f"a_2021.{suffix}").read()
            np.testing.assert_allclose(read, decoded if kind == "int8" else halves, rtol=1e-5, atol=1e-6)


def test_xarray_opens_a_store_with_crs_and_dates(folders: dict[str, Path]) -> None:
    for name in ("zarr_float16", "zarr_int8"):
        found = xarray.open_zarr(folders[name] / "a_2021.zarr", decode_coords="all")
        assert found.embedding.dims == ("time", "band", "y", "x")
        assert found.embedding.shape == (1, DIMENSIONS, CELLS, CELLS)
        assert CRS.from_wkt(found.spatial_ref.attrs["crs_wkt"]) == CRS.from_epsg(32631)
        with rasterio.open(folders["cog_int8"] / "a_2021.tif") as raster:
            expected = [raster.xy(row, col) for row, col in ((0, 0), (CELLS - 1, CELLS - 1))]
            assert tuple(map(float, found.spatial_ref.attrs["GeoTransform"].split())) == raster.transform.to_gdal()
        assert [(float(found.x[0]), float(found.y[0])), (float(found.x[-1]), float(found.y[-1]))] == expected
        assert found.time.values.tolist() == [np.datetime64("2021-01-01", "ns").astype(int)]
        assert found.time_bnds.values.astype("datetime64[D]").astype(str).tolist() == [["2021-01-01", "2022-01-01"]]
        assert found.band.values.tolist()[:2] == ["e00", "e01"]
        assert found.attrs["Conventions"].startswith("CF-")
        values = found.embedding if name == "zarr_float16" else found.embedding * found.scale + found.offset
        expected_values = EmbeddingMap.open(folders[name.replace("zarr", "cog")] / "a_2021.tif").read()
        np.testing.assert_allclose(values[0].transpose("band", "y", "x").values, expected_values, rtol=1e-3, atol=1e-5)
        # A place is looked up by its coordinates.
        at = values.sel(x=500_040 + 100, y=5_000_040 - 350, method="nearest").values[0]
        np.testing.assert_allclose(at, expected_values[:, 2, 0], rtol=1e-3, atol=1e-5)


def test_gdal_reads_a_store(folders: dict[str, Path]) -> None:
    """As QGIS does: the CRS and the place of the array, as GDAL itself understands them."""
    store = folders["zarr_float16"] / "a_2021.zarr"
    with rasterio.open(f'ZARR:"{store}":/embedding') as found:
        assert found.crs == "EPSG:32631"
        np.testing.assert_allclose(tuple(found.transform)[:6], (CELL_M, 0, 500_040, 0, -CELL_M, 5_000_040))
        assert found.shape == (CELLS, CELLS)


def test_the_stac_item_says_where_when_and_by_what(folders: dict[str, Path]) -> None:
    for folder, suffix in (("cog_int8", "tif"), ("zarr_float16", "zarr")):
        path = folders[folder] / f"a_2021.{suffix}.json"
        item = pystac.Item.from_dict(json.loads(path.read_text()))
        with rasterio.open(folders["cog_int8"] / "a_2021.tif") as raster:
            bounds = rasterio.warp.transform_bounds(raster.crs, "EPSG:4326", *raster.bounds)
            scales = raster.scales
        assert item.bbox == pytest.approx(bounds, abs=1e-6)
        assert item.datetime is None
        assert (item.properties["start_datetime"], item.properties["end_datetime"]) == (
            "2021-01-01T00:00:00Z", "2021-12-31T23:59:59Z",
        )  # fmt: skip
        assert item.properties["proj:code"] == "EPSG:32631"
        assert item.properties["proj:shape"] == [CELLS, CELLS]
        assert item.properties["proj:transform"] == [CELL_M, 0, 500_040, 0, -CELL_M, 5_000_040]
        assert item.properties["mlm:name"] == "encoder.safetensors"
        assert item.properties["agrifm:images"]["landsat"][0] == "2021-01-03"
        assert item.properties["agrifm:levels"] == [0, 1, 2, 3, 4]
        asset = item.assets["embedding"]
        assert (path.parent / asset.href).exists()
        assert asset.href == f"./a_2021.{suffix}"
        assert (path.parent / item.assets["components"].href).is_file()
        bands = asset.extra_fields["bands"]
        assert len(bands) == DIMENSIONS
        if suffix == "tif":
            assert [band["raster:scale"] for band in bands] == pytest.approx(scales)
            assert bands[0]["nodata"] == -128


def about(transform: Affine, crs: str = "EPSG:32631", size: int = 3) -> EmbeddingFile:
    grid = Grid(crs=crs, transform=transform, height=size, width=size)
    season = (np.datetime64("1970-01-01"), np.datetime64("1971-01-01"))
    return EmbeddingFile(grid=grid, names=["e00"], scale=None, offset=None, season=season, tags={})


def test_a_footprint_across_the_antimeridian_is_cut_there(tmp_path: Path) -> None:
    """In degrees beyond 180, and in metres of a UTM zone."""
    step = 0.001
    grids = [about(Affine(step, 0, 179.999, 0, -step, 44.0), "EPSG:4326")]
    x, y = transform("EPSG:4326", "EPSG:32660", [179.999], [44.0])
    grids.append(about(Affine(80, 0, x[0], 0, -111, y[0]), "EPSG:32660"))
    for one in grids:
        item = embedding_item(tmp_path / "a.tif", one, {}, tmp_path / "pca.safetensors")
        west, south, east, north = item["bbox"]
        assert (west, east) == (pytest.approx(179.999, abs=3e-4), pytest.approx(-179.998, abs=3e-4))
        assert (south, north) == (pytest.approx(43.997, abs=3e-4), pytest.approx(44.0, abs=3e-4))
        footprint = shapely.geometry.shape(item["geometry"])
        assert footprint.geom_type == "MultiPolygon"
        assert footprint.covers(shapely.Point(179.9995, 43.9985))
        assert footprint.covers(shapely.Point(-179.9995, 43.9985))
        assert not footprint.covers(shapely.Point(0, 43.9985))


def scratch_in(folder: Path) -> Path:
    (folder / "scratch").mkdir()
    return folder / "scratch"


def test_coordinates_of_zero_are_not_missing(tmp_path: Path) -> None:
    """xarray takes the fill value of an array as missing, and that of Zarr is 0 by default."""
    file = about(Affine(2.0, 0, -1.0, 0, -2.0, 5.0), "EPSG:4326")
    write_zarr(tmp_path / "a.zarr", scratch_in(tmp_path), file, [])
    found = xarray.open_zarr(tmp_path / "a.zarr", decode_coords="all")
    assert found.x.values.tolist() == [0, 2, 4]
    assert found.y.values.tolist() == [4, 2, 0]
    assert found.time.values.astype("datetime64[D]").astype(str).tolist() == ["1970-01-01"]
    assert (found.x.attrs["standard_name"], found.y.attrs["units"]) == ("longitude", "degrees_north")
    assert np.isnan(found.embedding.values).all()


def test_a_turned_grid_has_no_coordinates(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the grid of the scene is turned.*--format cog"):
        write_zarr(tmp_path / "a.zarr", scratch_in(tmp_path), about(Affine.rotation(10) @ Affine.scale(1, -1)), [])


def test_a_store_that_is_there_is_replaced_whole(tmp_path: Path) -> None:
    write_zarr(tmp_path / "a.zarr", scratch_in(tmp_path), about(Affine.scale(1, -1), size=5), [])
    (tmp_path / "scratch" / "a.zarr").mkdir()  # of an earlier start, which was killed
    (tmp_path / "scratch" / "a.zarr" / "rubbish").write_text("x")
    write_zarr(tmp_path / "a.zarr", tmp_path / "scratch", about(Affine.scale(1, -1), size=4), [])
    assert zarr.open_group(tmp_path / "a.zarr", mode="r")["embedding"].shape == (1, 1, 4, 4)
    assert not (tmp_path / "a.zarr" / "rubbish").exists()
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("kind", ["nothing", "raster", "zarr"])
def test_what_is_no_embedding_is_refused(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    path = {
        "nothing": tmp_path / "a.tif",
        "raster": folders["scenes"] / "a" / "crop_type.tif",
        "zarr": folders["scenes"] / "a" / "landsat.zarr",
    }[kind]
    with pytest.raises(ValueError, match="no embedding"):
        EmbeddingMap.open(path)
