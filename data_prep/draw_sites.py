"""Command: draw sites for samples from a land-cover map, evenly over its classes and over the ground.

python data_prep/draw_sites.py --land_cover tiles/ --legend glc_fcs30d --count 100000 --output sites.parquet
"""

from __future__ import annotations

from typing import NoReturn

from common.command_line import run_command
from data_prep.site_drawing.drawing import draw
from data_prep.site_drawing.output import class_table, write_sites, write_sites_map
from data_prep.site_drawing.settings import SiteSettings

RENAMED = {f"split_{name}": f"split.{name}" for name in ("block_km", "shares", "buffer_km", "seed")}


def draw_sites(settings: SiteSettings) -> None:
    """Draw the sites, write their table and their map, and print how many of each class there are."""
    drawn = draw(settings)
    picture = settings.output.with_suffix(".png")
    write_sites(settings.output, drawn, settings.years)
    write_sites_map(picture, drawn)
    print(class_table(drawn))
    found = len(drawn.sites)
    if found < settings.count:
        print(f"{found} of {settings.count} sites: no further pixel is {settings.min_distance_km} km away from all of them")
    print(f"{settings.output} holds the sites, {picture} shows them")


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(draw_sites, config_class=SiteSettings, renamed=RENAMED)


if __name__ == "__main__":
    main()
