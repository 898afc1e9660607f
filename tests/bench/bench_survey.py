"""Planning an archive of 100,000 scenes: minutes and peak memory; how long the next job of an array takes to begin, and a run
that resumes.

    python tests/bench/bench_survey.py --output tests/bench/results/survey.json

Each scene has a scene.yaml; all name one small Zarr store and one land-cover map. Each is opened: the metadata of the store, its
axes and dates, and nine places of the map are read. Each step runs in a process of its own, whose peak is what the operating
system says, imports included, without the workers.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import zarr

sys.path[:0] = [str(Path(__file__).parents[2])]

from report import write_report  # noqa: E402

from common.command_line import run_command  # noqa: E402
from common.executors import map_local  # noqa: E402
from data_prep.archive.sensor import load_sensors  # noqa: E402
from data_prep.plan.build import frozen_plan, make_plan  # noqa: E402
from data_prep.plan.settings import PlanSettings  # noqa: E402
from tests.support.archives import make_cube, write_land_cover, write_scene  # noqa: E402
from tests.support.memory import in_own_process, peak_kilobytes  # noqa: E402


def write_scenes(folder: Path, count: int) -> None:
    """Scenes that share one store of 64 x 64 px with 16 dates, and one land-cover map."""
    rng = np.random.default_rng(0)
    cube = make_cube(load_sensors()["sentinel2"], 64, np.datetime64("2021-01-03") + 20 * np.arange(16), rng)
    write_scene(
        folder / "first", {"sentinel2": cube}, {"sentinel2": 10.0}, land_cover={"raster": "map.tif", "legend": "glc_fcs30d"}
    )
    write_land_cover(folder / "first" / "map.tif", np.full((22, 22), 10))
    store = zarr.open_group(folder / "first" / "sentinel2.zarr", mode="r+")
    store.create_array("band", data=np.array(load_sensors()["sentinel2"].bands), dimension_names=("band",))
    text = (
        "name: scene_{number:06d}\nregion: region_{number:06d}\nsplit: train\nsources:\n  sentinel2: {{container: zarr_cube, "
        "path: ../first/sentinel2.zarr, offset: -1000}}\nland_cover: {{raster: ../first/map.tif, legend: glc_fcs30d}}\n"
    )
    for number in range(count):
        scene = folder / f"{number:06d}"
        scene.mkdir()
        (scene / "scene.yaml").write_text(text.format(number=number))


def plan_scenes(folder: Path, output: Path, workers: int) -> dict[str, float]:
    begin = time.perf_counter()
    plan = make_plan(folder, output, PlanSettings(), partial(map_local, workers=workers))
    seconds = time.perf_counter() - begin
    return {
        "samples": sum(group.samples for group in plan.groups),
        "s": round(seconds, 1),
        "peak_mb": round(peak_kilobytes() / 1e3),
    }


def begin_job(folder: Path, output: Path) -> dict[str, float]:
    begin = time.perf_counter()
    plan = frozen_plan(folder, output, PlanSettings())
    plan.sweep(plan.sweeps(range(plan.num_shards))[0])
    return {"s": round(time.perf_counter() - begin, 2), "peak_mb": round(peak_kilobytes() / 1e3)}


def bench_survey(output: Path | None = None, scenes: int = 100_000, workers: int = 4) -> None:
    """Measure planning an archive of many scenes.

    Args:
        output: JSON file to write; default: print only.
        scenes: number of scenes.
        workers: processes that open them.
    """
    with tempfile.TemporaryDirectory() as scratch:
        archive, planned = Path(scratch, "scenes"), Path(scratch, "planned")
        write_scenes(archive, scenes)
        steps = {
            "plan": partial(plan_scenes, archive, planned, workers),
            "begin_job": partial(begin_job, archive, planned),
            "resume": partial(plan_scenes, archive, planned, workers),
        }
        results = {name: in_own_process(step) for name, step in steps.items()}
    print(json.dumps(results, indent=1))
    write_report(output, ["numpy", "zarr"], {"scenes": scenes, "workers": workers, "results": results})


if __name__ == "__main__":
    run_command(bench_survey)
