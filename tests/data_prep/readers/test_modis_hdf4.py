"""The reader of MCD43A4, on HDF4-EOS files that pyhdf writes with the names and the layout of the archive."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.warp import transform

from data_prep.readers.modis_hdf4 import grid_of_field
from data_prep.readers.opening import open_reader
from tests.support.archives import MODIS_TILE_M, STRUCT_METADATA, mcd43a4_name, write_mcd43a4
from tests.support.series import BOX, DATES, FRAMES, HEIGHT, SENSORS, WIDTH, assert_windows_equal, numbers, scene

SENSOR = SENSORS["modis"]


def open_modis(folder: Path, **options: Any) -> Any:
    return open_reader(scene(folder, "modis", **{"container": "modis_hdf4", "path": "modis", **options}), "modis", SENSORS)


@pytest.fixture
def written(tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (T, 7, H, W) and the quality of each band (T, 7, H, W) of files in `tmp_path`/modis."""
    pixels, _ = numbers(SENSOR)
    rng = np.random.default_rng(3)
    quality = rng.choice(np.array([0, 1, 255], np.uint8), pixels.shape, p=[0.7, 0.25, 0.05])
    (tmp_path / "modis").mkdir()
    for time, date in enumerate(DATES):
        write_mcd43a4(tmp_path / "modis" / mcd43a4_name(date), pixels[time], quality[time])
    (tmp_path / "modis" / (mcd43a4_name(DATES[0]) + ".xml")).write_text("")  # archives put metadata beside each file
    return pixels, quality


def test_windows_equal_slicing(tmp_path: Path, written: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, quality = written
    with open_modis(tmp_path) as reader:
        assert_windows_equal(reader, pixels, quality.max(axis=1))
    monkeypatch.setattr("data_prep.readers.modis_hdf4.most_open_files", lambda: 2)
    with open_modis(tmp_path) as reader:
        assert_windows_equal(reader, pixels, quality.max(axis=1), tries=3)


def test_files_elsewhere_are_copied_while_in_use(tmp_path: Path, written: tuple[np.ndarray, np.ndarray]) -> None:
    pixels, quality = written
    memory = fsspec.filesystem("memory")
    for file in (tmp_path / "modis").iterdir():
        memory.pipe_file(f"/mcd43a4/2021/{file.name}", file.read_bytes())
    with open_modis(tmp_path, path="memory://mcd43a4") as reader:
        copies = Path(reader._copies.name)
        assert_windows_equal(reader, pixels, quality.max(axis=1), tries=3)
        assert len(list(copies.iterdir())) == FRAMES
    assert not copies.exists()
    with open_modis(tmp_path, path="memory://mcd43a4") as reader:
        memory.rm("/mcd43a4", recursive=True)
        with pytest.raises(ValueError, match=rf"{mcd43a4_name(DATES[1])}: is missing, though it was there"):
            reader.read(*BOX, slice(None))


def test_the_grid_is_that_of_the_tile(tmp_path: Path, written: tuple[np.ndarray, np.ndarray]) -> None:
    del written
    with open_modis(tmp_path) as reader:
        grid = reader.grid
    assert grid.shape == (HEIGHT, WIDTH)
    # Tile h18v04 begins at the Greenwich meridian and at 50 degrees north, and ends at 40.
    np.testing.assert_allclose(grid.bounds, (0, 4 * MODIS_TILE_M, MODIS_TILE_M, 5 * MODIS_TILE_M), atol=1e-3)
    lon, lat = transform(CRS.from_user_input(grid.crs), CRS.from_epsg(4326), [0, 0], [grid.bounds[3], grid.bounds[1]])
    np.testing.assert_allclose(lon, 0, atol=1e-9)
    sphere = np.rad2deg(np.array([5, 4]) * MODIS_TILE_M / 6_371_007.181)
    np.testing.assert_allclose(sphere, [50, 40], atol=1e-7)
    np.testing.assert_allclose(lat, [50, 40], atol=1e-6)


def test_mistakes_are_named(tmp_path: Path, written: tuple[np.ndarray, np.ndarray]) -> None:
    pixels, quality = written
    folder = tmp_path / "modis"
    bad = folder / mcd43a4_name(DATES[3])
    whole = bad.read_bytes()

    def refused(message: str) -> None:
        with open_modis(tmp_path) as reader:
            assert reader.read(*BOX, slice(0, 3)).valid.any()
            with pytest.raises(ValueError, match=message) as caught:
                reader.read(*BOX, slice(None))
            assert bad.name in str(caught.value)

    for content in (whole[: len(whole) // 2], b"no HDF4", b""):
        bad.write_bytes(content)
        refused("damaged or cut off")
    write_mcd43a4(bad, pixels[3, :6], quality[3])
    refused(r"misses the fields \['Nadir_Reflectance_Band7'\]; it holds")
    write_mcd43a4(bad, pixels[3].astype(np.float32) * 1e-4, quality[3])
    refused(r"Nadir_Reflectance_Band1: numbers are stored as float32; .* convert with round\(reflectance / 0\.0001\)")
    write_mcd43a4(bad, pixels[3], quality[3].astype(np.float32))
    refused("quality codes are stored as float32")
    write_mcd43a4(bad, pixels[3, :, 1:], quality[3, :, 1:])
    refused("Nadir_Reflectance_Band1 has .23, 20. pixels .* the series .24, 20.")
    write_mcd43a4(bad, pixels[3], quality[3], tile=(19, 4))
    refused(r"the series \(24, 20\)")
    write_mcd43a4(bad, pixels[3], quality[3], metadata="GROUP=GridStructure\nEND_GROUP=GridStructure\n")
    refused("StructMetadata.0 places Nadir_Reflectance_Band1 on none of its 0 grids")
    write_mcd43a4(bad, pixels[3], quality[3], metadata=STRUCT_METADATA.replace("GCTP_SNSOID", "GCTP_LAMAZ"))
    refused("is in GCTP_LAMAZ; expected GCTP_SNSOID")
    write_mcd43a4(bad, pixels[3], quality[3], metadata=STRUCT_METADATA.replace("HDFE_GD_UL", "HDFE_GD_LL"))
    refused("starts at HDFE_GD_LL; expected the upper left")
    bad.write_bytes(whole)

    again = folder / mcd43a4_name(DATES[3], production="2022001000000")
    again.write_bytes(whole)
    both = f"{bad.name}.*, {again.name}"
    with pytest.raises(ValueError, match=f"1 of 7 days have several images, such as {DATES[3]}: {both}.*; keep one"):
        open_modis(tmp_path, same_day="error")
    with pytest.raises(ValueError, match="same_day is 'mosaic'; expected newest_baseline or error"):
        open_modis(tmp_path, same_day="mosaic")
    write_mcd43a4(again, pixels[3] + 1, quality[3])
    with pytest.warns(UserWarning, match="1 of 7 days have several images: 1 images are replaced by newer"):
        opened = open_modis(tmp_path)
    with opened as reader:
        np.testing.assert_array_equal(reader.read(*BOX, slice(3, 4)).pixels[0], pixels[3] + 1)
    again.unlink()
    with pytest.raises(ValueError, match=r"fields names the bands \['b1'\]"):
        open_modis(tmp_path, fields={"b1": "x"})
    with pytest.raises(ValueError, match="none of its 8 files fits 'x"):
        open_modis(tmp_path, pattern=r"x(?P<date>\d+)")


def test_other_products_of_the_tile_are_passed_over(tmp_path: Path, written: tuple[np.ndarray, np.ndarray]) -> None:
    pixels, quality = written
    for time, date in enumerate(DATES):
        name = mcd43a4_name(date).replace("MCD43A4", "MOD09GA")
        write_mcd43a4(tmp_path / "modis" / name, pixels[time] // 2, quality[time])
    with pytest.warns(UserWarning, match="modis: passed over 7 files of MOD09GA; source modis reads MCD43A4"):
        opened = open_modis(tmp_path)
    with opened as reader:
        assert_windows_equal(reader, pixels, quality.max(axis=1), tries=2)
    own = {"modis": replace(SENSOR, products=("MOD09GA",))}
    with pytest.warns(UserWarning, match="passed over 7 files of MCD43A4; source modis reads MOD09GA"):
        opened = open_reader(scene(tmp_path, "modis", container="modis_hdf4", path="modis"), "modis", own)
    with opened as reader:
        assert_windows_equal(reader, pixels // 2, quality.max(axis=1), tries=2)


def test_without_pyhdf_the_extra_is_named(
    tmp_path: Path, written: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    del written
    for name in [name for name in sys.modules if name.startswith("pyhdf")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyhdf", None)
    with pytest.raises(ValueError, match=r"pyhdf, which is not installed: pip install '\.\[modis\]'"):
        open_modis(tmp_path)


def test_each_field_has_the_grid_it_is_listed_under() -> None:
    """A product with two resolutions lists two grids, and the name of a field may be the beginning of another name."""

    def grid(number: int, name: str, size: int, field: str) -> str:
        text = STRUCT_METADATA.split("GROUP=GRID_1")[1].rsplit("END_", 1)[0]
        listed = f'\t\t\tOBJECT=DataField_1\n\t\t\t\tDataFieldName="{field}"\n\t\t\tEND_OBJECT=DataField_1'
        body = text.format(width=size, height=size, left=0, top=1200, right=1200, bottom=0, fields=listed)
        return f"\tGROUP=GRID_{number}{body.replace('MOD_Grid_BRDF', name)}END_GROUP=GRID_{number}\n"

    metadata = "GROUP=GridStructure\n" + grid(1, "1km", 12, "state_1") + grid(2, "500m", 24, "state_10") + "END\n"
    assert grid_of_field(metadata, "state_1", "x").shape == (12, 12)
    assert grid_of_field(metadata, "state_10", "x").transform.a == 50
    with pytest.raises(ValueError, match="places state on none of its 2 grids"):
        grid_of_field(metadata, "state", "x")


def test_several_tiles_are_one_series(tmp_path: Path, written: tuple[np.ndarray, np.ndarray]) -> None:
    """Of the tile to the east the first two days are missing, of that to the south all but the last; none lies between them."""
    pixels, quality = written
    east, south = pixels + 1, np.where(pixels == SENSOR.nodata, pixels, pixels + 2)
    east = np.where(pixels == SENSOR.nodata, pixels, east)
    for time in range(2, FRAMES):
        write_mcd43a4(tmp_path / "modis" / mcd43a4_name(DATES[time], tile="h19v04"), east[time], quality[time], tile=(19, 4))
    last = tmp_path / "modis" / mcd43a4_name(DATES[-1], tile="h18v05")
    write_mcd43a4(last, south[-1], quality[-1], tile=(18, 5))
    whole = np.full((FRAMES, 7, 2 * HEIGHT, 2 * WIDTH), SENSOR.nodata, np.int16)
    codes = np.full((FRAMES, 2 * HEIGHT, 2 * WIDTH), SENSOR.quality.nodata, np.uint8)
    whole[:, :, :HEIGHT, :WIDTH], codes[:, :HEIGHT, :WIDTH] = pixels, quality.max(axis=1)
    whole[2:, :, :HEIGHT, WIDTH:], codes[2:, :HEIGHT, WIDTH:] = east[2:], quality[2:].max(axis=1)
    whole[-1, :, HEIGHT:, :WIDTH], codes[-1, HEIGHT:, :WIDTH] = south[-1], quality[-1].max(axis=0)
    with open_modis(tmp_path) as reader:
        assert_windows_equal(reader, whole, codes)
        corner = reader.grid.transform
    last.unlink()
    with open_modis(tmp_path) as reader:
        assert reader.grid.transform == corner
        assert_windows_equal(reader, whole[:, :, :HEIGHT], codes[:, :HEIGHT], tries=3)
    metadata = STRUCT_METADATA.replace("6371007.181000", "6371000.000000")
    moved = tmp_path / "modis" / mcd43a4_name(DATES[2], tile="h19v04")
    write_mcd43a4(moved, east[2], quality[2], tile=(19, 4), metadata=metadata)
    with pytest.raises(ValueError, match=rf"{moved.name}: lies on .*, which is not a tile of the grid"):
        open_modis(tmp_path)
