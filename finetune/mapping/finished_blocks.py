"""The finished blocks of an unfinished map, on disk, so that an interrupted command does not predict them again."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from torch import nn
from tqdm import tqdm

from common.atomic_files import whole_file
from common.errors import while_running
from common.json_files import json_bytes
from finetune.data.scene_series import SceneSeries
from finetune.mapping.blocks import BlockPredictor
from finetune.mapping.tiling import Tiling
from finetune.mapping.windows import Progress

IDENTITY_FILE = "plan.json"


class FinishedBlocks:
    """A folder `.NAME.parts` beside the map, with one file per finished block and the identity of the map.

    A block's file appears under its name only when it is complete and on disk. So after any interruption, every file in the
    folder is intact. Blocks of another map (other weights, scene or settings) are removed and never mixed in.

    Args:
        output: the path of the map.
        identity: see `map_identity`, and `mosaic_identity` in region.py.
        check_lock: called before a block is written; raises when another job writes this map.
    """

    def __init__(self, output: Path, identity: Mapping[str, Any], check_lock: Callable[[], None] = lambda: None) -> None:
        self._check_lock = check_lock
        self.folder = output.with_name(f".{output.name}.parts")
        if self.folder.exists() and self._identity() != json.loads(json_bytes(identity)):
            print(f"{self.folder} holds blocks of another model, scene or setting: they are removed")
            self.remove()
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._identity() is None:
            with whole_file(self.folder / IDENTITY_FILE) as temporary:
                temporary.write_bytes(json_bytes(identity))

    def _identity(self) -> Any:
        path = self.folder / IDENTITY_FILE
        return json.loads(path.read_bytes()) if path.is_file() else None

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:07}.npz"

    def __contains__(self, number: int) -> bool:
        return self._path(number).is_file()

    def write(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Store the arrays of block `number`."""
        self._check_lock()
        path = self._path(number)
        with while_running(f"writing {path}"), whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def read(self, number: int) -> dict[str, np.ndarray]:
        """The arrays of block `number`. Raises ValueError if its file is damaged."""
        path = self._path(number)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except (zipfile.BadZipFile, ValueError, EOFError) as error:
            raise ValueError(f"{path} is damaged: {error}; remove it and start again") from error

    def remove(self) -> None:
        """Remove the folder with all blocks."""
        shutil.rmtree(self.folder)

    def remove_if_empty(self) -> None:
        """Remove the folder if it holds no finished block, since then there is nothing to resume from."""
        if not any(self.folder.glob("*.npz")):
            self.remove()


# Numbers of blocks, and what to call with the number of windows that were predicted -> numbers and arrays of these blocks.
ComputeBlocks = Callable[[list[int], Progress], Iterable[tuple[int, dict[str, np.ndarray]]]]


def finish_blocks(
    finished: FinishedBlocks,
    tiling: Tiling,
    name: str,
    doing: str,
    compute: ComputeBlocks,
    wanted: Sequence[int] | None = None,
) -> None:
    """Compute and store all blocks of a map that are not finished.

    Args:
        finished: where they are stored.
        tiling: blocks and windows of the map.
        name: name of the scene.
        doing: what the progress bar shows before the name.
        compute: computes blocks.
        wanted: numbers of the blocks; None for all.
    """
    windows = {number: tiling.num_windows(tiling.blocks[number]) for number in wanted or range(len(tiling.blocks))}
    missing = [number for number in windows if number not in finished]
    total = sum(windows.values())
    done = total - sum(windows[number] for number in missing)
    if done:
        print(f"{name}: resuming, {len(windows) - len(missing)} of {len(windows)} blocks are finished")
    with tqdm(total=total, initial=done, desc=f"{doing} {name}", unit="window") as bar:
        for number, arrays in compute(missing, bar.update):
            finished.write(number, arrays)


def map_identity(predictor: BlockPredictor) -> dict[str, Any]:
    """Everything that the blocks of a map depend on, as plain values: equal identities mean equal blocks."""
    return {
        "format": 3,  # 3: with the year and the sensors; 2: no data is where no image of the season is clear, 1: no chosen one
        "weights": weights_digest(predictor.model),
        "recipe": repr(predictor.recipe),
        "scene": scene_identity(predictor.series),
        "mosaic": asdict(predictor.tiling),
        "device": predictor.device.type,
        "batch_size": predictor.batch_size,
        "probabilities": predictor.probabilities,
    }


def weights_digest(model: nn.Module) -> str:
    """XXH3 (128 bits) of a model's class, and of the names and numbers of its weights."""
    digest = xxhash.xxh3_128(type(model).__qualname__.encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def scene_identity(series: SceneSeries) -> dict[str, Any]:
    """A scene and its season as plain values: its scene.yaml, its sensors, its grids and its dates.

    Its pixels do not count; to read them all would take too long.
    """
    return {
        "name": series.scene.name,
        "folder": str(series.scene.folder.resolve()),
        "sources": repr({source: series.scene.sources[source] for source in series.sources}),
        "sensors": repr({source: series.sensors[source] for source in series.sources}),
        "year": series.year,
        "grid": repr(series.grid),
        "grids": repr(series.grids),
        "dates": {source: repr((s.length, s.days.tolist(), s.times.tolist())) for source, s in series.seasons.items()},
    }
