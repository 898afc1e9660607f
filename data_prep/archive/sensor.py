"""Sensors as data: what a source's numbers mean.

A sensor is a YAML file: the built-in ones lie in `data_prep/archive/sensors/`, a user's own beside them or in a folder `sources/`
in the archive. Nothing else in the project knows a band name, a scale or a quality code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

BUILT_IN_SOURCES = Path(__file__).parent / "sensors"


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How a quality layer tells clear observations from the rest.

    `classes`: a pixel is clear when its code is in `valid` (SCL). `bits`: when none of `reject_bits` is set (HLS Fmask).
    A pixel with the code `nodata` was not observed at all. `preferred`: clear codes that mean a better observation than other
    clear ones (full inversions of MODIS); the best pixel of several dates is chosen among them first.
    """

    name: str
    kind: Literal["classes", "bits"]
    nodata: int
    valid: tuple[int, ...] = ()
    reject_bits: tuple[int, ...] = ()
    preferred: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("classes", "bits"):
            raise ValueError(f"quality layer {self.name}: kind is {self.kind!r}; expected 'classes' or 'bits'")
        if self.kind == "classes" and not self.valid:
            raise ValueError(f"quality layer {self.name} of kind 'classes' needs `valid`, the list of clear codes")
        if self.kind == "bits" and not self.reject_bits:
            raise ValueError(f"quality layer {self.name} of kind 'bits' needs `reject_bits`")

    def clear(self, codes: np.ndarray) -> np.ndarray:
        """Boolean array of the shape of `codes` (any integer dtype): True where the observation is clear."""
        if self.kind == "classes":
            return np.isin(codes, self.valid)
        mask = sum(1 << bit for bit in self.reject_bits)
        return ((codes & mask) == 0) & (codes != self.nodata)

    def worst(self, layers: Sequence[np.ndarray]) -> np.ndarray:
        """One layer from several of equal shape, as where each band has its own.

        Bits are united. Of classes, one that is not clear wins over one that is, and then the larger code.
        """
        worst = layers[0]
        for codes in layers[1:]:
            if self.kind == "bits":
                worst = worst | codes
            else:
                worse = self.clear(worst).astype(np.int8) - self.clear(codes)  # 1: only `codes` is not clear
                worst = np.where((worse > 0) | ((worse == 0) & (codes > worst)), codes, worst)
        return worst


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """One source of image series: its bands in model order and the meaning of its numbers.

    Attributes:
        name: source name (`modis`, `landsat`, `sentinel2`, or a user's own).
        title: name for people, in legends and tables.
        bands: band names in the order of the channel axis.
        gsd_m: ground sampling distance in metres.
        revisit_days: nominal days between acquisitions (used by the simulation only).
        dtype: integer type of the stored numbers.
        scale: reflectance = number * scale. Offsets are harmonised away when a scene is read, never here.
        nodata: number that stands for "not observed".
        valid_range: smallest and largest number the product guide allows.
        chip_px: default side of a sample in pixels.
        rgb: the three bands shown as red, green and blue.
        quality: decoding of the quality layer.
        offset_varies: True where archives of the product differ in an additive offset (Sentinel-2: -1000 from processing
            baseline 04.00 on, unless the archive is harmonised already). Metadata that the reader knows, or the scene, must
            then state it.
    """

    name: str
    title: str
    bands: tuple[str, ...]
    gsd_m: float
    revisit_days: float
    dtype: str
    scale: float
    nodata: int
    valid_range: tuple[int, int]
    chip_px: int
    rgb: tuple[str, str, str]
    quality: Quality
    offset_varies: bool = False

    def __post_init__(self) -> None:
        if len(set(self.bands)) != len(self.bands) or not self.bands:
            raise ValueError(f"source {self.name}: bands must be distinct and at least one, got {list(self.bands)}")
        missing = [band for band in self.rgb if band not in self.bands]
        if missing or len(self.rgb) != 3:
            raise ValueError(f"source {self.name}: rgb must name three of its bands {list(self.bands)}, got {list(self.rgb)}")
        if not np.issubdtype(np.dtype(self.dtype), np.integer):
            raise ValueError(f"source {self.name}: dtype is {self.dtype}; pixels stay integers as the product stores them")

    def observed(self, pixels: np.ndarray) -> np.ndarray:
        """Observations that are complete, with every band in the valid range: pixels (T, C, H, W) -> bool (T, H, W)."""
        low, high = self.valid_range
        limits = np.iinfo(pixels.dtype)
        complete = np.ones((len(pixels), *pixels.shape[2:]), dtype=bool)
        if low > limits.min:  # comparisons that the type answers are left out: they are as dear as the others
            complete &= pixels.min(axis=1) >= low
        if high < limits.max:
            complete &= pixels.max(axis=1) <= high
        if low <= self.nodata <= high:
            complete &= (pixels != self.nodata).all(axis=1)
        return complete

    def valid(self, pixels: np.ndarray, quality: np.ndarray) -> np.ndarray:
        """Clear and complete observations: pixels (T, C, H, W), quality (T, H, W) -> bool (T, H, W)."""
        return self.observed(pixels) & self.quality.clear(quality)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `sensor_from_dict` is the inverse."""
        return asdict(self)


def sensor_from_dict(values: Mapping[str, Any], origin: str = "sensor") -> Sensor:
    """Build a Sensor from plain values. Raises ValueError that names `origin` and the key that is wrong."""
    try:
        quality: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values["quality"].items()}
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "quality"}
        return Sensor(**fields, quality=Quality(**quality))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{origin} does not describe a sensor: {error}; see {BUILT_IN_SOURCES / 'sentinel2.yaml'} for every key"
        ) from error


def load_sensors(folder: Path | None = None) -> dict[str, Sensor]:
    """All known sensors by source name: the built-in ones, then those of `folder`, which win on equal names."""
    sensors = {}
    for place in [BUILT_IN_SOURCES] + ([folder] if folder is not None and folder.is_dir() else []):
        for path in sorted(place.glob("*.yaml")):
            sensor = sensor_from_dict(yaml.safe_load(path.read_text()), origin=str(path))
            sensors[sensor.name] = sensor
    return sensors
