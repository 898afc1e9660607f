"""Writes window stores: scene by scene or sample by sample, in bounded memory, from where an earlier attempt stopped.

A store lies in a folder of its own, `SPLIT-KEY`, whose key changes with everything that its windows depend on, except for the
pixels of images: of these, some windows of a store that is used again are compared with the data. So one folder may hold the
stores of many runs, which use each other's. A lock lets one of several processes write a store, and the others wait for it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from common import ranks
from common.atomic_files import remove_leftovers, whole_file
from common.errors import InfrastructureError, while_running
from common.json_files import read_json, write_json
from common.run_lock import LOCK, InUseError, RunLock
from finetune.data.stored_windows import StoredWindows
from finetune.data.window_dataset import LabelledWindows
from finetune.data.window_store import (
    INDEX,
    LABELS,
    PROGRESS,
    WINDOWS,
    NotStoredError,
    StoreIndex,
    WindowStore,
    window_bytes,
    write_index,
)
from finetune.task import CLASS_DTYPE

SYNC_BYTES = 256_000_000  # written between two notes of the progress
WINDOWS_COMPARED = 4  # of a store that was there, with the data
_POLL_S = 0.5
_MAIN_RANK_FIRST_S = 20.0  # how long other ranks leave it to rank 0, which shows its progress, to begin
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def stored(windows: Mapping[str, LabelledWindows], folder: Path, about: Mapping[str, Any]) -> dict[str, StoredWindows]:
    """The windows of each split from stores in `folder`, which are written if they are not there.

    Args:
        windows: the windows of each split, as they are read from the data.
        folder: for the stores; it is made.
        about: what tells data apart whose windows are of the same names, dates, sizes and labels: plain values.

    Raises ValueError when the disk has too little room, and when images have changed since a store was written;
    InfrastructureError when the disk is full or `folder` cannot be written to; and what reading the data raises.
    """
    indices = {split: StoreIndex.of(of_split, {**about, "split": split}) for split, of_split in windows.items()}
    folders = {split: folder / f"{split}-{index.key[:16]}" for split, index in indices.items()}
    if ranks.announced_ranks()[0] == 0:
        _check_room(folder, {folders[split]: index for split, index in indices.items()})
    found = {}
    for split, of_split in windows.items():
        found[split] = StoredWindows(_store(of_split, folders[split], indices[split], split), of_split)
    return found


def _check_room(folder: Path, indices: Mapping[Path, StoreIndex]) -> None:
    """Raises ValueError unless what is not written yet fits on the disk."""
    needed = sum(_missing_bytes(path, index) for path, index in indices.items())
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise ValueError(
            f"the windows of this run need {_gigabytes(needed)} more in {folder}, whose disk has {_gigabytes(free)} free: make "
            "room, give a folder on another disk as --cache_folder, or use fewer windows, sources or images (--override.sources)"
        )


def _missing_bytes(folder: Path, index: StoreIndex) -> int:
    """Bytes of a store that are not on the disk yet, about."""
    if (folder / INDEX).is_file() and (folder / WINDOWS).is_file() and (folder / WINDOWS).stat().st_size == index.nbytes:
        return 0
    return index.nbytes - int(index.offsets[_windows_written(folder, index)]) + index.label_bytes


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e9:.2g} GB"


def _store(windows: LabelledWindows, folder: Path, index: StoreIndex, split: str) -> WindowStore:
    """The store in `folder`, which this process writes, or waits for, if it is not there."""
    begin, told, is_new = time.monotonic(), False, False
    while True:
        try:
            store = _opened(folder, index)
        except NotStoredError:
            pass
        else:
            if not is_new:
                check_unchanged(windows, store)
            windows.close()
            return store
        if ranks.announced_ranks()[0] and time.monotonic() - begin < _MAIN_RANK_FIRST_S:
            time.sleep(_POLL_S)
            continue
        with RunLock(folder / LOCK, folder) as lock:
            try:
                with while_running(f"writing into {folder}"):
                    lock.acquire()
            except InUseError as error:
                if not told:
                    print(f"waiting for the windows that another run writes: {str(error).rpartition(':')[0]}", flush=True)
                told = True
                time.sleep(_POLL_S)
                continue
            try:  # another run may have finished it while this one waited
                _opened(folder, index)
                continue
            except NotStoredError as error:
                damage = str(error)
            if damage:
                print(f"windows stored in {folder} are damaged and written again: {damage}", flush=True)
            is_new = _write(windows, folder, index, split, lock) == 0


def _opened(folder: Path, index: StoreIndex) -> WindowStore:
    """The finished store in `folder`. Raises NotStoredError when there is none, or one that is damaged."""
    store = WindowStore(folder)
    if store.index.key != index.key:
        raise NotStoredError(f"{INDEX} is of other windows")
    if hashlib.sha256(store.labels.data).hexdigest() != index.label_sha256:
        raise NotStoredError(f"{LABELS} holds other labels")
    return store


def check_unchanged(windows: LabelledWindows, store: WindowStore) -> None:
    """Raises ValueError unless some windows of a store hold the images that the data hold now."""
    for index in np.unique(np.linspace(0, len(windows) - 1, WINDOWS_COMPARED).round().astype(int)).tolist():
        stored_stacks = store.stacks(index)
        for source, stack in windows.stacks(index).items():
            kept = stored_stacks[source]
            if not (np.array_equal(kept.valid, stack.valid) and np.array_equal(kept.pixels, stack.pixels)):
                raise ValueError(
                    f"images of {source} in --data have changed since the windows in {store.folder} were written "
                    f"({windows.window(index).name} differs): remove this folder, and they are written anew"
                )


def _write(windows: LabelledWindows, folder: Path, index: StoreIndex, split: str, lock: RunLock) -> int:
    """Write a store from the first window that is not on the disk, whose number is returned.

    Each window is written to its place, so that a process that has lost the lock without knowing it writes the same bytes there.
    """
    with _writing(folder, index):
        remove_leftovers(folder, everything=True)
        (folder / INDEX).unlink(missing_ok=True)
        done = _windows_written(folder, index)
        file = os.open(folder / WINDOWS, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with _writing(folder, index):
            os.truncate(file, int(index.offsets[done]))
        with tqdm(total=len(windows), initial=done, desc=f"storing {split} windows", unit="window", leave=False) as bar:
            noted = int(index.offsets[done])
            for number, stacks in enumerate(windows.stacks_from(done) if done < len(windows) else (), done):
                content, place = memoryview(b"".join(window_bytes(stacks, index, number))), int(index.offsets[number])
                with _writing(folder, index):
                    while content:
                        written = os.pwrite(file, content, place)
                        content, place = content[written:], place + written
                    if index.offsets[number + 1] - noted >= SYNC_BYTES or number + 1 == len(windows):
                        lock.check()
                        os.fsync(file)
                        write_json(folder / PROGRESS, {"windows": number + 1})
                        noted = int(index.offsets[number + 1])
                bar.update()
    finally:
        os.close(file)
    with _writing(folder, index):
        lock.check()
        with whole_file(folder / LABELS) as temporary, temporary.open("wb") as labels:
            np.save(labels, np.asarray(windows.labels, CLASS_DTYPE), allow_pickle=False)
        write_index(folder, index)
    return done


def _windows_written(folder: Path, index: StoreIndex) -> int:
    """How many windows are on the disk."""
    if not (folder / PROGRESS).is_file() or not (folder / WINDOWS).is_file():
        return 0
    noted: int = read_json(folder / PROGRESS)["windows"]
    whole = int(np.searchsorted(index.offsets, (folder / WINDOWS).stat().st_size, "right")) - 1
    return min(noted, whole)


@contextmanager
def _writing(folder: Path, index: StoreIndex) -> Iterator[None]:
    """Turn OSErrors inside, which are of writing, into an InfrastructureError; that of a full disk says what is missing."""
    try:
        with while_running(f"writing windows into {folder}"):
            yield
    except InfrastructureError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in _FULL:
            raise
        left = _gigabytes(_missing_bytes(folder, index))
        raise InfrastructureError(
            f"{folder} takes no more windows: {cause.strerror}; {left} are still to be written: make room, or give a folder on "
            "another disk as --cache_folder; what is written stays"
        ) from cause
