"""Windows of a season that ends early, in evaluation and in training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.season_scores import RICE, turning_windows, write_turning_scene
from tests.support.window_stores import stored_windows


@pytest.mark.parametrize("is_stored", [True, False])
def test_a_cut_series_is_that_of_an_archive_without_later_images(tmp_path: Path, is_stored: bool) -> None:
    write_turning_scene(tmp_path / "whole", 0)
    straight = turning_windows(tmp_path / "whole")
    whole = stored_windows(straight, tmp_path / "windows") if is_stored else straight
    before = [whole[i]["data"]["landsat"] for i in range(4)]
    for count in RICE.days_seen(2021)[:-1]:
        last = np.datetime64("2021-01-01") + count - 1
        write_turning_scene(tmp_path / str(last), 0, until=last)
        early = turning_windows(tmp_path / str(last), year=2021)
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
    dataset = turning_windows(tmp_path / "a")
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
