"""Speed of each reader compared with the bare library that opens its container, from the page cache.

    python tests/bench/bench_readers.py --output tests/bench/results/readers.json

Both read the same windows (all dates) with files open; the bare library gives the stored numbers and nothing else, where the
reader also resamples, removes offsets and finds clear observations. They alternate in one process, and the median of the ratios
of neighbouring rounds counts, so that a slow spell hits both.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import rasterio
import zarr
from affine import Affine
from rasterio.windows import Window

os.environ["GDAL_CACHEMAX"] = "0"  # each round decodes again; GDAL reads the variable on first use
sys.path[:0] = [str(Path(__file__).parents[2])]

from report import write_report  # noqa: E402

from common.command_line import run_command  # noqa: E402
from common.rasters import GDAL_SETTINGS  # noqa: E402
from data_prep.readers.opening import open_reader  # noqa: E402
from tests.support.archives import BAND_METRES, mcd43a4_name, safe_metadata, write_mcd43a4, write_safe  # noqa: E402
from tests.support.series import CRS, SENSORS, coarse, scene, write_raster  # noqa: E402

SIDE, DATES, WINDOW = 512, 12, 256
TRANSFORM = Affine(10.0, 0.0, 600_000.0, 0.0, -10.0, 4_900_020.0)
WINDOWS = [(row, col) for row in range(0, SIDE, WINDOW) for col in range(0, SIDE, WINDOW)]
DAYS = np.datetime64("2022-03-01") + np.arange(DATES) * 16
Read = Callable[[int, int], int]  # a window's bytes of stored numbers


def smooth_numbers(channels: int, dtype: str) -> np.ndarray:
    """(T, C, H, W) that compress about as reflectance does: slow changes in space and time, and noise of some per cent."""
    rng = np.random.default_rng(0)
    field = rng.integers(500, 4000, (DATES, channels, SIDE // 32, SIDE // 32)).repeat(32, axis=2).repeat(32, axis=3)
    return (field + rng.integers(0, 64, field.shape)).astype(dtype)


def rasters(files: list[Path], stack: ExitStack) -> Read:
    """Bare rasterio: all files open, each read over the window at its own resolution."""
    stack.enter_context(rasterio.Env(**GDAL_SETTINGS))
    opened = [stack.enter_context(rasterio.open(file)) for file in files]

    def read(row: int, col: int) -> int:
        total = 0
        for file in opened:
            factor = SIDE // file.height
            part = Window(col // factor, row // factor, WINDOW // factor, WINDOW // factor)
            total += int(file.read(1, window=part).nbytes)
        return total

    return read


def sentinel2_safe(folder: Path, stack: ExitStack) -> tuple[str, dict[str, Any], Read]:
    pixels, scl = smooth_numbers(10, "uint16"), np.full((SIDE, SIDE), 4, np.uint8)
    metadata = safe_metadata("04.00", dict.fromkeys([band.replace("B0", "B") for band in BAND_METRES], -1000))
    for time_, date in enumerate(DAYS):
        bands = {b: pixels[time_, c] if m == 10 else coarse(pixels[time_, c]) for c, (b, m) in enumerate(BAND_METRES.items())}
        write_safe(folder, date, bands, coarse(scl), "04.00", metadata, TRANSFORM)
    wanted = [f"*/R{metres}m/*_{band}_{metres}m.jp2" for band, metres in (*BAND_METRES.items(), ("SCL", 20))]
    return "sentinel2", {}, rasters(sorted(path for name in wanted for path in folder.rglob(name)), stack)


def geotiff_scenes(folder: Path, stack: ExitStack) -> tuple[str, dict[str, Any], Read]:
    sensor, pixels = SENSORS["landsat"], smooth_numbers(6, "int16")
    layers = {band: pixels[:, channel] for channel, band in enumerate(sensor.bands)}
    layers["Fmask"] = np.zeros((DATES, SIDE, SIDE), np.uint8)
    for band, values in layers.items():
        for time_, date in enumerate(DAYS):
            path = folder / f"HLS.L30.T31TFJ.{date.item():%Y%j}T103000.v2.0.{band}.tif"
            write_raster(path, values[time_], driver="COG", BLOCKSIZE=WINDOW, COMPRESS="DEFLATE", PREDICTOR="YES")
    return "landsat", {}, rasters(sorted(folder.glob("*.tif")), stack)


def zarr_cube(folder: Path, stack: ExitStack) -> tuple[str, dict[str, Any], Read]:
    del stack
    pixels, sensor = smooth_numbers(10, "uint16"), SENSORS["sentinel2"]
    group = zarr.open_group(folder, mode="w", zarr_format=2, attributes={"crs": CRS, "transform": list(TRANSFORM)[:6]})
    chunks = (DATES, 10, WINDOW, WINDOW)
    group.create_array("reflectance", data=pixels, chunks=chunks)
    group.create_array("SCL", data=np.full((DATES, SIDE, SIDE), 4, np.uint8), chunks=(DATES, WINDOW, WINDOW))
    group.create_array("time", data=DAYS.astype("datetime64[D]").astype(np.int64)).attrs["units"] = "days since 1970-01-01"
    arrays = [zarr.open_group(folder, mode="r")[name] for name in ("reflectance", "SCL")]

    def read(row: int, col: int) -> int:
        return sum(int(array[..., row : row + WINDOW, col : col + WINDOW].nbytes) for array in arrays)

    return "sentinel2", {"bands": list(sensor.bands), "offset": -1000}, read


def hdf5_cube(folder: Path, stack: ExitStack) -> tuple[str, dict[str, Any], Read]:
    pixels, sensor = smooth_numbers(7, "int16"), SENSORS["modis"]
    path = folder / "cube.h5"
    folder.mkdir()
    options = {"compression": "gzip", "shuffle": True}
    with h5py.File(path, "w") as file:
        file.create_dataset("reflectance", data=pixels, chunks=(1, 7, WINDOW, WINDOW), **options)
        file.create_dataset(sensor.quality.name, data=np.zeros((DATES, SIDE, SIDE), np.uint8), chunks=(1, WINDOW, WINDOW))
        file["dates"] = DAYS.astype("datetime64[D]").astype(np.int64)
        file["reflectance"].attrs.update({"crs": CRS, "transform": tuple(TRANSFORM)[:6], "bands": list(sensor.bands)})
    opened = stack.enter_context(h5py.File(path))
    arrays = [opened["reflectance"], opened[sensor.quality.name]]

    def read(row: int, col: int) -> int:
        return sum(int(array[..., row : row + WINDOW, col : col + WINDOW].nbytes) for array in arrays)

    return "modis", {"path": str(path)}, read


def modis_hdf4(folder: Path, stack: ExitStack) -> tuple[str, dict[str, Any], Read]:
    from pyhdf.SD import SD

    pixels = smooth_numbers(7, "int16")
    folder.mkdir()
    for time_, date in enumerate(DAYS):
        write_mcd43a4(folder / mcd43a4_name(date), pixels[time_], np.zeros((7, SIDE, SIDE), np.uint8))
    files = [SD(str(path)) for path in sorted(folder.iterdir())]
    fields = [file.select(number) for file in files for number in range(14)]
    for resource in (*files, *fields):
        stack.callback(resource.end if resource in files else resource.endaccess)

    def read(row: int, col: int) -> int:
        return sum(int(field.get(start=(row, col), count=(WINDOW, WINDOW)).nbytes) for field in fields)

    return "modis", {}, read


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(make: Callable[[Path, ExitStack], tuple[str, dict[str, Any], Read]], folder: Path, rounds: int) -> dict[str, Any]:
    with ExitStack() as stack:
        source, options, bare = make(folder, stack)
        container = make.__name__
        here = scene(folder.parent, source, **{"container": container, "path": str(folder), **options})
        begin = time.perf_counter()
        reader = stack.enter_context(open_reader(here, source, SENSORS))
        opened = time.perf_counter() - begin

        def read_bare() -> int:
            return sum(bare(row, col) for row, col in WINDOWS)

        def read_all() -> int:
            return sum(reader.read(row, col, WINDOW, WINDOW, slice(None)).pixels.nbytes for row, col in WINDOWS)

        stored, made = read_bare(), read_all()  # fill the page cache, open the reader's files
        pairs = [(timed(read_bare), timed(read_all)) for _ in range(rounds)]
    return {
        "container": container,
        "open_s": round(opened, 4),
        "stored_mb": round(stored / 1e6, 1),
        "pixels_mb": round(made / 1e6, 1),
        "bare_s": round(statistics.median(a for a, _ in pairs), 4),
        "reader_s": round(statistics.median(b for _, b in pairs), 4),
        "reader_pixels_mb_s": round(made / 1e6 / statistics.median(b for _, b in pairs)),
        "share_of_bare": round(statistics.median(a / b for a, b in pairs), 3),
    }


def bench_readers(output: Path | None = None, rounds: int = 7) -> None:
    """Measure readers against the bare libraries.

    Args:
        output: JSON file to write; default: print only.
        rounds: rounds of bare library and reader, alternating.
    """
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for make in (sentinel2_safe, geotiff_scenes, zarr_cube, hdf5_cube, modis_hdf4):
            results.append(measure(make, Path(folder, make.__name__), rounds))
            print(results[-1], flush=True)
    names = ("numpy", "rasterio", "zarr", "h5py", "pyhdf")
    series = {"dates": DATES, "side_px": SIDE, "window_px": WINDOW}
    write_report(output, names, {"rounds": rounds, "series": series, "results": results})


if __name__ == "__main__":
    run_command(bench_readers)
