"""The settings of a search, which are the options of `scenes.py`."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal

from common.checksums import sha256_of
from common.storage import is_url
from data_prep.archive.stac_collections import NO_SIGNER, stac_catalogues, stac_collections
from data_prep.plan.splits import SpatialBlocks, SplitConfig


@dataclass(frozen=True, kw_only=True)
class LandCoverSettings:
    """Land cover of all scenes, as in scene.yaml; without `raster` and `quality` they have none.

    Attributes:
        raster: classified map in any CRS: rasters and folders of rasters.
        legend: name of a built-in legend, or path of a YAML file.
        first_year: year of the first band of each raster, for a map with one band per year.
        band_years: years of bands by number of bands or pattern of file names, where the files do not state them
            (--land_cover.band_years.23 2000-2022).
        nearest_year: samples of years that the map lacks use the nearest year.
        quality: source whose quality layer is counted over the year, instead of a map.
    """

    raster: list[str] | None = None
    legend: str = "glc_fcs30d"
    first_year: int | None = None
    band_years: dict[str, list[int] | str] | None = None
    nearest_year: bool = False
    quality: str | None = None

    def in_scene(self) -> dict[str, Any] | None:
        """The entry `land_cover` of scene.yaml, with absolute paths; None without land cover."""
        if self.raster is None and self.quality is None:
            return None
        if self.raster is not None and self.quality is not None:
            raise ValueError("land cover comes from --land_cover.raster or --land_cover.quality, not from both")
        legend = _absolute(self.legend) if self.legend.endswith(".yaml") else self.legend
        if self.raster is None:
            return {"quality": self.quality, "legend": legend}
        years = {"first_year": self.first_year, "band_years": self.band_years, "nearest_year": self.nearest_year or None}
        return {
            "raster": [_absolute(path) for path in self.raster],
            "legend": legend,
            **{name: value for name, value in years.items() if value is not None},
        }


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Search a STAC catalogue and write a scene for each tile and year. Start it again with the same arguments to resume.

    Attributes:
        output: folder for the scenes.
        catalogue: earth_search, planetary_computer or lpdaac; or the URL of a STAC API; or the path or URL of a static
            catalogue, of an ItemCollection (such as a saved search), or of a stac-geoparquet table.
        collections: collections of the catalogue; those that are not in data_prep/archive/stac_collections.yaml with their
            source, as in `sentinel2=my-collection`.
        start: first day, as in 2021-01-01.
        end: last day.
        bbox: area to search in degrees, as in `--bbox 4.1 50.2 4.4 50.4` (west, south, east, north). West is larger than east for
            an area that crosses 180 degrees. Scenes are cut to it.
        area: the area as polygons in a GeoJSON file, or another one that geopandas reads, to whose bounds scenes are cut; or a
            table of points (CSV or Parquet with the columns id, lon, lat), which `shard.py --sites` then cuts samples at.
        tiles: only these tiles, as in `31TFJ 31TGJ`; neighbouring tiles overlap.
        split: split that all scenes state; default: none, so that shards count them as train and fine-tuning can divide their
            ground (`finetune/run.py --split_blocks.side_m`).
        signer: planetary_computer or none, which signs the URLs of files when they are read; default: that of the catalogue.
        by_year: a scene for each tile and calendar year; false gives one for each tile, with all dates, as maps of a season over
            New Year need.
        options: further options of scene.yaml by source (`--options.sentinel2.compose.every_days 16`).
        split_by_place: give each tile a split by its place instead.
        land_cover: land cover of the scenes, which pretraining learns.
    """

    output: Path
    catalogue: str
    collections: list[str]
    start: str
    end: str
    bbox: list[float] | None = None
    area: Path | None = None
    tiles: list[str] | None = None
    split: Literal["train", "validation", "test"] | None = None
    signer: str | None = None
    by_year: bool = True
    options: dict[str, Any] | None = None
    split_by_place: SplitConfig = field(default_factory=SplitConfig)
    land_cover: LandCoverSettings = field(default_factory=LandCoverSettings)

    def __post_init__(self) -> None:
        if (self.bbox is None) == (self.area is None):
            raise ValueError("where to search? give either --bbox WEST SOUTH EAST NORTH or --area FILE")
        if self.first > self.last:
            raise ValueError(f"start {self.start} lies after end {self.end}")
        if self.split_by_place.buffer_km:
            raise ValueError("a buffer between splits works only with samples: give --split.buffer_km to shard.py")
        self.land_cover.in_scene()
        known = set(self.sources().values())
        unknown = sorted(set(self.options or {}) - known)
        if unknown:
            raise ValueError(f"options speaks of the sources {unknown}; the collections are of {sorted(known)}")

    @property
    def first(self) -> date:
        return _day(self.start, "start")

    @property
    def last(self) -> date:
        return _day(self.end, "end")

    @property
    def blocks(self) -> SpatialBlocks | None:
        """The spatial blocks that give tiles their splits; None when all scenes have the same."""
        return self.split_by_place.spatial_blocks()

    def sources(self) -> dict[str, str]:
        """The source of each collection. Raises ValueError where it is not known, and for a source with two collections."""
        found: dict[str, str] = {}
        for entry in self.collections:
            source, _, collection = entry.rpartition("=")
            known = {
                other.source
                for name, other in stac_collections().items()
                if name.partition("/")[2] == collection
                and (self.catalogue not in stac_catalogues() or name.startswith(self.catalogue))
            }
            if not source and len(known) != 1:
                here = [name for name in stac_collections() if name.startswith(f"{self.catalogue}/")] or list(stac_collections())
                raise ValueError(
                    f"collection {collection} is not known, so say which source it is, --collections SOURCE={collection}; known "
                    f"are {', '.join(here)}"
                )
            found[collection] = source or next(iter(known))
        for source in set(found.values()):
            same = [collection for collection, other in found.items() if other == source]
            if len(same) > 1:
                raise ValueError(f"collections {', '.join(same)} are all source {source}; search for one of them")
        return found

    def signer_name(self) -> str:
        """The signer that scenes state."""
        catalogue = stac_catalogues().get(self.catalogue)
        return self.signer or (NO_SIGNER if catalogue is None else catalogue.signer)

    def identity(self) -> dict[str, Any]:
        """What must be equal for a search to be resumed, as plain values: the settings, and the content of the area."""
        values = asdict(self)
        del values["output"]
        if self.by_year:
            del values["by_year"]  # as searches that were begun before there was this setting
        values["area"] = None if self.area is None else f"{self.area.name}, sha256 {sha256_of(self.area)}"
        return values


def _day(text: str, option: str) -> date:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        raise ValueError(f"{option} is {text!r}; expected a day like 2021-01-31")
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{option} is {text!r}: {error}") from error


def _absolute(path: str) -> str:
    return path if is_url(path) else str(Path(path).absolute())
