"""Reflectance of canopies and surfaces in the bands of a sensor, from the table that make_spectra.py has computed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

TABLE = Path(__file__).with_name("spectra.npz")
# The order of the axes of the table. BACKGROUNDS is also the order of the last axis of every array of ground shares.
PLANTS = ("rice", "cereal", "maize", "broadleaf", "grass", "deciduous", "evergreen", "needle", "reed")
BACKGROUNDS = ("loam", "dark", "red", "moist", "straw", "flooded", "snow")


class Spectra:
    """The table, cut to the bands of one source, interpolated linearly in leaf area, senescence and ground shares.

    Attributes:
        bands: names of the bands, in the order of the last axis.
        center_nm: their central wavelengths.
    """

    def __init__(self, source: str) -> None:
        table = _table()
        names = table["bands"].tolist()
        chosen = [i for i, name in enumerate(names) if name.startswith(f"{source}:")]
        if not chosen:
            raise ValueError(f"no spectra for source {source!r}; the table has {sorted({name.split(':')[0] for name in names})}")
        self.bands = [names[i].split(":")[1] for i in chosen]
        self.center_nm = table["center_nm"][chosen]
        self._surfaces = dict(zip(table["surface_names"].tolist(), table["surfaces"][:, chosen], strict=True))
        self._lai, self._senescence = table["lai"], table["senescence"]
        self._canopies = np.ascontiguousarray(table["canopies"][..., chosen])

    def surface(self, name: str) -> np.ndarray:
        """Reflectance float32 (bands,) of soil, water, snow, roofs, cloud, ... by name."""
        return self._surfaces[name]

    def canopy(self, plant: np.ndarray, lai: np.ndarray, senescence: np.ndarray, ground: np.ndarray) -> np.ndarray:
        """Nadir reflectance of canopies, float32 (N, bands).

        Args:
            plant: (N,) indices into PLANTS.
            lai: (N,) leaf area, m2/m2.
            senescence: (N,) from 0, green, to 1, dead.
            ground: (N, 7) shares of BACKGROUNDS.
        """
        i, u = _bracket(self._lai, lai)
        j, v = _bracket(self._senescence, senescence)
        total = np.zeros((len(plant), len(self.bands)), dtype=np.float32)
        for di, wi in ((0, 1 - u), (1, u)):
            for dj, wj in ((0, 1 - v), (1, v)):
                shares = (ground * (wi * wj)[:, None]).astype(np.float32)
                total += np.matmul(shares[:, None, :], self._canopies[plant, j + dj, i + di])[:, 0]
        return total


@cache
def _table() -> dict[str, np.ndarray]:
    with np.load(TABLE, allow_pickle=False) as arrays:
        table = {name: arrays[name] for name in arrays.files}
    assert tuple(table["plants"].tolist()) == PLANTS
    assert tuple(table["backgrounds"].tolist()) == BACKGROUNDS
    return table


def _bracket(nodes: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the node below each value and the share of the way to the next; values outside are clipped."""
    clipped = np.clip(values, nodes[0], nodes[-1])
    index = np.clip(np.searchsorted(nodes, clipped, side="right") - 1, 0, len(nodes) - 2)
    return index, (clipped - nodes[index]) / (nodes[index + 1] - nodes[index])
