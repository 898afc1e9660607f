"""Boundary F1 against distances by the Euclidean distance transform, neighbours by loops, and hand-drawn maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, gaussian_filter

from finetune.scoring.boundaries import boundary, boundary_counts, boundary_scores
from finetune.task import IGNORE


def drawn(*rows: str) -> np.ndarray:
    """A map from rows of digits; `.` is a missing pixel."""
    return np.array([[IGNORE if letter == "." else int(letter) for letter in row] for row in rows])


def random_map(rng: np.random.Generator, classes: int, unknown: float = 0.0) -> np.ndarray:
    """Smooth blobs of classes with missing pixels, int64 (41, 37)."""
    noise = np.stack([gaussian_filter(rng.normal(size=(41, 37)), 2.5) for _ in range(classes)])
    result = noise.argmax(axis=0)
    result[rng.random(result.shape) < unknown] = IGNORE
    return result


def naive_counts(label: np.ndarray, predicted: np.ndarray, classes: int, tolerance: float) -> np.ndarray:
    """The counts pixel by pixel, with distances from scipy's distance transform: (classes, 4)."""
    height, width = label.shape
    known = np.array(
        [[label[r, c] in range(classes) and predicted[r, c] in range(classes) for c in range(width)] for r in range(height)]
    )

    def edge(classes_of: np.ndarray, index: int) -> np.ndarray:
        found = np.zeros(label.shape, dtype=bool)
        for r, c in np.argwhere(known & (classes_of == index)):
            for row, col in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
                if 0 <= row < height and 0 <= col < width and known[row, col] and classes_of[row, col] != index:
                    found[r, c] = True
        return found

    def distance(to: np.ndarray) -> np.ndarray:
        return distance_transform_edt(~to) if to.any() else np.full(to.shape, np.inf)

    counted = distance(~known) > tolerance
    counts = []
    for index in range(classes):
        of_map, of_label = edge(predicted, index), edge(label, index)
        right = of_map & counted & (distance(of_label) <= tolerance)
        found = of_label & counted & (distance(of_map) <= tolerance)
        counts.append([(of_map & counted).sum(), right.sum(), (of_label & counted).sum(), found.sum()])
    return np.array(counts)


@pytest.mark.parametrize("seed", range(4))
def test_counts_equal_those_by_distances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = 4
    label, predicted = random_map(rng, 3, 0.02 * (seed % 2)), random_map(rng, classes)
    predicted = np.where(rng.random(label.shape) < 0.7, label, predicted)
    predicted = np.where(predicted == IGNORE, 255, predicted).astype(np.uint8)  # as a map writes no data
    tolerances = (1, 1.5, 2, 3)
    found = boundary_counts(label, predicted, classes, tolerances)
    for number, tolerance in enumerate(tolerances):
        np.testing.assert_array_equal(found[number], naive_counts(label, predicted, classes, tolerance))
    assert found[..., :3].sum(axis=(1, 2)).all()
    assert (found[0, :, 0] == found[2, :, 0]).all() or seed % 2  # without unknown pixels all boundary counts


def test_a_field_moved_by_a_pixel_is_right_within_one_pixel() -> None:
    label = np.zeros((20, 20), dtype=np.int64)
    label[5:12, 5:12] = 1
    # Moved by two, of 7 + 7 + 5 + 5 pixels around the field 6 of the upper edge, 6 of the lower and both ends of the right one
    # are near an edge.
    for move, within_one in ((1, 24), (2, 6 + 6 + 2)):
        counts = boundary_counts(label, np.roll(label, move, axis=1), 2)
        assert counts[:, 1].tolist() == [[24, within_one, 24, within_one], [24] * 4]
        found = boundary_scores(counts, ["other", "field"])
        assert found["1 px"]["classes"]["field"]["f1"] == pytest.approx(within_one / 24)
        assert found["2 px"]["mean_f1"] == 1


def test_boundary_pixels_lie_inside_the_class_and_not_at_the_edge_of_the_image_or_the_unknown() -> None:
    label = drawn("11100", "11100", "111..", "11111")
    expected = np.array([[0, 0, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=bool)
    np.testing.assert_array_equal(boundary(label == 1, label >= 0), expected)
    # A corner touches only by the corner.
    assert boundary(np.eye(2, dtype=bool), np.ones((2, 2), dtype=bool)).tolist() == [[True, False], [False, True]]
    assert not boundary(drawn("1.", ".0") == 1, drawn("1.", ".0") >= 0).any()


def test_boundary_near_the_unknown_does_not_count() -> None:
    label = drawn("1100.", "11000", "11000", "11000", "11000")
    wrong = drawn("11100", "11100", "11100", "11100", "11100")
    counts = boundary_counts(label, wrong, 2, (1, 2))
    # Class 0: column 2 of the label and column 3 of the map. Within 1 of the unknown lies one of the map's pixels, within 2 lie
    # two, and one of the label's.
    assert counts[:, 0].tolist() == [[4, 4, 5, 5], [3, 3, 4, 4]]


def test_scores_on_hand_made_counts() -> None:
    counts = np.zeros((1, 4, 4), dtype=np.int64)
    counts[0] = [[10, 5, 20, 15], [10, 0, 0, 0], [0, 0, 7, 0], [0, 0, 0, 0]]
    found = boundary_scores(counts, ["a", "only_map", "only_label", "nowhere"], (2,))["2 px"]
    a = found["classes"]["a"]
    assert (a["precision"], a["recall"], a["f1"]) == (0.5, 0.75, pytest.approx(0.6))
    assert (a["predicted"], a["labelled"]) == (10, 20)
    assert [found["classes"][name]["f1"] for name in ("only_map", "only_label")] == [0, 0]
    assert math.isnan(found["classes"]["only_map"]["recall"])
    assert math.isnan(found["classes"]["only_label"]["precision"])
    assert math.isnan(found["classes"]["nowhere"]["f1"])
    assert found["mean_f1"] == pytest.approx(0.2)
    assert math.isnan(boundary_scores(np.zeros((1, 1, 4)), ["a"], (1,))["1 px"]["mean_f1"])


def test_counts_of_scenes_add_up() -> None:
    rng = np.random.default_rng(7)
    maps = [random_map(rng, 3) for _ in range(4)]
    gap = np.full((41, 5), IGNORE)
    label, predicted = (np.hstack([one, gap, other]) for one, other in (maps[:2], maps[2:]))
    apart = sum(boundary_counts(one, other, 3, (1,)) for one, other in zip(maps[:2], maps[2:], strict=True))
    # Side by side, what lies at the gap cannot be judged; further away all is the same.
    together = boundary_counts(label, predicted, 3, (1,))
    assert (together <= apart).all()
    assert together.sum() > 0.9 * apart.sum()


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"label has shape \(3, 3\) and prediction \(3, 4\)"):
        boundary_counts(np.zeros((3, 3), int), np.zeros((3, 4), int), 2)
    with pytest.raises(ValueError, match=r"tolerances_px are \[0\]"):
        boundary_counts(np.zeros((3, 3), int), np.zeros((3, 3), int), 2, (0,))
