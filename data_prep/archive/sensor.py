"""Sensors: the meaning of the numbers of a source.

A sensor is described in a YAML file. The built-in sensors lie in `data_prep/archive/sensors/`, those of a user in a folder
`sources/` in the archive. Only these files contain band names, scales and quality codes; the code does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.storage import AnyPath, listed
from common.yaml_files import read_yaml
from common.yaml_keys import check_keys
from data_prep.archive.spectral_bands import check_spectral_bands

BUILT_IN_SENSORS = Path(__file__).parent / "sensors"
# Reflectance of red, green and blue above which ground without snow does not go: bright sand has 0.2 in blue, fresh snow 0.9.
SNOW_REFLECTANCE = 0.3


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How a quality layer distinguishes clear observations from others.

    Attributes:
        name: name of the layer.
        kind: "classes" when its codes are classes (SCL), "bits" when they are sets of bits (HLS Fmask).
        nodata: code of pixels that were not observed.
        valid: for classes, the codes of clear observations.
        reject_bits: for bits, an observation is clear when none of these bits is set.
        preferred: clear codes of better observations (full inversions of MODIS); a composite of the best observations prefers
            them.
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
        """The worst codes of several layers of equal shape, as when each band has its own layer.

        Bits are united. Of classes, a code that is not clear is worse than a clear one; otherwise the larger code is worse.
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
    """The bands of a source in the order of the model, and the meaning of its numbers.

    Attributes:
        name: name of the source (`modis`, `landsat`, `hls_s30`, `sentinel2`, or one of the user).
        title: name in figures and tables.
        bands: band names in the order of the channel axis.
        gsd_m: ground sampling distance in metres.
        revisit_days: nominal days between acquisitions; only the simulation uses them.
        dtype: integer type of the stored numbers.
        scale: reflectance = number * scale. Readers remove additive offsets of archives.
        nodata: number that means "not observed".
        valid_range: smallest and largest number that the product guide allows.
        chip_px: default side of a sample in pixels.
        rgb: the three bands shown as red, green and blue. One band named twice or three times shows grey; then no pixel counts
            as snow.
        quality: how to decode the quality layer.
        offset_varies: True when archives of the product differ in an additive offset (Sentinel-2: -1000 from processing
            baseline 04.00 on, unless the archive has removed it). Then the metadata of the files or scene.yaml must state it.
        common_names: common name of each band in the STAC EO extension (`nir08`, `rededge071`), where it has one.
        wavelengths_nm: centre wavelength of each band in nanometres. Files that state another common name or wavelength for a
            band are refused.
        products: products whose files hold the source, as file names have them (`HLS.L30`). Files of other products are passed
            over; without this key all files must be of one product.
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
    # These say which files hold the source, not what its numbers mean: a corpus that was begun without them stays the same.
    common_names: Mapping[str, str] = field(default_factory=dict, compare=False)
    wavelengths_nm: Mapping[str, float] = field(default_factory=dict, compare=False)
    products: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if len(set(self.bands)) != len(self.bands) or not self.bands:
            raise ValueError(f"source {self.name}: bands must be distinct and at least one, got {list(self.bands)}")
        missing = [band for band in self.rgb if band not in self.bands]
        if missing or len(self.rgb) != 3:
            raise ValueError(f"source {self.name}: rgb must name three of its bands {list(self.bands)}, got {list(self.rgb)}")
        if not np.issubdtype(np.dtype(self.dtype), np.integer):
            raise ValueError(f"source {self.name}: dtype is {self.dtype}; pixels stay integers as the product stores them")
        check_spectral_bands(self.common_names, self.wavelengths_nm, self.bands, f"source {self.name}")
        if not isinstance(self.products, tuple) or not all(isinstance(product, str) and product for product in self.products):
            raise ValueError(f"source {self.name}: products is {self.products!r}; expected a list of names such as HLS.L30")

    def observed(self, pixels: np.ndarray) -> np.ndarray:
        """True where every band is observed and in the valid range: pixels (T, C, H, W) -> bool (T, H, W)."""
        low, high = self.valid_range
        limits = np.iinfo(pixels.dtype)
        complete = np.ones((len(pixels), *pixels.shape[2:]), dtype=bool)
        if low > limits.min:  # skip comparisons that are true for every number of the dtype: they take as long as others
            complete &= pixels.min(axis=1) >= low
        if high < limits.max:
            complete &= pixels.max(axis=1) <= high
        if low <= self.nodata <= high:
            complete &= (pixels != self.nodata).all(axis=1)
        return complete

    def valid(self, pixels: np.ndarray, quality: np.ndarray) -> np.ndarray:
        """True where an observation is clear and complete: pixels (T, C, H, W), quality (T, H, W) -> bool (T, H, W)."""
        return self.observed(pixels) & self.quality.clear(quality)

    def white(self, pixels: np.ndarray) -> np.ndarray:
        """True where red, green and blue are all as bright as snow: pixels (T, C, H, W) -> bool (T, H, W).

        That is snow, whose code not every quality layer has (MODIS has none), and clouds that the quality layer missed. Nothing
        is white for a sensor whose `rgb` names a band twice: without three bands, as of a vegetation index alone, there is no
        colour, and an index above 0.3 is vegetation.
        """
        if len(set(self.rgb)) < len(self.rgb):
            return np.zeros((len(pixels), *pixels.shape[2:]), dtype=bool)
        visible = pixels[:, [self.bands.index(band) for band in self.rgb]]
        white: np.ndarray = visible.min(axis=1) > round(SNOW_REFLECTANCE / self.scale)
        return white

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `sensor_from_dict` is the inverse."""
        return asdict(self)


def sensor_from_dict(values: Mapping[str, Any], origin: str = "sensor") -> Sensor:
    """Build a Sensor from plain values. Raises ValueError that names `origin` and the wrong key."""
    check_keys(values, Sensor, origin)
    try:
        check_keys(values["quality"], Quality, f"{origin}, quality")
        quality: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values["quality"].items()}
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "quality"}
        return Sensor(**fields, quality=Quality(**quality))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{origin} does not describe a sensor: {error}; docs/howto/own-sensor-legend-task.md explains every key"
        ) from error


def load_sensors(folder: AnyPath | None = None) -> dict[str, Sensor]:
    """All sensors by source name: the built-in ones and those in `folder`, which replace built-in ones of the same name."""
    return described_sensors(BUILT_IN_SENSORS) | ({} if folder is None else described_sensors(folder))


def described_sensors(folder: AnyPath) -> dict[str, Sensor]:
    """The sensors that the YAML files in a folder describe, by source name; none where it does not exist."""
    sensors = {}
    for path in listed(folder, "*.yaml"):
        sensor = sensor_from_dict(read_yaml(path), origin=str(path))
        sensors[sensor.name] = sensor
    return sensors
