"""The embedding of a scene as a file: made block by block, resumed after an interruption, with a STAC item beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from common.errors import while_running
from common.json_files import json_bytes, write_json
from finetune.embedding.components import COMPONENTS_FILE
from finetune.embedding.files import EmbeddingFile, write_cog, write_zarr
from finetune.embedding.projection import Projection
from finetune.embedding.scene_blocks import BlockEmbedder, SceneCells, embedding_identity
from finetune.embedding.stac_item import embedding_item
from finetune.embedding.workers import EmbedWorkers
from finetune.mapping.finished_blocks import ComputeBlocks, FinishedBlocks, finish_blocks
from finetune.mapping.scene import last_image
from finetune.mapping.tiling import Block
from finetune.mapping.windows import Progress

Format = Literal["cog", "zarr"]
StoredType = Literal["auto", "int8", "float16"]
SUFFIXES: dict[Format, str] = {"cog": ".tif", "zarr": ".zarr"}
_IDENTITY = "agrifm:identity"  # in a STAC item: digest of everything that the embedding depends on


def stored_type(kind: Format, wanted: StoredType) -> Literal["int8", "float16"]:
    """The type of the stored numbers. `auto` is int8 in a GeoTIFF, which has a scale for each band, and float16 in Zarr."""
    assert wanted in get_args(StoredType)
    if wanted != "auto":
        return wanted
    return "int8" if kind == "cog" else "float16"


def embedding_path(folder: Path, scene: str, year: int, kind: Format) -> Path:
    """The file of the embedding of a scene and a year."""
    return folder / f"{scene}_{year}{SUFFIXES[kind]}"


def item_path(path: Path) -> Path:
    """The STAC item of an embedding. Its name holds the format, as a scene may be embedded in both."""
    return path.with_name(f"{path.name}.json")


def embed_scene(
    cells: SceneCells,
    projection: Projection,
    folder: Path,
    kind: Format,
    wanted: StoredType,
    workers: EmbedWorkers | None = None,
    check_lock: Callable[[], None] = lambda: None,
) -> Path:
    """Write the embedding of a scene into `folder`, and a STAC item beside it; returns its path.

    Nothing is done where the same embedding is there. Memory does not grow with the scene. Finished blocks are kept in a folder
    beside the file, and the same call resumes from them. The item is written last: it says that the file is complete.

    Args:
        cells: the scene.
        projection: from features to embeddings; its file lies in `folder` as `COMPONENTS_FILE`.
        folder: where the files appear.
        kind: `cog` or `zarr`.
        wanted: type of the stored numbers; see `stored_type`.
        workers: processes that embed; None embeds in this process.
        check_lock: called before every write; raises when another job writes there.

    Raises ValueError for a grid that the format cannot hold.
    """
    series = cells.series
    path = embedding_path(folder, series.scene.name, series.year, kind)
    embedder = BlockEmbedder(cells=cells, projection=projection, in_one_byte=stored_type(kind, wanted) == "int8")
    with series:
        identity = _identity(embedder, kind)
        digest = hashlib.sha256(json_bytes(identity)).hexdigest()
        if _is_finished(path, digest):
            print(f"{path} is finished")
            return path
        item_path(path).unlink(missing_ok=True)
        finished = FinishedBlocks(path, identity, check_lock)
        computed = _computed(embedder, folder / COMPONENTS_FILE, workers)
        try:
            with while_running(f"embedding {series.scene.name}"):
                finish_blocks(finished, embedder.tiling, series.scene.name, "embedding", computed)
            check_lock()
            with while_running(f"writing {path}"):
                clipped = _write(embedder, finished, path, kind, digest)
            finished.remove()
        except BaseException:
            check_lock()
            finished.remove_if_empty()
            raise
    height, width = cells.grid.shape
    beyond = f"; {clipped} cells have a number beyond the range of one byte, stored as its end" if clipped else ""
    print(f"{path}: {projection.dimensions} x {height} x {width} cells of {cells.grid.pixel_side:g}{beyond}")
    return path


def _computed(embedder: BlockEmbedder, components: Path, workers: EmbedWorkers | None) -> ComputeBlocks:
    """Computes blocks in this process, or by workers."""
    tiling = embedder.tiling

    def compute(numbers: list[int], progress: Progress) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        if workers is None:
            yield from ((number, embedder.embed(tiling.blocks[number], progress)) for number in numbers)
        else:
            for number, arrays in workers.embed(embedder, components, numbers):
                yield number, arrays
                progress(tiling.num_windows(tiling.blocks[number]))

    return compute


def _identity(embedder: BlockEmbedder, kind: Format) -> dict[str, Any]:
    return embedding_identity(embedder) | {"file": kind, "in_one_byte": embedder.in_one_byte}


def stated_identity(path: Path) -> str | None:
    """Digest of everything that the embedding at `path` depends on; None where its STAC item does not state it."""
    try:
        return str(json.loads(item_path(path).read_bytes())["properties"][_IDENTITY])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # unfinished, or of another program


def _is_finished(path: Path, digest: str) -> bool:
    """Whether the embedding with this identity lies at `path`, complete."""
    return path.exists() and stated_identity(path) == digest


def _write(embedder: BlockEmbedder, finished: FinishedBlocks, path: Path, kind: Format, digest: str) -> int:
    """Write the files of an embedding whose blocks are all finished; returns how many cells were clipped."""
    cells, projection = embedder.cells, embedder.projection
    series, task = cells.series, cells.model.task
    clipped = 0

    def blocks() -> Iterator[tuple[Block, np.ndarray]]:
        nonlocal clipped
        for number, block in enumerate(embedder.tiling.blocks):
            arrays = finished.read(number)
            clipped += int(arrays["clipped"])
            yield block, arrays["embedding"]

    dates = {source: series.readers[source].dates[series.seasons[source].times] for source in series.sources}
    tags = {
        "scene": series.scene.name,
        "year": series.year,
        "model": cells.model.origin,
        "model_weights": cells.model.digest,
        "components": projection.digest,
        "sources": list(task.sources),
        "levels": list(cells.features.choice.levels),
        "time_axis": cells.features.choice.time,
        "last_image": last_image(series),
        "cell_px": cells.geometry.cell_px,
    }
    about = EmbeddingFile(
        grid=cells.grid,
        names=projection.names,
        scale=projection.scale if embedder.in_one_byte else None,
        offset=projection.offset if embedder.in_one_byte else None,
        season=task.season_of(series.year),
        tags=tags,
    )
    write = write_cog if kind == "cog" else write_zarr
    write(path, finished.folder, about, blocks())
    properties = {
        "gsd": None if _is_in_degrees(cells) else cells.grid.pixel_side,
        "mlm:name": Path(cells.model.origin).name,
        "mlm:architecture": "AgriFM Video Swin",
        "mlm:tasks": ["feature-extraction"],
        "mlm:framework": "pytorch",
        "mlm:total_parameters": sum(weight.numel() for weight in cells.features.encoder.parameters()),
        **{f"agrifm:{name}": value for name, value in tags.items() if name != "scene"},
        "agrifm:scene": series.scene.name,
        "agrifm:frames": task.frames,
        "agrifm:images": {source: [str(day) for day in np.unique(days)] for source, days in dates.items()},
        "agrifm:variance": float(projection.variance.sum()),
        "agrifm:clipped_cells": clipped,
        _IDENTITY: digest,
    }
    properties = {name: value for name, value in properties.items() if value is not None}
    write_json(item_path(path), embedding_item(path, about, properties, path.with_name(COMPONENTS_FILE)))
    return clipped


def _is_in_degrees(cells: SceneCells) -> bool:
    from pyproj import CRS

    return bool(CRS.from_user_input(cells.grid.crs).is_geographic)
