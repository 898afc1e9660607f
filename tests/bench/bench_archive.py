"""How fast archives are sharded as agencies deliver them, beside bare decoding of the same blocks by the same library.

    python tests/bench/bench_archive.py --output tests/bench/results/archive.json

The archives are made here: Sentinel-2 SAFE products (lossless JPEG 2000 with tiles of 1024 px) and COGs with blocks of 512 and
1024 px of a whole tile, HLS L30 with Fmask, MCD43A4 as HDF4, and a Zarr cube. Each has 16 dates; the files of all dates are the
same bytes under other names, since encoding takes long. Of each archive the first sweep is written, eight shards on average.

Four variants take turns: `sweep`, as shard.py writes; `shard_by_shard`, which reads each of two shards of the sweep on its own
with 256 MB of decoded images, as shard.py did before there were sweeps; `bare`, which reads every block of the chunk groups
of the sweep once and keeps nothing; and `copy`, which writes the bytes of the sweep's tars, syncs them, and does nothing else.
Shares are medians of the ratios of a round. `amplification` is the bytes of all blocks that reads touched by the bytes of the
blocks that hold samples. All run in one process; the page cache holds the archive.

`two_workers_faster`: two sweeps of a quarter of the size by one worker process and by two, in turn. `projection`: days that one
core, and 64 cores of which each writes what one of two does, need for the samples of a source at these rates; the corpus of 25
million samples has as many of each as `bench_plan.py` plans.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
import zarr
from affine import Affine
from rasterio.windows import Window
from scipy.ndimage import zoom

sys.path[:0] = [str(Path(__file__).parents[2])]

from report import write_report  # noqa: E402

from common.command_line import run_command  # noqa: E402
from common.rasters import GDAL_SETTINGS  # noqa: E402
from data_prep.archive.sensor import load_sensors  # noqa: E402
from data_prep.plan.build import make_plan  # noqa: E402
from data_prep.plan.chunk_groups import chunk_group_shape  # noqa: E402
from data_prep.plan.plan import Plan, load_plan  # noqa: E402
from data_prep.plan.settings import PlanSettings  # noqa: E402
from data_prep.readers.folder import Folder  # noqa: E402
from data_prep.readers.modis_hdf4 import ModisHdf4  # noqa: E402
from data_prep.shards.shard_writer import write_sweep  # noqa: E402
from tests.support.archives import (  # noqa: E402
    BAND_METRES,
    CRS,
    NORTH,
    PHYSICAL_BANDS,
    SAFE_TILE,
    WEST,
    mcd43a4_name,
    safe_metadata,
    safe_name,
    write_mcd43a4,
)
from tests.support.memory import peak_kilobytes  # noqa: E402

DATES = np.datetime64("2021-03-01") + 8 * np.arange(16)
SENSORS = load_sensors()
SWEEP_BYTES, FORMER_BYTES = 4_000_000_000, 256_000_000  # of decoded images
FORMER_SHARDS = 2
SHARD_MB = 256.0
# Million samples of each source in a corpus of 25 million, in the proportions of bench_plan.py, and the archive it is like.
CORPUS = {"landsat": (13.1, "hls_l30"), "modis": (1.6, "mcd43a4"), "sentinel2": (10.3, "safe_1024")}
CORES = 64
QUALITY_LEGEND = {
    "name": "quality",
    "title": "inversions",
    "fill": [255],
    "classes": {"land": {"color": "#8fae5d"}},
    "codes": {code: {"name": f"inversion {code}", "group": "land"} for code in (0, 1)},
}


def texture(side: int, rng: np.random.Generator) -> np.ndarray:
    """Fields, gradients and noise, (side, side) uint16 of reflectance: compresses about as images do."""
    fields = np.kron(rng.integers(300, 5000, (side // 32 + 1, side // 32 + 1)), np.ones((32, 32)))[:side, :side]
    smooth = zoom(rng.normal(0, 400, (side // 128 + 2, side // 128 + 2)), 128, order=1)[:side, :side]
    return np.clip(fields + smooth + rng.normal(0, 25, (side, side)), 1100, 9000).astype(np.uint16)


def write_raster(path: Path, values: np.ndarray, metres: float, driver: str, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"count": 1, "height": values.shape[0], "width": values.shape[1], "dtype": values.dtype, "crs": CRS}
    transform = Affine(metres, 0, WEST, 0, -metres, NORTH)
    with rasterio.open(path, "w", driver=driver, transform=transform, **profile, **options) as file:
        file.write(values, 1)


def sentinel2_layers(side: int) -> Iterator[tuple[str, int, np.ndarray]]:
    """Bands and SCL of one date at their own resolutions."""
    rng = np.random.default_rng(0)
    for band, metres in BAND_METRES.items():
        yield band, metres, texture(side * 10 // metres, rng)
    yield "SCL", 20, rng.choice(np.array([4, 5, 9], np.uint8), (side // 2, side // 2), p=[0.6, 0.2, 0.2])


def write_safe_archive(folder: Path, side: int) -> dict[str, Any]:
    first = folder / "safe" / safe_name(DATES[0], "05.09")
    day = f"{DATES[0].item():%Y%m%d}"
    for layer, metres, values in sentinel2_layers(side):
        images = first / "GRANULE" / f"L2A_{SAFE_TILE}_A034949_{day}T103308" / "IMG_DATA" / f"R{metres}m"
        name = f"{SAFE_TILE}_{day}T103021_{layer}_{metres}m.jp2"
        blocks = {"BLOCKXSIZE": 1024, "BLOCKYSIZE": 1024}
        write_raster(images / name, values, metres, "JP2OpenJPEG", QUALITY=100, REVERSIBLE="YES", **blocks)
    (first / "MTD_MSIL2A.xml").write_text(safe_metadata("05.09", dict.fromkeys(PHYSICAL_BANDS, -1000)))
    for date in DATES[1:]:
        _linked(first, folder / "safe" / safe_name(date, "05.09"), day, f"{date.item():%Y%m%d}")
    return {"sentinel2": {"container": "sentinel2_safe", "path": "safe"}}


def _linked(source: Path, copy: Path, text: str, other: str) -> None:
    """Link all files of a folder into another, with `other` in place of `text` in their names."""
    for file in source.rglob("*"):
        if file.is_file():
            there = copy / str(file.relative_to(source)).replace(text, other)
            there.parent.mkdir(parents=True, exist_ok=True)
            there.hardlink_to(file)


def write_cog_archive(folder: Path, side: int, block: int) -> dict[str, Any]:
    for layer, metres, values in sentinel2_layers(side):
        first = folder / "cogs" / f"{DATES[0].item():%Y%m%d}_{layer}.tif"
        write_raster(
            first, values, metres, "COG", COMPRESS="DEFLATE", PREDICTOR="YES", BLOCKSIZE=block, nodata=0, OVERVIEWS="NONE"
        )
        for date in DATES[1:]:
            first.with_name(f"{date.item():%Y%m%d}_{layer}.tif").hardlink_to(first)
    pattern = {"pattern": r"(?P<date>\d{8})_(?P<band>\w+)\.tif", "date_format": "%Y%m%d"}
    return {"sentinel2": {"container": "geotiff_scenes", "path": "cogs", "offset": -1000, **pattern}}


def write_hls_archive(folder: Path, side: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    for band in (*SENSORS["landsat"].bands, "Fmask"):
        values = texture(side // 3, rng).astype(np.int16)
        if band == "Fmask":
            values = rng.choice(np.array([64, 2], np.uint8), values.shape, p=[0.8, 0.2])
        names = [f"HLS.L30.T31TFJ.{date.item():%Y%j}T103000.v2.0.{band}.tif" for date in DATES]
        options = {"COMPRESS": "DEFLATE", "BLOCKSIZE": 256, "nodata": 255 if band == "Fmask" else -9999, "OVERVIEWS": "NONE"}
        write_raster(folder / "hls" / names[0], values, 30, "COG", **options)
        for name in names[1:]:
            (folder / "hls" / name).hardlink_to(folder / "hls" / names[0])
    return {"landsat": {"container": "geotiff_scenes", "path": "hls"}}


def write_modis_archive(folder: Path, side: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    pixels = np.stack([texture(side * 2400 // 10980, rng).astype(np.int16) for _ in range(7)])
    (folder / "modis").mkdir(parents=True)
    first = folder / "modis" / mcd43a4_name(DATES[0])
    write_mcd43a4(first, pixels, rng.choice(np.array([0, 1, 255], np.uint8), pixels.shape, p=[0.7, 0.2, 0.1]))
    for date in DATES[1:]:
        (folder / "modis" / mcd43a4_name(date)).hardlink_to(first)
    return {"modis": {"container": "modis_hdf4", "path": "modis"}}


def write_zarr_archive(folder: Path, side: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    side = side // 2  # a quarter of a tile, since it is not linked
    group = zarr.open_group(folder / "cube.zarr", mode="w")
    bands = np.stack([texture(side, rng) for _ in range(10)])
    reflectance = group.create_array(
        "reflectance",
        shape=(len(DATES), *bands.shape),
        dtype="uint16",
        chunks=(1, 10, 512, 512),
        dimension_names=("time", "band", "y", "x"),
    )
    scl = group.create_array(
        "SCL", shape=(len(DATES), side, side), dtype="uint8", chunks=(1, 1024, 1024), dimension_names=("time", "y", "x")
    )
    for time_, _ in enumerate(DATES):
        reflectance[time_] = bands
        scl[time_] = rng.choice(np.array([4, 5, 9], np.uint8), (side, side))
    days = group.create_array("time", data=DATES.astype("datetime64[D]").astype(np.int64), dimension_names=("time",))
    days.attrs["units"] = "days since 1970-01-01"
    group.create_array("x", data=WEST + 10 * (np.arange(side) + 0.5), dimension_names=("x",))
    group.create_array("y", data=NORTH - 10 * (np.arange(side) + 0.5), dimension_names=("y",))
    group.attrs["crs"] = CRS
    return {
        "sentinel2": {"container": "zarr_cube", "path": "cube.zarr", "offset": -1000, "bands": list(SENSORS["sentinel2"].bands)}
    }


ARCHIVES: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "safe_1024": write_safe_archive,
    "cog_1024": partial(write_cog_archive, block=1024),
    "cog_512": partial(write_cog_archive, block=512),
    "hls_l30": write_hls_archive,
    "mcd43a4": write_modis_archive,
    "zarr_512": write_zarr_archive,
}


def chunk_groups(plan: Plan, numbers: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    samples = [sample for _, sample in plan.sweep(numbers).samples]
    grid = samples[0].series.grid
    rows, cols = chunk_group_shape(samples[0].series.chunk, samples[0].size)
    corners = sorted({(sample.row // rows * rows, sample.col // cols * cols) for sample in samples})
    return [(row, col, min(rows, grid.height - row), min(cols, grid.width - col)) for row, col in corners]


class Counted:
    """A rasterio dataset that counts the bytes of the blocks that reads touch."""

    def __init__(self, dataset: Any, counts: Counter[str]) -> None:
        self._dataset, self._counts = dataset, counts
        counts["opens"] += 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def read(self, band: int, window: Window) -> np.ndarray:
        rows, cols = self._dataset.block_shapes[0]
        first_row, first_col = int(window.row_off) // rows, int(window.col_off) // cols
        last_row = -(-int(window.row_off + window.height) // rows)
        last_col = -(-int(window.col_off + window.width) // cols)
        height = min(last_row * rows, self._dataset.height) - first_row * rows
        width = min(last_col * cols, self._dataset.width) - first_col * cols
        self._counts["bytes"] += height * width * np.dtype(self._dataset.dtypes[0]).itemsize
        return np.asarray(self._dataset.read(band, window=window))


@contextmanager
def counting(counts: Counter[str]) -> Iterator[None]:
    """Count opens and decoded bytes of all readers inside."""
    raster, granule, field = Folder.open_raster, ModisHdf4._open_granule, ModisHdf4._read
    get = zarr.storage.LocalStore.get

    def counted_granule(self: Any, file: str) -> Any:
        counts["opens"] += 1
        return granule(self, file)

    def counted_field(self: Any, *arguments: Any) -> np.ndarray:
        values = field(self, *arguments)
        counts["bytes"] += values.nbytes
        return values

    async def counted_get(self: Any, key: str, *arguments: Any, **options: Any) -> Any:
        if "/c/" in key:
            counts["opens"] += 1
            counts["bytes"] += 10 * 512 * 512 * 2 if key.startswith("reflectance") else 1024 * 1024
        return await get(self, key, *arguments, **options)

    Folder.open_raster = lambda self, file: Counted(raster(self, file), counts)  # type: ignore[method-assign]
    ModisHdf4._open_granule, ModisHdf4._read = counted_granule, counted_field  # type: ignore[method-assign]
    zarr.storage.LocalStore.get = counted_get  # type: ignore[method-assign]
    try:
        yield
    finally:
        Folder.open_raster = raster  # type: ignore[method-assign]
        ModisHdf4._open_granule, ModisHdf4._read = granule, field  # type: ignore[method-assign]
        zarr.storage.LocalStore.get = get  # type: ignore[method-assign]


def bare_rasters(folder: Path, windows: list[tuple[int, int, int, int]], pixel_m: float) -> None:
    """Read the blocks of all files, each opened once, group by group."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".tif", ".jp2"))
    with rasterio.Env(**GDAL_SETTINGS):
        opened = [rasterio.open(file) for file in files]
        try:
            for window in windows:
                for dataset in opened:
                    factor = round(dataset.transform.a / pixel_m)
                    row, col, height, width = (number // factor for number in window)
                    dataset.read(1, window=Window(col, row, width, height))
        finally:
            for dataset in opened:
                dataset.close()


def bare_modis(folder: Path, windows: list[tuple[int, int, int, int]]) -> None:
    from pyhdf.SD import SD, SDC

    opened = [SD(str(file), SDC.READ) for file in sorted(folder.glob("*.hdf"))]
    fields = [[file.select(name) for name in file.datasets()] for file in opened]
    for row, col, height, width in windows:
        for of_file in fields:
            for field in of_file:
                field.get(start=(row, col), count=(height, width))
    for file in opened:
        file.end()


def bare_zarr(path: Path, windows: list[tuple[int, int, int, int]]) -> None:
    group = zarr.open_group(path, mode="r")
    for row, col, height, width in windows:
        for name in ("reflectance", "SCL"):
            group[name][..., row : row + height, col : col + width]


def bare_reader(
    scene: Path, options: dict[str, Any], windows: list[tuple[int, int, int, int]], pixel_m: float
) -> Callable[[], None]:
    path = scene / options["path"]
    match options["container"]:
        case "modis_hdf4":
            return partial(bare_modis, path, windows)
        case "zarr_cube":
            return partial(bare_zarr, path, windows)
        case _:
            return partial(bare_rasters, path, windows, pixel_m)


def write(scenes: Path, output: Path, numbers: tuple[int, ...], most_bytes: int, by_shard: bool) -> None:
    """Write the shards of a sweep, together or one by one."""
    plan = load_plan(output)
    for number in numbers:
        (output / f"{plan.names[number]}.json").unlink(missing_ok=True)
    for part in [(number,) for number in numbers] if by_shard else [numbers]:
        list(write_sweep(scenes, output, most_bytes, 0, part))


def copy(tars: list[Path]) -> None:
    """Write the bytes of tars beside them, synced, and remove the copies."""
    for tar in tars:
        content = tar.read_bytes()
        with tempfile.NamedTemporaryFile(dir=tar.parent) as file:
            file.write(content)
            os.fsync(file.fileno())


def observed(work: Callable[[], None]) -> tuple[Counter[str], int]:
    """What a fresh process that does the work opens and decodes, and its peak memory in MB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_observed, (work,))


def _observed(work: Callable[[], None]) -> tuple[Counter[str], int]:
    counts: Counter[str] = Counter()
    with counting(counts):
        work()
    return counts, round(peak_kilobytes() / 1e3)


def scaling(scenes: Path, output: Path, source: str, rounds: int) -> float:
    """How much faster two worker processes are than one, which is a process of its own, too."""
    plan = make_plan(scenes, output, PlanSettings(sources=(source,), shard_mb=SHARD_MB / 4))
    sweeps = plan.sweeps(range(plan.num_shards))[:2]
    for numbers in sweeps:  # reads what the disk has to the page cache, and what a process imports
        write(scenes, output, numbers, SWEEP_BYTES, False)
    work = partial(write, scenes, output, most_bytes=SWEEP_BYTES, by_shard=False)
    ratios = []
    for _ in range(rounds):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            one = timed(lambda: pool.map(work, sweeps, chunksize=1))
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            two = timed(lambda: pool.map(work, sweeps, chunksize=1))
        ratios.append(one / two)
    return statistics.median(ratios)


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measured(scenes: Path, output: Path, rounds: int) -> dict[str, Any]:
    """Figures of one archive."""
    scene = scenes / "scene"
    ((source, options),) = yaml.safe_load((scene / "scene.yaml").read_text())["sources"].items()
    plan = make_plan(scenes, output, PlanSettings(sources=(source,), shard_mb=SHARD_MB))
    numbers = plan.sweeps(range(plan.num_shards))[0]
    samples = len(plan.sweep(numbers).samples)
    windows = chunk_groups(plan, numbers)
    series = plan.shard(numbers[0]).samples[0].series
    sweep = partial(write, scenes, output, numbers, SWEEP_BYTES, False)
    former = partial(write, scenes, output, numbers[:FORMER_SHARDS], FORMER_BYTES, True)
    former_share = sum(len(plan.shard(number).samples) for number in numbers[:FORMER_SHARDS]) / samples  # of the sweep
    bare = bare_reader(scene, options, windows, series.grid.pixel_side)
    (former_counts, former_peak), (counts, peak) = observed(former), observed(sweep)
    tars = [output / f"{plan.names[number]}.tar" for number in numbers]
    copying = partial(copy, tars)
    times = [[timed(sweep), timed(former) / former_share, timed(bare), timed(copying)] for _ in range(rounds)]
    ours, by_shard, decoding, written = (statistics.median(column) for column in zip(*times, strict=True))
    needed = needed_bytes(source, options["container"], windows)
    return {
        "rounds": rounds,
        "samples": samples,
        "shards": len(numbers),
        "mb_out": round(sum(tar.stat().st_size for tar in tars) / 1e6),
        "samples_s": round(samples / ours, 1),
        "former_samples_s": round(samples / by_shard, 1),
        "times_faster": round(statistics.median(b / a for a, b, _, _ in times), 2),
        "share_of_bare_decoding": round(statistics.median(c / a for a, _, c, _ in times), 3),
        "former_share_of_bare_decoding": round(statistics.median(c / b for _, b, c, _ in times), 3),
        "share_of_bare_decoding_and_copy": round(statistics.median((c + d) / a for a, _, c, d in times), 3),
        "bare_s": round(decoding, 2),
        "copy_s": round(written, 2),
        "amplification": round(counts["bytes"] / needed, 2),
        "former_amplification": round(former_counts["bytes"] / former_share / needed, 2),
        "opens": counts["opens"],
        "former_opens": round(former_counts["opens"] / former_share),
        "peak_mb": peak,
        "former_peak_mb": former_peak,
        "two_workers_faster": round(scaling(scenes, output.with_name("quarter"), source, rounds), 2),
        "load_average": round(os.getloadavg()[0], 1),
    }


def needed_bytes(source: str, container: str, windows: list[tuple[int, int, int, int]]) -> int:
    """Decoded bytes of the blocks of the chunk groups, in all files of all dates."""
    pixels = sum(height * width for _, _, height, width in windows)
    if container == "zarr_cube":  # whole chunks, also at the edge
        chunks = sum(-(-height // 512) * -(-width // 512) for _, _, height, width in windows)
        return len(DATES) * (chunks * 10 * 512 * 512 * 2 + len(windows) * 1024 * 1024)
    a_pixel = {"sentinel2": 4 * 2 + (6 * 2 + 1) / 4, "landsat": 6 * 2 + 1, "modis": 7 * (2 + 1)}[source]
    return round(len(DATES) * pixels * a_pixel)


def projected(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Days to write 25 million samples at the rates of the archives that were measured, by source and together."""
    days: dict[str, dict[str, float]] = {}
    for source, (millions, name) in CORPUS.items():
        if name in results:
            one = millions * 1e6 / results[name]["samples_s"] / 86_400
            days[source] = {"samples": millions * 1e6, "one_core": one}
            days[source]["64_cores"] = one / (CORES * results[name]["two_workers_faster"] / 2)
    together = {key: sum(of[key] for of in days.values()) for key in ("samples", "one_core", "64_cores")}
    return {name: {key: round(value, 1) for key, value in of.items()} for name, of in {**days, "together": together}.items()}


def bench_archive(output: Path | None = None, rounds: int = 3, side: int = 10980, archives: list[str] = list(ARCHIVES)) -> None:  # noqa: B006
    """Measure the sharding of archives as they are delivered.

    Args:
        output: JSON file to write, in which figures of other archives stay; default: print only.
        rounds: rounds in which variants take turns.
        side: pixels of the Sentinel-2 tile; those of Landsat and MODIS are smaller by their resolution.
        archives: which of them.
    """
    former = json.loads(output.read_text()) if output is not None and output.is_file() else {}
    results: dict[str, Any] = former.get("results", {}) if former.get("side") == side else {}
    content: dict[str, Any] = {"side": side, "dates": len(DATES), "results": results}
    for name in archives:
        with tempfile.TemporaryDirectory() as place:
            scene = Path(place, "scenes", "scene")
            scene.mkdir(parents=True)
            sources = ARCHIVES[name](scene, side)
            description: dict[str, Any] = {"name": "scene", "split": "train", "sources": sources}
            source = next(iter(sources))
            write_raster(
                scene / "landcover.tif", np.full((side // 3 + 1, side // 3 + 1), 10, np.uint8), 30, "GTiff", compress="deflate"
            )
            description["land_cover"] = {"raster": "landcover.tif", "legend": "glc_fcs30d"}
            if source == "modis":  # its tile lies elsewhere: land cover from its own quality layer needs no map
                (scene / "quality.yaml").write_text(yaml.safe_dump(QUALITY_LEGEND))
                description["land_cover"] = {"quality": "modis", "legend": "quality.yaml"}
            (scene / "scene.yaml").write_text(yaml.safe_dump(description))
            results[name] = measured(scene.parent, Path(place, "corpus"), rounds)
            print(name, json.dumps(results[name]), flush=True)
        content["projection"] = projected(results)
        write_report(output, ["numpy", "rasterio", "zarr"], content)  # after each, since a run takes most of an hour
    print(json.dumps(content["projection"], indent=1))


if __name__ == "__main__":
    run_command(bench_archive)
