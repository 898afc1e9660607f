"""Coordinate reference systems (CRS) as texts. Functions import rasterio, so that modules that import this one stay light."""

from __future__ import annotations

import re
from functools import lru_cache


def crs_text(value: int | str, origin: str) -> str:
    """A CRS given as EPSG number, `EPSG:n`, WKT or PROJ text -> `EPSG:n` where it has one, else WKT.

    Raises ValueError, which `origin` begins, when it is no CRS.
    """
    from rasterio.errors import CRSError

    try:
        return _canonical_crs(value)
    except (CRSError, ValueError) as error:
        raise ValueError(f"{origin}: {value!r} is no coordinate reference system: {error}") from error


@lru_cache(maxsize=64)  # finding the EPSG number takes longer than opening a file
def _canonical_crs(value: int | str) -> str:
    from rasterio.crs import CRS

    crs = CRS.from_epsg(value) if isinstance(value, int) else CRS.from_user_input(value)
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else str(crs.to_wkt())


@lru_cache(maxsize=256)  # files of a series are compared one by one
def same_crs(one: str, other: str) -> bool:
    """True when two texts describe one CRS: libraries write the same CRS in different words."""
    from rasterio.crs import CRS

    return one == other or CRS.from_user_input(one) == CRS.from_user_input(other)


def crs_name(crs: str) -> str:
    """Short name of a coordinate reference system for messages: `EPSG:n`, or the name that a WKT begins with."""
    named = re.match(r'\s*\w+\s*\[\s*"([^"]+)"', crs)
    return crs if named is None else f"'{named[1]}'"
