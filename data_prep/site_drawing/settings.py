"""The settings of a drawing of sites, which are the options of `draw_sites.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from common.storage import AnyPath
from data_prep.archive.scene import LandCover, stated_band_years
from data_prep.plan.splits import SplitConfig


@dataclass(frozen=True, kw_only=True)
class SiteSettings:
    """Draw sites from a land-cover map, stratified by its classes and spread over the area.

    Attributes:
        land_cover: raster, folder of rasters, or list of both, in any CRS.
        output: table to write, .csv or .parquet, with id, lon, lat and class, and with year and split if asked for. A map of the
            sites is written beside it as .png.
        count: number of sites to draw.
        legend: legend of the map: name of a built-in legend, or path of a YAML file; its groups are the classes.
        cell_km: side in kilometres of the cells of equal area over which the sites of a class are spread.
        min_distance_km: smallest distance between two sites in kilometres.
        classes: draw only sites of these classes; default: all classes of the legend.
        step: use only every step-th pixel of every step-th row.
        first_year: year of the first band of each raster, when it has one band per year.
        band_years: years of bands by number of bands or pattern of file names, where the files do not state them
            (--band_years.23 2000-2022).
        year: year of the map to draw from; default: its first year.
        years: give each site one of these years, in turn.
        split: give each site a split by location, with the same spatial blocks as shard.py.
        seed: seed of the draw of the sites.
    """

    land_cover: list[AnyPath] | AnyPath
    output: Path
    count: int
    legend: str = "glc_fcs30d"
    cell_km: float = 50.0
    min_distance_km: float = 2.0
    classes: list[str] | None = None
    step: int = 1
    first_year: int | None = None
    band_years: dict[str, list[int] | str] | None = None
    year: int | None = None
    years: list[int] | None = None
    split: SplitConfig = field(default_factory=SplitConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.output.suffix.lower() not in (".csv", ".parquet"):
            raise ValueError(f"output is {self.output}; expected a name that ends in .csv or .parquet")
        if self.count < 1 or self.step < 1 or self.min_distance_km < 0:
            numbers = f"{self.count}, {self.step} and {self.min_distance_km}"
            raise ValueError(f"count and step must be at least 1 and min_distance_km at least 0; got {numbers}")

        if self.first_year is not None and self.band_years:
            raise ValueError("first_year and band_years both state the years of bands; give one of them")

    @property
    def rasters(self) -> tuple[AnyPath, ...]:
        """The rasters of the map, and folders of rasters."""
        return tuple(self.land_cover) if isinstance(self.land_cover, list) else (self.land_cover,)

    @property
    def map(self) -> LandCover:
        """The map to draw from."""
        band_years = stated_band_years(self.band_years or {}, "band_years")
        return LandCover(legend=self.legend, rasters=self.rasters, first_year=self.first_year, band_years=band_years)
