"""Land-cover legends: fine codes, their counts in a footprint, and their grouping into the classes of the fractions."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from common.storage import AnyPath, any_path, version_of
from common.yaml_files import read_yaml

BUILT_IN_LEGENDS = Path(__file__).parent / "legends"


@dataclass(frozen=True, kw_only=True)
class Legend:
    """A land-cover legend and its default grouping.

    Attributes:
        name: name in files and options.
        title: name in figures and tables.
        codes: fine codes in ascending order; all vectors of counts have this order.
        code_names: name of each code.
        groups: class of each code.
        classes: class names; vectors of fractions have this order.
        colors: `#rrggbb` of each class.
        fill: codes that mean "not mapped"; they are not counted.
    """

    name: str
    title: str
    codes: tuple[int, ...]
    code_names: tuple[str, ...]
    groups: tuple[str, ...]
    classes: tuple[str, ...]
    colors: tuple[str, ...]
    fill: tuple[int, ...]

    def __post_init__(self) -> None:
        unknown = sorted(set(self.groups) - set(self.classes))
        if unknown:
            raise ValueError(f"legend {self.name} groups codes into {unknown}, but its classes are {list(self.classes)}")
        if list(self.codes) != sorted(set(self.codes)):
            raise ValueError(f"legend {self.name}: codes must be distinct and ascending, got {list(self.codes)}")
        if not self.fill:
            raise ValueError(f"legend {self.name}: `fill` needs at least one code, for pixels outside the map")

    def count(self, codes: np.ndarray) -> np.ndarray:
        """Number of pixels of each fine code: integers of any shape -> int64 (codes,). Fill codes are not counted.

        Raises ValueError for a code that the legend does not have, so that a wrong legend is not taken for unmapped pixels.
        """
        found, counts = np.unique(codes, return_counts=True)
        self._check(found)
        by_code = dict(zip(found.tolist(), counts.tolist(), strict=True))
        return np.array([by_code.get(code, 0) for code in self.codes], dtype=np.int64)

    def positions(self, codes: np.ndarray) -> np.ndarray:
        """Position of each pixel's code in `self.codes`: integers of any shape -> int64 of that shape, -1 for fill codes.

        Raises ValueError as `count` does.
        """
        found = np.unique(codes)
        self._check(found)
        by_code = {code: position for position, code in enumerate(self.codes)}
        positions = np.array([by_code.get(code, -1) for code in found.tolist()], dtype=np.int64)
        return positions[np.searchsorted(found, codes)]

    def _check(self, found: np.ndarray) -> None:
        unknown = sorted(set(found.tolist()) - set(self.codes) - set(self.fill))
        if unknown:
            raise ValueError(
                f"land cover holds codes {unknown[:5]} that legend {self.name} does not have; is it the right legend?"
            )

    def grouping_matrix(self) -> np.ndarray:
        """Matrix of 0 and 1, float64 (classes, codes): `grouping_matrix() @ counts` sums fine counts into classes."""
        return np.array([[group == name for group in self.groups] for name in self.classes], dtype=np.float64)

    def fractions(self, counts: np.ndarray) -> np.ndarray:
        """Counts (..., codes) -> area fractions float64 (..., classes) that sum to 1.

        Raises ValueError for a footprint without counts: it has no target, and must have been rejected before.
        """
        grouped = counts @ self.grouping_matrix().T
        total = grouped.sum(axis=-1, keepdims=True)
        if (total == 0).any():
            raise ValueError("a footprint without any mapped pixel has no land-cover fractions")
        return grouped / total

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `legend_from_dict` is the inverse."""
        return asdict(self)


def legend_from_dict(values: Mapping[str, Any]) -> Legend:
    """Inverse of `Legend.to_dict`."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Legend(**fields)


def load_legend(name_or_path: str) -> Legend:
    """Load a built-in legend by the name of its file in `legends/`, such as `glc_fcs30d`, or any legend by the path of its YAML.

    Raises ValueError when it does not exist or does not describe a legend.
    """
    path = any_path(name_or_path) if name_or_path.endswith(".yaml") else BUILT_IN_LEGENDS / f"{name_or_path}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in BUILT_IN_LEGENDS.glob("*.yaml"))
        raise ValueError(f"no legend {name_or_path!r}: give one of {known} or the path of a .yaml file like theirs")
    return _legend_at(path, version_of(path))


@lru_cache(maxsize=64)
def _legend_at(path: AnyPath, _version: Hashable) -> Legend:
    """Read a legend; cached, because all scenes of an archive share a few."""
    values = read_yaml(path)
    try:
        codes = dict(sorted(values["codes"].items()))
        return Legend(
            name=values["name"],
            title=values["title"],
            codes=tuple(codes),
            code_names=tuple(entry["name"] for entry in codes.values()),
            groups=tuple(entry["group"] for entry in codes.values()),
            classes=tuple(values["classes"]),
            colors=tuple(entry["color"] for entry in values["classes"].values()),
            fill=tuple(values["fill"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} does not describe a legend: {error}; see {BUILT_IN_LEGENDS / 'glc_fcs30d.yaml'} for every key"
        ) from error
