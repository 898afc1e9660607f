"""Command: a map of a scene from a trained model.

    python finetune/predict.py --model runs/paddy_rice --input scenes/SCENE --output map.tif

The scene is read in windows that overlap, their class probabilities are blended (finetune/mapping/tiling.py), and the map is made
block by block in constant memory. Finished blocks wait in a folder `.map.tif.parts`: a command that was stopped goes on from
there when it is started again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xxhash
from torch import nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.command_line import run_command
from common.executors import open_executor
from finetune.data.scene_series import SceneSeries
from finetune.fields import check_class, write_fields
from finetune.mapping.blocks import BlockJob, open_series, predict_block, predict_in_worker
from finetune.mapping.cog import count_classes, write_classes, write_probabilities
from finetune.mapping.finished_blocks import FinishedBlocks
from finetune.mapping.tiling import Block, Mosaic, default_block
from finetune.model.crop_mapper import Recipe, load_model
from finetune.report.map_figure import draw, label_beside


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Processes that predict blocks.

    Attributes:
        count: how many.
        engine: see common/executors.py.
        scheduler: address of a running Dask cluster, or `slurm`.
        model: file or folder from which each process loads the model.
    """

    count: int
    engine: Literal["local", "dask"] = "local"
    scheduler: str | None = None
    model: Path


def predict(
    model: Path,
    input: Path,
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
        model: folder that finetune/run.py wrote, or its model.safetensors.
        input: a scene, the folder with its scene.yaml.
        output: the GeoTIFF to write; the picture gets the same name with .png.
        overlap: share of a window that its neighbour covers too, 0 to 0.9.
        batch_size: windows at a time.
        year: year in which the season ends; the default takes the one with most images.
        device: auto, cpu or cuda.
        probabilities: also write NAME_probabilities.tif, a band a class, stored number / 250.
        polygons: a class whose connected areas are also written as polygons, NAME_fields.parquet (GeoParquet, fiboa names).
        workers: processes; more than one compute with one thread each.
        engine: local or dask, for several workers.
        scheduler: address of a running Dask cluster, or slurm for one of SLURM jobs.
        block_px: side of the blocks in which the map is made; the default takes some eight windows.
        missing_sources: whether a scene may lack sources of the model (zeros stand for them) instead of as the task says: error
            or allow.
    """
    if output.suffix.lower() not in (".tif", ".tiff"):
        raise ValueError(f"--output is {output}; the map is a GeoTIFF, give a name that ends in .tif")
    if workers < 1 or batch_size < 1:
        raise ValueError(f"--workers is {workers} and --batch_size {batch_size}; both must be at least 1")
    mapper, recipe = load_model(model)
    place = pick_device(device)
    check_overlap(overlap)
    if polygons is not None:
        check_class(polygons, [c.name for c in recipe.task.classes])
    if missing_sources is not None:
        recipe = replace(recipe, task=replace(recipe.task, missing_sources=missing_sources))
    series = open_series(recipe, input, year)
    series.check_window(recipe.task.window_px)
    label = label_beside(series)
    several = workers > 1 or scheduler is not None or engine == "dask"
    processes = Workers(count=workers, engine=engine, scheduler=scheduler, model=model) if several else None
    written = [output, output.with_suffix(".png")]
    with series:
        output.parent.mkdir(parents=True, exist_ok=True)
        predict_scene(
            mapper.to(place), recipe, series, output, place, overlap, batch_size,
            block_px=block_px, probabilities=probabilities, workers=processes,
        )  # fmt: skip
        draw(written[1], recipe.task, series, output, label)
    if probabilities:
        written.append(probabilities_beside(output))
    if polygons is not None:
        written.append(output.with_name(f"{output.stem}_fields.parquet"))
        write_fields(output, polygons, written[-1])
    counts = count_classes(output, len(recipe.task.classes))
    known, total = max(counts[:-1].sum(), 1), counts.sum()
    shares = ", ".join(f"{c.name} {100 * n / known:.1f} %" for c, n in zip(recipe.task.classes, counts[:-1], strict=True))
    height, width = series.grid.shape
    print(f"{height} x {width} px; {shares}; no data {100 * counts[-1] / total:.1f} %; {', '.join(map(str, written))}")


def predict_scene(
    model: nn.Module,
    recipe: Recipe,
    series: SceneSeries,
    output: Path,
    device: torch.device,
    overlap: float = 0.5,
    batch_size: int = 16,
    *,
    block_px: int | None = None,
    probabilities: bool = False,
    workers: Workers | None = None,
) -> None:
    """Write the map of one scene as COG: class indices uint8, `NO_DATA` where the finest source was never clear.

    Memory does not grow with the scene: a block's sums, and what `SceneSeries.windows` reads together. The files appear under
    their names when they are whole; until then finished blocks wait in a folder beside `output`, and the same call goes on.

    Args:
        model: the model, in `device`'s memory.
        recipe: what `load_model` gives with it.
        series: the scene, open.
        output: the GeoTIFF; probabilities get the name `probabilities_beside`.
        device: where to compute.
        overlap: share of a window that its neighbour covers too.
        batch_size: windows at a time.
        block_px: side of a block; None takes `default_block`.
        probabilities: also write probabilities.
        workers: processes that predict; None predicts here.
    """
    task, size = recipe.task, recipe.task.window_px
    series.check_window(size)
    # Windows must begin on whole pixels of every source.
    stride = max(series.step, round(size * (1 - overlap)) // series.step * series.step)
    height, width = series.grid.shape
    side = default_block(size) if block_px is None else block_px
    mosaic = Mosaic(height=height, width=width, window=size, stride=stride, step=series.step, block=side)
    model.eval()
    finished = FinishedBlocks(output, plan_of(model, recipe, series, mosaic, device, batch_size, probabilities))
    blocks = mosaic.blocks
    todo = [number for number in range(len(blocks)) if number not in finished]
    windows = [mosaic.num_windows(block) for block in blocks]
    done = sum(windows) - sum(windows[number] for number in todo)
    if done:
        print(f"{series.scene.name}: {len(blocks) - len(todo)} of {len(blocks)} blocks are there, going on")
    try:
        with tqdm(total=sum(windows), initial=done, desc=f"mapping {series.scene.name}", unit="window") as bar:
            if workers is None:
                for number in todo:
                    block = blocks[number]
                    finished.write(
                        number,
                        predict_block(model, recipe, series, mosaic, block, device, batch_size, probabilities, bar.update),
                    )
            else:
                job = BlockJob(
                    model=workers.model.resolve(), scene=series.scene.folder.resolve(), year=series.year, device=device.type,
                    missing_sources=task.missing_sources, mosaic=mosaic, batch_size=batch_size, probabilities=probabilities,
                )  # fmt: skip
                with open_executor(workers.engine, workers.count, workers.scheduler) as map_jobs:
                    for number, arrays in map_jobs(partial(predict_in_worker, job), todo):
                        finished.write(number, arrays)
                        bar.update(windows[number])

        def of(name: str) -> Iterator[tuple[Block, np.ndarray]]:
            return ((block, finished.read(number)[name]) for number, block in enumerate(blocks))

        tags = {"task": task.name, "scene": series.scene.name, "year": series.year, "last_image": last_image(series)}
        if probabilities:
            write_probabilities(probabilities_beside(output), finished.folder, series.grid, task, of("probabilities"), tags)
        write_classes(output, finished.folder, series.grid, task, of("classes"), tags)
        finished.remove()
    except BaseException:
        finished.remove_if_empty()
        raise


def plan_of(
    model: nn.Module,
    recipe: Recipe,
    series: SceneSeries,
    mosaic: Mosaic,
    device: torch.device,
    batch_size: int,
    probabilities: bool,
) -> dict[str, Any]:
    """Everything the blocks of a map depend on, as plain values: equal plans give equal blocks.

    The scene counts by its description, its grids and its dates: to read all its pixels twice would cost too much.
    """
    digest = xxhash.xxh3_128(type(model).__qualname__.encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    scene = {
        "name": series.scene.name,
        "folder": str(series.scene.folder.resolve()),
        "sources": repr({source: series.scene.sources[source] for source in series.sources}),
        "grid": repr(series.grid),
        "grids": repr(series.grids),
        "dates": {source: repr((s.length, s.days.tolist(), s.times.tolist())) for source, s in series.seasons.items()},
    }
    return {
        "format": 1,
        "weights": digest.hexdigest(),
        "recipe": repr(recipe),
        "scene": scene,
        "mosaic": asdict(mosaic),
        "device": device.type,
        "batch_size": batch_size,
        "probabilities": probabilities,
    }


def last_image(series: SceneSeries) -> str:
    """Date YYYY-MM-DD of the season's last image of any source. Only while the series is open."""
    seasons = series.seasons.items()
    return str(max(series.readers[source].dates[season.times].max() for source, season in seasons if len(season.times)))


def probabilities_beside(output: Path) -> Path:
    """The name of the probabilities of a map."""
    return output.with_name(f"{output.stem}_probabilities.tif")


def check_overlap(overlap: float) -> None:
    """Raises ValueError unless 0 <= overlap <= 0.9."""
    if not 0 <= overlap <= 0.9:
        raise ValueError(f"--overlap is {overlap}; expected a share from 0 to 0.9")


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises ValueError for another name or when CUDA is asked for and missing."""
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device is {name!r}; expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this torch finds no CUDA device")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    run_command(predict)
