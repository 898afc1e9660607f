"""One window of labelled data: its images, their dates and its label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from finetune.data.image_stack import ImageStack
from finetune.data.season import Season


@dataclass(frozen=True, kw_only=True)
class LabelledWindow:
    """A window as it is stored, before images are chosen and normalised.

    Attributes:
        name: name of the window, for messages.
        stacks, seasons: one per source; a missing source has a stack without images.
        label: class indices (height, width), `IGNORE` where not labelled.
        year: year in which the season ends; None if the dates are unknown.
    """

    name: str
    stacks: Mapping[str, ImageStack]
    seasons: Mapping[str, Season]
    label: np.ndarray
    year: int | None
