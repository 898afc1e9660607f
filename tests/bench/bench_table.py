"""Opening a corpus of 25 million samples: time and memory until the first batch could be read, and the rows of 1,000 batches.

    python tests/bench/bench_table.py --output tests/bench/results/table.json

The table is made up (the number of samples of the paper in 10,000 shards, keys as sites give them); no tar is there, since rows
are all that is read. It is read twice: after the page cache was told to drop it, and again from the page cache. Memory is that
of the process beyond its imports: what only it holds, and pages of the table, which all ranks of a machine share and the
system takes back when it needs them. For comparison JSON indexes of some shards are parsed as before there were tables.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import xxhash

sys.path[:0] = [str(Path(__file__).parents[2])]

from report import write_report  # noqa: E402

from common.checksums import checksum_of  # noqa: E402
from common.command_line import run_command  # noqa: E402
from common.json_files import json_bytes  # noqa: E402
from data_prep.archive.sensor import load_sensors  # noqa: E402
from data_prep.corpus.dataset import load_corpus  # noqa: E402
from data_prep.corpus.sample_index import record_dtype, sample_index_name  # noqa: E402
from data_prep.landcover.legend import load_legend  # noqa: E402
from data_prep.shards.shard_index import INDEX_VERSION, read_index, sample_columns  # noqa: E402
from data_prep.shards.tar_format import MEMBERS  # noqa: E402
from pretrain.data.sample_table import SampleTable  # noqa: E402
from pretrain.data.shuffling import shuffled  # noqa: E402

SAMPLES, SHARDS = 25_244_211, 10_000
SOURCE, SPLIT = "modis", "train"
PIXELS, REST = 46 * 7 * 64 * 2, 46 * 64  # bytes of a sample's members, about
BATCHES, BATCH = 1_000, 32
INDEXES = 20  # parsed for comparison


def write_made_up_corpus(folder: Path, samples: int, shards: int) -> dict[str, float]:
    """dataset.json, the table, and some indexes of a corpus without tars."""
    legend, sensor = load_legend("glc_fcs30d"), load_sensors()[SOURCE]
    dtype = record_dtype(len(f"{SOURCE}-h18v04_2021-2021-r00000-c00000"), has_maps=False)
    edges = np.linspace(0, samples, shards + 1).astype(int)
    stride = 512 * (2 + (PIXELS + REST) // 512 + 8)
    path = folder / sample_index_name(SOURCE, SPLIT)
    sizes = np.array([PIXELS + 128, REST + 128, 46 * 4 + 128, 8 * len(legend.codes) + 128, 46 * 8 + 128])
    with path.open("wb") as file:
        header: Any = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (samples,)}
        np.lib.format.write_array_header_1_0(file, header)
        for shard, (first, stop) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
            rows = np.zeros(stop - first, dtype)
            scene = f"h{shard % 36:02d}v{shard // 36 % 18:02d}_2021"
            rows["key"] = [f"{SOURCE}-{scene}-2021-r{n // 300:05d}-c{n % 300:05d}".encode() for n in range(stop - first)]
            rows["shard"], rows["frames"], rows["sizes"] = shard, 46, sizes
            rows["offsets"] = np.arange(stop - first)[:, None] * stride + 512 * np.array([6, 3, 1, 2, 0])
            file.write(rows.tobytes())
            if shard < INDEXES:
                index = {"version": INDEX_VERSION, "samples": sample_columns(index_of(rows, legend.codes))}
                (folder / f"{SOURCE}-{SPLIT}-{shard:06d}.json").write_bytes(json_bytes(index))
    counts = np.diff(edges).tolist()
    about = {
        "table": path.name,
        "xxh3_128": checksum_of(path),
        "samples": samples,
        "frames": {"shortest": 46, "longest": 46},
        "mean_shares": {legend.name: [1 / len(legend.codes)] * len(legend.codes)},
    }
    bands = len(sensor.bands)
    normalization = {"mean": [1000.0] * bands, "std": [500.0] * bands}
    names = [f"{SOURCE}-{SPLIT}-{shard:06d}.tar" for shard in range(shards)]
    lines = [
        {"shard": name, "source": SOURCE, "split": SPLIT, "bytes": stride * count + 10_240, "samples": count}
        | {"xxh3_128": xxhash.xxh3_128_hexdigest(name.encode())}
        for name, count in zip(names, counts, strict=True)
    ]
    description = {
        "version": 3,
        "fingerprint": "0" * 64,
        "sources": {
            SOURCE: {
                "sensor": sensor.to_dict(),
                "shape": [bands, 8, 8],
                "normalization": normalization,
                "splits": {SPLIT: about},
            }
        },
        "legends": {legend.name: legend.to_dict()},
        "shards": lines,
        "rejected": 0,
    }
    (folder / "dataset.json").write_bytes(json_bytes(description))
    sizes_mb = {"table_mb": path.stat().st_size / 1e6, "dataset_json_mb": (folder / "dataset.json").stat().st_size / 1e6}
    return {name: round(size, 1) for name, size in sizes_mb.items()}


def index_of(rows: np.ndarray, codes: tuple[int, ...]) -> list[dict[str, Any]]:
    """The samples of an index as shard.py writes them."""
    place = {"offset": 123_456_789, "size": 41_344, "xxh3_64": "0" * 16}
    return [
        {
            "key": key.decode(),
            "frames": 46,
            "days": [18_628, 18_992],
            "legend": "glc_fcs30d",
            "land_cover": [7] * len(codes),
            "members": dict.fromkeys(MEMBERS, place),
        }
        for key in rows["key"].tolist()
    ]


def megabytes() -> tuple[float, float]:
    """Resident memory of this process: its own, and pages of files."""
    memory = psutil.Process().memory_info()
    return (memory.rss - memory.shared) / 1e6, memory.shared / 1e6


def open_and_read(folder: Path, drop: bool) -> dict[str, float]:
    path = folder / sample_index_name(SOURCE, SPLIT)
    if drop:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    own, shared = megabytes()
    begin = time.perf_counter()
    corpus = load_corpus(folder)
    loaded = time.perf_counter()
    table = SampleTable(corpus, SOURCE, SPLIT)
    opened = time.perf_counter()
    own_open, shared_open = megabytes()
    samples = [shuffled(np.arange(n * BATCH, (n + 1) * BATCH), len(table), 7) for n in range(BATCHES)]
    start = time.perf_counter()
    seconds = []
    for batch in samples:
        now = time.perf_counter()
        for column in (table.keys, table.shard, table.frames, table.offsets, table.sizes):
            column[batch]
        seconds.append(time.perf_counter() - now)
    read = time.perf_counter()
    own_read, shared_read = megabytes()
    return {
        "load_corpus_s": round(loaded - begin, 4),
        "sample_table_s": round(opened - loaded, 4),
        "own_mb_when_open": round(own_open - own, 1),
        "mapped_mb_when_open": round(shared_open - shared, 1),
        "rows_of_1000_batches_s": round(read - start, 4),
        "median_batch_us": round(float(np.median(seconds)) * 1e6, 1),
        "slowest_batch_us": round(max(seconds) * 1e6, 1),
        "own_mb_after_reading": round(own_read - own, 1),
        "mapped_mb_after_reading": round(shared_read - shared, 1),
    }


def parse_indexes(folder: Path, samples: int) -> dict[str, float]:
    """What JSON indexes cost, carried forward to all samples."""
    paths = sorted(folder.glob(f"{SOURCE}-{SPLIT}-*.json"))
    begin = time.perf_counter()
    share = samples / sum(len(read_index(path)["samples"]["key"]) for path in paths)
    return {
        "indexes": len(paths),
        "gb_of_all": round(sum(path.stat().st_size for path in paths) * share / 1e9, 1),
        "parse_all_s": round((time.perf_counter() - begin) * share, 1),
    }


def in_own_process(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work).result()


def bench_table(output: Path | None = None, samples: int = SAMPLES, shards: int = SHARDS, folder: Path | None = None) -> None:
    """Measure opening a large corpus.

    Args:
        output: JSON file to write; default: print only.
        samples: rows of the table.
        shards: shards that they are in.
        folder: on the disk to measure; default: where temporary files go.
    """
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        results["corpus"] = {"samples": samples, "shards": shards, **write_made_up_corpus(place, samples, shards)}
        results["first"] = in_own_process(partial(open_and_read, place, True))
        results["again"] = in_own_process(partial(open_and_read, place, False))
        results["json_indexes"] = in_own_process(partial(parse_indexes, place, samples))
    print(json.dumps(results, indent=1))
    write_report(output, ["numpy", "fsspec"], {"results": results})


if __name__ == "__main__":
    run_command(bench_table)
