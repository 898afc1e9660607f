"""The settings that determine a simulated scene."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from data_prep.archive.scene import SPLITS
from data_prep.simulation.context_regions import CONTEXT_REGIONS
from data_prep.simulation.map_errors import MapErrors
from data_prep.simulation.regions import REGIONS, Region

World = Literal["plain", "context"]
REGIONS_OF_WORLD = {"plain": REGIONS, "context": CONTEXT_REGIONS}
DEFAULT_MAP_ERRORS = {"plain": "none", "context": "typical"}
SOURCES = ("sentinel2", "landsat", "modis")
MODIS_LANDSATS = 16  # a MODIS pixel is 16 x 16 Landsat pixels: 480 m


@dataclass(frozen=True, kw_only=True)
class SceneSettings:
    """The settings that determine every byte of a simulated scene.

    Attributes:
        location: index in the endless list of locations. The first ones are the world's regions; then the regions repeat, each
            time with another landscape.
        year: calendar year of the images.
        seed: seed of all random numbers.
        landsat_px: side of the region in Landsat pixels, a multiple of 16 (one MODIS pixel).
        sentinel2_px: side of the Sentinel-2 tile in the centre of the region in pixels of 10 m, a multiple of 6.
        modis_days: days between MODIS composites.
        world: plain, or context: landscapes in which classes differ in pattern and outline, and clouds are heavy.
        sources: sources that are simulated. Labels on the grids of others are left out, too.
        split: split of the scene; None for that of its region.
        map_errors: errors of the land-cover map; None for a map without errors.
    """

    location: int
    year: int
    seed: int = 0
    landsat_px: int = 384
    sentinel2_px: int = 384
    modis_days: int = 4
    world: World = "plain"
    sources: tuple[str, ...] = SOURCES
    split: str | None = None
    map_errors: MapErrors | None = None

    def __post_init__(self) -> None:
        if self.landsat_px < 32 or self.landsat_px % MODIS_LANDSATS:
            raise ValueError(f"landsat_px is {self.landsat_px}; expected a multiple of {MODIS_LANDSATS}, at least 32")
        if self.sentinel2_px < 12 or self.sentinel2_px % 6 or self.sentinel2_px > 3 * self.landsat_px:
            raise ValueError(
                f"sentinel2_px is {self.sentinel2_px}; expected a multiple of 6 from 12 to 3 x landsat_px = {3 * self.landsat_px}"
            )
        if self.modis_days < 1:
            raise ValueError(f"modis_days is {self.modis_days}; expected at least 1")
        if not 1985 <= self.year <= 2100:
            raise ValueError(f"year is {self.year}; expected a year from 1985 to 2100")
        if not self.sources or len(set(self.sources)) < len(self.sources) or not set(self.sources) <= set(SOURCES):
            raise ValueError(f"sources are {list(self.sources)}; expected at least one of {', '.join(SOURCES)}, each once")
        if self.split is not None and self.split not in SPLITS:
            raise ValueError(f"split is {self.split!r}; expected one of {', '.join(SPLITS)}")

    @property
    def round(self) -> int:
        """How often the list of regions has been passed before this location: 0 for the first ones."""
        return self.location // len(REGIONS_OF_WORLD[self.world])

    @property
    def region(self) -> Region:
        """The region at the location. From the second round on its name ends in a number, and it is for training."""
        regions = REGIONS_OF_WORLD[self.world]
        region = regions[self.location % len(regions)]
        if self.round:
            region = replace(region, name=f"{region.name}{self.round + 1}", split="train")
        return replace(region, split=self.split) if self.split else region

    @property
    def name(self) -> str:
        """Name of the scene and of its folder."""
        return f"{self.region.name}_{self.year}"
