"""All containers at fsspec URLs: in the memory file system of fsspec, and on a web server in this process."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
import rasterio
from fsspec.implementations.http import HTTPFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from common.errors import InfrastructureError, is_data_error
from common.rasters import GDAL_SETTINGS
from common.threads import in_threads
from data_prep.readers.folder import Folder
from data_prep.readers.open_files import OpenFiles
from data_prep.readers.opening import open_reader
from tests.support.archives import mcd43a4_name, write_mcd43a4
from tests.support.containers import (
    SAFE_BASELINES,
    expected_of_safe,
    on_fine_grid,
    safe_numbers,
    write_hls,
    write_safe_products,
    write_sample,
    write_stacked,
    write_zarr,
)
from tests.support.eopf import write_products
from tests.support.series import (
    BOX,
    DATES,
    SENSORS,
    assert_windows_equal,
    coarse,
    numbers,
    repeated,
    scene,
    write_raster,
)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Print no requests."""


@pytest.fixture
def in_web(tmp_path: Path) -> Iterator[Callable[[], str]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield lambda: f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(params=["memory", "web"])
def published(request: pytest.FixtureRequest) -> Any:
    """A function that publishes the content of `tmp_path` and returns its URL."""
    return request.getfixturevalue(f"in_{request.param}")


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Any]:
    memory = fsspec.filesystem("memory")

    def publish() -> str:
        memory.put(f"{tmp_path}/", "/published/", recursive=True)
        return "memory://published"

    yield publish
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def opened(path: str, source: str, container: str, **options: Any) -> Any:
    return open_reader(scene(Path("nowhere"), source, container=container, path=path, **options), source, SENSORS)


def test_geotiff(tmp_path: Path, published: Any) -> None:
    pixels, quality = numbers(SENSORS["landsat"])
    write_hls(tmp_path / "hls" / "2021", pixels, quality)
    path = published() + "/hls/2021"
    # Two readers of the same files at once: rasterio must not mix up their handles.
    with opened(path, "landsat", "geotiff_scenes") as one, opened(path + "/", "landsat", "geotiff_scenes") as other:
        assert_windows_equal(one, pixels, quality, tries=3)
        assert_windows_equal(other, pixels, quality, tries=3)
        one.__exit__()
        assert_windows_equal(other, pixels, quality, tries=3)


def test_safe(tmp_path: Path, published: Any) -> None:
    pixels, scl = safe_numbers()
    write_safe_products(tmp_path / "s2", pixels, scl, SAFE_BASELINES)
    with opened(published() + "/s2", "sentinel2", "sentinel2_safe") as reader:
        assert_windows_equal(reader, expected_of_safe(pixels), repeated(coarse(scl)), DATES[:4], tries=3)


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize(("zarr_format", "consolidated"), [(2, True), (2, False), (3, True)])
def test_eopf(tmp_path: Path, published: Any, zarr_format: int, consolidated: bool) -> None:
    pixels, scl = safe_numbers()
    options: Any = {"zarr_format": zarr_format, "consolidated": consolidated}
    products = write_products(tmp_path / "s2" / "01", pixels[:2], scl[:2], DATES[:2], **options)
    at = published()
    fine = on_fine_grid(pixels[:2]).astype(int)
    expected = np.where(fine == 0, 0, np.maximum(fine - 1000, 1)).astype(np.uint16)
    with opened(f"{at}/s2", "sentinel2", "sentinel2_eopf") as reader:
        assert_windows_equal(reader, expected, repeated(coarse(scl[:2])), DATES[:2], tries=1)
    with opened(f"{at}/s2/01/{products[1].name}/", "sentinel2", "sentinel2_eopf") as reader:
        np.testing.assert_array_equal(reader.read(0, 0, 180, 120, slice(None)).pixels, expected[1:])
    with pytest.raises(ValueError, match="no such folder"):
        opened(f"{at}/s3", "sentinel2", "sentinel2_eopf")
    with pytest.raises(ValueError, match="no Zarr group there"):
        opened(f"{at}/s2/none.zarr", "sentinel2", "sentinel2_eopf")


@pytest.mark.filterwarnings("ignore")  # zarr: strings have no version 3 specification yet
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr(tmp_path: Path, published: Any, zarr_format: int) -> None:
    sensor = SENSORS["sentinel2"]
    pixels, quality = numbers(sensor)
    write_zarr(tmp_path / "s2.zarr", sensor, pixels, quality, zarr_format)
    path = published() + "/s2.zarr"
    with opened(path, "sentinel2", "zarr_cube", offset=0) as reader:
        assert_windows_equal(reader, pixels, quality, tries=3)
    with pytest.raises(ValueError, match="no array 'QA'; it holds"):
        opened(path, "sentinel2", "zarr_cube", offset=0, quality="QA")
    with pytest.raises(ValueError, match="no Zarr group there"):
        opened(path + "x", "sentinel2", "zarr_cube", offset=0)


def test_hdf5(tmp_path: Path, published: Any) -> None:
    pixels, quality = numbers(SENSORS["modis"])
    write_stacked(tmp_path / "modis.h5", SENSORS["modis"], pixels, quality)
    write_sample(tmp_path / "0001.h5", pixels)
    (tmp_path / "bad.h5").write_bytes((tmp_path / "modis.h5").read_bytes()[:900])
    at = published()
    with opened(f"{at}/modis.h5", "modis", "hdf5_cube") as reader:
        assert_windows_equal(reader, pixels, quality, tries=3)
    dates = [str(date) for date in DATES]
    with opened(f"{at}/0001.h5", "modis", "hdf5_sample", dataset="S2", dates=dates) as reader:
        np.testing.assert_array_equal(reader.read(*BOX, slice(1, 3)).pixels, pixels[1:3])
    for container in ("hdf5_cube", "hdf5_sample"):
        with pytest.raises(ValueError, match=r"/bad\.h5: no readable HDF5"):
            opened(f"{at}/bad.h5", "modis", container)
        with pytest.raises(ValueError, match=r"/none\.h5: no such file"):
            opened(f"{at}/none.h5", "modis", container)


def test_modis(tmp_path: Path, published: Any) -> None:
    pixels, _ = numbers(SENSORS["modis"])
    quality = np.random.default_rng(0).integers(0, 2, pixels.shape).astype(np.uint8)
    (tmp_path / "m").mkdir()
    for frame, date in enumerate(DATES):
        write_mcd43a4(tmp_path / "m" / mcd43a4_name(date), pixels[frame], quality[frame])
    with opened(published() + "/m", "modis", "modis_hdf4") as reader:
        assert_windows_equal(reader, pixels, quality.max(axis=1), tries=3)


def test_a_file_url_is_a_local_file(tmp_path: Path) -> None:
    pixels, quality = numbers(SENSORS["landsat"])
    write_hls(tmp_path / "hls", pixels, quality)
    with opened(f"file://{tmp_path}/hls", "landsat", "geotiff_scenes") as reader:
        assert_windows_equal(reader, pixels, quality, tries=3)


CONTAINERS = [
    ("landsat", "geotiff_scenes"),
    ("sentinel2", "sentinel2_safe"),
    ("sentinel2", "sentinel2_eopf"),
    ("sentinel2", "zarr_cube"),
    ("landsat", "hdf5_cube"),
    ("landsat", "hdf5_sample"),
    ("modis", "modis_hdf4"),
]


@pytest.mark.parametrize(("source", "container"), CONTAINERS)
def test_an_unreachable_url_is_named(source: str, container: str) -> None:
    with pytest.raises(ValueError, match=r"nonsense://a/b: cannot be reached by fsspec: .*nonsense"):
        opened("nonsense://a/b", source, container)


@pytest.mark.parametrize(("source", "container"), CONTAINERS)
def test_storage_options_reach_fsspec(source: str, container: str) -> None:
    seen: dict[str, Any] = {}

    class Locked(MemoryFileSystem):
        protocol = "locked"
        cachable = False

        def __init__(self, **options: Any) -> None:
            seen.update(options)
            super().__init__()

    fsspec.register_implementation("locked", Locked, clobber=True)
    with pytest.raises((ValueError, OSError)):
        opened("locked://a/b", source, container, storage_options={"key": "me", "secret": "s"})
    assert (seen["key"], seen["secret"]) == ("me", "s")


def test_a_network_error_is_not_a_damaged_file(tmp_path: Path, in_memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network errors are named as such and do not end the process: only damaged files are reasons to reject a sample."""
    pixels, quality = numbers(SENSORS["landsat"])
    write_hls(tmp_path / "hls", pixels, quality)
    write_stacked(tmp_path / "l.h5", SENSORS["landsat"], pixels, quality)
    at = in_memory()
    broken: Exception | None = None
    reset = ConnectionResetError(104, "connection reset by peer")

    cat_file = MemoryFileSystem.cat_file

    def breakable(*arguments: Any, **options: Any) -> Any:
        if broken is not None:
            raise broken
        return cat_file(*arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", breakable)
    monkeypatch.setattr("common.storage._BLOCK_BYTES", 1)  # each read is a request
    monkeypatch.setattr("common.retries.time.sleep", lambda _: None)
    with opened(f"{at}/hls", "landsat", "geotiff_scenes") as reader:
        assert reader.read(*BOX, slice(0, 1)).pixels.any()
        broken = reset
        with pytest.raises(InfrastructureError, match=r"memory://published/hls/\S+tif: reading failed, 7 tries .*reset by peer"):
            reader.read(*BOX, slice(1, 2))
        broken = None
        np.testing.assert_array_equal(reader.read(*BOX, slice(1, 2)).pixels, pixels[1:2])  # the reader still works afterwards
        with opened(f"{at}/l.h5", "landsat", "hdf5_cube") as stacked:
            broken = reset
            with pytest.raises(InfrastructureError, match=r"memory://published/l.h5: reading failed, 7 tries .*reset by peer"):
                stacked.read(*BOX, slice(0, 1))
            broken = None
            np.testing.assert_array_equal(stacked.read(*BOX, slice(1, 2)).pixels, pixels[1:2])
        broken = PermissionError("Forbidden")
        with pytest.raises(PermissionError, match=r"\.tif: reading is refused: Forbidden; are there credentials"):
            reader.read(*BOX, slice(2, 3))
        with pytest.raises(PermissionError), opened(f"{at}/hls", "landsat", "geotiff_scenes"):
            pass
        broken = None
        fsspec.filesystem("memory").rm("/published/hls", recursive=True)
        with pytest.raises(ValueError, match=r"memory://published/hls/HLS.*cannot be read as a raster: it is missing"):
            reader.read(*BOX, slice(2, 3))


def test_only_listed_side_car_files_are_requested(tmp_path: Path, in_memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_raster(tmp_path / "a.tif", np.ones((8, 8), np.uint8))
    folder = Folder(in_memory())
    asked = []

    def record(name: str) -> None:
        original = getattr(MemoryFileSystem, name)

        def recorded(self: MemoryFileSystem, path: str, *arguments: Any, **options: Any) -> Any:
            asked.append(Path(path).name)
            return original(self, path, *arguments, **options)

        monkeypatch.setattr(MemoryFileSystem, name, recorded)

    for name in ("info", "cat_file", "open"):
        record(name)
    with rasterio.Env(**GDAL_SETTINGS), folder.open_raster("a.tif") as raster:
        assert raster.read(1).sum() == 64
    assert set(asked) == {"a.tif"}

    # But a mask that lies beside the file is, and no other of the many names that GDAL tries.
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.write_mask(np.eye(8, dtype=np.uint8) * 255)
    folder = Folder(in_memory())
    assert folder.files() == ["a.tif", "a.tif.msk"]
    asked.clear()
    with rasterio.Env(**GDAL_SETTINGS), folder.open_raster("a.tif") as raster:
        np.testing.assert_array_equal(raster.read_masks(1), np.eye(8) * 255)
        assert raster.tags()["AREA_OR_POINT"] == "Area"
    assert set(asked) == {"a.tif", "a.tif.msk"}


def test_a_raster_that_cannot_be_opened_is_about_the_data(tmp_path: Path, published: Any) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0nonsense")
    for folder in (Folder(str(tmp_path)), Folder(published())):
        with rasterio.Env(**GDAL_SETTINGS), pytest.raises(ValueError, match=r"a\.tif: cannot be read as a raster") as caught:
            folder.open_raster("a.tif")
        assert caught.value.__cause__ is not caught.value
        assert is_data_error(caught.value)


def test_images_at_urls_are_read_at_the_same_time(tmp_path: Path, in_memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request waits until a second one comes."""
    pixels, quality = numbers(SENSORS["landsat"])
    write_hls(tmp_path / "hls", pixels, quality)
    cat_file, has_second, waiting = MemoryFileSystem.cat_file, threading.Event(), threading.Lock()

    def wait_for_second(*arguments: Any, **options: Any) -> Any:
        if not waiting.acquire(blocking=False):
            has_second.set()
        elif not has_second.wait(timeout=20):
            raise AssertionError("no second request came")
        return cat_file(*arguments, **options)

    with opened(f"{in_memory()}/hls", "landsat", "geotiff_scenes") as reader:
        monkeypatch.setattr(MemoryFileSystem, "cat_file", wait_for_second)
        np.testing.assert_array_equal(reader.read(*BOX, slice(None)).pixels, pixels)


def test_of_several_damaged_images_the_first_is_named(tmp_path: Path, in_memory: Any) -> None:
    pixels, quality = numbers(SENSORS["landsat"])
    write_hls(tmp_path / "hls", pixels, quality)
    files = sorted((tmp_path / "hls").glob("*.B04.tif"))
    assert len(files) > 2
    for file in files[1:]:
        file.write_bytes(file.read_bytes()[:200])
    at = in_memory()
    for _ in range(5):
        with opened(f"{at}/hls", "landsat", "geotiff_scenes") as reader:
            with pytest.raises(ValueError, match=f"{files[1].name}: cannot be read as a raster"):
                reader.read(*BOX, slice(None))
            np.testing.assert_array_equal(reader.read(*BOX, slice(0, 1)).pixels, pixels[:1])


def test_files_that_threads_use_stay_open() -> None:
    class File:
        is_open = True

        def close(self) -> None:
            assert self.is_open
            self.is_open = False

    made: list[File] = []

    def open_file(_: str) -> File:
        made.append(File())
        return made[-1]

    files = OpenFiles(open_file, File.close, 3)

    def use(number: int) -> bool:
        with files.using(f"{number % 7}") as file:
            time.sleep(0.001)
            return file.is_open

    assert all(in_threads(use, range(400), 8))
    assert sum(file.is_open for file in made) == 3
    files.close()
    assert not any(file.is_open for file in made)


def test_least_recently_used_files_are_closed() -> None:
    events: list[str] = []
    files = OpenFiles(lambda file: events.append(f"+{file}") or file, lambda file: events.append(f"-{file}"), 2)  # type: ignore[func-returns-value]
    for file in "aabacab":
        with files.using(file) as opened_file:
            assert opened_file == file
    assert events == ["+a", "+b", "+c", "-b", "+b", "-c"]
    files.close()
    assert sorted(events[-2:]) == ["-a", "-b"]


def test_handles_of_hdf5_are_closed(tmp_path: Path, in_memory: Any) -> None:
    pixels, quality = numbers(SENSORS["modis"])
    write_stacked(tmp_path / "modis.h5", SENSORS["modis"], pixels, quality)
    with opened(in_memory() + "/modis.h5", "modis", "hdf5_cube") as reader:
        file: h5py.File = reader._files[0]
        assert file.id.valid
    assert not file.id.valid


def test_garbage_of_hdf5_does_not_stop_a_request(
    tmp_path: Path, in_web: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """h5py waits for bytes with its lock held, and fsspec's thread, which fetches them, must not wait for this lock."""
    pixels, quality = numbers(SENSORS["modis"])
    write_stacked(tmp_path / "modis.h5", SENSORS["modis"], pixels, quality)
    cat_file, thresholds = HTTPFileSystem._cat_file, gc.get_threshold()

    async def collecting(*arguments: Any, **options: Any) -> bytes:
        if gc.isenabled():  # as Python may at any time
            gc.collect()
        return await cat_file(*arguments, **options)

    monkeypatch.setattr(HTTPFileSystem, "_cat_file", collecting)
    gc.set_threshold(1_000_000)
    try:
        cycle: list[Any] = [h5py.File(tmp_path / "modis.h5")]
        cycle.append(cycle)
        del cycle
        reading = threading.Thread(target=lambda: opened(f"{in_web()}/modis.h5", "modis", "hdf5_cube"), daemon=True)
        reading.start()
        reading.join(timeout=30)
        assert not reading.is_alive()
    finally:
        gc.set_threshold(*thresholds)
