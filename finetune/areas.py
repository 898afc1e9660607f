"""Command: areas of the classes of maps, and of the transitions between the maps of several years, with their uncertainty.

python finetune/areas.py --map map_2019.tif map_2021.tif --reference points.gpkg --reference_column class_2019 class_2021 \\
    --output areas/
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NoReturn

from common.command_line import run_command
from finetune.mapping.class_areas import check_comparable, open_map
from finetune.mapping.reference_points import load_reference
from finetune.report.area_tables import AreaTables, write_area_tables


def areas(
    map: list[Path],
    output: Path,
    reference: Path | None = None,
    reference_column: list[str] | None = None,
    unsampled: Literal["error", "leave_out"] = "error",
) -> None:
    """Write the areas of the classes of maps, and of the transitions from each map to the next.

    With reference points areas are corrected for the errors of the map, with standard errors and 95 % intervals (Olofsson et al.
    2014). The points must be drawn at random within each class, or over all of the map.

    Args:
        map: one map of finetune/predict.py, or those of several years in the order of time, with the same pixels.
        output: folder for areas.csv, transitions.csv, error_matrix.csv and areas.md.
        reference: points of known classes: CSV with columns lon and lat in degrees, or GeoPackage, GeoJSON or GeoParquet.
        reference_column: column with the name of the class at the time of each map, in the order of the maps.
        unsampled: what becomes of a class, or a transition, that is mapped but has fewer than two points: error, or leave_out,
            where its area belongs to none of the estimates.
    """
    maps = [open_map(path) for path in map]
    if len(maps) > 1:
        check_comparable(maps)
    columns = reference_column or []
    if (reference is None) != (not columns) or (columns and len(columns) != len(maps)):
        raise ValueError(
            f"{len(maps)} maps, {len(columns)} columns and {'a' if reference else 'no'} reference: with --reference points.gpkg "
            "give one --reference_column for each map"
        )
    points = None if reference is None else load_reference(reference, columns, maps[0].names)
    tables = AreaTables.of(maps, points, leave_out=unsampled == "leave_out")
    output.mkdir(parents=True, exist_ok=True)
    print(write_area_tables(output, tables))


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(areas)


if __name__ == "__main__":
    main()
