"""What every micro-step holds: source, samples, frames, orientations. A pure function of (corpus fingerprint, seed, micro-step).

The order is the same on any number of ranks and starts anywhere at once (`pretrain/data/order.py`). All ranks are on one source
in a micro-step: DeepSpeed's ZeRO 1 and 2 silently mix gradients when ranks take different branches. Nothing is read here but
rows of the table of samples.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_prep.corpus.dataset import Corpus
from pretrain.data.order import drawn_frames, mix, mixture_cycle, named_key, shuffled
from pretrain.data.sample_table import SampleTable

_DRAWN_AT_ONCE = 512  # samples: one at a time, or a small batch, takes a hundred calls of numpy as well
_DRAWN = ("frames", "orientation")  # what each draw of a sample has of its own


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """What goes into a batch.

    Attributes:
        num_frames: frames drawn from the year of each sample, in the order of time.
        global_batch_size: samples a micro-step over all ranks; one number, or one for each source so that steps cost alike.
        mixture: weight of each source, the share of micro-steps that it gets; default: all sources of the corpus equally.
        augment: draw one of the 8 flips and rotations for each sample.
        num_workers: processes that read ahead on each rank; 0 reads in the caller.
        check_reads: compare all that is read with the checksums that the shards hold.
        draws_per_read: batches in a row (of a source) that hold the same samples with other frames and orientations, from one
            read; an epoch shows every sample so many times. For storage that is slower than the card: data echoing (Choi et al.
            2019, arXiv 1907.05550: ResNet-50 from ImageNet over a network in a third of the time).
        skip_damaged: damaged samples that a rank passes over, counting each once, before it stops; 0 stops at the first.
        cache: folder of this machine in which samples of a corpus at a URL are kept for later epochs; default: none.
        cache_keep_free_gb: what the cache leaves free of its disk, in GB.
        seed: of order, frames and orientations.
    """

    num_frames: int = 16
    global_batch_size: dict[str, int] | int = 32
    mixture: dict[str, float] | None = None
    augment: bool = True
    num_workers: int = 2
    check_reads: bool = True
    draws_per_read: int = 1
    skip_damaged: int = 0
    cache: Path | None = None
    cache_keep_free_gb: float = 50.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise ValueError(f"num_frames is {self.num_frames}; expected at least 1")
        if self.num_workers < 0:
            raise ValueError(f"num_workers is {self.num_workers}; expected 0 (read in the caller) or more processes")
        if self.num_workers and not hasattr(os, "memfd_create"):
            raise ValueError(f"num_workers is {self.num_workers}; on this system, which is no Linux, only 0 can be had")
        if self.draws_per_read < 1:
            raise ValueError(f"draws_per_read is {self.draws_per_read}; expected 1 (every batch is read) or more")
        if self.skip_damaged < 0:
            raise ValueError(f"skip_damaged is {self.skip_damaged}; expected 0 (stop at the first damaged sample) or more")
        if not self.cache_keep_free_gb >= 0:
            raise ValueError(f"cache_keep_free_gb is {self.cache_keep_free_gb}; expected 0 or more GB")


@dataclass(frozen=True)
class Draw:
    """What is read for B positions of a micro-step: sample numbers within the source (B,), frames (B, T), orientation (B,)."""

    source: str
    samples: np.ndarray
    frames: np.ndarray
    orientation: np.ndarray


class Draws:
    """What each micro-step holds of one split of a corpus, on one rank and on all.

    Raises ValueError for a source that the corpus or the split does not have, more frames than a sample holds, and a batch
    that cannot be divided among the ranks.
    """

    def __init__(self, corpus: Corpus, split: str, config: StreamConfig, rank: int = 0, world_size: int = 1) -> None:
        self._config = config
        self._rank, self._world_size = rank, world_size
        mixture = dict.fromkeys(sorted(corpus.sensors), 1.0) if config.mixture is None else config.mixture
        unknown = sorted(set(mixture) - set(corpus.sensors))
        if unknown:
            raise ValueError(f"mixture names sources {unknown}; {corpus.folder} holds {sorted(corpus.sensors)}")
        self._cycle = np.array(mixture_cycle(mixture))
        self.sources = sorted(mixture)
        self._batch_size = {source: self.global_batch_size(source) for source in self.sources}
        self._tables = {source: SampleTable(corpus, source, split, config.cache) for source in self.sources}
        for source, table in self._tables.items():
            if table.shortest < config.num_frames:
                short = int((table.frames < config.num_frames).sum())
                raise ValueError(
                    f"{short} of {len(table)} samples of source {source!r} have fewer than num_frames={config.num_frames} frames "
                    f"(the shortest {table.shortest}); lower num_frames, or shard again with a higher --min_frames"
                )
        names = (corpus.fingerprint, config.seed, split)
        self._mixture_key = named_key(*names, "mixture")
        self._keys = {source: {what: named_key(*names, source, what) for what in ("order", *_DRAWN)} for source in self.sources}
        self._draws = lru_cache(maxsize=4 * config.draws_per_read * len(self.sources))(self._draw_groups)

    def global_batch_size(self, source: str) -> int:
        """Samples of a micro-step of `source` over all ranks."""
        sizes = self._config.global_batch_size
        if isinstance(sizes, dict) and source not in sizes:
            raise ValueError(f"global_batch_size has no entry for source {source!r}, only for {sorted(sizes)}")
        size = sizes[source] if isinstance(sizes, dict) else sizes
        if size < 1 or size % self._world_size:
            nearest = max(1, round(size / self._world_size)) * self._world_size
            raise ValueError(
                f"global_batch_size of source {source!r} is {size}, which {self._world_size} ranks cannot share equally; "
                f"take {nearest} or another number of ranks"
            )
        return size

    @property
    def shares(self) -> dict[str, float]:
        """Share of the micro-steps that each source gets."""
        return {source: float((self._cycle == source).mean()) for source in self.sources}

    def _place(self, micro_step: int) -> tuple[str, int]:
        """The source of a micro-step, and how many micro-steps before it had the same one.

        Each cycle holds every source by its weight, in an order of its own; so only the present cycle is looked at.
        """
        cycles, slot = divmod(micro_step, len(self._cycle))
        present = self._cycle[_cycle_order(cycles, len(self._cycle), self._mixture_key)]
        source = str(present[slot])
        return source, cycles * int((self._cycle == source).sum()) + int((present[:slot] == source).sum())

    def source_of(self, micro_step: int) -> str:
        """The source of a micro-step, on all ranks."""
        return self._place(micro_step)[0]

    def micro_steps_per_epoch(self, source: str) -> float:
        """Micro-steps of `source` until each of its samples has been seen `draws_per_read` times (more)."""
        return self._config.draws_per_read * len(self._tables[source]) / self._batch_size[source]

    def epoch_of(self, micro_step: int) -> float:
        """Epochs of the micro-step's source that lie before it; the whole part is the number of finished ones."""
        source, before = self._place(micro_step)
        return before / self.micro_steps_per_epoch(source)

    def draw(self, micro_step: int) -> Draw:
        """Samples, frames and orientations of the global batch, all ranks one after the other. Reads nothing."""
        return self._draw(micro_step, rank=0, world_size=1)

    def keys(self, micro_step: int) -> list[str]:
        """Keys of the global batch, all ranks one after the other."""
        draw = self.draw(micro_step)
        return [key.decode() for key in self._tables[draw.source].keys[draw.samples]]

    def _draw(self, micro_step: int, rank: int, world_size: int) -> Draw:
        """A contiguous share of the global batch."""
        source, before = self._place(micro_step)
        return self._draw_of_group(source, *divmod(before, self._config.draws_per_read), rank, world_size)

    def _draw_of_group(self, source: str, group: int, number: int, rank: int, world_size: int) -> Draw:
        """Draw `number` of those that share the samples of a group."""
        groups = max(1, _DRAWN_AT_ONCE // (self._batch_size[source] // world_size))
        block, place = divmod(group, groups)
        return Draw(source, *(part[place] for part in self._draws(source, block * groups, groups, number, rank, world_size)))

    def _draw_groups(
        self, source: str, first: int, groups: int, number: int, rank: int, world_size: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Samples (G, B), frames (G, B, T) and orientations (G, B) of one draw of groups first..first+G-1."""
        share = self._batch_size[source] // world_size
        table, keys = self._tables[source], self._keys[source]
        frames_key, orientation_key = (int(mix(number, keys[what])[0]) if number else keys[what] for what in _DRAWN)
        # Group g of a source covers g*B..g*B+B-1 of the endless row of its epochs: every sample exactly once an epoch.
        positions = (first + np.arange(groups))[:, None] * self._batch_size[source] + rank * share + np.arange(share)
        positions = positions.reshape(-1)
        epochs = positions // len(table)
        samples = shuffled(positions, len(table), keys["order"])
        frames = drawn_frames(samples, epochs, table.frames[samples], self._config.num_frames, frames_key)
        orientation = (mix(samples, mix(epochs, orientation_key)) >> np.uint64(61)).astype(np.uint8)
        square = table.frame_shape[1] == table.frame_shape[2]
        allowed = (7 if square else 3) if self._config.augment else 0
        shape = (groups, share)
        return samples.reshape(shape), frames.reshape(*shape, -1), (orientation & np.uint8(allowed)).reshape(shape)


@lru_cache(maxsize=16)
def _cycle_order(cycle: int, length: int, key: int) -> np.ndarray:
    """Slots of the mixture's cycle in the order in which this cycle takes them."""
    return shuffled(np.arange(cycle * length, (cycle + 1) * length), length, key)
