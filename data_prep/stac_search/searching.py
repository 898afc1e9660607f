"""A search from its settings to the scenes that it writes."""

from __future__ import annotations

from data_prep.readers.signing import signer_named
from data_prep.stac_search.area import load_area
from data_prep.stac_search.catalogues import open_catalogue
from data_prep.stac_search.scene_folders import write_scenes
from data_prep.stac_search.search import begin_search, run_search
from data_prep.stac_search.settings import SearchSettings


def search_scenes(settings: SearchSettings) -> str:
    """Search, write the scenes, and return a table of what was found. Raises ValueError when nothing was."""
    signer_named(settings.signer_name(), "--signer")
    area = load_area(settings.bbox, settings.area)
    catalogue = open_catalogue(settings.catalogue)
    begin_search(settings)
    written = write_scenes(settings, area, run_search(settings, area, catalogue))
    if not any(found.scenes for found in written.collections.values()):
        print(written.table(area))
        raise ValueError(f"{settings.catalogue} has no such item; search again, with another --output")
    return written.table(area)
