"""Planning a corpus of 25 million samples: time and peak memory, of the plan and of reading a shard of it.

    python tests/bench/bench_plan.py --output tests/bench/results/plan.json

The scenes are made up (grids and dates of MGRS and MODIS tiles, no files), since a plan looks at nothing else of them; what a
real run adds is opening each scene once (`bench_survey.py`). Two plans are made: of all windows of a grid, and at millions of
sites in five years, of each source that has a scene there. Splits are blocks of 50 km with a buffer, so that every window is
placed on the globe.

`finish`: the first plan is resumed and finished, from made-up shard indexes beside empty tars of the right size.

Each step runs in a process of its own, whose peak is what the operating system says, imports included.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from affine import Affine

sys.path[:0] = [str(Path(__file__).parents[2])]

from report import write_report  # noqa: E402

from common.command_line import run_command  # noqa: E402
from common.executors import map_local  # noqa: E402
from common.grid import Grid  # noqa: E402
from common.json_files import json_bytes  # noqa: E402
from data_prep.archive.sensor import load_sensors  # noqa: E402
from data_prep.corpus.corpus_writer import finish_corpus, write_missing_shards  # noqa: E402
from data_prep.corpus.dataset import DATASET  # noqa: E402
from data_prep.corpus.shard_contents import shards_together  # noqa: E402
from data_prep.landcover.legend import load_legend  # noqa: E402
from data_prep.plan.plan import TABLES, PlannedSeries, cached_plan, load_plan  # noqa: E402
from data_prep.plan.plan_writer import write_plan  # noqa: E402
from data_prep.plan.settings import PlanSettings  # noqa: E402
from data_prep.plan.splits import SpatialBlocks  # noqa: E402
from data_prep.plan.survey import Surveyed  # noqa: E402
from data_prep.shards.band_statistics import SNOW  # noqa: E402
from data_prep.shards.shard_index import INDEX_VERSION, sample_columns  # noqa: E402
from data_prep.shards.tar_format import member_names  # noqa: E402
from tests.support.memory import in_own_process, peak_kilobytes  # noqa: E402

YEARS = range(2017, 2022)
SITES = 3_600_000  # each in five years, some of two sources
# Scenes, metres a pixel, pixels a side, pixels a chunk, days between images: about 14.5, 1.8 and 11.3 million windows.
TILES = {
    "landsat": (890, 30.0, 3660, 256, 8),
    "modis": (4, 463.3127, 2400, 240, 1),
    "sentinel2": (77, 10.0, 10980, 512, 5),
}


def surveyed(scale: float) -> Iterator[Surveyed]:
    """Series as a survey of scenes finds them, by name of scene; `scale` is the share of the scenes."""
    rng = np.random.default_rng(0)
    for source, (scenes, gsd, side, chunk, revisit) in TILES.items():
        days = np.arange(f"{YEARS[0]}-01-01", f"{YEARS[-1] + 1}-01-01", dtype="datetime64[D]")[::revisit]
        for number in range(round(scenes * scale)):
            zone, band = 1 + number % 60, number // 60
            west, north = 300_000.0 + 109_800 * (band % 4), 1_000_000.0 + 400_000 * band
            if source == "modis":
                crs, west = "ESRI:54008", -5_000_000.0 + 2_000_000 * number
            else:
                crs = f"EPSG:{32600 + zone}"
            name = f"{source}_{number:05d}"
            series = PlannedSeries(
                scene=name,
                key_prefix=name,
                folder=name,
                scene_file_sha256=f"{number:064x}",
                source=source,
                file=None,
                legend="glc_fcs30d",
                grid=Grid(crs=crs, transform=Affine(gsd, 0, west, 0, -gsd, north), height=side, width=side),
                chunk=(chunk, chunk),
                dates=tuple(days[np.sort(rng.permutation(len(days))[: len(days) * 4 // 5])].astype(int).tolist()),
            )
            yield Surveyed(series=series, split="train", reason=None)


def peak_mb() -> float:
    return peak_kilobytes() / 1e3


def write_sites(path: Path, scale: float) -> dict[str, float]:
    """SITES places in the scenes, each scene with as many as its share of the windows."""
    rng = np.random.default_rng(1)
    series = [found.series for found in surveyed(scale)]
    areas = np.array([one.grid.height * one.grid.width for one in series], dtype=float)
    counts = np.round(SITES * scale * areas / areas.sum()).astype(int)
    lon, lat = np.hstack(
        [one.grid.lon_lat(*rng.uniform(0, one.grid.height, (2, n))) for one, n in zip(series, counts, strict=True)]
    )
    pq.write_table(pa.table({"id": np.arange(len(lon)).astype(str), "lon": lon, "lat": lat}), path)
    return {"sites": len(lon)}


def plan_all(folder: Path, scale: float, sites: Path | None) -> dict[str, float]:
    sensors = {name: sensor for name, sensor in load_sensors().items() if name in TILES}
    before = peak_mb()
    begin = time.perf_counter()
    settings = PlanSettings(spatial_blocks=SpatialBlocks(block_km=50, buffer_km=2), sites=sites)
    plan = write_plan(folder, surveyed(scale), settings, {}, sensors, {"glc_fcs30d": load_legend("glc_fcs30d")})
    seconds = time.perf_counter() - begin
    planned = sum(group.samples for group in plan.groups)
    return {
        "samples": planned,
        "rejected": plan.num_rejected,
        "shards": plan.num_shards,
        "planning_s": round(seconds, 1),
        "rows_a_s": round((planned + plan.num_rejected) / seconds),
        "peak_mb": round(peak_mb()),
        "of_it_imports_mb": round(before),
        "terabytes": round(sum(group.bytes for group in plan.groups) / 1e12, 2),
    }


def read_shards(folder: Path, count: int) -> dict[str, float]:
    begin = time.perf_counter()
    plan = load_plan(folder)
    loaded = time.perf_counter()
    plan.shard(plan.num_shards // 2)
    first = time.perf_counter()
    numbers = np.random.default_rng(0).integers(0, plan.num_shards, count)
    seconds = []
    for number in numbers.tolist():
        start = time.perf_counter()
        plan.shard(number)
        seconds.append(time.perf_counter() - start)
    return {
        "load_plan_ms": round((loaded - begin) * 1e3, 1),
        "first_shard_ms": round((first - loaded) * 1e3, 1),
        "a_shard_ms": round(float(np.median(seconds)) * 1e3, 1),
        "peak_mb": round(peak_mb()),
    }


def write_index_and_tar(folder: Path, numbers: range) -> int:
    """Made-up indexes of consecutive shards, and tars that are sparse files; returns the bytes of the indexes."""
    plan, written = cached_plan(folder), 0
    for number, keys in zip(numbers, plan.sample_keys(numbers), strict=True):
        name = plan.names[number]
        source, split, _ = name.rsplit("-", 2)
        codes, bands = len(next(iter(plan.legends.values())).codes), len(plan.sensors[source].bands)
        place = {"offset": 123_456_789, "size": 41_344, "xxh3_64": f"{number:016x}"}
        sample = {"frames": 46, "days": [18_628, 18_992], "legend": "glc_fcs30d", "land_cover": [*[0] * (codes - 2), 100, 180]}
        members = dict.fromkeys(member_names(plan.has_maps, has_label=False), place)
        numbers_of_bands = {column: [123_456_789_012] * bands for column in ("count", "total", "squares")}
        index = {
            "version": INDEX_VERSION,
            "shard": f"{name}.tar",
            "source": source,
            "split": split,
            "bytes": 256_000_000,
            "xxh3_128": f"{number:032x}",
            "plan": plan.hash,
            "samples": sample_columns([{"key": key, **sample, "members": members} for key in keys]),
            "rejected": [],
            "statistics": numbers_of_bands,
            SNOW: dict.fromkeys(numbers_of_bands, [0] * bands),
        }
        content = json_bytes(index)
        (folder / f"{name}.json").write_bytes(content)
        (folder / f"{name}.tar").touch()
        os.truncate(folder / f"{name}.tar", 256_000_000)
        written += len(content)
    return written


def finish(folder: Path, workers: int) -> dict[str, float]:
    plan, map_jobs = load_plan(folder), partial(map_local, workers=workers)
    begin = time.perf_counter()
    assert write_missing_shards(plan, range(plan.num_shards), folder, map_jobs, most_bytes=0) == []
    resumed = time.perf_counter()
    assert finish_corpus(plan, map_jobs, max_failed_share=0.0)
    return {
        "shards": plan.num_shards,
        "workers": workers,
        "looking_for_missing_shards_s": round(resumed - begin, 1),
        "finishing_s": round(time.perf_counter() - resumed, 1),
        "peak_mb": round(peak_mb()),
        "dataset_json_mb": round((folder / DATASET).stat().st_size / 1e6, 1),
    }


def check(folder: Path) -> dict[str, float]:
    begin = time.perf_counter()
    assert load_plan(folder).damaged_tables() == []
    return {"sha256_of_tables_s": round(time.perf_counter() - begin, 2)}


def bench_plan(output: Path | None = None, scale: float = 1.0, workers: int = 4) -> None:
    """Measure planning and reading plans.

    Args:
        output: JSON file to write; default: print only.
        scale: share of the made-up scenes, to try the script.
        workers: processes that finish the corpus.
    """
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "corpus")
        results["plan"] = in_own_process(partial(plan_all, folder, scale, None))
        results["file_mb"] = {name: round((folder / name).stat().st_size / 1e6, 1) for name in TABLES.values()}
        results["read"] = in_own_process(partial(read_shards, folder, 100))
        results["verify"] = in_own_process(partial(check, folder))
        numbers = shards_together([group.shards for group in load_plan(folder).groups])
        size = sum(size for _, size in map_local(partial(write_index_and_tar, folder), numbers, workers=workers))
        results["finish"] = {
            "indexes_gb": round(size / 1e9, 2),
            **in_own_process(partial(finish, folder, workers)),
        }
        shutil.rmtree(folder)
        table = Path(scratch, "sites.parquet")
        results["sites"] = in_own_process(partial(write_sites, table, scale))
        results["plan_at_sites"] = in_own_process(partial(plan_all, Path(scratch, "at_sites"), scale, table))
    print(json.dumps(results, indent=1))
    write_report(output, ["numpy", "pyarrow"], {"results": results})


if __name__ == "__main__":
    run_command(bench_plan)
