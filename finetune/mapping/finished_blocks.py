"""The finished blocks of a map that is being made, on disk: what a stopped run need not predict again."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic_files import whole_file
from common.json_files import json_bytes

PLAN = "plan.json"


class FinishedBlocks:
    """A folder `.NAME.parts` beside the map, with one file a block and the plan they belong to.

    A block's file appears under its name when it is whole and on the disk, so after any interruption every file that is there
    is good. Blocks of another plan (other weights, scene or settings) are removed, never mixed in.

    Args:
        output: the map that is to be made.
        plan: everything that the blocks depend on, as plain values.
    """

    def __init__(self, output: Path, plan: Mapping[str, Any]) -> None:
        self.folder = output.with_name(f".{output.name}.parts")
        if self.folder.exists() and self._plan() != json.loads(json_bytes(plan)):
            print(f"{self.folder} holds blocks of another model, scene or setting: they are removed")
            self.remove()
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._plan() is None:
            with whole_file(self.folder / PLAN) as temporary:
                temporary.write_bytes(json_bytes(plan))

    def _plan(self) -> Any:
        path = self.folder / PLAN
        return json.loads(path.read_bytes()) if path.is_file() else None

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:07}.npz"

    def __contains__(self, number: int) -> bool:
        return self._path(number).is_file()

    def write(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep the arrays of block `number`."""
        with whole_file(self._path(number)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def read(self, number: int) -> dict[str, np.ndarray]:
        """The arrays of block `number`. Raises ValueError when the disk has damaged them since they were written."""
        path = self._path(number)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except (zipfile.BadZipFile, ValueError, EOFError) as error:
            raise ValueError(f"{path} is damaged: {error}; remove it and start again") from error

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        shutil.rmtree(self.folder)

    def remove_if_empty(self) -> None:
        """Remove the folder unless a block is finished: after an error before that there is nothing to go on with."""
        if not any(self.folder.glob("*.npz")):
            self.remove()
