"""The files of Leaflet, the JavaScript library of the web map, from the Python package XStatic-Leaflet.

Leaflet (BSD-2-Clause, https://leafletjs.com) is read from the installed package, so the page needs no other host. XStatic-Leaflet
holds these files and no code.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

PACKAGE = "XStatic-Leaflet"
FILES = {"leaflet.js": "text/javascript", "leaflet.css": "text/css"}


def leaflet_file(name: str) -> bytes:
    """The content of one of `FILES`. Raises ValueError when the package is not installed or lacks it."""
    assert name in FILES, name
    try:
        path = Path(str(distribution(PACKAGE).locate_file(f"xstatic/pkg/leaflet/data/{name}")))
    except PackageNotFoundError as error:
        raise ValueError(f"the web map needs the package {PACKAGE}: pip install {PACKAGE}") from error
    if not path.is_file():
        raise ValueError(f"the package {PACKAGE} has no {path}; install another version of it")
    return path.read_bytes()
