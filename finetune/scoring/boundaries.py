"""How well the outlines of a map lie on those of the label: the boundary F1 of Csurka et al. 2013 ("What is a good evaluation
measure for semantic segmentation?", BMVC).

Of each class, precision is the share of the map's boundary pixels that have one of the label's within the tolerance, recall the
share of the label's that have one of the map's, F1 their harmonic mean. Exactly:

- A boundary pixel of a class is a pixel of it with an upper, lower, left or right neighbour of another class; it lies inside the
  class, so a straight edge is one pixel thick, and every pixel of a line of one pixel is a boundary pixel. The edge of the
  image is no boundary.
- Within the tolerance means that the centres are at most so many pixels apart (Euclidean).
- Only pixels known in label and map have a class here; next to others there is no boundary, and boundary pixels within the
  tolerance of an unknown pixel do not count, since their counterpart may lie there.

The paper averages F1 over images. Here pixels are counted and counts summed over scenes, as for the other scores, so that a scene
with little boundary weighs little and `bootstrap.interval` applies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.ndimage import binary_dilation

from finetune.scoring.metrics import known_in_both

TOLERANCES_PX = (1, 2)


def boundary_counts(
    label: np.ndarray, predicted: np.ndarray, num_classes: int, tolerances_px: Sequence[float] = TOLERANCES_PX
) -> np.ndarray:
    """Boundary pixels of one scene, int64 (tolerances, classes, 4): those of the map, of these within the tolerance of the
    label's, those of the label, of these within the tolerance of the map's.

    Args:
        label, predicted: class indices, integer (H, W); anything outside 0..num_classes-1 is unknown.
        num_classes: classes of the map.
        tolerances_px: distances in pixels.

    Raises ValueError for maps of different shape and tolerances that are not positive.
    """
    if not tolerances_px or min(tolerances_px) <= 0:
        raise ValueError(f"tolerances_px are {list(tolerances_px)}; expected at least one, all of them positive")
    known = known_in_both(label, predicted, num_classes)
    disks = [_disk(tolerance) for tolerance in tolerances_px]
    counted = [~binary_dilation(~known, disk) for disk in disks]
    counts = np.zeros((len(disks), num_classes, 4), dtype=np.int64)
    for index in range(num_classes):
        of_label, of_map = (boundary(known & (classes == index), known) for classes in (label, predicted))
        # A distance transform says the same, but takes three times as long and ten times the memory.
        for number, (disk, count) in enumerate(zip(disks, counted, strict=True)):
            for place, edge, other in ((0, of_map, of_label), (2, of_label, of_map)):
                edge = edge & count
                counts[number, index, place : place + 2] = edge.sum(), (edge & binary_dilation(other, disk)).sum()
    return counts


def boundary(mask: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Pixels of `mask` with one of their four neighbours known and outside it: bool (H, W), as both arguments."""
    edge: np.ndarray = mask & binary_dilation(known & ~mask)
    return edge


def boundary_scores(
    counts: np.ndarray, classes: Sequence[str], tolerances_px: Sequence[float] = TOLERANCES_PX
) -> dict[str, dict[str, Any]]:
    """Scores from `boundary_counts`, summed over scenes, by tolerance ("1 px"): mean_f1, and f1, precision, recall, the
    boundary pixels of label ("labelled") and map ("predicted") of each class.

    NaN where there is nothing to score: precision without boundary in the map, recall without any in the label, F1 without both.
    """
    result: dict[str, dict[str, Any]] = {}
    for tolerance, of_classes in zip(tolerances_px, counts, strict=True):
        predicted, right, labelled, found = of_classes.astype(np.float64).T
        with np.errstate(invalid="ignore"):
            precision, recall = right / predicted, found / labelled
            f1 = 2 * precision * recall / (precision + recall)
        # Nothing lies on anything: 0, also where one of the two has no boundary at all.
        f1[(right + found == 0) & (predicted + labelled > 0)] = 0.0
        defined = f1[~np.isnan(f1)]
        result[f"{tolerance:g} px"] = {
            "mean_f1": float(defined.mean()) if defined.size else float("nan"),
            "classes": {
                name: {
                    "f1": float(f1[i]),
                    "precision": float(precision[i]),
                    "recall": float(recall[i]),
                    "labelled": int(labelled[i]),
                    "predicted": int(predicted[i]),
                }
                for i, name in enumerate(classes)
            },
        }
    return result


def _disk(radius: float) -> np.ndarray:
    """Offsets at most `radius` away, bool (2r + 1, 2r + 1)."""
    reach = np.arange(-int(radius), int(radius) + 1)
    disk: np.ndarray = reach[:, None] ** 2 + reach**2 <= radius**2
    return disk
