"""Embeddings of points: a table with one row per point, as Parquet.

A point has the embedding of the cell that holds it, the same numbers that the scene's map has there before they are stored in one
byte or two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd

from common.atomic_files import whole_file
from common.errors import while_running
from common.grid import GEOGRAPHIC
from finetune.embedding.projection import Projection
from finetune.embedding.scene_blocks import BlockEmbedder, SceneCells, embedding_identity
from finetune.mapping.finished_blocks import FinishedBlocks, finish_blocks
from finetune.mapping.windows import Progress

ID, LON, LAT, SCENE = "id", "lon", "lat", "scene"
_LON_NAMES, _LAT_NAMES = ("lon", "longitude"), ("lat", "latitude")


def read_points(path: Path) -> pd.DataFrame:
    """A table of points: `id`, `lon` and `lat` in degrees (WGS 84), and the other columns of the file.

    A CSV needs columns lon and lat, or longitude and latitude. Any other file is read by geopandas, and its geometry must be
    points with a CRS. Without a column `id`, points are numbered from 0.

    Raises ValueError for other files, for points without a place, and for ids that repeat.
    """
    if not path.is_file():
        raise ValueError(f"--points: no file {path}")
    table = _read_csv(path) if path.suffix.lower() == ".csv" else _read_vector(path)
    if ID not in table:
        table.insert(0, ID, np.arange(len(table)))
    repeated = table[ID][table[ID].duplicated()]
    if len(repeated):
        raise ValueError(f"{path}: ids must be unique; {repeated.iloc[0]!r} repeats")
    lon, lat = table[LON].to_numpy(), table[LAT].to_numpy()
    wrong = np.flatnonzero(~(np.isfinite(lon) & np.isfinite(lat) & (np.abs(lon) <= 360) & (np.abs(lat) <= 90)))
    if len(wrong):
        raise ValueError(
            f"{path}: row {wrong[0]} has longitude {lon[wrong[0]]} and latitude {lat[wrong[0]]}; expected degrees (WGS 84)"
        )
    first = [ID, LON, LAT]
    return table[[*first, *(column for column in table.columns if column not in first)]].reset_index(drop=True)


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from error
    for wanted, names in ((LON, _LON_NAMES), (LAT, _LAT_NAMES)):
        found = [column for column in table.columns if str(column).strip().lower() in names]
        if len(found) != 1 or not pd.api.types.is_numeric_dtype(table[found[0]]):
            raise ValueError(
                f"{path}: expected one column {' or '.join(names)} with degrees (WGS 84); it has {', '.join(map(str, table))}"
            )
        table = table.rename(columns={found[0]: wanted})
    return table.astype({LON: float, LAT: float})


def _read_vector(path: Path) -> pd.DataFrame:
    try:
        table = geopandas.read_parquet(path) if path.suffix.lower() == ".parquet" else geopandas.read_file(path)
    except Exception as error:  # of arbitrary bytes GDAL and pyarrow raise errors of many classes
        raise ValueError(f"{path} cannot be read as a vector file with points: {error}") from error
    if table.crs is None:
        raise ValueError(f"{path} does not say its CRS; write it with one")
    kinds = sorted(set(table.geom_type.dropna()))
    if kinds != ["Point"] or table.geometry.isna().any() or table.geometry.is_empty.any():
        raise ValueError(f"{path} holds {', '.join(kinds) or 'nothing'} or empty geometries; expected a point in each row")
    degrees = table.geometry.to_crs(GEOGRAPHIC)
    rest = pd.DataFrame(table.drop(columns=table.geometry.name))
    for column in (LON, LAT):
        rest = rest.rename(columns={column: f"{column}_of_table"}) if column in rest else rest
    return rest.assign(**{LON: degrees.x.to_numpy(), LAT: degrees.y.to_numpy()})


def embed_points(
    points: pd.DataFrame,
    scenes: Sequence[SceneCells],
    projection: Projection,
    output: Path,
    check_lock: Callable[[], None] = lambda: None,
) -> pd.DataFrame:
    """Write the embeddings of points as Parquet, and return the table: that of `points`, `scene`, and one column per dimension.

    A point gets the first scene, by name, that has data in its cell; without one its scene and embedding are missing. Finished
    parts are kept in folders beside the output, and the same call resumes from them.

    Raises ValueError when a column of the points has the name of a column of the result.
    """
    taken = sorted({SCENE, *projection.names} & set(points.columns))
    if taken:
        raise ValueError(f"the points have columns {', '.join(taken)}, which the result needs; rename them")
    values = np.full((len(points), projection.dimensions), np.nan, dtype=np.float32)
    names: list[str | None] = [None] * len(points)
    parts = []
    for cells in scenes:
        cols, rows = cells.grid.pixels_at(points[LON].to_numpy(), points[LAT].to_numpy())
        with np.errstate(invalid="ignore"):
            inside = (rows >= 0) & (rows < cells.grid.height) & (cols >= 0) & (cols < cells.grid.width)
        todo = np.flatnonzero(inside & np.isnan(values[:, 0]))
        if not len(todo):
            continue
        part = output.with_name(f"{output.stem}.{cells.series.scene.name}")
        at = np.floor(rows[todo]).astype(int), np.floor(cols[todo]).astype(int)
        finished = _finish_scene(cells, projection, at, part, check_lock)
        parts.append(finished)
        for number in np.unique(_block_of(cells, projection, at)).tolist():
            arrays = finished.read(number)
            chosen = todo[arrays["points"][arrays["seen"]]]
            values[chosen] = arrays["values"][arrays["seen"]]
            for index in chosen:
                names[index] = cells.series.scene.name
    table = points.assign(**{SCENE: pd.Series(names, index=points.index, dtype="string")})
    table = pd.concat([table, pd.DataFrame(values, columns=projection.names, index=points.index)], axis=1)
    check_lock()
    with while_running(f"writing {output}"), whole_file(output) as temporary:
        table.to_parquet(temporary, index=False)
    for finished in parts:
        finished.remove()
    return table


def _block_of(cells: SceneCells, projection: Projection, at: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Number of the block that holds each cell."""
    tiling = cells.tiling(projection.dimensions)
    across = -(-tiling.width // tiling.block)
    return at[0] // tiling.block * across + at[1] // tiling.block


def _finish_scene(
    cells: SceneCells,
    projection: Projection,
    at: tuple[np.ndarray, np.ndarray],
    part: Path,
    check_lock: Callable[[], None],
) -> FinishedBlocks:
    """Embed the points of one scene, in parts that are those of its map; returns where the parts are."""
    embedder = BlockEmbedder(cells=cells, projection=projection, in_one_byte=False)
    of_points = _block_of(cells, projection, at)
    with cells.series:
        places = hashlib.sha256(np.stack(at).tobytes()).hexdigest()
        finished = FinishedBlocks(part, embedding_identity(embedder) | {"points": places}, check_lock)
        tiling, numbers = embedder.tiling, np.unique(of_points).tolist()

        def compute(numbers: list[int], progress: Progress) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
            for number in numbers:
                chosen = np.flatnonzero(of_points == number)
                values, seen = embedder.at(at[0][chosen], at[1][chosen])
                yield number, {"points": chosen, "values": values, "seen": seen}
                progress(tiling.num_windows(tiling.blocks[number]))

        try:
            with while_running(f"embedding points of {cells.series.scene.name}"):
                finish_blocks(finished, tiling, cells.series.scene.name, "embedding points of", compute, numbers)
        except BaseException:
            check_lock()
            finished.remove_if_empty()
            raise
    return finished
