"""Command: search a STAC catalogue and write what it finds as scenes. Start it again with the same arguments to resume.

python data_prep/scenes.py --catalogue earth_search --collections sentinel-2-c1-l2a --start 2021-01-01 --end 2021-12-31 \\
    --bbox 4.1 50.2 4.4 50.4 --output scenes/
"""

from __future__ import annotations

from typing import NoReturn

from common.command_line import run_command
from data_prep.stac_search.searching import search_scenes
from data_prep.stac_search.settings import SearchSettings


def scenes(settings: SearchSettings) -> None:
    """Search, write the scenes, and print what was found."""
    print(search_scenes(settings))


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(scenes, config_class=SearchSettings)


if __name__ == "__main__":
    main()
