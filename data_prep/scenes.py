"""Command: search a STAC catalogue and write what it finds as scenes. Start it again with the same arguments to resume.

python data_prep/scenes.py --catalogue earth_search --collections sentinel-2-c1-l2a --start 2021-01-01 --end 2021-12-31 \\
    --bbox 4.1 50.2 4.4 50.4 --output scenes/
"""

from __future__ import annotations

from typing import NoReturn

from common.command_line import run_command
from data_prep.readers.signing import signer_named
from data_prep.stac_search.area import load_area
from data_prep.stac_search.catalogues import open_catalogue
from data_prep.stac_search.scene_folders import write_scenes
from data_prep.stac_search.search import begin_search, run_search
from data_prep.stac_search.settings import SearchSettings


def scenes(settings: SearchSettings) -> None:
    """Search, write the scenes, and print what was found."""
    signer_named(settings.signer_name(), "--signer")
    area = load_area(settings.bbox, settings.area)
    catalogue = open_catalogue(settings.catalogue)
    begin_search(settings)
    written = write_scenes(settings, area, run_search(settings, area, catalogue))
    print(written.table(area))
    if not any(found.scenes for found in written.collections.values()):
        raise ValueError(f"{settings.catalogue} has no such item; search again, with another --output")


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(scenes, config_class=SearchSettings)


if __name__ == "__main__":
    main()
