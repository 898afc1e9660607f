"""Object scores: how many objects of a class, for instance fields, a map finds.

An object is a connected component of the class; pixels that share an edge are connected, pixels that share only a corner are not.
An object of the map and one of the label match if their intersection over union is above 0.5. No object has two such partners
(Kirillov et al. 2019, "Panoptic segmentation", section 4.1), so no assignment problem has to be solved: it is enough to count the
shared pixels of each pair, which takes time proportional to the pixels and not to the square of the objects.

- Only pixels with a class in both label and map belong to objects. Missing pixels cut the objects of both alike, so that a map
  equal to the label scores 1 wherever pixels are missing. The edge of the image cuts objects as well.
- An object of the label smaller than `minimum_px` does not count, nor does an object of the map that matches it. A smaller object
  of the map counts only if it matches a larger one of the label. This is the rule for sizes in the evaluation of COCO (Lin et al.
  2014).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import label as connected

from finetune.scoring.metrics import scored_pixels


def object_counts(
    label: np.ndarray, predicted: np.ndarray, target: int, num_classes: int, minimum_px: int = 1, iou: float = 0.5
) -> np.ndarray:
    """Objects of class `target` in one scene, int64 (3,): matched, in the map, in the label. They add up over scenes.

    Args:
        label, predicted: class indices, integer (H, W); pixels with a number outside 0..num_classes-1 belong to no object.
        target: index of the class.
        num_classes: number of classes of the map.
        minimum_px: objects with fewer pixels do not count.
        iou: objects match above this intersection over union.

    Raises ValueError for arrays of different shape, a target that is not a class, and an iou below 0.5, where matches are not
    unique.
    """
    if not 0 <= target < num_classes:
        raise ValueError(f"target is {target}; expected the index of one of {num_classes} classes")
    if not 0.5 <= iou < 1 or minimum_px < 1:
        raise ValueError(f"iou is {iou} and minimum_px {minimum_px}; expected 0.5 <= iou < 1 and at least 1 pixel")
    scored = scored_pixels(label, predicted, num_classes)
    of_label, in_label = _components(scored & (label == target))
    of_map, in_map = _components(scored & (predicted == target))
    shared = (of_label > 0) & (of_map > 0)
    pairs, overlap = np.unique(of_label[shared] * np.int64(len(in_map)) + of_map[shared], return_counts=True)
    one, other = np.divmod(pairs, len(in_map))
    match = overlap > iou * (in_label[one] + in_map[other] - overlap)
    one, other = one[match], other[match]
    assert len(np.unique(one)) == len(one) == len(np.unique(other)), "matches above 0.5 are unique"
    to_find, wrong = in_label >= minimum_px, in_map >= minimum_px
    matched = to_find[one].sum()
    wrong[other] = False
    # Entry 0 counts the pixels outside objects.
    return np.array([matched, matched + wrong[1:].sum(), to_find[1:].sum()], dtype=np.int64)


def object_scores(counts: np.ndarray) -> dict[str, Any]:
    """Scores from `object_counts` (3,), summed over scenes: f1, precision, recall, and the counts they come from.

    A score of 0/0 is NaN.
    """
    matched, predicted, labelled = (int(count) for count in counts)
    return {
        "f1": _ratio(2 * matched, predicted + labelled),
        "precision": _ratio(matched, predicted),
        "recall": _ratio(matched, labelled),
        "matched": matched,
        "predicted": predicted,
        "labelled": labelled,
    }


def _components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Component numbers of `mask`, int32 (H, W), from 1 and 0 outside; and the pixels of each number, int64."""
    numbers, count = connected(mask)
    return numbers, np.bincount(numbers.ravel(), minlength=count + 1)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
