"""From an area and a file of parcels to a scored map: six commands on images of a STAC catalogue, compared with raster labels.

    python tests/bench/six_commands.py --output tests/bench/results/six_commands.json

A simulated landscape is written as cloud-optimised GeoTIFFs with the items of a static catalogue, and its crop label as the
parcels of a GeoPackage in degrees, once traced along the edges of pixels and once with simplified outlines, as people draw them.
Then come `scenes`, `labels`, `finetune`, `predict`, `areas` and `view`, as in docs/howto/parcels-to-map.md. The same training on
the simulated scene itself, with its label as a raster, is what they are compared with, for several seeds.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import mean
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2])]

import geopandas  # noqa: E402
import numpy as np  # noqa: E402
import rasterio  # noqa: E402
import rasterio.features  # noqa: E402
import shapely  # noqa: E402
import yaml  # noqa: E402
from tabulate import tabulate  # noqa: E402

from common.command_line import run_command  # noqa: E402
from data_prep.archive.scene import SCENE_FILE, find_scenes  # noqa: E402
from data_prep.archive.sensor import load_sensors  # noqa: E402
from data_prep.readers.opening import open_reader  # noqa: E402
from launch.steps import PYTHON, ROOT  # noqa: E402
from tests.bench.report import write_report  # noqa: E402
from tests.support.stac_scenes import sentinel2_items, write_cogs, write_items  # noqa: E402

LABEL = "crop_type_10m"
COLLECTION = "earth_search/sentinel-2-c1-l2a"
OFFSET = 1000  # which Sentinel-2 images of today hold, and their items state
CROPS = {
    "paddy_rice": "#3b7dd8",
    "winter_wheat": "#d9b93b",
    "soybean": "#4d9a4d",
    "winter_rapeseed": "#c7d94a",
    "vegetables": "#8e5bb5",
}
OUTSIDE = "not_cropland"
SIMPLIFIED_M = 10.0
REFERENCE_POINTS = 300
SPLIT = ["--split_blocks.side_m", "1000", "--split_blocks.buffer_m", "50"]


def six_commands(
    output: Path | None = None, folder: Path | None = None, side_px: int = 360, steps: int = 100, seeds: int = 3
) -> None:
    """Write the inputs, run the six commands, and compare the scores with those of raster labels.

    Args:
        output: JSON file of the scores.
        folder: folder of everything that is made; default: a temporary one.
        side_px: side of the landscape in pixels of 10 m, a multiple of 6.
        steps: steps of each training.
        seeds: number of seeds.
    """
    with tempfile.TemporaryDirectory() as temporary:
        content = _measured((folder or Path(temporary)).resolve(), side_px, steps, seeds)
    write_report(output, ["torch", "rasterio", "geopandas", "shapely"], content)


def _measured(output: Path, side_px: int, steps: int, seeds: int) -> dict[str, Any]:
    """Run the commands and the comparison in a folder; returns the scores."""
    simulated = _simulated(output / "simulated", side_px)
    _write_catalogue(simulated, output / "catalogue")
    task = _write_task(output / "crops.yaml")
    scores: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    for way in ("raster", "traced", "simplified"):
        folder = output / way
        if way == "raster":
            _with_raster(simulated, folder / "scenes")
        else:
            search = ["--catalogue", output / "catalogue" / "items.json", "--collections", "sentinel-2-c1-l2a"]
            search += ["--start", "2022-01-01", "--end", "2022-12-31", "--area", output / "catalogue" / "area.geojson"]
            seconds[f"scenes, {way}"] = _run("scenes", *search, "--output", folder / "scenes")
            _write_parcels(simulated, folder / "scenes", SIMPLIFIED_M if way == "simplified" else 0)
        seconds[f"labels, {way}"] = _run("labels", "--input", folder / "scenes", "--label", LABEL, "--output", folder / "labels")
        for seed in range(seeds):
            run = folder / f"run{seed}"
            training = ["--task", task, "--data", folder / "scenes", "--output", run, "--encoder", "unet", "--seed", seed]
            training += ["--training.steps", steps, "--training.epochs", 10, *SPLIT]
            seconds[f"finetune, {way}, {seed}"] = _run("finetune", *training)
            found = json.loads((run / "metrics.json").read_text())["test"]["mean_f1"]
            scores.setdefault(way, []).append(found)
    run = output / "traced" / "run0"
    mapped = ["--model", run, "--input", output / "traced" / "scenes", "--output", output / "map.tif", "--polygons", "paddy_rice"]
    seconds["predict"] = _run("predict", *mapped)
    _write_reference(simulated, output / "reference.csv")
    reference = ["--reference", output / "reference.csv", "--reference_column", "crop", "--unsampled", "leave_out"]
    seconds["areas"] = _run("areas", "--map", output / "map.tif", *reference, "--output", output / "areas")
    _view(run)
    differences = {
        way: [100 * (one - other) for one, other in zip(scores[way], scores["raster"], strict=True)]
        for way in ("traced", "simplified")
    }
    rows = [[way, *(100 * score for score in found), 100 * mean(found)] for way, found in scores.items()]
    rows += [[f"{way} minus raster", *found, mean(found)] for way, found in differences.items()]
    print("\n" + tabulate(rows, ["mean F1 %, test blocks", *(f"seed {s}" for s in range(seeds)), "mean"], floatfmt=".2f"))
    return {
        "settings": {"side_px": side_px, "steps": steps, "seeds": seeds, "simplified_m": SIMPLIFIED_M},
        "mean_f1": scores,
        "points_of_difference": differences,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "pixels_of_the_label_that_differ": {way: _differing(output, way) for way in ("traced", "simplified")},
    }


def _run(command: str, *options: Any) -> float:
    """Run `agrifm COMMAND`; returns its seconds."""
    begin = time.monotonic()
    words = [PYTHON, "launch/agrifm.py", command, *map(str, options)]
    print(f"\n$ agrifm {' '.join(words[2:])}", flush=True)
    subprocess.run(words, cwd=ROOT, check=True)
    return time.monotonic() - begin


def _simulated(folder: Path, side_px: int) -> Path:
    """The folder of the simulated scene."""
    size = ["--sentinel2_px", side_px, "--landsat_px", -(-side_px // 48) * 16]
    _run("simulate", "--output", folder, "--regions", 1, "--sources", "sentinel2", "--seed", 11, *size)
    return find_scenes(folder)[0].folder  # type: ignore[return-value]


def _write_catalogue(simulated: Path, folder: Path) -> None:
    """The images of a scene as cloud-optimised GeoTIFFs, their items, and the area as a polygon."""
    if (folder / "area.geojson").exists():  # it is written last
        return
    scene = find_scenes(simulated)[0]
    with open_reader(scene, "sentinel2", load_sensors()) as reader:
        grid, dates = reader.grid, reader.dates
        for number in range(len(dates)):
            one = reader.read(0, 0, *grid.shape, slice(number, number + 1))
            whole = one.pixels.astype(np.uint16) + np.where(one.quality[:, None] > 0, OFFSET, 0).astype(np.uint16)
            write_cogs(folder, whole, one.quality, one.dates, grid.transform, grid.crs)
    items = sentinel2_items(COLLECTION, dates, grid.shape, transform=grid.transform, tile="49RGP", crs=grid.crs)
    write_items(folder / "items.json", items)
    box = shapely.box(*rasterio.transform.array_bounds(*grid.shape, grid.transform))
    geopandas.GeoDataFrame(geometry=[box], crs=grid.crs).to_crs("EPSG:4326").to_file(folder / "area.geojson")


def _write_task(path: Path) -> Path:
    """The task of a user: five crops, and the rest."""
    task = {
        "name": "crops",
        "title": "Crops",
        "label": LABEL,
        "sources": ["sentinel2"],
        "frames": 16,
        "season": ["01-01", "12-31"],
        "window_px": 64,
        "classes": [
            {"name": "other", "color": "#e9e2cf"},
            *({"name": name, "color": color, "labels": [name]} for name, color in CROPS.items()),
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(task, sort_keys=False))
    return path


def _with_raster(simulated: Path, folder: Path) -> None:
    """The simulated scene without its split, so that its ground is divided like that of the others."""
    target = folder / simulated.name
    if not target.exists():
        shutil.copytree(simulated, target)
    values = yaml.safe_load((target / SCENE_FILE).read_text())
    values.pop("split", None)
    (target / SCENE_FILE).write_text(yaml.safe_dump(values, sort_keys=False))


def _write_parcels(simulated: Path, folder: Path, simplified_m: float) -> None:
    """The label as a GeoPackage in degrees, with a labels.yaml for all scenes."""
    names = _names(simulated)
    codes, transform, crs = _codes(simulated)
    parcels, crops = [], []
    for outline, code in rasterio.features.shapes(codes, mask=codes > 0, transform=transform):
        if names[int(code)] != OUTSIDE:
            parcels.append(shapely.simplify(shapely.geometry.shape(outline), simplified_m))
            crops.append(names[int(code)])
    table = geopandas.GeoDataFrame({"crop": crops}, geometry=parcels, crs=crs).to_crs("EPSG:4326")
    table.to_file(folder / "parcels.gpkg")
    entry = {"vector": "parcels.gpkg", "column": "crop", "outside": OUTSIDE, "year": 2022}
    (folder / "labels.yaml").write_text(yaml.safe_dump({LABEL: entry}))


def _write_reference(simulated: Path, path: Path) -> None:
    """Points drawn at random over the landscape with the class that is true there."""
    names = _names(simulated)
    codes, transform, crs = _codes(simulated)
    at = np.random.default_rng(5).choice(np.flatnonzero(codes), REFERENCE_POINTS, replace=False)
    rows, cols = np.unravel_index(at, codes.shape)
    x, y = rasterio.transform.xy(transform, rows, cols)
    places = geopandas.GeoSeries(shapely.points(x, y), crs=crs).to_crs("EPSG:4326")
    classes = [names[int(code)] if names[int(code)] in CROPS else "other" for code in codes.flat[at]]
    lines = [f"{place.x},{place.y},{name}" for place, name in zip(places, classes, strict=True)]
    path.write_text("\n".join(["lon,lat,crop", *lines]) + "\n")


def _names(simulated: Path) -> dict[int, str]:
    """The class of each code of the label."""
    return dict(find_scenes(simulated)[0].labels[LABEL].classes)  # type: ignore[arg-type]


def _codes(simulated: Path) -> tuple[np.ndarray, Any, Any]:
    """The codes of the label, uint8 (H, W), their transform and CRS."""
    with rasterio.open(simulated / f"{LABEL}.tif") as raster:
        return raster.read(1), raster.transform, raster.crs


def _differing(output: Path, way: str) -> int:
    """Pixels whose class in the label that `labels` wrote differs from that of the raster label."""
    maps = [_names_of_pixels(next((output / name / "labels").glob("*.tif"))) for name in ("raster", way)]
    return int((maps[0] != maps[1]).sum())


def _names_of_pixels(path: Path) -> np.ndarray:
    """The class of each pixel of a label that `labels` wrote, text (H, W); "" where not labelled."""
    with rasterio.open(path) as raster:
        codes, tags = raster.read(1), raster.tags(1)
    names = np.full(256, "", dtype=object)
    for key, name in tags.items():
        if key.startswith("class_"):
            names[int(key.removeprefix("class_"))] = name
    return names[codes]


def _view(run: Path) -> None:
    """Start the web map of a run, fetch its page, and end it."""
    words = [PYTHON, "launch/agrifm.py", "view", str(run)]
    print(f"\n$ agrifm view {run}", flush=True)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        line = next(line for line in server.stdout if " at http" in line)
        address = line.split(" at ")[1].split()[0]
        with urllib.request.urlopen(address, timeout=60) as page:
            print(f"{line.strip()}: {len(page.read()):,} bytes")
        server.terminate()


if __name__ == "__main__":
    run_command(six_commands)
