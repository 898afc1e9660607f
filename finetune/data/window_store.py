"""The window store: the labelled windows of a split in one file, which every process of a run maps into memory.

    FOLDER/windows.bin     all windows, one after the other
    FOLDER/labels.npy      their labels, int16 (windows, H, W)
    FOLDER/index           where each window lies, its name and season; written last: a store without it is not finished
    FOLDER/progress.json   {"windows": how many of them are on the disk}
    FOLDER/statistics-*.json   band statistics of all windows, once a run has asked for them

A window in windows.bin is, for each source of the task in the task's order, the pixels (images, bands, rows, columns) in the
sensor's type and then where they are clear (images, rows, columns), one byte each; both as `LabelledWindows.stacks` gives them.
Each array begins at a multiple of 64 bytes. Nothing is compressed: a training item needs a third of a window's images, in any
order, and is read without a copy. The index is an .npz without pickles, followed by its XXH3 checksum of 16 bytes.

A store replaces both a cache in memory and reading windows one by one from scenes: the system's page cache keeps a small store
in memory, for all processes together, and of a large one what was read last.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import xxhash

from common.atomic_files import whole_file
from finetune.data.image_stack import ImageStack
from finetune.data.season import Season
from finetune.data.window_dataset import LabelledWindows
from finetune.data.window_group import Shape, WindowGroup
from finetune.task import Task

LAYOUT = 1
WINDOWS, LABELS, INDEX, PROGRESS = "windows.bin", "labels.npy", "index", "progress.json"
_ALIGNMENT = 64  # bytes, a cache line of the processor
_CHECKSUM_BYTES = 16
_NO_YEAR = np.iinfo(np.int32).min


class NotStoredError(Exception):
    """A folder holds no finished store; the text says what is wrong with one that was finished once, and is "" for none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StoreIndex:
    """What a store holds and where; it is known before any pixel is read.

    Attributes:
        about: what the windows were made from, for people and to tell stores apart.
        sources: of the task.
        dtypes: of the pixels of each source.
        windows: int32 (windows, 3): group, row, column.
        offsets: int64 (windows + 1,): where in windows.bin each window begins, and at last where the file ends.
        names: str (groups,), see `WindowGroup`, like the following.
        scenes: int32 (groups,), a number for each scene.
        years: int32 (groups,).
        shapes: int64 (groups, sources, 4).
        lengths: int64 (groups, sources), length of the season in days.
        first_images: int64 (groups * sources + 1,): where in `times` and `days` the images of a group's source begin.
        times, days: int64 and float64 (images,), see `Season`.
        label_bytes, label_sha256: of all labels.
    """

    about: Mapping[str, Any]
    sources: tuple[str, ...]
    dtypes: tuple[str, ...]
    windows: np.ndarray
    offsets: np.ndarray
    names: np.ndarray
    scenes: np.ndarray
    years: np.ndarray
    shapes: np.ndarray
    lengths: np.ndarray
    first_images: np.ndarray
    times: np.ndarray
    days: np.ndarray
    label_bytes: int
    label_sha256: str

    @classmethod
    def of(cls, windows: LabelledWindows, about: Mapping[str, Any]) -> Self:
        """The index of a store of `windows`."""
        sources = windows.task.sources
        dtypes = tuple(np.dtype(windows.sensors[source].dtype).str for source in sources)
        numbers: dict[int, int] = {}  # of groups here, by their number there: those without windows are left out
        rows = [(numbers.setdefault(number, len(numbers)), row, col) for number, row, col in windows.windows]
        groups = [windows.group(number) for number in numbers]
        scenes: dict[Any, int] = {}
        seasons = [group.seasons[source] for group in groups for source in sources]
        shapes = np.array([[group.shapes[source] for source in sources] for group in groups], np.int64)
        sizes = np.array([_places(shape, dtypes)[-1] for shape in shapes.tolist()], np.int64)
        digest = hashlib.sha256()
        for label in windows.labels:
            digest.update(label.tobytes())
        return cls(
            about=about,
            sources=sources,
            dtypes=dtypes,
            windows=np.array(rows, np.int32),
            offsets=np.concatenate([[0], np.cumsum(sizes[[group for group, _, _ in rows]])]),
            names=np.array([group.name for group in groups]),
            scenes=np.array([scenes.setdefault(group.scene, len(scenes)) for group in groups], np.int32),
            years=np.array([_NO_YEAR if group.year is None else group.year for group in groups], np.int32),
            shapes=shapes,
            lengths=np.array([season.length for season in seasons], np.int64).reshape(len(groups), len(sources)),
            first_images=np.concatenate([[0], np.cumsum([len(season.times) for season in seasons])]),
            times=np.concatenate([season.times for season in seasons]).astype(np.int64),
            days=np.concatenate([season.days for season in seasons]).astype(np.float64),
            label_bytes=sum(label.nbytes for label in windows.labels),
            label_sha256=digest.hexdigest(),
        )

    @property
    def key(self) -> str:
        """sha256 of all of it. It changes with any label, date, name and size, and with `about`, which names the data."""
        digest = hashlib.sha256(self._header())
        for name, array in self._arrays().items():
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """The content of the file `index`."""
        content = io.BytesIO()
        np.savez(content, header=np.frombuffer(self._header(), np.uint8), **self._arrays())  # type: ignore[arg-type]  # names
        return content.getvalue() + xxhash.xxh3_128(content.getvalue()).digest()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """The index in the content of a file. Raises NotStoredError when it is not as it was written."""
        payload, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
        if xxhash.xxh3_128(payload).digest() != checksum:
            raise NotStoredError("its index has a wrong checksum")
        with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            if header["layout"] != LAYOUT:
                raise NotStoredError(f"it has layout {header['layout']}, this version writes {LAYOUT}")
            texts = {name: header[name] for name in ("about", "label_bytes", "label_sha256")}
            texts |= {name: tuple(header[name]) for name in ("sources", "dtypes")}
            return cls(**texts, **{name: arrays[name] for name in arrays.files if name != "header"})

    def _header(self) -> bytes:
        texts = {f.name: getattr(self, f.name) for f in fields(self) if not isinstance(getattr(self, f.name), np.ndarray)}
        return json.dumps(texts | {"layout": LAYOUT}, sort_keys=True).encode()

    def _arrays(self) -> dict[str, np.ndarray]:
        return {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray)}

    @property
    def nbytes(self) -> int:
        """Size of windows.bin."""
        return int(self.offsets[-1])

    def group(self, number: int, task: Task) -> WindowGroup:
        """A scene or sample, with the seasons of `task`, whose frames may be others than those of the one who wrote the store."""
        seasons = {}
        for place, source in enumerate(self.sources, number * len(self.sources)):
            images = slice(self.first_images[place], self.first_images[place + 1])
            seasons[source] = Season(
                times=self.times[images],
                days=self.days[images],
                length=int(self.lengths.flat[place]),
                periods=task.frames,
                upsample=task.upsample.get(source, 1),
                compositing=task.compositing,
            )
        year = int(self.years[number])
        return WindowGroup(
            name=str(self.names[number]),
            scene=int(self.scenes[number]),
            year=None if year == _NO_YEAR else year,
            seasons=seasons,
            shapes=dict(zip(self.sources, map(tuple, self.shapes[number].tolist()), strict=True)),
        )

    def arrays(self, index: int, memory: np.ndarray) -> dict[str, ImageStack]:
        """The stacks of window `index` as views of windows.bin, uint8 (bytes,)."""
        shapes = self.shapes[self.windows[index, 0]].tolist()
        places = iter(place + int(self.offsets[index]) for place in _places(shapes, self.dtypes))
        stacks = {}
        for source, dtype, (images, bands, rows, cols) in zip(self.sources, self.dtypes, shapes, strict=True):
            pixels: np.ndarray = np.ndarray((images, bands, rows, cols), dtype, memory, next(places))
            valid: np.ndarray = np.ndarray((images, rows, cols), bool, memory, next(places))
            stacks[source] = ImageStack(pixels=pixels, valid=valid)
        return stacks


def _places(shapes: list[Shape], dtypes: tuple[str, ...]) -> list[int]:
    """Where in a window each array begins, pixels and validity of each source in turn, and at last where it ends."""
    places = [0]
    for (images, bands, rows, cols), dtype in zip(shapes, dtypes, strict=True):
        for size in (images * bands * rows * cols * np.dtype(dtype).itemsize, images * rows * cols):
            places.append(places[-1] + -(-size // _ALIGNMENT) * _ALIGNMENT)
    return places


def window_bytes(stacks: Mapping[str, ImageStack], index: StoreIndex, number: int) -> list[bytes]:
    """The bytes of window `number` in windows.bin, in pieces. Raises ValueError for other shapes than `index` says."""
    pieces: list[bytes] = []
    group = index.windows[number, 0]
    shapes = index.shapes[group].tolist()
    for source, dtype, shape in zip(index.sources, index.dtypes, shapes, strict=True):
        stack = stacks[source]
        found = list(stack.pixels.shape), list(stack.valid.shape), stack.pixels.dtype
        if found != (shape, [shape[0], *shape[2:]], np.dtype(dtype)):
            raise ValueError(
                f"a window of {index.names[group]} has {found[2]} {found[0]} of {source}, and {dtype} {shape} when the data were "
                "opened: they have changed in the meantime; start again"
            )
        for array in (stack.pixels, stack.valid):
            pieces += [array.tobytes(), bytes(-array.nbytes % _ALIGNMENT)]
    return pieces


class WindowStore:
    """A finished store, mapped into memory.

    Attributes:
        folder: where it lies.
        index: what it holds.
        labels: int16 (windows, H, W).
    """

    def __init__(self, folder: Path) -> None:
        """Raises NotStoredError when `folder` holds no finished store, or one with a file that is not as it was written."""
        try:
            content = (folder / INDEX).read_bytes()
        except FileNotFoundError:
            raise NotStoredError("") from None
        self.folder, self.index = folder, StoreIndex.from_bytes(content)
        size = _size(folder / WINDOWS)
        if size != self.index.nbytes:
            raise NotStoredError(f"{WINDOWS} has {size} bytes instead of {self.index.nbytes}")
        try:
            self.labels: np.ndarray = np.load(folder / LABELS, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise NotStoredError(f"{LABELS} cannot be read ({error})") from None
        if len(self.labels) != len(self.index.windows):
            raise NotStoredError(f"{LABELS} has {len(self.labels)} labels instead of {len(self.index.windows)}")
        self._memory = np.asarray(np.memmap(folder / WINDOWS, np.uint8, mode="r")) if size else np.empty(0, np.uint8)

    def stacks(self, index: int) -> dict[str, ImageStack]:
        """All images of the season over window `index`: views of the file."""
        return self.index.arrays(index, self._memory)


def _size(path: Path) -> int:
    """Bytes of a file, 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def write_index(folder: Path, index: StoreIndex) -> None:
    """Say that a store is finished."""
    with whole_file(folder / INDEX) as temporary:
        temporary.write_bytes(index.to_bytes())
