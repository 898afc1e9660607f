"""Tasks that fit the public data sets, as the content of a task's YAML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.colors import to_hex

from finetune.data.public_datasets import cropharvest, fields_of_the_world, pastis
from finetune.data.public_datasets.description import Description, PastisDescription

COLORS = 20  # of matplotlib's tab20


def task_values(description: Description) -> dict[str, Any]:
    """A task with all classes of a public data set, with their names and a colour each."""
    if isinstance(description, PastisDescription):
        # The images begin in September 2018 and end in November 2019.
        return {
            "name": "pastis",
            "title": "Crops of PASTIS",
            "label": pastis.LABEL,
            "sources": [pastis.SOURCE],
            "frames": 16,
            "season": ["10-01", "09-30"],
            "window_px": 64,
            "classes": _classes(list(pastis.CLASSES.values())),
        }
    return {
        "name": "fields_of_the_world",
        "title": "Fields of The World",
        "label": "semantic_3class",
        "sources": [fields_of_the_world.SOURCE],
        "frames": len(fields_of_the_world.WINDOWS),
        "season": ["01-01", "12-31"],
        "window_px": 64,
        "target": "field",
        "objects": "field",
        "loss": "balanced_cross_entropy",
        "classes": _classes(list(fields_of_the_world.LABELS["semantic_3class"].values())),
    }


def harvest_task_values(names: Sequence[str]) -> dict[str, Any]:
    """A task with the most frequent crops of CropHarvest; where there are more than colours, a first class takes the others.

    The season is that of most points, whose last step ends on 1 February.
    """
    listed, others = (names, []) if len(names) <= COLORS else (names[: COLORS - 1], list(names[COLORS - 1 :]))
    # All by name: of names that are not listed, one that is nearly a listed one is refused.
    name_of_rest = next(name for name in ("other", "all_others", "all_other_crops") if name not in listed)
    rest = [{"name": name_of_rest, "color": "#d9d9d9", "labels": others}] if others else []
    return {
        "name": "cropharvest",
        "title": "Crops of CropHarvest",
        "label": "crop",
        "sources": [cropharvest.SOURCE],
        "frames": cropharvest.STEPS,
        "season": ["02-01", "01-31"],
        "window_px": 1,
        "classes": [*rest, *_classes(list(listed))],
    }


def _classes(names: list[str]) -> list[dict[str, Any]]:
    colors = [to_hex(color) for color in matplotlib.colormaps["tab20"](range(COLORS))]
    return [{"name": name, "color": color, "labels": [name]} for name, color in zip(names, colors, strict=False)]
