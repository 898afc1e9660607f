"""Objects of maps against hand-drawn cases and a loop over all pairs of objects."""

from __future__ import annotations

import math

import numpy as np
import pytest
import rasterio.features
from scipy.ndimage import gaussian_filter

from finetune.scoring.objects import object_counts, object_scores
from finetune.task import IGNORE


def drawn(*rows: str) -> np.ndarray:
    """A map from rows: `#` is a field, `-` is not, `.` is a missing pixel."""
    return np.array([["-#.".index(letter) if letter != "." else IGNORE for letter in row] for row in rows])


def flood(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """Components of pixels that share edges, one set of pixels each."""
    left = {(int(r), int(c)) for r, c in np.argwhere(mask)}
    found = []
    while left:
        front, component = [left.pop()], set()
        while front:
            r, c = front.pop()
            component.add((r, c))
            for pixel in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
                if pixel in left:
                    left.remove(pixel)
                    front.append(pixel)
        found.append(component)
    return found


def naive_counts(label: np.ndarray, predicted: np.ndarray, minimum_px: int, iou: float) -> list[int]:
    """The counts by comparing every object with every other."""
    known = (label >= 0) & (predicted != 255)
    of_label, of_map = flood(known & (label == 1)), flood(known & (predicted == 1))
    partner = {}
    for i, one in enumerate(of_label):
        for j, other in enumerate(of_map):
            if len(one & other) / len(one | other) > iou:
                assert j not in partner
                partner[j] = i
    matched = sum(len(of_label[i]) >= minimum_px for i in partner.values())
    unmatched = sum(len(other) >= minimum_px for j, other in enumerate(of_map) if j not in partner)
    return [matched, matched + unmatched, sum(len(one) >= minimum_px for one in of_label)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("minimum_px", [1, 6])
def test_counts_equal_those_of_all_pairs(seed: int, minimum_px: int) -> None:
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(70, 60)), 1.5)
    label = (field > 0.02).astype(np.int64)
    predicted = (field + 0.08 * gaussian_filter(rng.normal(size=field.shape), 1) > 0.03).astype(np.uint8)
    label[rng.random(label.shape) < 0.02] = IGNORE
    predicted[rng.random(label.shape) < 0.01] = 255
    for iou in (0.5, 0.7):
        found = object_counts(label, predicted, 1, 2, minimum_px, iou).tolist()
        assert found == naive_counts(label, predicted, minimum_px, iou)
        assert 0 < found[0] < max(found[1:])


@pytest.mark.parametrize(
    ("label", "predicted", "expected"),
    [
        # One field found, one missed, one made up.
        (("##---", "##---", "----#"), ("##-#-", "##---", "-----"), [1, 2, 2]),
        # 2 of 4 pixels are half, not more than half; 3 of 4 are.
        (("####",), ("##--",), [0, 1, 1]),
        (("####",), ("###-",), [1, 1, 1]),
        # Two fields merged into one, of which the larger is more than half.
        (("####-#",), ("######",), [1, 1, 2]),
        # One field cut into two halves: none matches.
        (("#####",), ("##-##",), [0, 2, 1]),
        # Corners do not connect: two fields each.
        (("#-", "-#"), ("#-", "-#"), [2, 2, 2]),
        # An unknown pixel cuts both alike; what is drawn under it does not matter.
        (("##.##",), ("#####",), [2, 2, 2]),
        (("##..",), ("##-#",), [1, 1, 1]),
        (("--",), ("--",), [0, 0, 0]),
    ],
)
def test_hand_drawn(label: tuple[str, ...], predicted: tuple[str, ...], expected: list[int]) -> None:
    assert object_counts(drawn(*label), drawn(*predicted), 1, 2).tolist() == expected


def test_small_objects_are_neither_missed_nor_wrong() -> None:
    label = drawn("##-#-###", "--------", "###-----")
    # From the left: found although too small, missed although too small, found; below: found by a smaller object.
    predicted = drawn("##---###", "--------", "##------")
    assert object_counts(label, predicted, 1, 2).tolist() == [3, 3, 4]
    assert object_counts(label, predicted, 1, 2, minimum_px=3).tolist() == [2, 2, 2]
    assert object_counts(predicted, label, 1, 2, minimum_px=3).tolist() == [1, 1, 1]
    made_up = np.where(np.arange(8) == 4, 1, predicted)  # joins them to one of six pixels, and gives two small ones
    assert object_counts(label, made_up, 1, 2, minimum_px=3).tolist() == naive_counts(label, made_up, 3, 0.5)


def test_objects_are_the_polygons_of_rasterio() -> None:
    rng = np.random.default_rng(1)
    label = (gaussian_filter(rng.normal(size=(200, 200)), 2) > 0.05).astype(np.uint8)
    polygons = [shape for shape, value in rasterio.features.shapes(label, connectivity=4) if value == 1]
    assert object_counts(label, label, 1, 2).tolist() == [len(polygons)] * 3


def test_scores() -> None:
    found = object_scores(np.array([3, 4, 6]))
    assert (found["precision"], found["recall"], found["f1"]) == (0.75, 0.5, pytest.approx(0.6))
    nothing = object_scores(np.array([0, 0, 2]))
    assert (nothing["f1"], nothing["recall"]) == (0, 0)
    assert math.isnan(nothing["precision"])
    assert math.isnan(object_scores(np.zeros(3))["f1"])


def test_mistakes_are_named() -> None:
    label = np.zeros((3, 3), int)
    with pytest.raises(ValueError, match=r"prediction \(3, 4\)"):
        object_counts(label, np.zeros((3, 4), int), 1, 2)
    with pytest.raises(ValueError, match="target is 2; expected the index of one of 2 classes"):
        object_counts(label, label, 2, 2)
    with pytest.raises(ValueError, match=r"iou is 0.4"):
        object_counts(label, label, 1, 2, iou=0.4)
