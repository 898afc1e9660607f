"""Seasons: images that are chosen when only a part of the season has passed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from finetune.data.season import Season


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
