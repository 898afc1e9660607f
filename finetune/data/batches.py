"""Batches of windows: which windows, by which random numbers, and the memory into which they are read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finetune.data.window_dataset import LabelledWindows

_ALIGNMENT = 64  # bytes, a cache line of the processor


@dataclass(frozen=True, kw_only=True)
class BatchDraw:
    """One rank's slice of a batch.

    Attributes:
        indices: its windows.
        first: position of the first of them in the whole batch.
        size: number of windows of the whole batch.
        seeds: of random dates and augmentation; None reads windows as in evaluation.
    """

    indices: tuple[int, ...]
    first: int
    size: int
    seeds: tuple[int, ...] | None = None

    @classmethod
    def of_rank(cls, indices: np.ndarray, seeds: tuple[int, ...] | None, rank: int, world_size: int) -> BatchDraw:
        """The slice of `rank` of the batch `indices`, int64.

        All random numbers follow from `seeds` and the window's position in the batch, so neither the number of ranks, nor that of
        processes that read, nor an interruption changes them.
        """
        positions = np.array_split(np.arange(len(indices)), world_size)[rank]
        first = int(positions[0]) if len(positions) else 0
        return cls(indices=tuple(indices[positions].tolist()), first=first, size=len(indices), seeds=seeds)

    def generators(self) -> list[np.random.Generator | None]:
        """The random numbers of each window."""
        if self.seeds is None:
            return [None] * len(self.indices)
        return list(np.random.default_rng(list(self.seeds)).spawn(self.size)[self.first : self.first + len(self.indices)])


@dataclass(frozen=True)
class BatchLayout:
    """The arrays of a batch in memory, one after the other.

    Attributes:
        frames: shape (T, C, H, W) of the frames of each source, of one window.
        label: shape (H, W) of a label.
    """

    frames: dict[str, tuple[int, int, int, int]]
    label: tuple[int, int]

    @classmethod
    def of(cls, windows: LabelledWindows, augmented: bool) -> BatchLayout:
        """The layout of batches of windows; those that are augmented may be cropped."""
        task, whole = windows.task, windows.task.window_px
        side = windows.augmentation.crop_px if augmented and windows.augmentation.crop_px is not None else whole
        frames = {}
        for source, (_, bands, *extents) in windows.group(windows.windows[0][0]).shapes.items():
            rows, cols = (max(1, side * extent // whole) * task.upsample.get(source, 1) for extent in extents)
            frames[source] = task.frames, bands, rows, cols
        return cls(frames, (side, side))

    def nbytes(self, size: int) -> int:
        """Bytes of a batch of `size` windows."""
        return sum(_aligned(4 * size * int(np.prod(shape))) for shape in self.frames.values()) + 8 * size * int(
            np.prod(self.label)
        )

    def over(self, memory: np.ndarray, size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Frames float32 (B, T, C, H, W) of each source and labels int64 (B, H, W) of `size` windows, in uint8 `memory`."""
        frames, start = {}, 0
        for source, shape in self.frames.items():
            nbytes = 4 * size * int(np.prod(shape))
            frames[source] = memory[start : start + nbytes].view(np.float32).reshape(size, *shape)
            start += _aligned(nbytes)
        nbytes = 8 * size * int(np.prod(self.label))
        return frames, memory[start : start + nbytes].view(np.int64).reshape(size, *self.label)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def read_batch(windows: LabelledWindows, draw: BatchDraw, layout: BatchLayout, memory: np.ndarray) -> list[str]:
    """Read a batch into `memory`, uint8; returns the names of its windows. Raises ValueError for a window of another size."""
    frames, labels = layout.over(memory, len(draw.indices))
    names = []
    for place, (index, rng) in enumerate(zip(draw.indices, draw.generators(), strict=True)):
        found, label, name = windows.read(index, rng)
        for source, pixels in found.items():
            if pixels.shape != frames[source].shape[1:]:
                raise ValueError(
                    f"{name}: the frames of {source} are {pixels.shape}, those of other windows {frames[source].shape[1:]}; a "
                    "source must have equally many pixels per pixel of the label everywhere: resample some"
                )
            frames[source][place] = pixels
        labels[place] = label
        names.append(name)
    return names
