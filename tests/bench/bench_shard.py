"""How fast shards are written: against plain `tar` and one HDF5 file a sample, from archive to corpus, by one worker and two.

    python tests/bench/bench_shard.py --output tests/bench/results/shard.json

`from_memory`: `OpenShard` with samples that are in memory already (it hashes, gathers statistics, reads back, syncs and writes
the index) beside `tarfile` writing the same arrays, without any of that and without a sync: once the arrays as they are
(`numpy.save`, then `addfile`), once `.npy` bytes made before. And beside a loop that writes the published layout, an HDF5 file
a sample with gzip. All take turns in one process; shares are medians of the ratios of a round.

`from_archive`: whole runs over simulated scenes of Sentinel-2 (Zarr) and Landsat (GeoTIFF), and over a random cube of MODIS
(Zarr), whose simulated scenes are small. Rates of one worker are of shards of 256 MB, for which each chunk is read once. Scaling
is over small shards, so that two workers have enough of them, by the time between the first finished shard and the last: the
start of workers does not count. All take turns.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

sys.path[:0] = [str(Path(__file__).parents[2])]

from report import write_report  # noqa: E402

from common.command_line import run_command  # noqa: E402
from common.executors import map_local  # noqa: E402
from data_prep.archive.sensor import load_sensors  # noqa: E402
from data_prep.plan.build import make_plan  # noqa: E402
from data_prep.plan.plan import Plan, load_plan  # noqa: E402
from data_prep.plan.settings import PlanSettings  # noqa: E402
from data_prep.shards.planned_samples import read_samples  # noqa: E402
from data_prep.shards.sample import Sample  # noqa: E402
from data_prep.shards.shard_writer import OpenShard, write_sweep  # noqa: E402
from data_prep.simulate import simulate  # noqa: E402
from tests.support.archives import days, make_cube, write_land_cover, write_scene  # noqa: E402
from tests.support.memory import peak_kilobytes  # noqa: E402

CORPUS = {"modis": 1_500_000, "landsat": 13_400_000, "sentinel2": 10_300_000}  # samples of the published corpus
WORKERS = 100  # of the projection
MEMORY_BYTES = 100_000_000  # of samples that are written from memory
MOST_BYTES = 4_000_000_000  # of decoded images: the default of shard.py
SMALL_SHARD_MB = {"modis": 4.0, "landsat": 4.0, "sentinel2": 8.0}  # some forty shards each


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def arrays_of(sample: Sample) -> dict[str, np.ndarray]:
    arrays = {"dates": sample.dates.astype(np.int32), "landcover": sample.land_cover}
    return {**arrays, "pixels": sample.pixels, "valid": sample.valid}


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, Any], encode: Callable[[Any], bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, member in members.items():
            data = encode(member)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_hdf5(folder: Path, samples: list[Sample]) -> None:
    """The published layout: a file a sample, the pixels of its source and its label, with gzip."""
    for sample in samples:
        with h5py.File(folder / f"{sample.key}.h5", "w") as file:
            file.create_dataset(sample.source, data=sample.pixels, compression="gzip")
            file.create_dataset("label", data=sample.land_cover, compression="gzip")


def from_memory(scenes: Path, folder: Path, source: str, rounds: int) -> dict[str, Any]:
    """The writer against tar and HDF5, all from the same arrays."""
    plan = make_plan(scenes, folder / "corpus", PlanSettings(sources=(source,), shard_mb=256))
    shard = plan.shard(0)
    held = list(read_samples(scenes, plan, shard.samples, 0, MOST_BYTES))
    samples = [sample for sample in held if isinstance(sample, Sample)]
    copies = -(-MEMORY_BYTES // sum(sample.pixels.nbytes for sample in samples))
    samples = [
        replace(sample, key=f"{sample.key}-{copy}", pixels=sample.pixels.copy(), valid=sample.valid.copy())
        for copy in range(copies)
        for sample in samples
    ]
    arrays = {f"{s.key}.{name}.npy": array for s in samples for name, array in arrays_of(s).items()}
    ready = {name: npy(array) for name, array in arrays.items()}
    size = sum(map(len, ready.values()))
    name = plan.names[0]

    def write() -> None:
        (folder / "corpus" / f"{name}.json").unlink(missing_ok=True)
        with OpenShard(plan, folder / "corpus", shard) as being_written:
            for sample in samples:
                being_written.add(sample)
            being_written.finish()

    tar = folder / "plain.tar"
    times = []
    write()
    for number in range(rounds):
        row = [timed(write), timed(partial(write_tar, tar, arrays, npy)), timed(partial(write_tar, tar, ready, bytes))]
        if number == 0:  # it takes long, and its ratio is far from any limit
            hdf5 = timed(partial(write_hdf5, folder, samples))
        times.append(row)
    ours, _, _ = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "samples": len(samples),
        "mb": round(size / 1e6, 1),
        "mb_s": round(size / ours / 1e6),
        "samples_s": round(len(samples) / ours, 1),
        "tar_mb_s": round(size / statistics.median(tar for _, tar, _ in times) / 1e6),
        "tar_of_ready_bytes_mb_s": round(size / statistics.median(tar for _, _, tar in times) / 1e6),
        "hdf5_gzip_mb_s": round(size / hdf5 / 1e6),
        "share_of_tar": round(statistics.median(tar / own for own, tar, _ in times), 3),
        "share_of_tar_of_ready_bytes": round(statistics.median(tar / own for own, _, tar in times), 3),
        "times_hdf5_gzip": round(hdf5 / ours, 1),
    }


def random_modis(scenes: Path, side: int = 320) -> None:
    """A year of MODIS over `side` x `side` pixels."""
    scene = scenes / "plain"
    cube = make_cube(load_sensors()["modis"], side, days(2021, 92), np.random.default_rng(0))
    land_cover = {"raster": "landcover.tif", "legend": "glc_fcs30d"}
    write_scene(scene, {"modis": cube}, {"modis": 500.0}, land_cover=land_cover)
    write_land_cover(scene / "landcover.tif", np.full((side, side), 10), gsd=500.0)


def bytes_in(scenes: Path, source: str) -> int:
    """What lies in the archive of a source: the files of its containers, named for it, and none of the land cover."""
    files = [path for place in scenes.glob(f"*/{source}*") for path in (place.rglob("*") if place.is_dir() else [place])]
    return sum(path.stat().st_size for path in files if path.is_file())


def write_whole(scenes: Path, output: Path, numbers: tuple[int, ...]) -> list[int]:
    """Write the shards of a sweep; return the bytes of each."""
    return [size for _, size in write_sweep(scenes, output, MOST_BYTES, 3, numbers)]


def steady_rate(scenes: Path, output: Path, plan: Plan, workers: int) -> tuple[float, float]:
    """(bytes, sweeps) a second between the first and the last finished sweep."""
    for name in plan.names:
        (output / f"{name}.json").unlink(missing_ok=True)
    finished = []
    for _, written in map_local(partial(write_whole, scenes, output), plan.sweeps(range(plan.num_shards)), workers):
        finished.append((time.perf_counter(), sum(written)))
    elapsed = finished[-1][0] - finished[0][0]
    return sum(size for _, size in finished[1:]) / elapsed, (len(finished) - 1) / elapsed


def peak_of_worker(scenes: Path, output: Path) -> dict[str, float]:
    """Peak memory in MB of a fresh process that writes all shards of the plan in `output`, and what its imports take."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        before: int = pool.apply(peak_kilobytes)
        plan = load_plan(output)
        pool.starmap(write_whole, [(scenes, output, numbers) for numbers in plan.sweeps(range(plan.num_shards))], chunksize=1)
        return {"imports_mb": round(before / 1e3), "peak_mb": round(pool.apply(peak_kilobytes) / 1e3)}


def from_archive(scenes: Path, folder: Path, source: str, rounds: int) -> dict[str, Any]:
    """Whole runs by one worker and by two, and the peak of a worker with small and with large shards."""
    output = folder / "corpus"
    small = SMALL_SHARD_MB[source]
    plan = make_plan(scenes, output, PlanSettings(sources=(source,), shard_mb=small))
    samples = sum(group.samples for group in plan.groups)
    large = folder / "large"
    large_plan = make_plan(scenes, large, PlanSettings(sources=(source,), shard_mb=256))

    def write_large() -> None:
        for name in large_plan.names:
            (large / f"{name}.json").unlink(missing_ok=True)
        for numbers in large_plan.sweeps(range(large_plan.num_shards)):
            write_whole(scenes, large, numbers)

    rates, seconds = [], []
    for _ in range(rounds):
        rates.append((steady_rate(scenes, output, plan, 1), steady_rate(scenes, output, plan, 2)))
        seconds.append(timed(write_large))
    written = sum((large / f"{name}.tar").stat().st_size for name in large_plan.names)
    one, bytes_a_sample = written / statistics.median(seconds), written / samples
    samples_s = one / bytes_a_sample
    peaks = {}
    for shard_mb in (small, 256):
        place = folder / f"shards-{shard_mb}"
        make_plan(scenes, place, PlanSettings(sources=(source,), shard_mb=shard_mb))
        peaks[f"shards of {shard_mb:g} MB"] = peak_of_worker(scenes, place)
    return {
        "samples": samples,
        "small_shards": plan.num_shards,
        "mb_in": round(bytes_in(scenes, source) / 1e6, 1),
        "mb_out": round(written / 1e6, 1),
        "mb_s_in": round(one * bytes_in(scenes, source) / written / 1e6, 1),
        "mb_s_out": round(one / 1e6, 1),
        "samples_s": round(samples_s, 1),
        "small_shards_mb_s_out": round(statistics.median(single[0] for single, _ in rates) / 1e6, 1),
        "small_shards_two_workers_mb_s_out": round(statistics.median(double[0] for _, double in rates) / 1e6, 1),
        "scaling_1_to_2": round(statistics.median(double[0] / single[0] for single, double in rates), 2),
        "load_average": round(os.getloadavg()[0], 1),
        "peak_of_worker": peaks,
        "projection": {
            "samples": CORPUS[source],
            "tb": round(CORPUS[source] * bytes_a_sample / 1e12, 1),
            "worker_hours": round(CORPUS[source] / samples_s / 3600, 1),
            f"hours_with_{WORKERS}_workers": round(CORPUS[source] / samples_s / 3600 / WORKERS, 2),
        },
    }


def bench_shard(output: Path | None = None, rounds: int = 5, side: int = 576) -> None:
    """Measure the writing of shards.

    Args:
        output: JSON file to write; default: print only.
        rounds: rounds in which variants take turns.
        side: pixels of the simulated Sentinel-2 tile and of the Landsat scene, a multiple of 48.
    """
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        simulate(Path(name, "simulated"), regions=1, landsat_px=side, sentinel2_px=side)
        random_modis(Path(name, "random"))
        for source in CORPUS:
            scenes = Path(name, "random" if source == "modis" else "simulated")
            results[source] = {}
            for what, measure in (("from_memory", from_memory), ("from_archive", from_archive)):
                folder = Path(name, f"{source}-{what}")
                folder.mkdir()
                results[source][what] = measure(scenes, folder, source, rounds)
                print(source, what, json.dumps(results[source][what]), flush=True)
    days = sum(of_source["from_archive"]["projection"]["worker_hours"] for of_source in results.values()) / 24
    projection = {
        "worker_days": round(days, 1),
        f"hours_with_{WORKERS}_workers": round(24 * days / WORKERS, 1),
        "tb": round(sum(of_source["from_archive"]["projection"]["tb"] for of_source in results.values()), 1),
    }
    print(json.dumps(projection))
    content = {"rounds": rounds, "projection_25_million_samples": projection, "results": results}
    write_report(output, ["numpy", "h5py"], content)


if __name__ == "__main__":
    run_command(bench_shard)
