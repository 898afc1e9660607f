"""A batch: its tensors, and their copy to the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, TypeVar

import torch

# Mean and standard deviation (C,), and limits (2, C) or None, of each source: the arguments of `Batch.normalized`.
Statistics = dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]
DIGEST_MODULUS = 2**63  # digests add up in int64, which is what ranks can sum


class Movable(Protocol):
    """A batch that can be copied to a device."""

    def to(self, device: torch.device) -> Self:
        """The batch on `device`. The copy is asynchronous from pinned memory."""
        ...

    def tensors(self) -> Iterable[torch.Tensor]:
        """All its tensors."""
        ...


SomeBatch = TypeVar("SomeBatch", bound=Movable)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's share of a micro-batch: B samples of one source.

    Attributes:
        source: name of the source.
        legend: name of the legend of `land_cover`.
        keys: B keys of the corpus.
        digests: B numbers, the XXH3-64 of each sample's key and drawn dates (their bytes, one after the other).
        pixels: (B, T, C, H, W), the sensor's integer dtype, as stored.
        valid: (B, T, H, W) bool, True where the observation is clear.
        dates: (B, T) int32, days since 1970-01-01, ascending.
        day_of_year: (B, T) int16, 1 to 366.
        land_cover: (B, codes of the legend) int64 counts.
        orientation: (B,) uint8, flips and rotations for `orient`; 0 leaves a sample as it is.
        usable: (B,) bool, False for a damaged sample, all of whose numbers are zero, and whose map is not mapped: it must have no
            weight in the loss.
        land_cover_map: land cover on the pixels: (B, H, W) uint8, positions of codes in the legend, 255 where not mapped; of
            coarse sources (B, codes of the legend, H, W) uint16, counts in each pixel. None for a corpus without maps.
    """

    source: str
    legend: str
    keys: list[str]
    digests: list[int]
    pixels: torch.Tensor
    valid: torch.Tensor
    dates: torch.Tensor
    day_of_year: torch.Tensor
    land_cover: torch.Tensor
    orientation: torch.Tensor
    usable: torch.Tensor
    land_cover_map: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors: about the bytes that were read for them."""
        return sum(value.nbytes for value in self._tensors().values())

    @property
    def digest(self) -> int:
        """The samples and frames of the batch in one number: the sum of `digests` modulo 2**63.

        A sum does not depend on the order. So the digests of all ranks, for one micro-step or many, add up (modulo 2**63) to a
        number that does not depend on the number of ranks. Equal numbers mean the same samples and frames.
        """
        return sum(self.digests) % DIGEST_MODULUS

    def to(self, device: torch.device | str) -> Batch:
        """The batch on `device`. The copy is asynchronous from pinned memory."""
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in self._tensors().items()})

    def normalized(self, mean: torch.Tensor, std: torch.Tensor, limits: torch.Tensor | None = None) -> torch.Tensor:
        """Float32 pixels (B, T, C, H, W); see `normalize`."""
        return normalize(self.pixels, self.valid, mean, std, limits)

    def split(self, parts: int) -> list[Batch]:
        """Split into `parts` batches of equally many consecutive samples, without a copy.

        Raises ValueError when the samples cannot be divided so.
        """
        size = len(self.keys)
        if parts < 1 or size % parts:
            raise ValueError(f"a batch of {size} samples of source {self.source!r} cannot be split into {parts} equal parts")
        each = size // parts
        tensors = {name: value.split(each) for name, value in self._tensors().items()}
        return [
            replace(
                self,
                keys=self.keys[part * each : (part + 1) * each],
                digests=self.digests[part * each : (part + 1) * each],
                **{name: values[part] for name, values in tensors.items()},
            )
            for part in range(parts)
        ]

    def tensors(self) -> Iterable[torch.Tensor]:
        """All its tensors."""
        return self._tensors().values()

    def _tensors(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}


def normalize(
    pixels: torch.Tensor,
    valid: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    limits: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Pixels (B, T, C, H, W) -> (number - mean) / std per band, computed in float32, in `dtype`.

    Pixels that are not clear become 0, the mean. It works number by number, so that torch.compile makes one kernel of it, which
    reads the integers and writes `dtype`.

    Args:
        pixels: the numbers as stored, integers.
        valid: (B, T, H, W) bool, True where the observation is clear.
        mean, std: (C,) float32.
        limits: (2, C) float32, the numbers that those below and above count as.
        dtype: of the result.
    """
    numbers = pixels.float()
    if limits is not None:
        low, high = limits.view(2, -1, 1, 1)
        numbers = numbers.clamp(low, high)
    return ((numbers - mean.view(-1, 1, 1)) / std.view(-1, 1, 1) * valid[:, :, None]).to(dtype)


def orient(images: torch.Tensor, orientation: torch.Tensor) -> torch.Tensor:
    """Apply the drawn flips and rotations: images (B, ..., H, W), orientation (B,) -> the same shape and dtype.

    Bit 0 mirrors columns, bit 1 mirrors rows, then bit 2 transposes: together the 8 symmetries of a square. Pixels, maps of codes
    (B, H, W) and maps of counts (B, codes, H, W) are turned alike. Samples are selected by arithmetic, so the caller does not
    wait for a GPU.
    """
    if images.dtype == torch.uint16:  # few operators know it, but only the places of the numbers change
        return orient(images.view(torch.int16), orientation).view(torch.uint16)

    def where_bit(bit: int, changed: torch.Tensor) -> torch.Tensor:
        chosen = (orientation >> bit & 1).bool().view(-1, *[1] * (images.ndim - 1))
        return torch.where(chosen, changed, images)

    images = where_bit(0, images.flip(-1))
    images = where_bit(1, images.flip(-2))
    return where_bit(2, images.transpose(-1, -2)) if images.shape[-1] == images.shape[-2] else images


def batches_on_device(batches: Generator[SomeBatch, None, None], device: torch.device) -> Generator[SomeBatch, None, None]:
    """Copy each batch to `device`.

    A GPU gets it by a CUDA stream of its own, while it computes on the batch before. The batches must lie in pinned memory, which
    is kept from reuse until the GPU has copied it.
    """
    with closing(batches):
        if device.type != "cuda":
            yield from (batch.to(device) for batch in batches)
            return
        copies = torch.cuda.Stream(device)
        being_copied: deque[tuple[SomeBatch, torch.cuda.Event]] = deque()
        ahead: tuple[SomeBatch, torch.cuda.Event] | None = None
        try:
            for batch in batches:
                with torch.cuda.stream(copies):
                    copied = batch.to(device), copies.record_event()
                being_copied.append((batch, copied[1]))
                del batch
                while being_copied and being_copied[0][1].query():
                    being_copied.popleft()
                if ahead is not None:
                    yield _arrived(*ahead)
                ahead = copied
            if ahead is not None:
                yield _arrived(*ahead)
        finally:
            for _, event in being_copied:
                event.synchronize()


def _arrived(batch: SomeBatch, copied: torch.cuda.Event) -> SomeBatch:
    """The batch for the current CUDA stream, which waits for the copy and keeps the memory from reuse until it is done."""
    tensors = list(batch.tensors())
    present = torch.cuda.current_stream(tensors[0].device)
    present.wait_event(copied)
    for tensor in tensors:
        tensor.record_stream(present)
    return batch
