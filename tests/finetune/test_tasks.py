"""The task of each YAML in finetune/tasks/: its classes are those of the labels, and it can be learned; a user's own task."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from torch.nn import functional as F

from data_prep.archive.scene import Label, Scene, load_scene
from data_prep.archive.sensor import load_sensors
from data_prep.simulation.regions import REGIONS
from data_prep.simulation.scene_folder import SceneSettings, write_scene_folder
from finetune.config import TaskOverride
from finetune.data.scene_windows import SceneWindows
from finetune.model.crop_mapper import CropMapper
from finetune.task import IGNORE, TASKS, Task, load_task, task_from_dict
from pretrain.model import EncoderConfig, build_encoder

NAMES = ("cropland", "early_season", "field_boundary", "lulc", "paddy_rice", "winter_wheat")
BANDS = {"landsat": 6, "modis": 7, "sentinel2": 10}
SMALL = EncoderConfig(embed_dim=4, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), drop_path_rate=0.0)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Fields of rice, wheat, maize, soybean and alfalfa, 2.9 km wide; a third of it in Sentinel-2 pixels."""
    folder = tmp_path_factory.mktemp("scenes")
    place = [region.name for region in REGIONS].index("lomellina")
    settings = SceneSettings(location=place, year=2022, landsat_px=96, sentinel2_px=96, modis_days=8)
    write_scene_folder(settings, folder)
    return load_scene(folder / settings.name)


def codes_of(scene: Scene, task: Task) -> tuple[np.ndarray, Label]:
    label = scene.labels[task.label]
    with rasterio.open(label.path) as raster:
        return raster.read(1), label


def test_every_task_has_its_yaml() -> None:
    assert tuple(sorted(path.stem for path in TASKS.glob("*.yaml"))) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_yaml_is_read_whole(name: str) -> None:
    task = load_task(name)
    values = yaml.safe_load((TASKS / f"{name}.yaml").read_text())
    assert task.name == name
    assert [(c.name, c.color, list(c.labels)) for c in task.classes] == [
        (c["name"], c["color"], c.get("labels", [])) for c in values["classes"]
    ]
    assert list(task.sources) == values["sources"]
    assert task_from_dict(task.to_dict()) == task
    assert len({c.color for c in task.classes}) == len(task.classes), "two classes of one colour cannot be told apart"


def test_sources_are_those_of_the_paper() -> None:
    sources = {name: load_task(name).sources for name in NAMES}
    assert sources["paddy_rice"] == ("landsat", "modis")
    assert sources["winter_wheat"] == ("modis",)
    assert {sources[name] for name in ("cropland", "field_boundary", "lulc")} == {("sentinel2",)}
    assert len(load_task("lulc").classes) == 16


@pytest.mark.parametrize("name", NAMES)
def test_classes_are_those_of_the_simulated_labels(name: str, scene: Scene) -> None:
    task = load_task(name)
    codes, label = codes_of(scene, task)
    named = set(label.classes.values())
    claimed = {found for c in task.classes for found in c.labels}
    assert claimed <= named, "a class that no pixel can have"
    assert (claimed == named) == bool(task.classes[0].labels), "the first class takes what is left, or nothing is left"
    classes = task.class_indices(codes, label)
    for index, c in enumerate(task.classes):
        mine = set(c.labels) or named - claimed
        expected = np.isin(codes, [code for code, found in label.classes.items() if found in mine])
        np.testing.assert_array_equal(classes == index, expected)
    assert (classes != IGNORE).all()
    assert len(np.unique(classes)) >= min(len(task.classes), 9), "too few classes to learn from"


@pytest.mark.parametrize("name", ["lulc", "field_boundary", "winter_wheat"])
def test_map_has_the_colours_of_the_label(name: str, scene: Scene) -> None:
    task = load_task(name)
    _, label = codes_of(scene, task)
    with rasterio.open(label.path) as raster:
        colors = {label.classes[code]: "#{:02x}{:02x}{:02x}".format(*raster.colormap(1)[code][:3]) for code in label.classes}
    shown = {found: c.color for c in task.classes for found in c.labels}
    assert shown == {found: colors[found] for found in shown}


@pytest.mark.parametrize("name", NAMES)
def test_one_step_of_training(name: str, scene: Scene) -> None:
    task = load_task(name)
    dataset = SceneWindows([scene], task, load_sensors())
    dataset.normalization = {source: dataset.statistics(source) for source in task.sources}
    torch.manual_seed(0)
    encoder = build_encoder(replace(SMALL, sources={source: BANDS[source] for source in task.sources}))
    model = CropMapper(encoder, task.sources, task.frames, len(task.classes), 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    # Two windows at least, for batch normalisation: the same one, drawn twice, where the scene has but one.
    batch = dataset.batch([0, len(dataset) - 1], np.random.default_rng(0))
    assert batch["label"].shape[1:] == (task.window_px, task.window_px)
    losses = []
    for _ in range(2):
        scores = model(batch["data"], tuple(batch["label"].shape[-2:]))
        assert scores.shape == (len(batch["label"]), len(task.classes), task.window_px, task.window_px)
        loss = F.cross_entropy(scores, batch["label"], ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


OWN = """
name: maize
title: Maize and soybean
label: crop_type
sources: [landsat]
frames: 8
season: ["05-01", "10-15"]
window_px: 32
target: maize
classes:
  - {name: other, color: "#dddddd"}
  - {name: maize, color: "#e6550d", labels: [maize]}
  - {name: soybean, color: "#74a33b", labels: [soybean]}
"""


def test_task_of_a_users_own(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "maize.yaml"
    path.write_text(OWN)
    task = load_task(str(path))
    assert (task.loss, task.cut_dates, task.season_share) == ("cross_entropy", (), 0.95)
    dataset = SceneWindows([scene], task, load_sensors())
    codes, label = codes_of(scene, task)
    count = {label.classes[code]: int((codes == code).sum()) for code in label.classes}
    expected = [codes.size - count["maize"] - count["soybean"], count["maize"], count["soybean"]]
    np.testing.assert_array_equal(dataset.class_pixels(), expected)


def test_a_name_that_no_class_lists_is_refused_where_there_is_no_rest() -> None:
    task = load_task("lulc")
    label = Label(path=Path("label.tif"), classes={1: "water", 2: "ice", 3: "forest"}, nodata=0)
    indices = task.class_indices(np.array([0, 1, 3]), label)
    assert [IGNORE if i == IGNORE else task.classes[i].name for i in indices] == [IGNORE, "water", "forest"]
    with pytest.raises(ValueError, match=r"label.tif holds 'ice' \(code 2\), which no class of task lulc lists"):
        task.class_indices(np.array([0, 1, 2]), label)


def test_coarse_pixels_are_repeated(scene: Scene) -> None:
    task = load_task("winter_wheat")
    assert task.upsample == {"modis": 4}
    repeated, plain = (SceneWindows([scene], t, load_sensors()) for t in (task, replace(task, upsample={})))
    repeated.normalization = plain.normalization = {"modis": plain.statistics("modis")}
    for rng in (None, 3):
        one, other = (d.item(0, None if rng is None else np.random.default_rng(rng)) for d in (repeated, plain))
        expected = np.kron(other["data"]["modis"].numpy(), np.ones((4, 4)))
        np.testing.assert_array_equal(one["data"]["modis"].numpy(), expected.astype(np.float32))
        np.testing.assert_array_equal(one["label"], other["label"])
    for wrong in (0, 2.5, "4"):
        with pytest.raises(ValueError, match="upsample is"):
            replace(task, upsample={"modis": wrong})


def test_coarse_pixels_of_any_task_are_repeated_on_request(scene: Scene) -> None:
    task = load_task("paddy_rice")
    assert task.upsample == {}
    given = TaskOverride(upsample={"modis": 4}).applied_to(task)
    once = TaskOverride(upsample={"modis": 1}).applied_to(task)
    plain, repeated, same = (SceneWindows([scene], t, load_sensors()) for t in (task, given, once))
    normalization = {source: plain.statistics(source) for source in task.sources}
    items = {}
    for name, windows in (("plain", plain), ("repeated", repeated), ("same", same)):
        windows.normalization = normalization
        items[name] = windows[0]["data"]
    height, width = items["plain"]["modis"].shape[-2:]
    assert items["repeated"]["modis"].shape == (16, 7, 4 * height, 4 * width)
    for source in task.sources:
        assert torch.equal(items["same"][source], items["plain"][source])
    assert torch.equal(items["repeated"]["landsat"], items["plain"]["landsat"])
    with pytest.raises(
        ValueError, match=r"--override.upsample: upsample names sentinel2, none of the task's sources landsat, modis"
    ):
        TaskOverride(upsample={"sentinel2": 2}).applied_to(task)
    with pytest.raises(ValueError, match="upsample is"):
        TaskOverride(upsample={"modis": 0}).applied_to(task)


def test_upsample_of_a_source_that_the_task_does_not_read(tmp_path: Path) -> None:
    path = tmp_path / "maize.yaml"
    path.write_text(OWN + "upsample: {modsi: 4}\n")
    with pytest.raises(ValueError, match="upsample names modsi, none of the task's sources landsat"):
        load_task(str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cut_dates": ["06-31"]}, "cut date '06-31'; expected MM-DD"),
        ({"cut_dates": [601]}, "cut date 601; expected MM-DD"),
        ({"cut_dates": ["02-29"]}, "of any year"),
        ({"cut_dates": ["07-01", "06-01"]}, "in order"),
        ({"cut_dates": ["06-01", "06-01"]}, "distinct"),
        ({"cut_dates": ["11-01"]}, "in the season"),
        ({"season_share": 0}, "expected a share above 0"),
        ({"season_share": 1.2}, "at most 1"),
    ],
)
def test_wrong_cuts_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_from_dict(load_task("early_season").to_dict() | change)


@pytest.mark.parametrize("season", [("01-01", "12-31"), ("03-01", "10-31"), ("10-01", "07-31")])
@pytest.mark.parametrize("year", [2022, 2024])
def test_days_seen_are_counted_in_the_calendar(season: tuple[str, str], year: int) -> None:
    cuts = {"01-01": ("01-01", "03-01", "12-30"), "03-01": ("03-01", "10-31"), "10-01": ("11-15", "12-31", "01-01", "03-01")}
    task = replace(load_task("early_season"), season=season, cut_dates=cuts[season[0]])
    first, end = (day.astype(date) for day in task.season_of(year))
    calendar = [date.fromordinal(n) for n in range(first.toordinal(), end.toordinal())]
    expected = [1 + [f"{day:%m-%d}" for day in calendar].index(cut) for cut in task.cut_dates]
    if expected[-1] != len(calendar):
        expected.append(len(calendar))
    assert list(task.days_seen(year)) == expected
