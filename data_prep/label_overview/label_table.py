"""The table of labels: pixels and objects per class and split, and what is not labelled."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

from data_prep.archive.scene import SPLITS
from data_prep.label_overview.label_maps import LabelMap
from data_prep.plan.label_blocks import SplitGround
from data_prep.plan.splits import IN_BUFFER

NOT_LABELLED = "not labelled"
NO_SPLIT, BUFFER = "no split stated", "in the buffer"


class LabelTable:
    """Counts of labels, scene by scene.

    `ground`: the ground of a split where scenes are divided by spatial blocks; None where each scene is of one split.
    """

    def __init__(self, ground: SplitGround | None = None) -> None:
        self._ground = ground
        self._pixels: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by split and class
        self._objects: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._classes: list[str] = []
        self._all_pixels: Counter[str] = Counter()
        self._overlaps: Counter[str] = Counter()
        self._others: defaultdict[str, Counter[str]] = defaultdict(Counter)  # objects that are not used, by split and reason

    def add(self, made: LabelMap) -> None:
        """Add the label of a scene and year."""
        label, codes = made.label, made.codes
        self._classes += [name for name in label.classes.values() if name not in self._classes]
        own = made.scene.split if made.scene.split_stated else NO_SPLIT
        splits = None if self._ground is None else self._ground.splits_of(made.grid, codes != label.nodata)
        for code, name in label.classes.items():
            here = codes == code
            if splits is None:
                self._pixels[own][name] += int(here.sum())
                self._objects[own][name] += made.objects.get(code, 0)
            else:
                for number, split in [*enumerate(SPLITS), (IN_BUFFER, BUFFER)]:
                    self._pixels[split][name] += int((here & (splits == number)).sum())
                self._objects[NO_SPLIT][name] += made.objects.get(code, 0)
        self._all_pixels[own] += codes.size
        self._overlaps[own] += made.counts.overlap_px
        others = self._others[own]
        others["outside of the scenes"] += made.counts.outside
        others["of classes that are not labelled"] += made.objects.get(label.nodata, 0)
        others.update({f"left out: {reason}": number for reason, number in made.counts.left_out.items()})

    def text(self) -> str:
        """The table, for people."""
        with_pixels = [split for split in (*SPLITS, NO_SPLIT, BUFFER) if split in self._pixels]
        with_objects = [split for split in (*SPLITS, NO_SPLIT) if split in self._objects]
        header = ["class", *(f"{split}, px" for split in with_pixels)]
        header += [f"{split}, objects" if self._ground is None else "objects" for split in with_objects]
        rows = [[name, *self._row(name, with_pixels, with_objects)] for name in self._classes]
        rows.append(self._not_labelled(with_pixels, with_objects))
        rows.append(self._of_pixels("not labelled, in overlaps", self._overlaps, with_pixels, with_objects))
        reasons = sorted({reason for others in self._others.values() for reason, number in others.items() if number})
        for reason in reasons:
            of_reason = [str(self._others[split][reason]) for split in with_objects]
            rows.append([reason, *[""] * len(with_pixels), *of_reason])
        aligned = ("left", *["right"] * (len(header) - 1))
        return tabulate(rows, header, colalign=aligned, disable_numparse=True)

    def _row(self, name: str, with_pixels: Sequence[str], with_objects: Sequence[str]) -> list[str]:
        return [f"{self._pixels[split][name]:,}" for split in with_pixels] + [
            f"{self._objects[split][name]:,}" for split in with_objects
        ]

    def _not_labelled(self, with_pixels: Sequence[str], with_objects: Sequence[str]) -> list[str]:
        """Pixels without a label, and their share: of each split, or of all ground where that is divided."""
        if self._ground is not None:
            labelled, everything = sum(of_split.total() for of_split in self._pixels.values()), self._all_pixels.total()
            text = _with_share(everything - labelled, everything)
            return [NOT_LABELLED, *[""] * (len(with_pixels) - 1), text, *[""] * len(with_objects)]
        texts = [_with_share(self._all_pixels[s] - self._pixels[s].total(), self._all_pixels[s]) for s in with_pixels]
        return [NOT_LABELLED, *texts, *[""] * len(with_objects)]

    def _of_pixels(self, name: str, numbers: Counter[str], with_pixels: Sequence[str], with_objects: Sequence[str]) -> list[str]:
        if self._ground is not None:
            return [name, *[""] * (len(with_pixels) - 1), f"{numbers.total():,}", *[""] * len(with_objects)]
        return [name, *(f"{numbers[split]:,}" for split in with_pixels), *[""] * len(with_objects)]


def _with_share(number: int, of: int) -> str:
    return f"{number:,} ({100 * number / max(of, 1):.1f} %)"


def labelled(made: LabelMap) -> np.ndarray:
    """Whether each pixel is labelled, bool (H, W)."""
    found: np.ndarray = made.codes != made.label.nodata
    return found
