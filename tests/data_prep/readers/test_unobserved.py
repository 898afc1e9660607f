"""Absent chunks and tiles, and what lies under a mask, are not observed, whatever number fills them: in bands and quality."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
import rasterio
import zarr
from rasterio.windows import Window

from common.errors import is_transient
from data_prep.archive.sensor import Quality, Sensor
from data_prep.readers.opening import open_reader
from data_prep.readers.radiometry import unobserved_code, unobserved_number
from tests.support.archives import mcd43a4_name, write_mcd43a4
from tests.support.containers import write_hls, write_sample, write_stacked, write_zarr
from tests.support.series import BOX, CRS, DATES, FRAMES, HEIGHT, SENSORS, TRANSFORM, WIDTH, coarse, scene, write_raster

pytestmark = pytest.mark.filterwarnings("ignore")  # zarr: strings have no version 3 specification yet
LANDSAT = SENSORS["landsat"]  # 0 is a valid number of a band and a clear code of the quality layer


def clear_numbers(sensor: Sensor = LANDSAT) -> tuple[np.ndarray, np.ndarray]:
    """Numbers that are all observed, and quality codes that are all clear and differ."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 9000, (FRAMES, len(sensor.bands), HEIGHT, WIDTH)).astype(sensor.dtype)
    codes = {"landsat": [0, 16, 32, 64], "sentinel2": [4, 5, 6], "modis": [0, 1]}[sensor.name]
    return pixels, rng.choice(np.array(codes, np.uint8), (FRAMES, HEIGHT, WIDTH))


def opened(folder: Path, source: str = "landsat", **options: Any) -> Any:
    return open_reader(scene(folder, source, **options), source, SENSORS)


def assert_unobserved(reader: Any, expected: tuple[np.ndarray, np.ndarray], pixels: np.ndarray, quality: np.ndarray) -> None:
    """`expected`: which pixels (T, C, H, W) and quality codes (T, H, W) are not observed; the others are as written."""
    absent_pixels, absent_codes = expected
    assert absent_pixels.any() or absent_codes.any()
    sensor = reader.sensor
    for row, col, height, width in (BOX, (3, 5, 17, 11), (0, 8, 8, 8)):
        got = reader.read(row, col, height, width, slice(None))
        box = np.s_[..., row : row + height, col : col + width]
        np.testing.assert_array_equal(got.pixels, np.where(absent_pixels, sensor.nodata, pixels)[box])
        np.testing.assert_array_equal(got.quality, np.where(absent_codes, sensor.quality.nodata, quality)[box])
        np.testing.assert_array_equal(got.valid, ~(absent_pixels.any(axis=1) | absent_codes)[box])


def in_chunk(time: slice, bands: slice, rows: slice, cols: slice) -> np.ndarray:
    marked = np.zeros((FRAMES, len(LANDSAT.bands), HEIGHT, WIDTH), bool)
    marked[time, bands, rows, cols] = True
    return marked


NOTHING = np.zeros((FRAMES, HEIGHT, WIDTH), bool)


# Zarr


def write_chunked(path: Path, zarr_format: int, fill: int, shards: bool, pixels: np.ndarray, quality: np.ndarray) -> zarr.Group:
    """A store with chunks of 1 x 6 x 8 x 8, in shards of 7 x 6 x 16 x 16 or by themselves."""
    write_zarr(path, LANDSAT, pixels, quality, zarr_format, skip=("reflectance", "Fmask"))
    group = zarr.open_group(str(path))
    for name, values, chunk in (("reflectance", pixels, (1, 6, 8, 8)), ("Fmask", quality, (1, 8, 8))):
        options: dict[str, Any] = {"shards": (7, *chunk[1:-2], 16, 16)} if shards else {}
        array = group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunk, fill_value=fill % 256, **options)
        if name == "reflectance":
            del group[name]
            array = group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunk, fill_value=fill, **options)
        array[...] = values
    return group


@pytest.mark.parametrize("fill", [0, 1234, -9999])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_absent_chunks_of_zarr(tmp_path: Path, zarr_format: int, fill: int) -> None:
    pixels, quality = clear_numbers()
    store = tmp_path / "l.zarr"
    write_chunked(store, zarr_format, fill, False, pixels, quality)
    options = {"container": "zarr_cube", "path": "l.zarr"}
    with opened(tmp_path, **options) as reader:
        whole = reader.read(*BOX, slice(None))
        np.testing.assert_array_equal(whole.pixels, pixels)
        assert whole.valid.all()
        # Chunks that vanish while a run reads, such as an interrupted copy lacks from the start.
        for name in ("reflectance/2.0.1.0", "Fmask/4.0.1", "Fmask/6.2.2"):
            (store / (name if zarr_format == 2 else name.replace("/", "/c/").replace(".", "/"))).unlink()
        codes = np.zeros_like(quality, dtype=bool)
        codes[4, :8, 8:16] = codes[6, 16:, 16:] = True
        expected = in_chunk(slice(2, 3), slice(None), slice(8, 16), slice(0, 8)), codes
        assert_unobserved(reader, expected, pixels, quality)
    with opened(tmp_path, **options) as reader:
        assert_unobserved(reader, expected, pixels, quality)


@pytest.mark.parametrize("fill", [0, 1234])
def test_absent_chunks_within_a_shard(tmp_path: Path, fill: int) -> None:
    """Zarr itself leaves chunks of nothing but the fill value out of a shard, so that only its index tells of them."""
    pixels, quality = clear_numbers()
    written, codes = pixels.copy(), quality.copy()
    written[1, :, 8:16, 8:16] = fill
    codes[3, :8, :8] = fill % 256
    write_chunked(tmp_path / "l.zarr", 3, fill, True, written, codes)
    (tmp_path / "l.zarr/reflectance/c/0/0/1/1").unlink()  # a whole shard
    absent = in_chunk(slice(1, 2), slice(None), slice(8, 16), slice(8, 16))
    absent |= in_chunk(slice(None), slice(None), slice(16, 24), slice(16, 20))
    absent_codes = NOTHING.copy()
    absent_codes[3, :8, :8] = True
    with opened(tmp_path, container="zarr_cube", path="l.zarr") as reader:
        assert_unobserved(reader, (absent, absent_codes), pixels, quality)


def test_a_quality_layer_of_one_code_has_no_chunks(tmp_path: Path) -> None:
    """Zarr stores none of its chunks where the code is the fill value; that is how to say that every pixel is clear."""
    pixels, quality = clear_numbers()
    quality[:] = 0
    store = tmp_path / "l.zarr"
    write_chunked(store, 3, 0, False, pixels, quality)
    assert not (store / "Fmask/c").exists()
    (store / "reflectance/c/2/0/1/0").unlink()
    with opened(tmp_path, container="zarr_cube", path="l.zarr") as reader:
        expected = in_chunk(slice(2, 3), slice(None), slice(8, 16), slice(0, 8)), NOTHING
        assert_unobserved(reader, expected, pixels, quality)
    memory = fsspec.filesystem("memory")
    memory.put(str(store), "/constant.zarr", recursive=True)
    with opened(tmp_path, container="zarr_cube", path="memory://constant.zarr") as reader:
        assert_unobserved(reader, expected, pixels, quality)
    memory.rm("/constant.zarr", recursive=True)
    unclear = zarr.open_group(str(store)).create_array("unclear", shape=quality.shape, dtype="u1", chunks=(1, 8, 8), fill_value=2)
    assert unclear.nchunks_initialized == 0
    with opened(tmp_path, container="zarr_cube", path="l.zarr", quality="unclear") as reader:
        assert not reader.read(*BOX, slice(None)).valid.any()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("shards", [False, True])
def test_codes_that_zarr_left_out_are_stated(tmp_path: Path, shards: bool) -> None:
    pixels, quality = clear_numbers()
    quality[5, 3, 3] = 255  # stored
    write_chunked(tmp_path / "l.zarr", 3, 0, shards, pixels, quality)
    options = {"container": "zarr_cube", "path": "l.zarr"}
    with warnings.catch_warnings(action="error"), opened(tmp_path, **options) as reader:
        np.testing.assert_array_equal(reader.read(*BOX, slice(None)).quality, quality)
    quality[5, 3, 3] = 0
    quality[3, :8, :8] = 0  # clear, and all that the chunk holds
    write_chunked(tmp_path / "l.zarr", 3, 0, shards, pixels, quality)
    absent = NOTHING.copy()
    absent[3, :8, :8] = True
    note = r"l\.zarr/Fmask: some chunks are absent and count as not observed, .* state `absent_quality: fill_value`"
    with pytest.warns(UserWarning, match=note), opened(tmp_path, **options) as reader:
        assert_unobserved(reader, (np.zeros(pixels.shape, bool), absent), pixels, quality)
    with opened(tmp_path, **options, absent_quality="fill_value") as reader:
        got = reader.read(*BOX, slice(None))
        np.testing.assert_array_equal(got.quality, quality)
        assert got.valid.all()
    with pytest.raises(ValueError, match="absent_quality is 'clear'; expected one of unobserved, fill_value"):
        opened(tmp_path, **options, absent_quality="clear")


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_store_that_is_gone_is_no_store_of_absent_chunks(tmp_path: Path, zarr_format: int, place: str) -> None:
    pixels, quality = clear_numbers()
    store = tmp_path / "l.zarr"
    write_chunked(store, zarr_format, 0, False, pixels, quality)
    memory = fsspec.filesystem("memory")
    memory.put(str(store), "/l.zarr", recursive=True)
    with opened(tmp_path, container="zarr_cube", path={"local": "l.zarr", "memory": "memory://l.zarr"}[place]) as reader:
        assert reader.read(*BOX, slice(0, 2)).valid.all()
        if place == "local":
            store.rename(tmp_path / "elsewhere")
        else:
            memory.rm("/l.zarr", recursive=True)
        with pytest.raises(ConnectionError, match="could not be reached: neither the chunk nor the metadata") as caught:
            reader.read(*BOX, slice(None))
        assert is_transient(caught.value)
        assert caught.value.errno is not None
        if place == "local":
            (tmp_path / "elsewhere").rename(store)
            np.testing.assert_array_equal(reader.read(*BOX, slice(None)).pixels, pixels)


def test_a_store_of_version_2_without_fill_values(tmp_path: Path) -> None:
    pixels, quality = clear_numbers()
    write_chunked(tmp_path / "l.zarr", 2, 0, False, pixels, quality)
    for name in ("reflectance", "Fmask"):
        metadata = tmp_path / "l.zarr" / name / ".zarray"
        metadata.write_text(metadata.read_text().replace('"fill_value": 0', '"fill_value": null'))
    (tmp_path / "l.zarr/reflectance/2.0.1.0").unlink()
    (tmp_path / "l.zarr/Fmask/4.0.1").unlink()
    codes = NOTHING.copy()
    codes[4, :8, 8:16] = True
    with opened(tmp_path, container="zarr_cube", path="l.zarr") as reader:
        assert_unobserved(reader, (in_chunk(slice(2, 3), slice(None), slice(8, 16), slice(0, 8)), codes), pixels, quality)


def test_types_that_cannot_mark_what_is_not_observed() -> None:
    with pytest.raises(ValueError, match="r: numbers are stored as uint8, which cannot hold the no-data number -9999"):
        unobserved_number(np.dtype("uint8"), LANDSAT, "r")
    assert unobserved_number(np.dtype("uint8"), SENSORS["sentinel2"], "r") == 0
    assert unobserved_code(np.dtype("uint8"), LANDSAT.quality, "q") == 255
    assert unobserved_code(np.dtype("int8"), LANDSAT.quality, "q") == 127  # 255 as a signed byte is -1, which is not clear either
    all_clear = Quality(name="q", kind="classes", nodata=300, valid=tuple(range(256)))
    with pytest.raises(ValueError, match="q: quality codes are stored as uint8, which cannot hold 300"):
        unobserved_code(np.dtype("uint8"), all_clear, "q")


# GeoTIFF


def write_sparse(path: Path, values: np.ndarray, absent: list[tuple[int, int]], **options: Any) -> None:
    """A GeoTIFF without the blocks (row, column) in `absent`, as GDAL writes it with SPARSE_OK."""
    path.unlink(missing_ok=True)
    profile = {"driver": "GTiff", "count": 1, "height": HEIGHT, "width": WIDTH, "crs": CRS, "transform": TRANSFORM}
    with rasterio.open(path, "w", dtype=values.dtype, SPARSE_OK="TRUE", **profile, **options) as file:
        height, width = file.block_shapes[0]
        for row in range(-(-HEIGHT // height)):
            for col in range(-(-WIDTH // width)):
                if (row, col) not in absent:
                    part = values[row * height : (row + 1) * height, col * width : (col + 1) * width]
                    file.write(part, 1, window=Window(col * width, row * height, part.shape[1], part.shape[0]))


TILED = {"tiled": True, "blockxsize": 16, "blockysize": 16}
Published = Callable[[], str]


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A function that returns the path or URL of `tmp_path`/hls as it is now."""
    memory = fsspec.filesystem("memory")

    def publish() -> str:
        if request.param == "local":
            return "hls"
        memory.put(f"{tmp_path}/hls/", "/hls/", recursive=True)
        return "memory://hls"

    yield publish
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def hls_file(folder: Path, layer: str, time: int = 2) -> Path:
    return folder / "hls" / f"HLS.L30.T31TFJ.{DATES[time].item():%Y%j}T103000.v2.0.{layer}.tif"


@pytest.mark.parametrize("compress", ["deflate", "none"])
def test_tiles_of_sparse_geotiffs(tmp_path: Path, place: Published, compress: str) -> None:
    pixels, quality = clear_numbers()
    quality[2, 16:, 16:] = 0  # clear, and stored because of another code: GDAL leaves tiles of nothing but 0 out of such files
    quality[2, 20, 18] = 64
    write_hls(tmp_path / "hls", pixels, quality)
    write_sparse(hls_file(tmp_path, "B04"), pixels[2, 2], [(0, 1), (1, 0)], compress=compress, **TILED)
    write_sparse(hls_file(tmp_path, "B05"), pixels[2, 3], [(3, 0)], compress=compress, blockysize=4)  # strips
    write_sparse(hls_file(tmp_path, "Fmask"), quality[2], [(0, 0)], compress=compress, **TILED)
    absent = in_chunk(slice(2, 3), slice(2, 3), slice(0, 16), slice(16, 20))
    absent |= in_chunk(slice(2, 3), slice(2, 3), slice(16, 24), slice(0, 16))
    absent |= in_chunk(slice(2, 3), slice(3, 4), slice(12, 16), slice(None))
    codes = NOTHING.copy()
    codes[2, :16, :16] = True
    with opened(tmp_path, container="geotiff_scenes", path=place()) as reader:
        assert_unobserved(reader, (absent, codes), pixels, quality)


MASKS = ["internal", "side-car", "alpha", "numbers per data set"]


def write_masked(path: Path, values: np.ndarray, seen: np.ndarray, kind: str) -> None:
    """A GeoTIFF without a no-data number, with 0 where it was not seen."""
    path.unlink()
    stored = np.where(seen, values, 0).astype(values.dtype)
    internal = kind != "side-car"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        if kind == "alpha":
            write_raster(path, np.stack([stored, seen.astype(values.dtype) * 255]), ALPHA="YES", photometric="MINISBLACK")
            return
        write_raster(path, stored, **TILED)
        with rasterio.open(path, "r+") as file:
            if kind == "numbers per data set":
                file.update_tags(NODATA_VALUES="0")
            else:
                file.write_mask(seen.astype(np.uint8) * 255)
    assert path.with_name(f"{path.name}.msk").exists() == (kind == "side-car")


@pytest.mark.parametrize("kind", MASKS)
def test_what_lies_under_a_mask(tmp_path: Path, place: Published, kind: str) -> None:
    pixels, quality = clear_numbers()
    write_hls(tmp_path / "hls", pixels, quality)
    rng = np.random.default_rng(1)
    absent, codes = np.zeros(pixels.shape, bool), NOTHING.copy()
    for time in (2, 4):
        for channel in (1, 5):
            absent[time, channel] = rng.random((HEIGHT, WIDTH)) < 0.2
            layer = hls_file(tmp_path, LANDSAT.bands[channel], time)
            write_masked(layer, pixels[time, channel], ~absent[time, channel], kind)
        codes[time] = rng.random((HEIGHT, WIDTH)) < 0.2
        quality[time][quality[time] == 0] = 64
        write_masked(hls_file(tmp_path, "Fmask", time), quality[time], ~codes[time], kind)
    with opened(tmp_path, container="geotiff_scenes", path=place()) as reader:
        assert_unobserved(reader, (absent, codes), pixels, quality)


def test_bands_that_are_no_alpha_are_refused(tmp_path: Path) -> None:
    write_hls(tmp_path / "hls", *clear_numbers())
    write_raster(hls_file(tmp_path, "B04", 0), np.ones((2, HEIGHT, WIDTH), np.int16))
    with pytest.raises(ValueError, match="has 2 bands; expected one file per band"):
        opened(tmp_path, container="geotiff_scenes", path="hls")


def test_a_masked_pixel_of_20_m_has_no_weight_in_its_neighbours(tmp_path: Path) -> None:
    sensor = SENSORS["sentinel2"]
    pixels, quality = clear_numbers(sensor)
    pixels[:] = 3000
    fine = TRANSFORM
    seen = np.ones((HEIGHT // 2, WIDTH // 2), bool)
    seen[4, 3] = False
    for channel, band in enumerate(sensor.bands):
        path = tmp_path / "s" / f"20210103_{band}.tif"
        if band == "B11":
            write_raster(path, coarse(pixels[0, channel]), fine @ fine.scale(2))
            stored = np.where(seen, 3000, 0).astype(np.uint16)
            write_raster(path, stored, fine @ fine.scale(2))
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
                file.write_mask(seen.astype(np.uint8) * 255)
        else:
            write_raster(path, pixels[0, channel])
    write_raster(tmp_path / "s" / "20210103_SCL.tif", quality[0])
    pattern = {"pattern": r"(?P<date>\d{8})_(?P<band>\w+)\.tif", "date_format": "%Y%m%d"}
    options = {"container": "geotiff_scenes", "path": "s", "offset": 0, "resampling": "bilinear", **pattern}
    with opened(tmp_path, "sentinel2", **options) as reader:
        got = reader.read(*BOX, slice(None))
    expected = np.full((HEIGHT, WIDTH), 3000)
    expected[8:10, 6:8] = 0
    np.testing.assert_array_equal(got.pixels[0, sensor.bands.index("B11")], expected)
    np.testing.assert_array_equal(got.valid[0], expected != 0)


def test_a_side_car_file_states_scale_and_no_data(tmp_path: Path) -> None:
    write_hls(tmp_path / "hls", *clear_numbers())
    side_car = hls_file(tmp_path, "B04", 0).with_name(hls_file(tmp_path, "B04", 0).name + ".aux.xml")
    side_car.write_text('<PAMDataset><PAMRasterBand band="1"><Scale>0.00005</Scale></PAMRasterBand></PAMDataset>')
    with pytest.raises(ValueError, match=r"states reflectance = 5e-05 \* number"):
        opened(tmp_path, container="geotiff_scenes", path="hls")
    write_raster(hls_file(tmp_path, "B04", 0), clear_numbers()[0][0, 2])
    side_car.write_text('<PAMDataset><PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand></PAMDataset>')
    with pytest.raises(ValueError, match="no data is 7 in the file, but -9999"):
        opened(tmp_path, container="geotiff_scenes", path="hls")


def test_a_folder_that_is_gone_is_no_folder_of_damaged_files(tmp_path: Path) -> None:
    write_hls(tmp_path / "hls", *clear_numbers())
    with opened(tmp_path, container="geotiff_scenes", path="hls") as reader:
        (tmp_path / "hls").rename(tmp_path / "elsewhere")
        with pytest.raises(ConnectionError, match="could not be reached: its folder is gone, too") as caught:
            reader.read(*BOX, slice(None))
        assert is_transient(caught.value)
        (tmp_path / "elsewhere").rename(tmp_path / "hls")
        assert reader.read(*BOX, slice(None)).valid.all()


# HDF5 and HDF4


def test_chunks_of_hdf5_that_were_never_written(tmp_path: Path) -> None:
    pixels, quality = clear_numbers()
    write_stacked(tmp_path / "l.h5", LANDSAT, pixels, quality)
    write_sample(tmp_path / "0001.h5", pixels, "landsat", Fmask=quality)
    absent = in_chunk(slice(3, 6), slice(2, 4), slice(8, 16), slice(16, 20))
    absent |= in_chunk(slice(6, 7), slice(0, 2), slice(16, 24), slice(0, 8))
    codes = NOTHING.copy()
    codes[3:6, 16:, :8] = True
    layers = (("reflectance", pixels, absent, (3, 2, 8, 8)), ("Fmask", quality, codes, (3, 8, 8)))
    for name, dataset in (("l.h5", "reflectance"), ("0001.h5", "landsat")):
        with h5py.File(tmp_path / name, "a") as file:
            for layer, values, marked, chunks in layers:
                key = dataset if layer == "reflectance" else layer
                attributes = dict(file[key].attrs)
                del file[key]
                stored = file.create_dataset(key, values.shape, values.dtype, chunks=chunks, compression="gzip")  # fill value 0
                stored.attrs.update(attributes)
                for chunk in np.ndindex(*(-(-n // c) for n, c in zip(values.shape, chunks, strict=True))):
                    part = tuple(slice(at * c, (at + 1) * c) for at, c in zip(chunk, chunks, strict=True))
                    if not marked[part].all():
                        stored[part] = values[part]
    with opened(tmp_path, container="hdf5_cube", path="l.h5") as reader:
        assert_unobserved(reader, (absent, codes), pixels, quality)
    options = {"container": "hdf5_sample", "path": "0001.h5", "quality": "Fmask", "dates": [str(date) for date in DATES]}
    with opened(tmp_path, **options) as reader:
        assert_unobserved(reader, (absent, codes), pixels, quality)


def test_a_variable_of_hdf5_that_was_never_written(tmp_path: Path) -> None:
    pixels, quality = clear_numbers()
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.attrs.update({"crs": CRS, "transform": tuple(TRANSFORM)[:6]})
        file["time"] = DATES.astype(np.int64)
        for channel, band in enumerate(LANDSAT.bands):
            stored = file.create_dataset(band, pixels[:, channel].shape, np.int16, fillvalue=100)
            if band != "B06":
                stored[...] = pixels[:, channel]
        file.create_dataset("Fmask", quality.shape, np.uint8, chunks=(1, 8, 8))[:5] = quality[:5]
    absent = in_chunk(slice(None), slice(4, 5), slice(None), slice(None))
    codes = NOTHING.copy()
    codes[5:] = True
    variables = {band: band for band in LANDSAT.bands}
    with opened(tmp_path, container="hdf5_cube", path="v.h5", variables=variables) as reader:
        assert_unobserved(reader, (absent, codes), pixels, quality)


@pytest.mark.parametrize("fill", [0, -9999])
def test_virtual_datasets_whose_sources_may_be_missing(tmp_path: Path, fill: int) -> None:
    pixels, quality = clear_numbers()
    write_stacked(tmp_path / "l.h5", LANDSAT, pixels, quality)
    layout = h5py.VirtualLayout(shape=pixels.shape, dtype=np.int16)
    for time in range(FRAMES):
        with h5py.File(tmp_path / f"{time}.h5", "w") as file:
            file["data"] = pixels[time]
        layout[time] = h5py.VirtualSource(str(tmp_path / f"{time}.h5"), "data", shape=pixels.shape[1:])
    with h5py.File(tmp_path / "l.h5", "a") as file:
        attributes = dict(file["reflectance"].attrs)
        del file["reflectance"]
        file.create_virtual_dataset("reflectance", layout, fillvalue=fill).attrs.update(attributes)
    (tmp_path / "3.h5").unlink()
    if fill == 0:
        with pytest.raises(ValueError, match=r"is a virtual dataset, whose missing parts read as its fill value 0; .* -9999"):
            opened(tmp_path, container="hdf5_cube", path="l.h5")
        return
    with opened(tmp_path, container="hdf5_cube", path="l.h5") as reader:
        expected = in_chunk(slice(3, 4), slice(None), slice(None), slice(None)), NOTHING
        assert_unobserved(reader, expected, pixels, quality)


def test_fields_of_hdf4_that_were_written_in_part(tmp_path: Path) -> None:
    """HDF4 fills the rest of a field with its _FillValue, which must be the sensor's no-data number."""
    from pyhdf.SD import SD, SDC

    sensor = SENSORS["modis"]
    pixels, quality = clear_numbers(sensor)
    (tmp_path / "m").mkdir()
    path = tmp_path / "m" / mcd43a4_name(DATES[0])
    write_mcd43a4(path, pixels[0], np.broadcast_to(quality[0], pixels[0].shape))
    whole = SD(str(path))
    metadata = whole.attributes()["StructMetadata.0"]
    whole.end()
    file = SD(str(path), SDC.WRITE | SDC.CREATE | SDC.TRUNC)
    for band in range(7):
        for name, kind, fill, values in (
            ("Nadir_Reflectance_Band", SDC.INT16, 32767, pixels[0, band]),
            ("BRDF_Albedo_Band_Mandatory_Quality_Band", SDC.UINT8, 255, quality[0]),
        ):
            field = file.create(f"{name}{band + 1}", kind, values.shape)
            field.setfillvalue(fill)
            if band != 6:
                field[4:9] = values[4:9]
            field.endaccess()
    file.attr("StructMetadata.0").set(SDC.CHAR8, metadata)
    file.end()
    with opened(tmp_path, "modis", container="modis_hdf4", path="m") as reader:
        got = reader.read(*BOX, slice(None))
    assert (got.pixels[0, 6] == 32767).all()
    np.testing.assert_array_equal(got.pixels[0, :6, 4:9], pixels[0, :6, 4:9])
    assert (got.pixels[0, :6, :4] == 32767).all()
    assert not got.valid.any()


def test_an_own_sensor_of_bytes(tmp_path: Path) -> None:
    sensor = replace(SENSORS["sentinel2"], name="own", dtype="uint8", valid_range=(1, 255), offset_varies=False)
    pixels, quality = clear_numbers(SENSORS["sentinel2"])
    pixels = np.maximum(pixels % 256, 1).astype(np.uint8)
    write_zarr(tmp_path / "o.zarr", sensor, pixels, quality, 2)
    (tmp_path / "o.zarr/reflectance/0.0.0.0").unlink()
    with open_reader(scene(tmp_path, "own", container="zarr_cube", path="o.zarr"), "own", {"own": sensor}) as reader:
        got = reader.read(*BOX, slice(None))
    np.testing.assert_array_equal(got.pixels[:, :8, :8, :8], 0)
    np.testing.assert_array_equal(got.pixels[:, :, 8:], pixels[:, :, 8:])
