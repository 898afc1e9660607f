"""The settings that determine a simulated scene."""

from __future__ import annotations

from dataclasses import dataclass, replace

from data_prep.simulation.regions import REGIONS, Region

MODIS_LANDSATS = 16  # a MODIS pixel is 16 x 16 Landsat pixels: 480 m


@dataclass(frozen=True, kw_only=True)
class SceneSettings:
    """The settings that determine every byte of a simulated scene.

    Attributes:
        location: index in the endless list of locations. The first ones are REGIONS; then the regions repeat, each time with
            another landscape.
        year: calendar year of the images.
        seed: seed of all random numbers.
        landsat_px: side of the region in Landsat pixels, a multiple of 16 (one MODIS pixel).
        sentinel2_px: side of the Sentinel-2 tile in the centre of the region in pixels of 10 m, a multiple of 6.
        modis_days: days between MODIS composites.
    """

    location: int
    year: int
    seed: int = 0
    landsat_px: int = 384
    sentinel2_px: int = 384
    modis_days: int = 4

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

    @property
    def round(self) -> int:
        """How often the list of regions has been passed before this location: 0 for the first REGIONS."""
        return self.location // len(REGIONS)

    @property
    def region(self) -> Region:
        """The region at the location. From the second round on its name ends in a number, and it is for training."""
        region = REGIONS[self.location % len(REGIONS)]
        return replace(region, name=f"{region.name}{self.round + 1}", split="train") if self.round else region

    @property
    def name(self) -> str:
        """Name of the scene and of its folder."""
        return f"{self.region.name}_{self.year}"
