"""The image that stands for each period of a season."""

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
