"""Tasks, scores, decoder, windows: each against something computed another way."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    jaccard_score,
    precision_recall_fscore_support,
)

from common.atomic_files import without_nan
from data_prep.archive.scene import Label, load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data.scene_series import SceneSeries
from finetune.data.scene_windows import SceneWindows
from finetune.data.season import Season, season_of_dates
from finetune.data.window_origins import origins, origins_within
from finetune.model.crop_mapper import CropMapper
from finetune.scoring.metrics import confusion, headline, scores, table
from finetune.task import IGNORE, load_task, task_from_dict
from pretrain.model import EncoderConfig, build_encoder
from tests.support.rice_scenes import MODIS_PX, write_label, write_rice_scene

WHOLE_YEAR = replace(load_task("paddy_rice"), season=("01-01", "12-31"))
BANDS = {"landsat": 6, "modis": 7, "sentinel2": 10}
SMALL = EncoderConfig(embed_dim=4, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), drop_path_rate=0.0)


@pytest.mark.parametrize("seed", range(6))
def test_scores_equal_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = 5
    # Class 4 is never labelled, class 3 never predicted; in the last case class 2 is neither.
    label = rng.choice([IGNORE, 0, 1, 2, 3], 500)
    predicted = rng.choice([0, 1, 2, 4], 500)
    if seed == 5:
        label, predicted = np.where(label == 2, 1, label), np.where(predicted == 2, 0, predicted)
    matrix = confusion(classes)
    for part in np.array_split(np.arange(500), 3):
        matrix.update(torch.from_numpy(predicted[part]), torch.from_numpy(label[part]))
    found = scores(matrix.compute(), [f"c{i}" for i in range(classes)])

    known = label != IGNORE
    y, p, all_classes = label[known], predicted[known], np.arange(classes)
    np.testing.assert_array_equal(found["confusion"], confusion_matrix(y, p, labels=all_classes))
    precision, recall, f1, pixels = precision_recall_fscore_support(y, p, labels=all_classes, zero_division=np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        iou = jaccard_score(y, p, labels=all_classes, average=None)
    iou[np.isnan(f1)] = np.nan  # scikit-learn has 0 for a class that is nowhere
    got = {name: [found["classes"][f"c{i}"][name] for i in range(classes)] for name in ("precision", "recall", "f1", "iou")}
    for name, expected in (("precision", precision), ("recall", recall), ("f1", f1), ("iou", iou)):
        np.testing.assert_allclose(got[name], expected, err_msg=name)
    accuracy = [accuracy_score(y == i, p == i) for i in range(classes)]
    np.testing.assert_allclose([found["classes"][f"c{i}"]["accuracy"] for i in range(classes)], accuracy)
    assert [found["classes"][f"c{i}"]["pixels"] for i in range(classes)] == pixels.tolist()
    assert found["mean_f1"] == pytest.approx(np.nanmean(f1))
    assert found["mean_iou"] == pytest.approx(np.nanmean(iou))
    assert found["overall_accuracy"] == pytest.approx(accuracy_score(y, p))
    assert found["kappa"] == pytest.approx(cohen_kappa_score(y, p))
    assert headline(found, "c1") == ("c1 F1", pytest.approx(f1[1]))


def test_scores_of_nothing_are_not_defined_and_stay_printable() -> None:
    found = scores(np.zeros((2, 2)), ["other", "rice"])
    assert math.isnan(found["mean_f1"])
    plain = without_nan(found)
    assert plain["mean_f1"] is None
    assert table(plain)[-1][1] == "-"


@pytest.mark.parametrize("sources", [("landsat",), ("landsat", "modis"), ("sentinel2", "modis", "landsat")])
@pytest.mark.parametrize("frames", [1, 7, 13, 16])
@pytest.mark.parametrize("detail", [0, 5])
def test_decoder_channels_follow_from_sources_and_frames(sources: tuple[str, ...], frames: int, detail: int) -> None:
    encoder = build_encoder(replace(SMALL, sources={source: BANDS[source] for source in sources}))
    model = CropMapper(encoder, sources, frames, num_classes=3, channels=6, detail_channels=detail)
    depth = [math.ceil(frames / 4)]
    for _ in range(3):
        depth.append(math.ceil(depth[-1] / 2))
    widths = [4 * 2**stage * depth[stage] for stage in range(4)]  # per source: patch embedding, three mergings
    assert model.decoder.start[0].in_channels == widths[3] * len(sources)
    assert [pair[0].in_channels for pair in model.decoder.climb] == [6 + widths[level] * len(sources) for level in (2, 1, 0)]
    # Sizes that no patch divides, and another for each source.
    sides = {"landsat": 22, "modis": 2, "sentinel2": 35}
    data = {source: torch.randn(2, frames, BANDS[source], sides[source], sides[source]) for source in sources}
    result = model(data, (22, 22))
    assert result.shape == (2, 3, 22, 22)
    result.sum().backward()
    unused = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert not unused


@pytest.mark.parametrize("detail", [0, 8])
def test_the_detail_draws_what_is_thinner_than_a_patch(detail: int) -> None:
    """The label is a stripe of one pixel that is brighter in every image, somewhere else in each window."""
    torch.manual_seed(0)
    model = CropMapper(build_encoder(replace(SMALL, sources={"landsat": 6})), ("landsat",), 4, 2, 8, detail_channels=detail)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        label = (torch.arange(16) == torch.randint(16, (8, 1))).long()[:, None].expand(-1, 16, -1)
        return torch.randn(8, 4, 6, 16, 16) * 0.3 + label[:, None, None], label

    for _ in range(60):
        pixels, label = draw()
        loss = torch.nn.functional.cross_entropy(model({"landsat": pixels}, (16, 16)), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pixels, label = draw()
    found = model.eval()({"landsat": pixels}, (16, 16)).argmax(dim=1)
    f1 = f1_score(label.flatten(), found.flatten(), zero_division=0)
    assert f1 > 0.95 if detail else f1 < 0.8


def test_every_source_reaches_the_map() -> None:
    torch.manual_seed(0)
    sources = ("landsat", "modis")
    model = CropMapper(build_encoder(replace(SMALL, sources={s: BANDS[s] for s in sources})), sources, 8, 2, 8).eval()
    data = {"landsat": torch.randn(1, 8, 6, 16, 16), "modis": torch.randn(1, 8, 7, 1, 1)}
    before = model(data, (16, 16))
    for source in sources:
        changed = data | {source: data[source] + 1}
        assert not torch.allclose(before, model(changed, (16, 16)))


def test_season_may_begin_in_the_year_before() -> None:
    wheat = replace(load_task("paddy_rice"), season=("10-01", "06-30"))
    assert wheat.season_of(2021) == (np.datetime64("2020-10-01"), np.datetime64("2021-07-01"))
    assert WHOLE_YEAR.season_of(2020) == (np.datetime64("2020-01-01"), np.datetime64("2021-01-01"))
    dates = np.arange("2020-11-01", "2021-05-01", 7, dtype="datetime64[D]")
    assert wheat.year_of(dates) == 2021
    season = season_of_dates(dates, wheat, 2021)
    assert len(season.times) == len(dates)
    # All are clear, so a period has an image if and only if one was taken in its sixteenth of the season's 273 days.
    chosen = season.choose(np.ones((len(dates), 1, 1), dtype=bool))
    taken = (dates - np.datetime64("2020-10-01")).astype(int) + 0.5
    for period in range(16):
        inside = np.flatnonzero((taken >= 273 / 16 * period) & (taken < 273 / 16 * (period + 1)))
        assert (chosen[period] == -1) if not len(inside) else (chosen[period] in inside)


def test_evaluation_takes_the_clearest_image_of_each_period_and_training_a_random_one() -> None:
    season = Season(times=np.arange(5), days=np.array([1.0, 9.0, 15.0, 48.0, 53.0]), length=80, periods=4)
    valid = np.zeros((5, 2, 2), dtype=bool)
    valid[0, 0, 0] = valid[1, :] = valid[2, :] = True  # 1 and 2 are fully clear, 1 is nearer to the middle; 3 and 4 cloudy
    assert season.choose(valid).tolist() == [1, -1, -1, -1]
    drawn = np.array([season.choose(valid, np.random.default_rng(seed)) for seed in range(40)])
    assert set(drawn[:, 0]) == {0, 1, 2}
    assert (drawn[:, 1:] == -1).all()
    # Ten days later two of them fall into the second period; ten days earlier two lie before the season.
    assert replace(season, shift=11).choose(valid).tolist() == [0, 2, -1, -1]
    assert replace(season, shift=-10).choose(valid).tolist() == [2, -1, -1, -1]


def test_label_codes_become_classes() -> None:
    task = load_task("paddy_rice")
    label = Label(path=Path("label.tif"), classes={1: "paddy_rice", 2: "maize", 7: "not_cropland"}, nodata=0)
    assert task.class_indices(np.array([[0, 1], [2, 7]]), label).tolist() == [[IGNORE, 1], [0, 0]]
    with pytest.raises(ValueError, match=r"codes \[9\] that scene.yaml does not name"):
        task.class_indices(np.array([9, 1]), label)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "hinge"}, "loss is 'hinge'"),
        ({"season": ["01-01", "02-31x"]}, "expected two of the form MM-DD"),
        ({"sources": []}, "sources must be distinct"),
        ({"target": "maize"}, "none of its classes"),
        ({"frames": 0}, "at least 1"),
        ({"windowpx": 3}, "unexpected keyword argument 'windowpx'"),
        ({"classes": [{"name": "a", "color": "#000000", "labels": ["x"]}, {"name": "b", "color": "#000000"}]}, "the first class"),
        ({"classes": [{"name": "a", "color": "red"}, {"name": "b", "color": "#000000", "labels": ["x"]}]}, "expected #rrggbb"),
    ],
)
def test_wrong_tasks_are_refused(change: dict, message: str) -> None:
    values = load_task("paddy_rice").to_dict() | change
    with pytest.raises(ValueError, match=message):
        task_from_dict(values)


def test_origins_cover_everything_once() -> None:
    assert origins(384, 64, 64) == [0, 64, 128, 192, 256, 320]
    assert origins(100, 64, 64) == [0, 64]
    assert origins(40, 64, 32) == [0]
    for length in range(1, 200):
        starts = origins(length, 48, 32)
        assert starts[-1] + 48 >= length
        assert len(starts) == 1 or starts[-2] + 48 < length, "the last window is needed"
        within = origins_within(length, 48, 32, 16)
        assert within[:-1] == starts[:-1]
        assert within[-1] % 16 == 0
        assert length <= within[-1] + 48 < max(length, 33) + 16


@pytest.fixture
def small(tmp_path: Path) -> tuple[dict, np.ndarray, SceneWindows]:
    """A scene of 80 x 80 px cut into windows of 32 px, which reach over its edges."""
    cubes, codes = write_rice_scene(tmp_path / "delta", "train", side=80, seed=3, cloudy=0.4)
    task = replace(WHOLE_YEAR, window_px=32, frames=6)
    dataset = SceneWindows([load_scene(tmp_path / "delta")], task, load_sensors())
    dataset.normalization = {source: dataset.statistics(source) for source in task.sources}
    return cubes, codes, dataset


def test_items_are_what_the_archive_holds(small: tuple[dict, np.ndarray, SceneWindows]) -> None:
    cubes, codes, dataset = small
    assert [dataset[i]["file_name"] for i in (0, 8)] == ["delta-r00000-c00000", "delta-r00064-c00064"]
    sensors = load_sensors()
    for index, (_, row, col) in enumerate(dataset.windows):
        item = dataset[index]
        label = np.full((32, 32), IGNORE)
        part = codes[row : row + 32, col : col + 32]
        label[: part.shape[0], : part.shape[1]] = np.select([part == 0, part == 1], [IGNORE, 1], 0)
        np.testing.assert_array_equal(item["label"], label)
        assert item["label"].dtype == torch.int64
        for source, shrink in (("landsat", 1), ("modis", MODIS_PX)):
            cube, top, left, side = cubes[source], row // shrink, col // shrink, 32 // shrink
            pixels = cube.pixels[..., top : top + side, left : left + side].astype(np.float64)
            valid = sensors[source].valid(cube.pixels, cube.quality)[..., top : top + side, left : left + side]
            days = (cube.dates - np.datetime64("2021-01-01")).astype(int) + 0.5
            known = dataset.normalization[source]
            result = item["data"][source]
            assert result.shape == (6, pixels.shape[1], side, side)
            assert result.dtype == torch.float32
            for period in range(6):
                inside = [t for t in range(len(days)) if period * 365 / 6 <= days[t] < (period + 1) * 365 / 6 and valid[t].any()]
                if not inside:
                    assert (result[period] == 0).all()
                    continue
                best = min(inside, key=lambda t: (-valid[t].mean(), abs(days[t] - (period + 0.5) * 365 / 6)))
                expected = (pixels[best] - np.reshape(known["mean"], (-1, 1, 1))) / np.reshape(known["std"], (-1, 1, 1))
                expected = np.where(valid[best], expected, 0)
                whole = np.zeros((pixels.shape[1], side, side))
                whole[:, : expected.shape[1], : expected.shape[2]] = expected
                np.testing.assert_allclose(result[period], whole, atol=1e-4)


def test_statistics_are_those_of_clear_pixels(small: tuple[dict, np.ndarray, SceneWindows]) -> None:
    cubes, _, dataset = small
    sensor = load_sensors()["landsat"]
    cube = cubes["landsat"]
    clear = cube.pixels.transpose(1, 0, 2, 3)[:, sensor.valid(cube.pixels, cube.quality)].astype(np.float64)
    np.testing.assert_allclose(dataset.normalization["landsat"]["mean"], clear.mean(axis=1), rtol=1e-9)
    np.testing.assert_allclose(dataset.normalization["landsat"]["std"], clear.std(axis=1), rtol=1e-9)


def test_flips_and_rotations_move_pixels_and_label_alike(tmp_path: Path) -> None:
    cubes, codes = write_rice_scene(tmp_path / "delta", "train", side=64, seed=1, cloudy=0.0)
    # A second label made from the first band of the first date, so that every pixel tells where its label belongs.
    marks = np.arange(64 * 64).reshape(64, 64) % 3 + 1
    write_label(tmp_path / "delta" / "crop_type.tif", marks)
    for source, values in (
        ("landsat", marks),
        ("modis", np.arange(16).reshape(4, 4) + 1),
    ):
        array = zarr.open_group(tmp_path / "delta" / f"{source}.zarr")["reflectance"]
        array[:, 0] = np.broadcast_to(values * 1000, (len(cubes[source].dates), *values.shape))
    task = replace(load_task("paddy_rice"), frames=4)
    dataset = SceneWindows([load_scene(tmp_path / "delta")], task, load_sensors())
    unit = {"mean": [0.0] * 7, "std": [1.0] * 7}
    dataset.normalization = {"landsat": {k: v[:6] for k, v in unit.items()}, "modis": unit}
    upright = np.arange(16).reshape(4, 4) + 1
    seen = set()
    for seed in range(60):
        item = dataset.item(0, np.random.default_rng(seed))
        first = item["data"]["landsat"][:, 0].numpy() / 1000
        np.testing.assert_array_equal(first == 1, np.broadcast_to(item["label"].numpy() == 1, first.shape))
        coarse = item["data"]["modis"][0, 0].numpy().astype(int) // 1000
        seen.add(tuple(coarse.ravel()))
        # The coarse pixel lies where its 16 x 16 fine ones lie.
        turned = [np.rot90(upright, k)[:, ::flip] for k in range(4) for flip in (1, -1)]
        which = [i for i, t in enumerate(turned) if (t == coarse).all()]
        assert len(which) == 1
        fine = np.rot90(marks, which[0] // 2)[:, :: (1, -1)[which[0] % 2]]
        np.testing.assert_array_equal(first[0], fine)
    assert len(seen) == 8
    assert codes.shape == (64, 64)


def test_uncached_windows_are_the_same(tmp_path: Path) -> None:
    scenes = []
    for seed, name in enumerate(("a", "b")):
        write_rice_scene(tmp_path / name, "train", side=64, seed=seed)
        scenes.append(load_scene(tmp_path / name))
    task = replace(load_task("paddy_rice"), window_px=32)
    cached, uncached = (SceneWindows(scenes, task, load_sensors(), cache_gb=size) for size in (1.0, 0.0))
    cached.normalization = uncached.normalization = {source: cached.statistics(source) for source in task.sources}
    for index in (0, 7, 1, 4):
        one, other = cached[index], uncached[index]
        assert all(torch.equal(one["data"][s], other["data"][s]) for s in task.sources)
        assert torch.equal(one["label"], other["label"])
    uncached.close()


def test_grids_that_do_not_nest_are_refused(tmp_path: Path) -> None:
    write_rice_scene(tmp_path / "a", "train", side=64)
    scene, task = load_scene(tmp_path / "a"), load_task("paddy_rice")
    series = SceneSeries(scene, task, load_sensors())
    assert series.step == MODIS_PX
    with pytest.raises(ValueError, match=r"multiple of 16, for instance --window_px 48"):
        series.check_window(50)
    label = tmp_path / "a" / "crop_type.tif"
    write_label(label, np.ones((60, 64), int))
    with pytest.raises(ValueError, match=r"60 x 64 px .* covers another area than every source .* 64 x 64 px"):
        SceneSeries(scene, task, load_sensors())
    write_label(label, np.ones((64, 64), int), west=500_050.0)
    with pytest.raises(ValueError, match="covers another area"):
        SceneSeries(scene, task, load_sensors())
    label.unlink()
    with pytest.raises(ValueError, match="does not exist"):
        SceneSeries(scene, task, load_sensors())
