"""Scores as the season goes on, on made-up scores and on series that tell the class only from a known day on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.dates import num2date
from torch.nn import functional as F

from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data.scene_windows import SceneWindows
from finetune.data.season import Season
from finetune.model.crop_mapper import CropMapper
from finetune.report.figures import season_figure
from finetune.report.season_report import season_table, write_season
from finetune.scoring.early_season import SeasonScores, earliest, score_season
from finetune.scoring.metrics import confusion, scores
from finetune.task import Task, load_task
from pretrain.model import EncoderConfig, build_encoder
from tests.support.archives import Cube, days, write_scene
from tests.support.rice_scenes import write_label

SMALL = EncoderConfig(embed_dim=4, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), drop_path_rate=0.0)
RICE = replace(
    load_task("paddy_rice"),
    sources=("landsat",),
    season=("01-01", "12-31"),
    frames=8,
    window_px=32,
    cut_dates=("03-01", "05-01", "07-01", "08-15", "10-01"),
)
TURN = np.datetime64("2021-07-02")  # from here on the classes differ, the second half of the periods


def made_up(task: Task, rice: list[float | None]) -> SeasonScores:
    """Scores with these F1 of rice, and 0.9 of the rest."""
    dates = task.season_of(2021)[0] + (np.array(task.days_seen(2021)) - 1).astype("timedelta64[D]")
    found = [
        {"mean_f1": value, "mean_iou": 0.5, "overall_accuracy": 0.75, "kappa": None}
        | {"classes": {"other": {"f1": 0.9}, "paddy_rice": {"f1": value}}}
        for value in rice
    ]
    return SeasonScores(task=task, dates=dates, scores=found)


DATES = np.array(["2021-04-01", "2021-05-01", "2021-06-01", "2021-07-01"], dtype="datetime64[D]")


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([0.1, 0.5, 0.8, 0.8], 0.95, "2021-06-01"),
        ([0.1, 0.77, 0.8, 0.8], 0.95, "2021-05-01"),
        ([0.9, 0.5, 0.7, 0.8], 0.95, "2021-07-01"),  # reached, but not kept
        ([0.9, 0.5, 0.79, 0.8], 0.95, "2021-06-01"),
        ([0.8, 0.8, 0.8, 0.8], 1.0, "2021-04-01"),
        ([np.nan, 0.79, np.nan, 0.8], 0.95, "2021-07-01"),
        ([0.0, 0.0, 0.0, 0.0], 0.95, None),
        ([0.3, 0.3, 0.3, np.nan], 0.95, None),
    ],
)
def test_earliest_date(values: list[float], share: float, expected: str | None) -> None:
    found = earliest(DATES, np.array(values), share)
    assert (None if found is None else str(found)) == expected


def test_earliest_date_by_trying_each() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        values, share = rng.choice([0.2, 0.4, 0.6, 0.8, np.nan], 4, p=[0.2, 0.2, 0.3, 0.2, 0.1]), rng.uniform(0.3, 1)
        good = [i for i in range(4) if all(v >= share * values[-1] for v in values[i:])]
        found = earliest(DATES, values, share)
        assert found == (DATES[good[0]] if good else None)


def test_task_without_dates_is_refused() -> None:
    with pytest.raises(ValueError, match="paddy_rice has no cut_dates"):
        score_season(lambda _: {}, load_task("paddy_rice"), 2021)


def test_dates_are_scored_in_order_and_the_whole_season_last() -> None:
    seen: list[int] = []

    def score(count: int) -> dict[str, Any]:
        seen.append(count)
        return {"mean_f1": count / 365}

    season = score_season(score, RICE, 2021)
    assert [str(d)[5:] for d in season.dates] == [*RICE.cut_dates, "12-31"]
    jan = np.datetime64("2021-01-01")
    assert seen == [int((d - jan).astype(int)) + 1 for d in season.dates] == list(RICE.days_seen(2021))
    assert [found["mean_f1"] for found in season.scores] == [count / 365 for count in seen]


def test_table_and_files(tmp_path: Path) -> None:
    season = made_up(RICE, [None, 0.1, 0.9, 0.4, 0.7812, 0.8])
    assert season.headline == "paddy_rice"
    assert {name: str(d) for name, d in season.early_enough().items()} == {
        "mean": "2021-10-01",
        "other": "2021-03-01",
        "paddy_rice": "2021-10-01",
    }
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in season_table(season).splitlines()]
    assert rows[0][:4] == ["last date seen", "F1 mean %", "F1 other %", "F1 paddy rice %"]
    assert rows[2] == ["2021-03-01", "-", "90.00", "-", "50.00", "75.00", "-"]
    assert rows[6][:4] == ["2021-10-01", "78.12", "90.00", "78.12"]
    assert rows[8][:4] == ["95 % of the last", "2021-10-01", "2021-03-01", "2021-10-01"]
    write_season(season, tmp_path / "early")
    assert sorted(path.name for path in (tmp_path / "early").iterdir()) == [
        "early_season.json",
        "early_season.md",
        "early_season.png",
    ]
    found = json.loads((tmp_path / "early" / "early_season.json").read_text())
    assert found["early_enough"]["paddy_rice"] == "2021-10-01"
    assert [row["last_date"] for row in found["dates"]] == [str(d) for d in season.dates]
    assert found["dates"][0]["classes"]["paddy_rice"]["f1"] is None
    assert season_table(season) in (tmp_path / "early" / "early_season.md").read_text()


def test_plot_shows_every_class_over_dates() -> None:
    season = made_up(RICE, [None, 0.1, 0.9, 0.4, 0.7812, 0.8])
    figure = season_figure(season)
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert {"mean", "other", "paddy rice"} <= set(lines)
    assert lines["paddy rice"].get_color() == RICE.classes[1].color
    np.testing.assert_allclose(lines["paddy rice"].get_ydata(), [np.nan, 10, 90, 40, 78.12, 80])
    assert "paddy rice F1 is 95 % of the whole season's from 2021-10-01 on" in axes.get_title()
    figure.canvas.draw()
    left, right = (num2date(x) for x in axes.get_xlim())
    assert (left.year, right.month) in ((2021, 12), (2021, 1), (2020, 1))
    assert any(month in [t.get_text() for t in axes.get_xticklabels()] for month in ("Apr", "May", "Jul"))
    nothing = season_figure(made_up(RICE, [0.0] * 6))
    assert "is 0 or not defined at the end" in nothing.axes[0].get_title()


def test_images_after_the_last_day_seen_are_not_chosen() -> None:
    season = Season(times=np.arange(4), days=np.array([5.5, 15.5, 19.5, 35.5]), length=40, periods=4)
    valid = np.ones((4, 1, 1), dtype=bool)
    valid[1] = False
    assert season.choose(valid).tolist() == [0, 2, -1, 3]
    # The image of day 20 (the 20th day, 19.5) is there when 20 days have passed, not before.
    for seen, expected in ((0, [-1] * 4), (5, [-1] * 4), (6, [0, -1, -1, -1]), (19, [0, -1, -1, -1]), (20, [0, 2, -1, -1])):
        assert replace(season, seen_days=seen).choose(valid).tolist() == expected
    # A season moved later moves its images, not the day on which one looks.
    assert replace(season, seen_days=6, shift=10).choose(valid).tolist() == [-1, 0, -1, -1]


def write_turning_scene(folder: Path, seed: int, until: np.datetime64 | None = None) -> None:
    """64 x 64 px of rice and the rest in fields of 16 px: the same noise before TURN, and after it rice is brighter.

    Images of dates after `until` are left out, as an archive would have it on that day.
    """
    rng = np.random.default_rng(seed)
    sensor = load_sensors()["landsat"]
    codes = np.kron(rng.permutation([1, 2] * 8).reshape(4, 4), np.ones((16, 16), int))
    dates = days(2021, 24)
    pixels = rng.normal(2000, 200, (len(dates), 6, 64, 64))
    pixels[dates >= TURN] += 1500 * (codes == 1)
    quality = np.where(rng.random((len(dates), 64, 64)) < 0.1, 2, 64).astype(np.uint8)
    keep = dates <= (until or dates[-1])
    cube = Cube(pixels.astype(sensor.dtype)[keep], quality[keep], dates[keep])
    labels = {"crop_type": {"path": "crop_type.tif", "classes": {1: "paddy_rice", 2: "maize"}, "nodata": 0}}
    write_scene(folder, {"landsat": cube}, {"landsat": 30.0}, labels=labels)
    write_label(folder / "crop_type.tif", codes)


def windows(folder: Path, **options: Any) -> SceneWindows:
    dataset = SceneWindows([load_scene(folder)], RICE, load_sensors(), **options)
    dataset.normalization = {"landsat": {"mean": [2000.0] * 6, "std": [500.0] * 6}}
    return dataset


@pytest.mark.parametrize("cache_gb", [1.0, 0.0])
def test_a_cut_series_is_that_of_an_archive_without_later_images(tmp_path: Path, cache_gb: float) -> None:
    write_turning_scene(tmp_path / "whole", 0)
    whole = windows(tmp_path / "whole", cache_gb=cache_gb)
    before = [whole[i]["data"]["landsat"] for i in range(4)]
    for count in RICE.days_seen(2021)[:-1]:
        last = np.datetime64("2021-01-01") + count - 1
        write_turning_scene(tmp_path / str(last), 0, until=last)
        early = windows(tmp_path / str(last), year=2021)
        with whole.ended_after(count):
            for i in range(4):
                cut = whole[i]["data"]["landsat"]
                torch.testing.assert_close(cut, early[i]["data"]["landsat"], rtol=0, atol=0)
                assert (cut[int(np.ceil(count / (365 / 8))) :] == 0).all()
                assert (cut != before[i]).any()
    for i in range(4):  # whole again
        torch.testing.assert_close(whole[i]["data"]["landsat"], before[i], rtol=0, atol=0)
    with pytest.raises(KeyError), whole.ended_after(100):
        raise KeyError
    assert whole.seen_days == np.inf
    whole.close()


def test_training_draws_the_end_of_the_series(tmp_path: Path) -> None:
    write_turning_scene(tmp_path / "a", 1)
    dataset = windows(tmp_path / "a")
    used = set()
    for seed in range(80):
        frames = dataset.item(0, np.random.default_rng(seed))["data"]["landsat"]
        used.add(int((frames.abs().amax(dim=(1, 2, 3)) > 0).sum()))
    # Periods of 45.6 days, whole or begun, in 60, 121, 182, 227, 274 and 365 days; that begun after 274 has no image by then.
    assert used == {2, 3, 4, 5, 6, 8}
    # Evaluation sees the whole season.
    assert (dataset[0]["data"]["landsat"].abs().amax(dim=(1, 2, 3)) > 0).all()
    dataset.task = replace(RICE, cut_dates=())
    assert (dataset.item(0, np.random.default_rng(0))["data"]["landsat"].abs().amax(dim=(1, 2, 3)) > 0).all()


def test_a_model_is_good_from_the_date_on_that_tells_the_classes_apart(tmp_path: Path) -> None:
    for seed, name in enumerate(("train", "test")):
        write_turning_scene(tmp_path / name, seed)
    training, test = windows(tmp_path / "train"), windows(tmp_path / "test")
    torch.manual_seed(0)
    model = CropMapper(build_encoder(replace(SMALL, sources={"landsat": 6})), ("landsat",), RICE.frames, 2, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rng = np.random.default_rng(0)
    for _ in range(120):
        batch = training.batch(range(4), rng)
        loss = F.cross_entropy(model(batch["data"], (32, 32)), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()

    @torch.no_grad()
    def score(count: int) -> dict[str, Any]:
        with test.ended_after(count):
            batch = test.batch(range(len(test)))
        matrix = confusion(2)
        matrix.update(model(batch["data"], (32, 32)).argmax(dim=1), batch["label"])
        return scores(matrix.compute(), [c.name for c in RICE.classes])

    season = score_season(score, replace(RICE, season_share=0.9), 2021)
    mean = season.f1["mean"]
    # Before TURN the two are the same noise; half of the pixels are rice.
    assert (mean[season.dates < TURN] < 0.65).all(), mean
    assert (mean[season.dates >= TURN] > 0.85).all(), mean
    assert season.early_enough()["mean"] == np.datetime64("2021-08-15"), mean
