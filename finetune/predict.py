"""Command: the map of a scene by a trained model.

    python finetune/predict.py --model runs/paddy_rice --input scenes/SCENE --output map.tif

The model predicts overlapping windows, and their class probabilities are blended (finetune/mapping/tiling.py). The map is made
block by block in constant memory. Finished blocks are kept in a folder `.map.tif.parts`: an interrupted command resumes from them
when it is started again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, NoReturn

from common.command_line import run_command
from common.hub import HubPath, ModelPath, commit_of
from common.run_lock import LOCK, RunLock
from common.storage import AnyPath
from finetune.device import pick_device
from finetune.mapping.cog import count_classes, probabilities_path
from finetune.mapping.model_series import note_other_scale, series_for_model
from finetune.mapping.polygons import check_class, write_polygons
from finetune.mapping.scene import MapOptions, predict_scene
from finetune.mapping.workers import Workers
from finetune.model.model_file import load_model, local_model
from finetune.report.map_figure import draw_map, preview_label
from finetune.task import Task


def predict(
    model: ModelPath,
    input: AnyPath,
    output: Path,
    overlap: float = 0.5,
    batch_size: int = 16,
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
    """Map a scene: a Cloud-Optimised GeoTIFF with class indices and, beside it, a PNG to look at.

    Args:
        model: folder that finetune/run.py wrote, its model.safetensors, or hf://OWNER/NAME[@REVISION] at Hugging Face's hub.
        input: a scene, the folder or URL with its scene.yaml.
        output: the GeoTIFF to write; the picture gets the same name with .png.
        overlap: share of a window that its neighbour covers too, 0 to 0.9.
        batch_size: windows per batch.
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
    if output.suffix.lower() not in (".tif", ".tiff"):
        raise ValueError(f"--output is {output}; the map is a GeoTIFF, give a name that ends in .tif")
    if workers < 1 or batch_size < 1:
        raise ValueError(f"--workers is {workers} and --batch_size {batch_size}; both must be at least 1")
    file = local_model(model)
    if isinstance(model, HubPath):
        print(f"{model}: commit {commit_of(file)}")
    mapper, recipe = load_model(file)
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
        note_other_scale(series, recipe)
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
