"""Errors of the simulated land-cover map, as maps made from satellite images have them: whole objects, and by class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rasterio.features import sieve

from common.yaml_keys import check_keys
from data_prep.landcover.legend import load_legend
from data_prep.simulation.randomness import uniform

TYPICAL = Path(__file__).with_name("map_errors.yaml")


@dataclass(frozen=True, kw_only=True)
class MapErrors:
    """Errors of the land-cover map of a scene.

    Attributes:
        confusion: for a true code of GLC_FCS30D, the codes that the map gives instead, each with the share of
            the objects (fields, stands, houses) that get it; the rest, and codes without a row, are right.
        smallest_px: connected areas of fewer map pixels get the class of the largest area beside them.

    Raises ValueError for unknown codes and for shares that are negative or sum to more than 1.
    """

    confusion: Mapping[int, Mapping[int, float]]
    smallest_px: int = 1

    def __post_init__(self) -> None:
        known = set(load_legend("glc_fcs30d").codes)
        for code, others in self.confusion.items():
            unknown = sorted(({code} | set(others)) - known)
            if unknown:
                raise ValueError(f"map errors: {unknown} are no codes of GLC_FCS30D (data_prep/landcover/legends/)")
            if code in others or min(others.values()) < 0 or sum(others.values()) > 1 + 1e-9:
                raise ValueError(
                    f"map errors: shares of code {code} are {dict(others)}; expected shares of other codes, 0 or more, "
                    "that sum to at most 1"
                )
        if self.smallest_px < 1:
            raise ValueError(f"map errors: smallest_px is {self.smallest_px}; expected at least 1")

    def confused(self, codes: np.ndarray, keys: np.ndarray, seed: int) -> np.ndarray:
        """Codes with errors, uint8 (N,), from true ones and the keys of the objects; there is one draw for each key."""
        out, draw = codes.copy(), uniform(keys, "map error", seed)
        for code, others in self.confusion.items():
            at = np.flatnonzero(codes == code)
            wrong = np.array([*others, code], dtype=np.uint8)
            out[at] = wrong[np.searchsorted(np.cumsum(list(others.values())), draw[at], side="right")]
        return out

    def without_small_areas(self, cover: np.ndarray) -> np.ndarray:
        """The map, uint8 (H, W), in which areas smaller than `smallest_px` have merged with what lies beside them."""
        return cover if self.smallest_px == 1 else sieve(cover, self.smallest_px, connectivity=4)


def load_map_errors(name_or_path: str) -> MapErrors | None:
    """Return None for `none`, the errors of map_errors.yaml for `typical`, or those of another YAML file like it.

    Raises ValueError for a file that is missing or describes no errors.
    """
    if name_or_path == "none":
        return None
    path = TYPICAL if name_or_path == "typical" else Path(name_or_path)
    if not path.is_file():
        raise ValueError(f"map errors are {name_or_path!r}; expected none, typical, or the path of a YAML file")
    try:
        values: Any = yaml.safe_load(path.read_text())
        check_keys(values, MapErrors, str(path))
        return MapErrors(**values)
    except (yaml.YAMLError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} describes no map errors: {error}; {TYPICAL} is an example") from error
