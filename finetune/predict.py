"""Command: the map of a scene, or the classes of the points of a table, by a trained model.

    python finetune/predict.py --model runs/paddy_rice --input scenes/SCENE --output map.tif
    python finetune/predict.py --model runs/paddy_rice --input table.yaml --output predictions.parquet

The model predicts overlapping windows, and their class probabilities are blended (finetune/mapping/tiling.py). The map is made
block by block in constant memory. Finished blocks are kept in a folder `.map.tif.parts`: an interrupted command resumes from them
when it is started again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, NoReturn

from common.command_line import run_command
from common.hub import ModelPath
from common.run_lock import LOCK, RunLock
from common.storage import AnyPath
from finetune.data.tables.table_data import TABLE_SUFFIXES
from finetune.device import pick_device
from finetune.mapping.cog import count_classes, probabilities_path
from finetune.mapping.model_series import note_other_scale, series_for_model, with_map_window
from finetune.mapping.point_table import PointTablePredictor
from finetune.mapping.points import POINTS_PER_BATCH
from finetune.mapping.polygons import check_class, write_polygons
from finetune.mapping.scene import MapOptions, predict_scene
from finetune.mapping.workers import Workers
from finetune.model.model_file import load_model, local_model
from finetune.report.map_figure import draw_map, preview_label
from finetune.task import Task

WINDOWS_PER_BATCH = 16


def predict(
    model: ModelPath,
    input: AnyPath,
    output: Path,
    overlap: float = 0.5,
    batch_size: int | None = None,
    year: int | None = None,
    device: str = "auto",
    probabilities: bool = False,
    polygons: str | None = None,
    workers: int = 1,
    engine: Literal["local", "dask"] = "local",
    scheduler: str | None = None,
    block_px: int | None = None,
    missing_sources: Literal["error", "allow"] | None = None,
) -> None:
    """Map a scene, as a Cloud-Optimised GeoTIFF with class indices and a PNG to look at, or predict the points of a table.

    Args:
        model: folder that finetune/run.py wrote, its model.safetensors, or hf://OWNER/NAME[@REVISION] at Hugging Face's hub.
        input: a scene, the folder or URL with its scene.yaml; or the YAML that describes a table of points (table.yaml).
        output: the GeoTIFF to write; the picture gets the same name with .png. Of a table a Parquet file, with the id, place,
            class and probabilities of each point.
        overlap: share of a window that its neighbour covers too, 0 to 0.9.
        batch_size: windows per batch, by default 16; of a table points per batch, by default 1024.
        year: year in which the season ends; the default is that of the scene's label, if scene.yaml states it, or the one with
            most images.
        device: auto, cpu or cuda.
        probabilities: also write NAME_probabilities.tif, one band per class, stored number / 250.
        polygons: a class whose connected areas are also written as polygons, NAME_fields.parquet (GeoParquet, fiboa names).
        workers: number of processes; if there are several, each computes with one thread.
        engine: local or dask, for several workers.
        scheduler: address of a running Dask cluster, or slurm to start one in SLURM jobs.
        block_px: side of the blocks in which the map is made, in pixels; the default is about eight windows.
        missing_sources: whether a scene may lack sources of the model, which are then replaced by zeros: error or allow. The
            default is the setting of the model's task.
    """
    if input.suffix in TABLE_SUFFIXES and not input.is_dir():
        for_maps = {
            "overlap": overlap != 0.5, "probabilities": probabilities, "polygons": polygons is not None, "workers": workers != 1,
            "engine": engine != "local", "scheduler": scheduler is not None, "block_px": block_px is not None,
        }  # fmt: skip
        without_effect = [f"--{name}" for name, is_given in for_maps.items() if is_given]
        if without_effect:
            raise ValueError(f"{', '.join(without_effect)}: for maps of scenes only, and --input {input} is a table")
        batch_size = POINTS_PER_BATCH if batch_size is None else batch_size
        predict_table(local_model(model), input, output, batch_size, year, device, missing_sources)
        return
    batch_size = WINDOWS_PER_BATCH if batch_size is None else batch_size
    if output.suffix.lower() not in (".tif", ".tiff"):
        raise ValueError(f"--output is {output}; the map is a GeoTIFF, give a name that ends in .tif")
    if workers < 1 or batch_size < 1:
        raise ValueError(f"--workers is {workers} and --batch_size {batch_size}; both must be at least 1")
    file = local_model(model)
    mapper, recipe = load_model(file)
    recipe = with_map_window(recipe)
    torch_device = pick_device(device)
    options = MapOptions(overlap=overlap, batch_size=batch_size, block_px=block_px, probabilities=probabilities)
    if polygons is not None:
        check_class(polygons, [c.name for c in recipe.task.classes])
    if missing_sources is not None:
        recipe = replace(recipe, task=replace(recipe.task, missing_sources=missing_sources))
    series = series_for_model(recipe, input, year)
    series.check_window(recipe.task.window_px)
    label = preview_label(series)
    in_processes = workers > 1 or scheduler is not None or engine == "dask"
    processes = Workers(count=workers, engine=engine, scheduler=scheduler, model=file) if in_processes else None
    written = [output, output.with_suffix(".png")]
    with RunLock(output.with_name(f".{output.name}{LOCK}"), output) as lock, series:
        lock.acquire()
        note_other_scale(series, recipe.normalization, recipe.task.window_px)
        predict_scene(mapper.to(torch_device), recipe, series, output, torch_device, options, processes, lock.check)
        draw_map(written[1], recipe.task, series, output, label)
        if probabilities:
            written.append(probabilities_path(output))
        if polygons is not None:
            written.append(output.with_name(f"{output.stem}_fields.parquet"))
            write_polygons(output, polygons, written[-1])
    height, width = series.grid.shape
    shares = _class_shares(output, recipe.task)
    print(f"{height} x {width} px; season ending {series.year}; {shares}; {', '.join(map(str, written))}")


def predict_table(
    model: Path,
    input: AnyPath,
    output: Path,
    batch_size: int,
    year: int | None,
    device: str,
    missing_sources: Literal["error", "allow"] | None,
) -> None:
    """Predict the points of a table; the arguments are those of `predict`."""
    if output.suffix.lower() != ".parquet":
        raise ValueError(f"--output is {output}; predictions of a table are Parquet, give a name that ends in .parquet")
    if batch_size < 1:
        raise ValueError(f"--batch_size is {batch_size}; it must be at least 1")
    mapper, recipe = load_model(model)
    if missing_sources is not None:
        recipe = replace(recipe, task=replace(recipe.task, missing_sources=missing_sources))
    torch_device = pick_device(device)
    predictor = PointTablePredictor(mapper.to(torch_device), recipe, input, torch_device, year, batch_size)
    with RunLock(output.with_name(f".{output.name}{LOCK}"), output) as lock:
        lock.acquire()
        counts = predictor.write(output, lock.check)
    shares = ", ".join(f"{name} {100 * count / sum(counts.values()):.1f} %" for name, count in counts.items())
    print(f"{sum(counts.values())} points; {shares}; {output}")


def _class_shares(path: Path, task: Task) -> str:
    """Shares of the classes in a map, and of no data, for people."""
    counts = count_classes(path, len(task.classes))
    with_data = max(counts[:-1].sum(), 1)
    shares = ", ".join(f"{c.name} {100 * n / with_data:.1f} %" for c, n in zip(task.classes, counts[:-1], strict=True))
    return f"{shares}; no data {100 * counts[-1] / counts.sum():.1f} %"


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(predict)


if __name__ == "__main__":
    main()
