"""Command: the fields of a map as polygons, GeoParquet with the column names of fiboa (finetune/mapping/polygons.py).

python finetune/fields.py --map map.tif --class_name interior --boundary boundary --simplify_m 10 --output fields.parquet
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from common.command_line import run_command
from finetune.mapping.outlines import PolygonOptions
from finetune.mapping.polygons import write_polygons


def fields(
    map: Path,
    class_name: str,
    output: Path,
    min_area_ha: float = 0.0,
    simplify_m: float = 0.0,
    boundary: str | None = None,
    boundary_px: int = 3,
) -> None:
    """Write the connected areas of a class of a map as polygons.

    Args:
        map: a map of finetune/predict.py, of a scene or a region: a GeoTIFF, or the VRT of several.
        class_name: the class.
        output: the GeoParquet to write.
        min_area_ha: smaller areas are left out, in hectares.
        simplify_m: corners are taken away as long as the triangle with their neighbours is smaller than a square of this side, in
            metres; 0 keeps the steps of the pixels. Neighbours keep their common outline.
        boundary: class that separates neighbours, onto whose pixels they are grown until they meet.
        boundary_px: how far they are grown at most, in pixels.
    """
    if not map.is_file():
        raise ValueError(f"no map at {map}: give a GeoTIFF that finetune/predict.py wrote")
    options = PolygonOptions(min_area_ha=min_area_ha, simplify_m=simplify_m, boundary=boundary, boundary_px=boundary_px)
    output.parent.mkdir(parents=True, exist_ok=True)
    found = write_polygons(map, class_name, output, options)
    print(f"{output}: {len(found)} polygons of {class_name}, {found['area'].sum():.1f} ha")


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(fields)


if __name__ == "__main__":
    main()
