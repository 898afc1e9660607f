"""Command: the fields of a map as polygons, GeoParquet with the column names of fiboa (finetune/mapping/polygons.py).

python finetune/fields.py --map map.tif --class_name field --output fields.parquet
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from common.command_line import run_command
from finetune.mapping.polygons import write_polygons


def fields(map: Path, class_name: str, output: Path, min_area_ha: float = 0.0) -> None:
    """Write the connected areas of a class of a map as polygons.

    Args:
        map: a map of finetune/predict.py.
        class_name: the class.
        output: the GeoParquet to write.
        min_area_ha: smaller areas are left out, in hectares.
    """
    if not map.is_file():
        raise ValueError(f"no map at {map}: give a GeoTIFF that finetune/predict.py wrote")
    output.parent.mkdir(parents=True, exist_ok=True)
    found = write_polygons(map, class_name, output, min_area_ha)
    print(f"{output}: {len(found)} polygons of {class_name}, {found['area'].sum():.1f} ha")


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(fields)


if __name__ == "__main__":
    main()
