"""Area estimation: the worked example of Olofsson et al. 2014, scikit-learn, a simulation, and what cannot be estimated."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.scoring.area_estimation import Z_95, AreaEstimates, estimate_areas, strata_without_points

# Olofsson et al. 2014, table 8: rows are classes of the map, columns reference classes; pixels of 30 m.
NAMES = ["deforestation", "forest gain", "stable forest", "stable non-forest"]
COUNTS = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])
HA = 0.09


def test_the_worked_example_of_olofsson_et_al() -> None:
    found = estimate_areas(NAMES, PIXELS * HA, COUNTS)
    expected_proportions = [  # table 9
        [0.0176, 0, 0.0013, 0.0011], [0, 0.0110, 0.0016, 0.0024], [0.0019, 0, 0.2967, 0.0213], [0.0040, 0.0020, 0.0179, 0.6212],
    ]  # fmt: skip
    np.testing.assert_allclose(found.proportions, expected_proportions, atol=6e-5)
    np.testing.assert_allclose(found.areas, [21_158, 11_686, 285_770, 581_386], atol=0.5)
    np.testing.assert_allclose(Z_95 * found.area_errors, [6_158, 3_756, 15_510, 16_282], atol=0.7)
    np.testing.assert_allclose(found.users, [0.88, 0.73, 0.93, 0.96], atol=5e-3)
    np.testing.assert_allclose(Z_95 * found.users_errors, [0.07, 0.10, 0.04, 0.02], atol=5e-3)
    np.testing.assert_allclose(found.producers, [0.75, 0.85, 0.93, 0.96], atol=5e-3)
    assert Z_95 * found.producers_errors[0] == pytest.approx(0.21, abs=5e-3)
    assert (found.overall, Z_95 * found.overall_error) == (pytest.approx(0.95, abs=5e-3), pytest.approx(0.02, abs=5e-3))
    assert found.areas.sum() == pytest.approx(900_000)


def stratum(rng: np.random.Generator, truth: np.ndarray, mapped: np.ndarray, number: int, points: int) -> np.ndarray:
    """True classes of random points in a stratum."""
    return rng.choice(truth[mapped == number], points, replace=False)


def draw(rng: np.random.Generator, truth: np.ndarray, mapped: np.ndarray, points: tuple[int, ...]) -> AreaEstimates:
    counts = np.array([np.bincount(stratum(rng, truth, mapped, i, n), minlength=3) for i, n in enumerate(points)])
    return estimate_areas(["a", "b", "c"], np.bincount(mapped, minlength=3), counts)


def test_a_simulation_of_samples() -> None:
    """Over many samples estimates have the true mean, standard errors are the spread, and intervals of areas hold the truth.

    Intervals of accuracies near 100 % are known to be too narrow: with 200 points of which four are wrong they hold it in 87 %.
    """
    rng = np.random.default_rng(0)
    truth = rng.choice(3, 60_000, p=[0.1, 0.3, 0.6])
    mapped = np.where(rng.random(len(truth)) < 0.85, truth, rng.choice(3, len(truth), p=[0.4, 0.3, 0.3]))
    samples = [draw(rng, truth, mapped, (120, 150, 200)) for _ in range(1000)]
    areas = np.bincount(truth)
    right = mapped == truth
    truths = {
        "areas": (areas, "area_errors"),
        "users": (np.array([right[mapped == i].mean() for i in range(3)]), "users_errors"),
        "producers": (np.array([right[truth == i].mean() for i in range(3)]), "producers_errors"),
    }
    assert abs(np.bincount(mapped)[0] / areas[0] - 1) > 0.3, "counting pixels is far off"
    for name, (expected, error) in truths.items():
        estimates, errors = (np.array([getattr(sample, key) for sample in samples]) for key in (name, error))
        spread = estimates.std(axis=0)
        np.testing.assert_allclose(estimates.mean(axis=0), expected, atol=4 * spread.max() / 1000**0.5, err_msg=name)
        np.testing.assert_allclose(np.sqrt((errors**2).mean(axis=0)), spread, rtol=0.08, err_msg=name)
        covered = (np.abs(estimates - expected) <= Z_95 * errors).mean(axis=0)
        assert ((covered > (0.92 if name == "areas" else 0.86)) & (covered < 0.975)).all(), (name, covered)
    overall = np.array([[sample.overall, sample.overall_error] for sample in samples])
    assert overall[:, 0].mean() == pytest.approx(right.mean(), abs=0.003)
    assert np.sqrt((overall[:, 1] ** 2).mean()) == pytest.approx(overall[:, 0].std(), rel=0.08)


def test_in_proportion_to_the_area_it_is_the_plain_accuracy() -> None:
    """A sample that has as many points of each stratum as its area says needs no weights."""
    counts = np.array([[40, 10], [5, 145]])
    found = estimate_areas(["a", "b"], np.array([50.0, 150.0]), counts)
    assert found.overall == pytest.approx(185 / 200)
    np.testing.assert_allclose(found.areas, [45, 155])
    np.testing.assert_allclose(found.producers, [40 / 45, 145 / 155])


def test_classes_that_cannot_be_estimated() -> None:
    names = ["a", "b", "c"]
    counts = np.array([[5, 0, 0], [0, 1, 0], [0, 0, 0]])
    assert strata_without_points(names, np.array([1, 1, 1]), counts) == ["b", "c"]
    with pytest.raises(ValueError, match="fewer than 2 points in b, c of the map"):
        estimate_areas(names, np.array([1, 1, 1]), counts)
    with pytest.raises(ValueError, match="there are points in b, which the map does not hold"):
        estimate_areas(names, np.array([1, 0, 0]), counts)
    counts = np.array([[5, 2, 0], [1, 7, 0], [0, 0, 0]])
    found = estimate_areas(names, np.array([3.0, 1, 0]), counts)
    assert np.isnan([found.users[2], found.producers[2], found.users_errors[2], found.producers_errors[2]]).all()
    assert (found.areas[2], found.area_errors[2]) == (0, 0)
    assert found.areas.sum() == pytest.approx(4)
