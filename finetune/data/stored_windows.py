"""Labelled windows that are read from a window store."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InfrastructureError
from common.json_files import write_json
from finetune.data.image_stack import ImageStack
from finetune.data.window_dataset import LabelledWindows
from finetune.data.window_group import WindowGroup
from finetune.data.window_store import NotStoredError, WindowStore


class StoredWindows(LabelledWindows):
    """The windows of a store, with task, augmentation and the rest of the windows that it was written from.

    Another process gets the folder and opens it anew.
    """

    def __init__(self, store: WindowStore, like: LabelledWindows) -> None:
        super().__init__(like.task, like.sensors, like.augmentation)
        self.normalization, self.seen_days = like.normalization, like.seen_days
        self.pixel_sizes, self.years = like.pixel_sizes, like.years
        self._open(store)

    def _open(self, store: WindowStore, kept: np.ndarray | None = None) -> None:
        self._store, self._kept = store, kept
        rows = store.index.windows if kept is None else store.index.windows[kept]
        self.windows = [(group, row, col) for group, row, col in rows.tolist()]
        self.labels = store.labels if kept is None else store.labels[kept]  # type: ignore[assignment]  # an array of arrays

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("_store", "windows", "labels")
        return {name: value for name, value in vars(self).items() if name not in left_out} | {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        folder = state.pop("folder")
        vars(self).update(state)
        try:
            self._open(WindowStore(folder), self._kept)
        except NotStoredError as error:
            raise InfrastructureError(f"the windows in {folder} were removed or changed while a run reads them {error}") from None

    @property
    def folder(self) -> Path:
        """Folder of the store."""
        return self._store.folder

    @property
    def key(self) -> str:
        """Digest of everything that the windows depend on, but for the pixels of images."""
        return self._store.index.key

    def group(self, number: int) -> WindowGroup:
        """What the windows of scene or sample `number` have in common."""
        return self._store.index.group(number, self.task)

    def stacks(self, index: int) -> dict[str, ImageStack]:
        """All images of the season over window `index`, as stored: views of the store."""
        return self._store.stacks(index if self._kept is None else int(self._kept[index]))

    def keep(self, kept: np.ndarray) -> None:
        """Keep only the windows of these indices, int64, ascending."""
        if len(kept) < len(self):
            self._open(self._store, kept if self._kept is None else self._kept[kept])

    def statistics(self, source: str, *, robust: bool = True) -> dict[str, list[float]]:
        """See `LabelledWindows`. Those of all windows are kept in the store: to compute them, all of it is read."""
        if self._kept is not None:
            return super().statistics(source, robust=robust)
        path = self.folder / f"statistics-{source}-{'robust' if robust else 'plain'}.json"
        if path.is_file():
            return dict(json.loads(path.read_text()))
        found = super().statistics(source, robust=robust)
        with suppress(OSError):  # of a folder in which this user may only read; the next run computes them, too
            write_json(path, found)
        return found

    def close(self) -> None:
        """Nothing is open but what is mapped."""
