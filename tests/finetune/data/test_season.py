"""Seasons: the image that is chosen for each period, also when only a part of the season has passed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from finetune.data.season import Season


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
