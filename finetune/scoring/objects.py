"""How many objects of a class, for instance fields, a map finds: precision, recall and F1 at an overlap.

An object is a connected component of the class; pixels that touch at an edge are connected, at a corner they are not. An object
of the map and one of the label match when their intersection over union is above 0.5. No object has two such partners (Kirillov
et al. 2019, "Panoptic segmentation", section 4.1), so that nothing has to be assigned: pairs that share pixels are counted once,
in time that grows with the pixels and not with the square of the objects.

- Only pixels known in label and map belong to objects: both are cut alike where either has none, so that a map equal to the label
  scores 1 whatever is unknown. The edge of the image cuts both as it comes.
- Objects of the label smaller than `minimum_px` are neither to be found nor wrong: they do not count, nor do the map's that match
  them; a smaller one of the map counts only by matching a larger one of the label (the rule for sizes of COCO's evaluation, Lin
  et al. 2014).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import label as connected

from finetune.scoring.metrics import known_in_both


def object_counts(
    label: np.ndarray, predicted: np.ndarray, target: int, num_classes: int, minimum_px: int = 1, iou: float = 0.5
) -> np.ndarray:
    """Objects of class `target` in one scene, int64 (3,): matched, in the map, in the label. They add up over scenes.

    Args:
        label, predicted: class indices, integer (H, W); anything outside 0..num_classes-1 is unknown.
        target: index of the class.
        num_classes: classes of the map.
        minimum_px: smaller objects do not count, in pixels.
        iou: objects match above this intersection over union.

    Raises ValueError for maps of different shape, a target that is no class, and an iou below 0.5, where matches are not unique.
    """
    if not 0 <= target < num_classes:
        raise ValueError(f"target is {target}; expected the index of one of {num_classes} classes")
    if not 0.5 <= iou < 1 or minimum_px < 1:
        raise ValueError(f"iou is {iou} and minimum_px {minimum_px}; expected 0.5 <= iou < 1 and at least 1 pixel")
    known = known_in_both(label, predicted, num_classes)
    of_label, in_label = _components(known & (label == target))
    of_map, in_map = _components(known & (predicted == target))
    shared = (of_label > 0) & (of_map > 0)
    pairs, overlap = np.unique(of_label[shared] * np.int64(len(in_map)) + of_map[shared], return_counts=True)
    one, other = np.divmod(pairs, len(in_map))
    match = overlap > iou * (in_label[one] + in_map[other] - overlap)
    one, other = one[match], other[match]
    assert len(np.unique(one)) == len(one) == len(np.unique(other)), "matches above 0.5 are unique"
    to_find, wrong = in_label >= minimum_px, in_map >= minimum_px
    matched = to_find[one].sum()
    wrong[other] = False
    # The first entry is what is no object.
    return np.array([matched, matched + wrong[1:].sum(), to_find[1:].sum()], dtype=np.int64)


def object_scores(counts: np.ndarray) -> dict[str, Any]:
    """Scores from `object_counts` (3,), summed over scenes: f1, precision, recall, and the counts they come from.

    A ratio of nothing to nothing is NaN.
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
    """Numbers of the components of `mask`, int32 (H, W) from 1, 0 outside; and the pixels of each number, int64."""
    numbers, count = connected(mask)
    return numbers, np.bincount(numbers.ravel(), minlength=count + 1)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
