"""STAC catalogues and collections that are known by name: where they are, and what their items leave to convention.

They are described in `data_prep/archive/stac_collections.yaml`, because asset keys differ between catalogues, and common names of
bands are no help: Planetary Computer calls four bands of Sentinel-2 `rededge`, and HLS calls one band `nir` that is `nir08`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from common.yaml_keys import check_keys

STAC_COLLECTIONS = Path(__file__).with_name("stac_collections.yaml")
NO_SIGNER = "none"
OFFSETS = ("raster_bands", "boa_offset_applied", "processing_baseline")


@dataclass(frozen=True, kw_only=True)
class StacCatalogue:
    """A catalogue that is known by name.

    Attributes:
        url: landing page of its API.
        signer: what signs the URLs of its files (`data_prep/readers/signing.py`).
    """

    url: str
    signer: str = NO_SIGNER


@dataclass(frozen=True, kw_only=True)
class StacCollection:
    """A collection that is known by name.

    Attributes:
        source: source whose product it holds.
        item_id: regular expression of the ids of its items, with the named groups `tile`; `date` (year and day of year) where
            items state a period instead of a day; and `version`, where ids tell which of two processings is newer.
        assets: asset key of each band and of the quality layer, where it is not the name in the sensor. The quality layer may
            have a list of keys; then the worst code counts.
        offset: what states the additive offset of the stored numbers, one of OFFSETS; None when there is none.
    """

    source: str
    item_id: str
    assets: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    offset: str | None = None

    def __post_init__(self) -> None:
        if self.offset is not None and self.offset not in OFFSETS:
            raise ValueError(f"offset is {self.offset!r}; expected one of {', '.join(OFFSETS)}")
        if "tile" not in re.compile(self.item_id).groupindex:
            raise ValueError(f"item_id {self.item_id!r} must have the named group (?P<tile>...)")

    def named_in(self, item_id: str) -> Mapping[str, str]:
        """The named groups of the id of an item, such as its tile; empty for an id that is not of this collection."""
        match = re.fullmatch(self.item_id, item_id)
        return {} if match is None else match.groupdict()


@cache
def stac_catalogues() -> Mapping[str, StacCatalogue]:
    """The catalogues by name."""
    values = _file()["catalogues"]
    for name, of_catalogue in values.items():
        check_keys(of_catalogue, StacCatalogue, f"{STAC_COLLECTIONS}, {name}")
    return {name: StacCatalogue(**of_catalogue) for name, of_catalogue in values.items()}


@cache
def stac_collections() -> Mapping[str, StacCollection]:
    """The collections by `CATALOGUE/COLLECTION`."""
    values = _file()["collections"]
    for name, of_collection in values.items():
        check_keys(of_collection, StacCollection, f"{STAC_COLLECTIONS}, {name}")
    return {name: StacCollection(**of_collection) for name, of_collection in values.items()}


@cache
def _file() -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    values: Mapping[str, Mapping[str, Mapping[str, Any]]] = yaml.safe_load(STAC_COLLECTIONS.read_text())
    return values


def signer_of(collection: str) -> str:
    """The signer of a collection `CATALOGUE/COLLECTION`."""
    return stac_catalogues()[collection.partition("/")[0]].signer
