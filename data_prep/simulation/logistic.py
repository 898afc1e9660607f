"""The logistic function, by which leaves grow and die, water freezes and fields are flooded."""

from __future__ import annotations

import numpy as np


def logistic(value: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-value)), without overflow."""
    return 1.0 / (1.0 + np.exp(-np.clip(value, -40.0, 40.0)))
