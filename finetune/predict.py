"""Command: the map of a scene, or of a region of many scenes, or the classes of the points of a table, by a trained model.

    python finetune/predict.py --model runs/paddy_rice --input scenes/SCENE --output map.tif
    python finetune/predict.py --model runs/paddy_rice --input scenes/ --mosaic.crs EPSG:3035 --mosaic.pixel_m 10 --output map.tif
    python finetune/predict.py --model runs/paddy_rice --input table.yaml --output predictions.parquet

The model predicts overlapping windows, and their class probabilities are blended (finetune/mapping/tiling.py). The map is made
block by block in constant memory. Finished blocks are kept in a folder `.map.tif.parts`, maps of finished scenes of a mosaic in
`.map.tif.scenes`: an interrupted command resumes from them when it is started again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NoReturn

from common.command_line import run_command
from common.exit_codes import INFRASTRUCTURE
from common.hub import HubPath, ModelPath, commit_of
from common.run_lock import LOCK, RunLock
from common.storage import AnyPath
from finetune.data.tables.table_data import TABLE_SUFFIXES
from finetune.device import pick_device
from finetune.mapping.model_series import with_map_window
from finetune.mapping.mosaic_grid import MosaicOptions
from finetune.mapping.outlines import PolygonOptions
from finetune.mapping.point_table import PointTablePredictor
from finetune.mapping.points import POINTS_PER_BATCH
from finetune.mapping.polygons import check_class
from finetune.mapping.region import SceneMapper
from finetune.mapping.scene import MapOptions
from finetune.mapping.scene_inputs import scene_folders, searched_folder
from finetune.mapping.workers import Workers
from finetune.model.model_file import load_model, local_model
from finetune.prediction import Prediction
from finetune.task import Task

RASTERS = (".tif", ".tiff", ".vrt")
WINDOWS_PER_BATCH = 16


def predict(
    model: ModelPath,
    output: Path,
    input: list[AnyPath] | None = None,
    search: Path | None = None,
    overlap: float = 0.5,
    batch_size: int | None = None,
    year: int | None = None,
    years: list[int] | None = None,
    device: str = "auto",
    probabilities: bool = False,
    polygons: PolygonOptions = PolygonOptions(),  # noqa: B008
    mosaic: MosaicOptions = MosaicOptions(),  # noqa: B008
    scene_maps: Path | None = None,
    workers: int = 1,
    engine: Literal["local", "dask"] = "local",
    scheduler: str | None = None,
    block_px: int | None = None,
    missing_sources: Literal["error", "allow"] | None = None,
    compositing: Literal["image", "pixel"] | None = None,
) -> int:
    """Map a scene or a region: a Cloud-Optimised GeoTIFF with class indices and a PNG to look at; or predict points of a table.

    Args:
        model: folder that finetune/run.py wrote, its model.safetensors, or hf://OWNER/NAME[@REVISION] at Hugging Face's hub.
        output: the GeoTIFF to write, of several scenes their mosaic; or a virtual raster .vrt over one GeoTIFF per scene; or a
            folder for one GeoTIFF per scene. The picture gets the same name with .png. Of a table a Parquet file, with the id,
            place, class and probabilities of each point.
        input: scenes, and folders of scenes: the folders or URLs with a scene.yaml, or that hold such folders; or the YAML that
            describes a table of points (table.yaml).
        search: YAML with options of data_prep/scenes.py, whose scenes are searched in a STAC catalogue and mapped. Without
            `output` in it they are written beside the map, to the folder NAME_scenes.
        overlap: share of a window that its neighbour covers too, 0 to 0.9.
        batch_size: windows per batch, by default 16; of a table points per batch, by default 1024.
        year: year in which the season ends; the default is that of the scene's label, if scene.yaml states it, or the one with
            most images.
        years: several such years, each with a map of its own: map_2019.tif, map_2020.tif.
        device: auto, cpu or cuda.
        probabilities: also write NAME_probabilities.tif, one band per class, stored number / 250.
        polygons: a class whose connected areas are also written as polygons, NAME_fields.parquet (GeoParquet, fiboa names).
        mosaic: grid of the mosaic of several scenes.
        scene_maps: folder that also keeps the map of each scene of a mosaic.
        workers: number of processes; if there are several, each computes with one thread.
        engine: local or dask, for several workers.
        scheduler: address of a running Dask cluster, or slurm to start one in SLURM jobs.
        block_px: side of the blocks in which the map is made, in pixels; the default is about eight windows.
        missing_sources: whether a scene may lack sources of the model, which are then replaced by zeros: error or allow. The
            default is the setting of the model's task.
        compositing: what the model sees of a period: image, its clearest image; or pixel, where clouds are filled from the other
            images. The default is the setting of the model's task, that of its training.
    """
    if any(path.suffix in TABLE_SUFFIXES and not path.is_dir() for path in input or []):
        for_maps = {
            "search": search is not None, "overlap": overlap != 0.5, "years": years is not None, "probabilities": probabilities,
            "polygons": polygons != PolygonOptions(), "mosaic": mosaic.is_given, "scene_maps": scene_maps is not None,
            "workers": workers != 1, "engine": engine != "local", "scheduler": scheduler is not None,
            "block_px": block_px is not None, "compositing": compositing is not None,
        }  # fmt: skip
        without_effect = [f"--{name}" for name, is_given in for_maps.items() if is_given]
        if without_effect:
            raise ValueError(f"{', '.join(without_effect)}: for maps of scenes only, and --input is a table")
        if input is None or len(input) > 1:
            raise ValueError(f"--input is {list(map(str, input or []))}; give one table, or scenes")
        batch_size = POINTS_PER_BATCH if batch_size is None else batch_size
        return predict_table(_local_file(model), input[0], output, batch_size, year, device, missing_sources)
    batch_size = WINDOWS_PER_BATCH if batch_size is None else batch_size
    _check(output, input, search, year, years, polygons, workers, batch_size)
    file = _local_file(model)
    mapper, recipe = load_model(file)
    recipe = with_map_window(recipe)
    torch_device = pick_device(device)
    options = MapOptions(overlap=overlap, batch_size=batch_size, block_px=block_px, probabilities=probabilities)
    _check_classes(polygons, recipe.task)
    task = replace(
        recipe.task,
        missing_sources=missing_sources or recipe.task.missing_sources,
        compositing=compositing or recipe.task.compositing,
    )
    recipe = replace(recipe, task=task)
    if search is not None:
        input = [searched_folder(search, output.with_name(f"{output.stem}_scenes"))]
    folders = scene_folders(input or [])
    in_processes = workers > 1 or scheduler is not None or engine == "dask"
    processes = Workers(count=workers, engine=engine, scheduler=scheduler, model=file) if in_processes else None
    prediction = Prediction(
        mapper=SceneMapper(model=mapper.to(torch_device), recipe=recipe, device=torch_device, options=options, workers=processes),
        mosaic=mosaic,
        polygons=polygons,
        scene_maps=scene_maps,
    )
    is_region = len(folders) > 1 or output.suffix.lower() not in (".tif", ".tiff") or mosaic.is_given or scene_maps is not None
    map_one = prediction.map_region if is_region else lambda folders, *rest: prediction.map_scene(folders[0], *rest)
    codes = []
    of_years: Sequence[int | None] = years or [year]
    for one in of_years:
        suffix = f"_{one}" if years else ""
        is_raster = output.suffix.lower() in RASTERS
        of_year = output.with_name(f"{output.stem}{suffix}{output.suffix}") if is_raster else output
        codes.append(map_one(folders, of_year, one, suffix))
    return INFRASTRUCTURE if INFRASTRUCTURE in codes else max(codes)


def _local_file(model: Path | HubPath) -> Path:
    """The file of a model; says which commit of the hub it is."""
    file = local_model(model)
    if isinstance(model, HubPath):
        print(f"{model}: commit {commit_of(file)}")
    return file


def predict_table(
    model: Path,
    input: AnyPath,
    output: Path,
    batch_size: int,
    year: int | None,
    device: str,
    missing_sources: Literal["error", "allow"] | None,
) -> int:
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
    return 0


def _check(
    output: Path,
    input: Sequence[AnyPath] | None,
    search: Path | None,
    year: int | None,
    years: Sequence[int] | None,
    polygons: PolygonOptions,
    workers: int,
    batch_size: int,
) -> None:
    """Raises ValueError for options that contradict each other, or are out of range."""
    is_folder = not output.suffix or output.is_dir()
    if output.suffix.lower() not in RASTERS and not is_folder:
        raise ValueError(
            f"--output is {output}; the map is a GeoTIFF, give a name that ends in .tif; or in .vrt for a virtual raster; or a "
            "folder for one map per scene"
        )
    if bool(input) == (search is not None):
        raise ValueError("what to map? give either --input with scenes or folders of scenes, or --search with a search")
    if years is not None and (year is not None or len(set(years)) != len(years) or not years):
        raise ValueError(f"--years is {list(years)} and --year {year}; give one year, or several different ones")
    if polygons.class_name is None and polygons != PolygonOptions():
        raise ValueError("options of polygons need a class: --polygons CLASS")
    if polygons.class_name is not None and output.suffix.lower() not in RASTERS:
        raise ValueError(
            "polygons of one map per scene would be cut at the edges of the scenes: give a .tif or .vrt as --output, or make "
            "them from each map with finetune/fields.py"
        )
    if workers < 1 or batch_size < 1:
        raise ValueError(f"--workers is {workers} and --batch_size {batch_size}; both must be at least 1")


def _check_classes(polygons: PolygonOptions, task: Task) -> None:
    """Raises ValueError unless the classes of polygons are those of the task."""
    if polygons.class_name is not None:
        names = [c.name for c in task.classes]
        check_class(polygons.class_name, names)
        polygons.check_boundary(polygons.class_name, names)


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(predict)


if __name__ == "__main__":
    main()
