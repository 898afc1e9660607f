"""Seasons: the image that is chosen for each period, also when only a part of the season has passed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from finetune.data.frames import model_frames
from finetune.data.image_stack import ImageStack
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


def test_compositing_by_pixel_fills_a_frame_from_the_other_images_of_its_period() -> None:
    """Against a loop over pixels: the clearest image that is clear there, zeros where none is."""
    rng = np.random.default_rng(3)
    days = np.sort(rng.uniform(0, 80, 14))
    season = Season(times=np.arange(14), days=days, length=80, periods=4, compositing="pixel")
    stack = ImageStack(
        pixels=rng.integers(1, 5000, (14, 2, 5, 6)).astype(np.int16), valid=rng.random((14, 5, 6)) < rng.random((14, 1, 1)) * 0.7
    )
    statistics = {"mean": [100.0, 200.0], "std": [10.0, 20.0]}
    found = model_frames(stack, season, statistics)
    filled = 0
    for period, row, col in np.ndindex(4, 5, 6):
        images = [n for n in np.flatnonzero(days // 20 == period) if stack.valid[n, row, col]]
        expected = np.zeros(2)
        if images:
            best = max(images, key=lambda n: (stack.valid[n].mean(), -abs(days[n] % 20 - 10)))
            expected = (stack.pixels[best, :, row, col] - np.array([100.0, 200.0])) / np.array([10.0, 20.0])
            filled += best != season.choose(stack.valid)[period]
        np.testing.assert_allclose(found[period, :, row, col], expected, rtol=1e-6)
    assert filled > 5
    by_image = model_frames(stack, replace(season, compositing="image"), statistics)
    assert ((by_image == 0) | (by_image == found)).all()
    # In training the first image of a period is random, and the others still fill it.
    drawn = [model_frames(stack, season, statistics, np.random.default_rng(seed)) for seed in range(5)]
    assert all(((frames == 0) == (found == 0)).all() for frames in drawn)
    assert any((frames != found).any() for frames in drawn)
