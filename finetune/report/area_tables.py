"""Tables of the areas of classes and transitions, as CSV and for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from tabulate import tabulate

from common.atomic_files import whole_file
from finetune.mapping.class_areas import MapFile, classes_at, joint_areas
from finetune.mapping.reference_points import ReferencePoints
from finetune.scoring.area_estimation import Z_95, AreaEstimates, estimate_areas, strata_without_points


@dataclass(frozen=True, kw_only=True, eq=False)
class AreaTables:
    """What is known of the areas of maps.

    Attributes:
        classes: one row per map and class.
        transitions: one row per pair of maps that follow each other, and pair of classes; empty for one map.
        error_matrices: one row per map and class of the map, with the points of each reference class; empty without points.
        notes: what was left out, and the overall accuracies.
    """

    classes: pd.DataFrame
    transitions: pd.DataFrame
    error_matrices: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, maps: Sequence[MapFile], points: ReferencePoints | None, leave_out: bool) -> Self:
        """The tables of comparable maps.

        `leave_out`: classes without points are left out of the estimates instead of refused. Raises ValueError as
        `estimate_areas` does.
        """
        names, notes = list(maps[0].names), []
        titles = titles_of([one.path for one in maps])
        at_points = [] if points is None else [classes_at(one, points.lon, points.lat) for one in maps]
        classes, transitions, matrices = [], [], []
        for number, (one, title) in enumerate(zip(maps, titles, strict=True)):
            areas = joint_areas([one])
            notes.append(f"{title}: {areas[-1]:,.1f} ha without data, in none of the areas")
            estimates = None
            if points is not None:
                counts = _counts(at_points[number], points.classes[number], len(names))
                outside = len(points.lon) - int(counts.sum())
                if outside:
                    notes.append(f"{title}: {outside} of {len(points.lon)} points lie outside the map or its data")
                estimates = _estimated(title, names, areas[:-1], counts, leave_out, notes)
                notes.append(
                    f"{title}: overall accuracy {100 * estimates.overall:.1f} % ± {100 * Z_95 * estimates.overall_error:.1f} %"
                )
                matrix = pd.DataFrame(counts, columns=names)
                matrix.insert(0, "mapped", names)
                matrix.insert(0, "map", title)
                matrices.append(matrix)
            classes.append(_table({"map": title}, {"class": names}, areas[:-1], estimates))
        for before, after in zip(range(len(maps)), range(1, len(maps)), strict=False):
            pair = [maps[before], maps[after]]
            areas = joint_areas(pair)[:-1, :-1].ravel()
            start, end = np.repeat(names, len(names)), np.tile(names, len(names))
            estimates = None
            if points is not None:
                both = (at_points[before] >= 0) & (at_points[after] >= 0)
                mapped = np.where(both, at_points[before] * len(names) + at_points[after], -1)
                counts = _counts(mapped, points.classes[before] * len(names) + points.classes[after], len(areas))
                texts = [f"{a} to {b}" for a, b in zip(start, end, strict=True)]
                estimates = _estimated(f"{titles[before]} to {titles[after]}", texts, areas, counts, leave_out, notes)
            origin = {"map": titles[before], "next_map": titles[after]}
            transitions.append(_table(origin, {"from": list(start), "to": list(end)}, areas, estimates))
        return cls(classes=_joined(classes), transitions=_joined(transitions), error_matrices=_joined(matrices), notes=notes)


def titles_of(paths: Sequence[Path]) -> list[str]:
    """Names of files; where several have one name, with as many of the folders above as tell them apart."""
    whole = [path.absolute() for path in paths]
    for parts in range(1, max(len(path.parts) for path in whole) + 1):
        titles = ["/".join(path.parts[-parts:]) for path in whole]
        if len(set(titles)) == len(set(whole)):
            break
    return titles


def _counts(mapped: np.ndarray, reference: np.ndarray, num: int) -> np.ndarray:
    """Points by class of the map and of the reference, int64 (num, num); points without a class of the map (-1) are left out."""
    inside = mapped >= 0
    return np.bincount(mapped[inside] * num + reference[inside], minlength=num * num).reshape(num, num)


def _estimated(
    what: str, names: Sequence[str], mapped: np.ndarray, counts: np.ndarray, leave_out: bool, notes: list[str]
) -> AreaEstimates:
    """Estimates of all classes; those without points are left out, which a note tells, or refused."""
    lacking = strata_without_points(names, mapped, counts)
    if lacking and leave_out:
        without = np.isin(names, lacking)
        notes.append(
            f"{what}: {mapped[without].sum():,.1f} ha, {100 * mapped[without].sum() / max(mapped.sum(), 1e-9):.2f} % of the map, "
            f"have fewer than two points and are in no estimate: {', '.join(lacking)}"
        )
        mapped, counts = np.where(without, 0, mapped), np.where(without[:, None], 0, counts)
    if not counts.sum():
        raise ValueError(f"{what}: no reference point lies in the map where it has data")
    try:
        return estimate_areas(names, mapped, counts)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def _table(
    origin: dict[str, str], names: dict[str, list[str]], mapped: np.ndarray, estimates: AreaEstimates | None
) -> pd.DataFrame:
    """Rows of classes or transitions: areas in hectares; accuracies are shares."""
    columns: dict[str, Any] = {**origin, **names, "mapped_ha": mapped}
    if estimates is not None:
        half = Z_95 * estimates.area_errors
        columns |= {
            "area_ha": estimates.areas,
            "standard_error_ha": estimates.area_errors,
            "low_ha": np.maximum(estimates.areas - half, 0),
            "high_ha": estimates.areas + half,
            "users_accuracy": estimates.users,
            "users_standard_error": estimates.users_errors,
            "producers_accuracy": estimates.producers,
            "producers_standard_error": estimates.producers_errors,
            "points": estimates.counts.sum(axis=1),
        }
    return pd.DataFrame(columns)


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def write_area_tables(output: Path, tables: AreaTables) -> str:
    """Write the tables into a folder, in place of earlier ones, each file whole or not at all; returns the text of areas.md."""
    for name, table in (
        ("areas.csv", tables.classes),
        ("transitions.csv", tables.transitions),
        ("error_matrix.csv", tables.error_matrices),
    ):
        if len(table):
            with whole_file(output / name) as temporary:
                table.to_csv(temporary, index=False, float_format="%.10g")
        else:
            (output / name).unlink(missing_ok=True)  # of other maps
    text = _readable(tables)
    with whole_file(output / "areas.md") as temporary:
        temporary.write_text(f"# Areas\n\n{text}\n")
    return text


def _readable(tables: AreaTables) -> str:
    parts = [_markdown(tables.classes)]
    if len(tables.transitions):
        parts += ["Transitions:", _markdown(tables.transitions)]
    if len(tables.error_matrices):
        parts += ["Points by class of the map (rows) and reference class:", tabulate(
            tables.error_matrices.to_numpy().tolist(), list(tables.error_matrices.columns), tablefmt="pipe"
        )]  # fmt: skip
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in tables.notes)])


def _markdown(table: pd.DataFrame) -> str:
    """A table for people: areas in ha with their 95 % interval, accuracies in percent with theirs."""
    keys = [name for name in ("map", "next_map", "class", "from", "to") if name in table]
    rows = []
    for _, row in table.iterrows():
        cells = [*(row[key] for key in keys), f"{row['mapped_ha']:,.1f}"]
        if "area_ha" in table:
            cells.append(f"{row['area_ha']:,.1f} ± {Z_95 * row['standard_error_ha']:,.1f}")
            for name in ("users", "producers"):
                value, error = row[f"{name}_accuracy"], row[f"{name}_standard_error"]
                cells.append("-" if np.isnan(value) else f"{100 * value:.1f} ± {100 * Z_95 * error:.1f}")
            cells.append(f"{row['points']}")
        rows.append(cells)
    header = [*(key.replace("_", " ") for key in keys), "mapped ha"]
    if "area_ha" in table:
        header += ["area ha, 95 %", "user's accuracy %, 95 %", "producer's accuracy %, 95 %", "points"]
    align = [*(["left"] * len(keys)), *(["right"] * (len(header) - len(keys)))]
    return tabulate(rows, header, tablefmt="pipe", colalign=align, disable_numparse=True)
