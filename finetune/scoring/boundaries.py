"""Boundary F1: how well the boundaries of a map match those of the label.

The score is that of Csurka et al. 2013 ("What is a good evaluation measure for semantic segmentation?", BMVC). For each class,
precision is the share of the map's boundary pixels with a boundary pixel of the label within the tolerance, recall is the share
of the label's boundary pixels with one of the map within the tolerance, and F1 is their harmonic mean. In detail:

- A boundary pixel of a class belongs to the class and has an upper, lower, left or right neighbour of another class. So a
  straight boundary is one pixel thick, and every pixel of a line of one pixel is a boundary pixel. The edge of the image is not
  a boundary.
- Two pixels are within the tolerance if the Euclidean distance of their centres is at most this many pixels.
- Only pixels with a class in both label and map are scored. A neighbour that is not scored makes no boundary, and boundary pixels
  within the tolerance of such a pixel do not count, since their counterpart may lie there.

The paper averages F1 over images. Here the counts of pixels are summed over scenes, as for the other scores, so that a scene
with few boundary pixels has little weight and `bootstrap.interval` applies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.ndimage import binary_dilation

from finetune.scoring.metrics import scored_pixels

TOLERANCES_PX = (1, 2)


def boundary_counts(
    label: np.ndarray, predicted: np.ndarray, num_classes: int, tolerances_px: Sequence[float] = TOLERANCES_PX
) -> np.ndarray:
    """Counts of boundary pixels of one scene, int64 (tolerances, classes, 4).

    The four counts are: boundary pixels of the map; those of them within the tolerance of the label's boundary; boundary pixels
    of the label; those of them within the tolerance of the map's boundary.

    Args:
        label, predicted: class indices, integer (H, W); pixels with a number outside 0..num_classes-1 are not scored.
        num_classes: number of classes of the map.
        tolerances_px: distances in pixels.

    Raises ValueError for arrays of different shape and for tolerances that are not positive.
    """
    if not tolerances_px or min(tolerances_px) <= 0:
        raise ValueError(f"tolerances_px are {list(tolerances_px)}; expected at least one, all of them positive")
    scored = scored_pixels(label, predicted, num_classes)
    disks = [_disk(tolerance) for tolerance in tolerances_px]
    counted = [~binary_dilation(~scored, disk) for disk in disks]
    counts = np.zeros((len(disks), num_classes, 4), dtype=np.int64)
    for index in range(num_classes):
        of_label, of_map = (boundary(scored & (classes == index), scored) for classes in (label, predicted))
        # A distance transform gives the same result, but takes three times as long and ten times the memory.
        for number, (disk, count) in enumerate(zip(disks, counted, strict=True)):
            for first, edge, other in ((0, of_map, of_label), (2, of_label, of_map)):
                edge = edge & count
                counts[number, index, first : first + 2] = edge.sum(), (edge & binary_dilation(other, disk)).sum()
    return counts


def boundary(mask: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """Pixels of `mask` with at least one of four neighbours that is scored and outside `mask`; all three are bool (H, W)."""
    edge: np.ndarray = mask & binary_dilation(scored & ~mask)
    return edge


def boundary_scores(
    counts: np.ndarray, classes: Sequence[str], tolerances_px: Sequence[float] = TOLERANCES_PX
) -> dict[str, dict[str, Any]]:
    """Scores from `boundary_counts`, summed over scenes, by tolerance ("1 px").

    They are mean_f1 and, for each class, f1, precision, recall and the boundary pixels of label ("labelled") and map
    ("predicted"). Precision is NaN without a boundary in the map, recall without one in the label, F1 without either.
    """
    result: dict[str, dict[str, Any]] = {}
    for tolerance, of_classes in zip(tolerances_px, counts, strict=True):
        predicted, right, labelled, found = of_classes.astype(np.float64).T
        with np.errstate(invalid="ignore"):
            precision, recall = right / predicted, found / labelled
            f1 = 2 * precision * recall / (precision + recall)
        # No boundary pixel has a counterpart: F1 is 0, even if either the map or the label has no boundary at all.
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
    """Offsets at a distance of at most `radius`, bool (2r + 1, 2r + 1)."""
    reach = np.arange(-int(radius), int(radius) + 1)
    disk: np.ndarray = reach[:, None] ** 2 + reach**2 <= radius**2
    return disk
