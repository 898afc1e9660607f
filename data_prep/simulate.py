"""Command: simulate scenes in the containers of real archives, for demonstrations and tests."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NoReturn

from tabulate import tabulate
from tqdm import tqdm

from common.command_line import run_command
from common.executors import map_local
from data_prep.simulation.map_errors import load_map_errors
from data_prep.simulation.preview import write_preview
from data_prep.simulation.scene_folder import is_finished, write_scene_folder
from data_prep.simulation.scene_settings import DEFAULT_MAP_ERRORS, SOURCES, SceneSettings, World


def simulate(
    output: Path,
    seed: int = 0,
    regions: int = 7,
    years: list[int] = [2022],  # noqa: B006  (a list, so that --help shows it; nothing changes it)
    landsat_px: int = 384,
    sentinel2_px: int = 384,
    modis_days: int = 4,
    sources: list[str] = list(SOURCES),  # noqa: B006
    world: World = "plain",
    map_errors: str | None = None,
    workers: int = 2,
    preview: bool = False,
) -> None:
    """Simulate scenes: Sentinel-2, Landsat and MODIS series with land cover and labels (data_prep/simulation/label_maps.py).

    An interrupted run resumes when it is started again with the same arguments.

    Args:
        output: Folder of the scenes; it is created when it does not exist.
        seed: Seed of all random numbers; the same seed gives the same bytes.
        regions: Number of regions. The first seven differ in land and climate: five for training, one for validation, one for
            test. Further ones are other landscapes in the same seven climates, all for training. The world `context` has fifteen
            climates, five for each split.
        years: Calendar years; each region gets one scene per year.
        landsat_px: Side of a region in Landsat pixels of 30 m, a multiple of 16.
        sentinel2_px: Side of the Sentinel-2 tile in its centre in pixels of 10 m, a multiple of 6.
        modis_days: Days between MODIS composites.
        sources: Sources that are simulated, of sentinel2, landsat and modis; labels on the grids of others are left out, too.
        world: World of the regions: plain, or context, invented regions with classes that differ in pattern and outline but not
            in their pixels (orchards, plantations, greenhouses, fish ponds, irrigated fields), 4 to 6 clear Sentinel-2 dates a
            year, and calendars that are shifted by region and year by up to 30 days.
        map_errors: Errors of the land-cover map: none, typical (data_prep/simulation/map_errors.yaml) or a YAML file like it;
            default: typical in the world `context`, none in the other. Labels are always true.
        workers: Number of processes.
        preview: Also draw SCENE/preview.png with images, maps and NDVI of each scene.
    """
    if regions < 1 or workers < 1 or not years or len(set(years)) < len(years):
        raise ValueError(f"need at least 1 region, 1 worker and distinct years; got {regions}, {workers} and {years}")
    errors = load_map_errors(map_errors or DEFAULT_MAP_ERRORS[world])
    jobs = [
        SceneSettings(
            location=location,
            year=year,
            seed=seed,
            landsat_px=landsat_px,
            sentinel2_px=sentinel2_px,
            modis_days=modis_days,
            world=world,
            sources=tuple(sources),
            map_errors=errors,
        )
        for location in range(regions)
        for year in years
    ]
    for settings in jobs:  # raises for a conflict before the first scene is made
        is_finished(output / settings.name, settings)
    output.mkdir(parents=True, exist_ok=True)
    scenes = map_local(partial(write_scene_folder, output=output), jobs, workers)
    rows = {settings.name: row for settings, row in tqdm(scenes, desc="simulating", unit="scene", total=len(jobs))}
    if preview:
        for settings in tqdm(jobs, desc="drawing", unit="scene"):
            write_preview(output / settings.name)
    print(tabulate([rows[settings.name] for settings in jobs], headers="keys"))
    print(f"{len(jobs)} scenes in {output}")


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(simulate)


if __name__ == "__main__":
    main()
