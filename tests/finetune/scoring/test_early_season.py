"""Early-season scores, on made-up scores and on series whose classes differ only from a known day on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from finetune.model.crop_mapper import CropMapper
from finetune.scoring.early_season import earliest, score_season
from finetune.scoring.metrics import confusion, scores
from finetune.task import load_task
from pretrain.model import EncoderConfig, build_encoder
from tests.support.season_scores import RICE, TURN, turning_windows, write_turning_scene

SMALL = EncoderConfig(embed_dim=4, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), drop_path_rate=0.0)


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


@pytest.mark.slow
def test_a_model_is_good_from_the_date_on_that_tells_the_classes_apart(tmp_path: Path) -> None:
    for seed, name in enumerate(("train", "test")):
        write_turning_scene(tmp_path / name, seed)
    training, test = turning_windows(tmp_path / "train"), turning_windows(tmp_path / "test")
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
        predicted = model(batch["data"], (32, 32)).argmax(dim=1)
        label, predicted = (maps.flatten(0, 1) for maps in (batch["label"], predicted))
        return scores(confusion(label.numpy(), predicted.numpy(), 2), [c.name for c in RICE.classes])

    season = score_season(score, replace(RICE, season_share=0.9), 2021)
    mean = season.f1["mean"]
    # Before TURN the two are the same noise; half of the pixels are rice.
    assert (mean[season.dates < TURN] < 0.65).all(), mean
    assert (mean[season.dates >= TURN] > 0.85).all(), mean
    assert season.early_enough()["mean"] == np.datetime64("2021-08-15"), mean
