"""What pretraining gives on real series with labels: MODIS points of Brazil, and a Sentinel-2 patch in Belgium.

    python tests/bench/table_real_series.py --data real/ --output real_table/ --sentinel2_checkpoint runs/map

`--data` holds `modis_brazil.npz`, the points of the R packages sits and in-situ as arrays x (N, 23, bands), bands, lon, lat,
label and source, and the patch of the WorldCereal test resources as `*S2_L2A_10m*.nc`, `*S2_L2A_20m*.nc`, `*OUTPUT_POLY*.nc`.
The project does not hold these files.

MODIS: pretrained on the points of all sources but one, with their labels as land cover; fine-tuned to the crops of the source
that was left out. A series is a window of one pixel, so nothing but time can help, and every encoder sees the numbers of the
forest. The splits are by blocks of a tenth of a degree.

Sentinel-2: the patch of 64 x 64 pixels is four windows: one for training, one for validation, two for test. The encoder is one
that was pretrained elsewhere. So few pixels show whether real files go through, and a direction.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2])]

import h5py  # noqa: E402
import numpy as np  # noqa: E402
import yaml  # noqa: E402

from common.command_line import run_command  # noqa: E402
from data_prep.archive.scene import SCENE_FILE  # noqa: E402
from data_prep.archive.sensor import load_sensors  # noqa: E402
from data_prep.readers.file_metadata import decode_days, text  # noqa: E402
from finetune.data.hdf5_samples import LISTS  # noqa: E402
from launch.steps import PYTHON, pretraining, run_steps  # noqa: E402

LEFT_OUT = "Ieda-Agriculture-input-points-acquisition.rds"  # Campo Verde, Mato Grosso
FEWEST = 10  # points of a class in each split
SHARES = (0.01, 0.05, 0.1, 1.0)
COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
STEPS = {"pretraining": 600, "fine-tuning": 300}
MODIS = {
    "name": "mod13q1",
    "title": "MODIS MOD13Q1",
    "gsd_m": 231.65635,
    "revisit_days": 16,
    "dtype": "int16",
    "scale": 0.0001,
    "nodata": -32768,
    "valid_range": [-10000, 20000],
    "chip_px": 1,
    "quality": {"name": "summary", "kind": "classes", "valid": [0], "nodata": 255},
}


def table_real_series(data: Path, output: Path, sentinel2_checkpoint: Path | None = None, seeds: int = 5, jobs: int = 2) -> None:
    """Lay the series out, pretrain, and compare.

    Args:
        data: folder of the files.
        output: folder of everything that is made.
        sentinel2_checkpoint: pretrained encoder of Sentinel-2; default: the patch is left out.
        seeds: draws of labelled windows.
        jobs: runs at a time.
    """
    _lay_out_points(data / "modis_brazil.npz", output)
    corpus, run = output / "corpus", output / "pretraining"
    shard = [PYTHON, "data_prep/shard.py", "--input", output / "scenes", "--output", corpus, "--workers", jobs]
    options = ["--num_steps", STEPS["pretraining"], "--validate_every", 200, "--save_every", 200, "--log_every", 50]
    options += ["--stream.num_frames", 23, "--stream.global_batch_size", 128, "--stream.num_workers", 0]
    run_steps(
        [
            ("shard the points", [*map(str, shard), "--min_frames", "23"]),
            ("pretrain on the points", pretraining("pretrain/configs/tiny.yaml", corpus, run, *map(str, options))),
            ("compare: MODIS", _comparing(output / "points", output / "modis", run, SHARES, 32, seeds, jobs)),
        ]
    )
    if sentinel2_checkpoint is not None:
        _lay_out_patch(data, output / "patch")
        command = _comparing(output / "patch", output / "sentinel2", sentinel2_checkpoint, (1.0,), 1, seeds, jobs)
        run_steps([("compare: Sentinel-2", command)])


def _comparing(
    data: Path, output: Path, checkpoint: Path, shares: tuple[float, ...], batch_size: int, seeds: int, jobs: int
) -> list[str]:
    """The command that compares encoders on samples in the published layout; their task lies beside them."""
    command = ["finetune/compare.py", "--tasks", data / "task.yaml", "--data", data, "--output", output]
    command += ["--checkpoint", checkpoint, "--encoders", "pretrained", "scratch", "unet", "temporal_cnn", "random_forest"]
    command += ["--label_fraction", *shares, "--seeds", seeds, "--jobs", jobs, "--run.maps", "false", "--run.overlap", 0]
    command += ["--run.training.steps", STEPS["fine-tuning"], "--run.training.batch_size", batch_size]
    command += ["--run.training.epochs", 10]
    return [PYTHON, *map(str, command)]


def _lay_out_points(path: Path, output: Path) -> None:
    """Write the points: those for pretraining as two scenes of HDF5 samples, the others in the published layout, with a task."""
    if (output / "points" / "task.yaml").exists():  # it is written last
        return
    with np.load(path) as arrays:
        x, label, origin = (arrays[name] for name in ("x", "label", "source"))
        blocks = np.floor(np.stack([arrays["lon"], arrays["lat"]]) * 10).astype(int).T
        bands = arrays["bands"].tolist()
    stored = np.rint(x.transpose(0, 2, 1)[..., None, None].swapaxes(1, 2) * 10_000).astype(np.int16)  # (N, T, C, 1, 1)
    part = _parts(blocks)
    sensor = MODIS | {"bands": bands, "rgb": [b for b in bands if b in ("red", "nir", "blue")]}
    for folder in ("scenes", "points"):
        _write_yaml(output / folder / "sources" / "mod13q1.yaml", sensor)

    others = np.flatnonzero(origin != LEFT_OUT)
    names, codes = np.unique(label[others], return_inverse=True)
    legend = {
        "name": "points",
        "title": "Labels of the points",
        "fill": [0],
        "classes": {str(name): {"color": COLORS[number % len(COLORS)]} for number, name in enumerate(names)},
        "codes": {number: {"name": str(name), "group": str(name)} for number, name in enumerate(names, 1)},
    }
    for split, chosen in (("train", part[others] > 0), ("validation", part[others] == 0)):
        scene = output / "scenes" / split
        # A year of these series begins in September or earlier. Samples are cut by calendar years, and the model does not see
        # dates, so all series begin on the first of January.
        source = {"container": "hdf5_sample", "path": "samples", "dates": {"start": "2001-01-01", "every_days": 16}}
        values = {"name": split, "region": split, "split": split, "sources": {"mod13q1": source}}
        _write_yaml(scene / "legend.yaml", legend)
        _write_yaml(scene / SCENE_FILE, values | {"land_cover": {"label": "label", "legend": "legend.yaml"}})
        for i in np.flatnonzero(chosen):
            _write_sample(scene / "samples" / f"p{others[i]:05d}.h5", "mod13q1", stored[others[i]], codes[[[i]]] + 1)

    mine = np.flatnonzero(origin == LEFT_OUT)
    split = np.array(["validation", "train", "train", "test", "test"])[part]
    held = {name: Counter(label[mine][split[mine] == name].tolist()) for name in ("train", "validation", "test")}
    classes = sorted(name for name in held["train"] if min(counts[name] for counts in held.values()) >= FEWEST)
    used = mine[np.isin(label[mine], classes)]
    for i in used:
        number = np.array([[classes.index(label[i])]])
        _write_sample(output / "points" / "h5_samples" / f"p{i:05d}.h5", "mod13q1", stored[i], number)
    for name, file in LISTS.items():
        (output / "points" / file).write_text("".join(f"p{i:05d}\n" for i in used[split[used] == name]))
    task = {"name": "campo_verde", "title": "Crops of Campo Verde", "sources": ["mod13q1"], "frames": x.shape[1]}
    _write_task(output / "points", task | {"season": ["09-01", "08-31"], "window_px": 1}, classes)


def _parts(blocks: np.ndarray) -> np.ndarray:
    """For integer blocks (N, 2) a number from 0 to 4, the same for all points of a block."""
    _, block = np.unique(blocks, axis=0, return_inverse=True)
    return np.random.default_rng(0).permutation(block.max() + 1)[block.ravel()] % 5


def _lay_out_patch(data: Path, folder: Path) -> None:
    """Write the quarters of the patch in the published layout, with a task: the two crop types that cover most of it."""
    if (folder / "task.yaml").exists():
        return
    sensor = load_sensors()["sentinel2"]
    fine, coarse, labels = (next(data.glob(pattern)) for pattern in ("*S2_L2A_10m*.nc", "*S2_L2A_20m*.nc", "*OUTPUT_POLY*.nc"))
    with h5py.File(fine) as file10, h5py.File(coarse) as file20, h5py.File(labels) as label_file:
        axis = file10["timestamp"]
        dates = decode_days(axis[()], axis.attrs, str(fine))
        planes = [file10[band][()] if band in file10 else _twice(file20[band][()]) for band in sensor.bands]
        pixels, quality, codes = np.stack(planes, axis=1), _twice(file20["SCL"][()]), label_file["CT"][()]
        assert text(label_file["CT"].attrs["crs"]) == text(file10["B02"].attrs["crs"])
    valid = sensor.valid(pixels, quality)
    labelled = [code for code, _ in Counter(codes[codes > 0].tolist()).most_common(2)]
    for number, name in enumerate(("validation", "train", "test_0", "test_1")):
        window = np.s_[32 * (number // 2) : 32 * (number // 2) + 32, 32 * (number % 2) : 32 * (number % 2) + 32]
        label = np.full((32, 32), -1)
        for index, code in enumerate(labelled):
            label[codes[window] == code] = index
        path = folder / "h5_samples" / f"{name}.h5"
        _write_sample(path, "sentinel2", pixels[(..., *window)], label)
        with h5py.File(path, "a") as file:
            file["valid/sentinel2"], file["dates/sentinel2"] = valid[(..., *window)], dates.astype(int)
    for name, file in LISTS.items():
        (folder / file).write_text("test_0\ntest_1\n" if name == "test" else f"{name}\n")
    task = {"name": "belgium", "title": "Two crop types in Belgium", "sources": ["sentinel2"], "frames": 12, "window_px": 32}
    _write_task(folder, task | {"season": ["01-01", "11-30"]}, [f"code {code}" for code in labelled])


def _twice(pixels: np.ndarray) -> np.ndarray:
    """(T, H, W) -> (T, 2 H, 2 W), each pixel repeated."""
    return pixels.repeat(2, axis=-2).repeat(2, axis=-1)


def _write_sample(path: Path, source: str, pixels: np.ndarray, label: np.ndarray) -> None:
    """A sample in the published layout: pixels (T, C, H, W), label (H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file[source], file["label"] = pixels, label.astype(np.int16)


def _write_task(folder: Path, values: dict[str, Any], classes: list[str]) -> None:
    described = [{"name": name, "color": COLORS[i % len(COLORS)], "labels": [name]} for i, name in enumerate(classes)]
    _write_yaml(folder / "task.yaml", values | {"label": "label", "loss": "balanced_cross_entropy", "classes": described})


def _write_yaml(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False))


if __name__ == "__main__":
    run_command(table_real_series)
