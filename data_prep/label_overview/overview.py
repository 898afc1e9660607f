"""Writes and draws the labels of all scenes of an archive, and counts them."""

from __future__ import annotations

from collections.abc import Mapping

from data_prep.archive.scene import Scene, find_scenes, home_of_scenes
from data_prep.archive.sensor import Sensor, load_sensors
from data_prep.label_overview.label_figure import draw_label
from data_prep.label_overview.label_maps import LabelMap, label_maps, write_label
from data_prep.label_overview.label_table import LabelTable, labelled
from data_prep.label_overview.settings import LabelsConfig
from data_prep.plan.label_blocks import LabelledGround, SplitGround


def overview(config: LabelsConfig) -> int:
    """Write and draw the label of each scene, one after the other, and print the table; return the exit code.

    Raises ValueError when no scene has the label, when one cannot be read, and for spatial blocks that divide nothing.
    """
    scenes = find_scenes(config.input)
    sensors = load_sensors(home_of_scenes(config.input) / "sources")
    with_label = [scene for scene in scenes if config.label in scene.labels]
    if not with_label:
        held = sorted({name for scene in scenes for name in scene.labels})
        raise ValueError(f"no scene in {config.input} has a label {config.label!r}; they have {', '.join(held) or 'none'}")
    ground = None if config.split_blocks.side_m is None else _ground(with_label, config, sensors)
    config.output.mkdir(parents=True, exist_ok=True)
    table, notes, written = LabelTable(ground), [], 0
    for scene in with_label:
        for made in label_maps(scene, config, sensors):
            path = config.output / f"{made.name}.tif"
            write_label(path, made)
            if config.pictures:
                draw_label(path.with_suffix(".png"), made, sensors)
            table.add(made)
            notes += made.notes
            written += 1
    if not written:
        raise ValueError(f"no label {config.label!r} in {config.input} is of {config.year}")
    print(table.text())
    for text in notes:
        print(text)
    without = len(scenes) - len(with_label)
    print(f"{written} labels in {config.output}" + (f"; {without} scenes have no label {config.label!r}" if without else ""))
    return 0


def _ground(scenes: list[Scene], config: LabelsConfig, sensors: Mapping[str, Sensor]) -> SplitGround:
    """How spatial blocks divide the labels of all scenes. Raises ValueError if a scene states a split."""
    stated = [scene.name for scene in scenes if scene.split_stated]
    if stated:
        raise ValueError(f"--split_blocks divides scenes that state no split; {', '.join(stated[:10])} state one")
    ground = LabelledGround(config.split_blocks)
    made: LabelMap
    for scene in scenes:
        maps = list(label_maps(scene, config, sensors))
        if len(maps) > 1:
            years = ", ".join(str(made.year) for made in maps)
            raise ValueError(
                f"the label of {scene.name} is of several years ({years}), and fine-tuning divides the ground of one of them: "
                "state --year"
            )
        for made in maps:
            ground.add(made.grid, labelled(made))
    return ground.divided()[0]
