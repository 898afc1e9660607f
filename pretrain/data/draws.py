"""Draws: the source, samples, frames and orientations of every micro-batch.

They are a pure function of (corpus fingerprint, seed, micro-step), where the micro-step counts micro-batches from the start of
the training (`pretrain/data/hashing.py`). So the order is the same on any number of ranks, and training starts at once at any
step.
All ranks have the same source in a micro-step: DeepSpeed's ZeRO 1 and 2 silently mix up gradients when ranks take different
branches. Nothing is read here but rows of the table of samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from data_prep.corpus.dataset import Corpus
from pretrain.data.config import StreamConfig
from pretrain.data.hashing import hashed, named_key
from pretrain.data.mixture import mixture_cycle
from pretrain.data.sample_table import SampleTable
from pretrain.data.shuffling import shuffled

_DRAWN_AT_ONCE = 512  # samples; numpy takes the same hundred calls for a small batch
_DRAWN = ("frames", "orientation", "teacher's frames")  # what each draw of a sample has of its own


@dataclass(frozen=True)
class Draw:
    """B samples to read, all of one source.

    Attributes:
        source: their source.
        samples: (B,) rows of the source's table of samples.
        frames: (B, T) frames of each sample, ascending; when the teacher has dates of its own, (B, 2T), the student's first.
        orientation: (B,) uint8, see `pretrain.data.batch.orient`.
    """

    source: str
    samples: np.ndarray
    frames: np.ndarray
    orientation: np.ndarray


class EchoPlace(NamedTuple):
    """The place of a micro-step in data echoing: batch `number` of those of `group`, which share the samples of one read.

    Groups of each source are counted from the start of the training.
    """

    source: str
    group: int
    number: int


class Draws:
    """The draws of one split of a corpus, of this rank and of all ranks together.

    Attributes:
        sources: names of the sources of the mixture, sorted.
        tables: the table of samples of each source.

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
        self.tables = {source: SampleTable(corpus, source, split, config.cache) for source in self.sources}
        for source, table in self.tables.items():
            if table.shortest < config.num_frames:
                short = int((table.frames < config.num_frames).sum())
                raise ValueError(
                    f"{short} of {len(table)} samples of source {source!r} have fewer than num_frames={config.num_frames} frames "
                    f"(the shortest {table.shortest}); lower num_frames, or shard again with a higher --min_frames"
                )
        names = (corpus.fingerprint, config.seed, split)
        self._mixture_key = named_key(*names, "mixture")
        self._keys = {source: {what: named_key(*names, source, what) for what in ("order", *_DRAWN)} for source in self.sources}
        self._cached_draws = lru_cache(maxsize=4 * config.data_echoing * len(self.sources))(self._draw_groups)

    def global_batch_size(self, source: str) -> int:
        """Samples of a micro-batch of `source` over all ranks. Raises ValueError when ranks cannot share them equally."""
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
    def mixture_shares(self) -> dict[str, float]:
        """Share of the micro-steps of each source."""
        return {source: float((self._cycle == source).mean()) for source in self.sources}

    def source_of(self, micro_step: int) -> str:
        """The source of a micro-step, on all ranks."""
        return self._source_and_count(micro_step)[0]

    def micro_steps_per_epoch(self, source: str) -> float:
        """Micro-steps of `source` until each of its samples has been seen once, or `data_echoing` times."""
        return self._config.data_echoing * len(self.tables[source]) / self._batch_size[source]

    def epoch_of(self, micro_step: int) -> float:
        """Epochs of the micro-step's source before it; the whole part is the number of finished epochs."""
        source, before = self._source_and_count(micro_step)
        return before / self.micro_steps_per_epoch(source)

    def draw(self, micro_step: int) -> Draw:
        """The global batch of a micro-step, the shares of all ranks one after the other."""
        return self._draw(self.echo_place(micro_step), rank=0, world_size=1)

    def keys(self, micro_step: int) -> list[str]:
        """Keys of the global batch, those of all ranks one after the other."""
        draw = self.draw(micro_step)
        return [key.decode() for key in self.tables[draw.source].keys[draw.samples]]

    def share(self, micro_step: int) -> Draw:
        """This rank's share of the global batch, which is contiguous."""
        return self._draw(self.echo_place(micro_step), self._rank, self._world_size)

    def echo_place(self, micro_step: int) -> EchoPlace:
        """The source of a micro-step and its place in data echoing; without data echoing each micro-step is a group."""
        source, before = self._source_and_count(micro_step)
        return EchoPlace(source, *divmod(before, self._config.data_echoing))

    def shares_of_group(self, source: str, group: int) -> list[Draw]:
        """This rank's shares of all batches of a group of data echoing."""
        places = (EchoPlace(source, group, number) for number in range(self._config.data_echoing))
        return [self._draw(place, self._rank, self._world_size) for place in places]

    def _source_and_count(self, micro_step: int) -> tuple[str, int]:
        """The source of a micro-step, and the number of micro-steps before it with the same source.

        Each cycle of the mixture holds every source by its weight, in an order of its own; so only the present cycle is needed.
        """
        cycles, slot = divmod(micro_step, len(self._cycle))
        present = self._cycle[_cycle_order(cycles, len(self._cycle), self._mixture_key)]
        source = str(present[slot])
        return source, cycles * int((self._cycle == source).sum()) + int((present[:slot] == source).sum())

    def _draw(self, place: EchoPlace, rank: int, world_size: int) -> Draw:
        """The contiguous share of a rank. Draws of neighbouring groups are made together and kept."""
        source, group, number = place
        groups = max(1, _DRAWN_AT_ONCE // (self._batch_size[source] // world_size))
        chunk, row = divmod(group, groups)
        drawn = self._cached_draws(source, chunk * groups, groups, number, rank, world_size)
        return Draw(source, *(part[row] for part in drawn))

    def _draw_groups(
        self, source: str, first: int, groups: int, number: int, rank: int, world_size: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Samples (G, B), frames (G, B, T) and orientations (G, B) of batch `number` of the groups first..first+G-1."""
        share = self._batch_size[source] // world_size
        table, keys = self.tables[source], self._keys[source]
        frames_key, orientation_key, teacher_key = (
            int(hashed(number, keys[what])[0]) if number else keys[what] for what in _DRAWN
        )
        # The epochs of a source follow each other in one endless sequence of positions, of which group g takes g*B to g*B+B-1. So
        # an epoch holds every sample exactly once.
        positions = (first + np.arange(groups))[:, None] * self._batch_size[source] + rank * share + np.arange(share)
        positions = positions.reshape(-1)
        epochs = positions // len(table)
        samples = shuffled(positions, len(table), keys["order"])
        draw = stratified_frames if self._config.frame_draw == "stratified" else drawn_frames
        draws = (frames_key, teacher_key) if self._config.teacher_dates == "own" else (frames_key,)
        arguments = samples, epochs, table.frames[samples], self._config.num_frames
        frames = np.concatenate([draw(*arguments, key) for key in draws], axis=1)
        orientation = (hashed(samples, hashed(epochs, orientation_key)) >> np.uint64(61)).astype(np.uint8)
        square = table.frame_shape[1] == table.frame_shape[2]
        allowed = (7 if square else 3) if self._config.augment else 0
        shape = (groups, share)
        return samples.reshape(shape), frames.reshape(*shape, -1), (orientation & np.uint8(allowed)).reshape(shape)


@lru_cache(maxsize=16)
def _cycle_order(cycle: int, length: int, key: int) -> np.ndarray:
    """The order of the slots of the mixture in one cycle."""
    return shuffled(np.arange(cycle * length, (cycle + 1) * length), length, key)


def drawn_frames(samples: np.ndarray, epochs: np.ndarray, available: np.ndarray, num_frames: int, key: int) -> np.ndarray:
    """Draw `num_frames` distinct frames of each sample, ascending: int64 (B, num_frames).

    `samples`, `epochs` and `available` are integers (B,): the sample, its epoch, and its number of frames (at least
    `num_frames`). Every subset is equally likely: the frames with the smallest hashes are drawn.
    """
    sample_keys = hashed(samples, hashed(epochs, key))[:, None]
    frames = np.arange(available.max())
    hashes = hashed(frames[None], sample_keys) >> np.uint64(1)  # one bit less leaves room for "not there"
    hashes[frames[None] >= available[:, None]] = np.uint64(2**64 - 1)
    return np.sort(np.argpartition(hashes, num_frames - 1, axis=1)[:, :num_frames], axis=1)


def stratified_frames(samples: np.ndarray, epochs: np.ndarray, available: np.ndarray, num_frames: int, key: int) -> np.ndarray:
    """Draw one frame from each of `num_frames` runs of each sample's frames, equally long up to rounding: int64 (B, num_frames).

    Arguments as for `drawn_frames`; the frames are distinct and ascending. In a run each frame is equally likely.
    """
    sample_keys = hashed(samples, hashed(epochs, key))[:, None]
    place = (hashed(np.arange(num_frames)[None], sample_keys) >> np.uint64(11)) / 2.0**53  # in [0, 1)
    bounds = np.arange(num_frames + 1) * available[:, None] // num_frames
    first, last = bounds[:, :-1], bounds[:, 1:]
    drawn: np.ndarray = first + (place * (last - first)).astype(np.int64)
    return drawn
