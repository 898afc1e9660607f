"""Validation: errors of the teacher's fractions and map on the validation split, and of a linear probe on its features."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from common.errors import while_running
from common.ranks import gather, raise_together
from data_prep.corpus.dataset import Corpus
from pretrain.data.batch import Statistics
from pretrain.data.config import StreamConfig
from pretrain.data.stream import Stream
from pretrain.evaluation.probe import LinearProbe
from pretrain.evaluation.scores import confusion, fraction_scores, map_scores
from pretrain.objective.model import FRACTIONS, MAP, Prediction
from pretrain.objective.targets import LandCoverTargets


class Teacher(Protocol):
    """A model to validate: a `MeanTeacher` or a `LandCoverModel`. Pixels are normalised, (B, T, C, H, W)."""

    def __call__(self, pixels: torch.Tensor, source: str) -> Prediction:
        """`fractions` (B, classes), and maybe `map`: class scores (B, classes, H, W)."""

    def features(self, pixels: torch.Tensor, source: str) -> torch.Tensor:
        """The input of the head, (B, F)."""


class Validation:
    """Scores of a teacher by source. Built once, and called by all ranks whenever scores are due.

    The samples are the first ones of the validation split in the order of the stream, without flips and rotations. The linear
    probe (Alain & Bengio, 2016, arXiv 1610.01644) is fitted to the first samples of the training split. Each sample counts once,
    on any number of ranks. Sources without validation samples are left out.

    Args:
        corpus: corpus of the training.
        stream_config: frames and batch sizes of training.
        targets: land cover of a batch -> targets; with a map if that of the teacher is to be scored.
        statistics: mean, standard deviation and limits of each source to validate, on the device of the teacher.
        rank, world_size: of this process.
        samples: largest number of validation samples per source.
        probe_samples: largest number of training samples per source for the probe; 0: no probe.

    Raises ValueError for invalid numbers of samples, and what `Stream` raises.
    """

    def __init__(
        self,
        corpus: Corpus,
        stream_config: StreamConfig,
        targets: LandCoverTargets,
        statistics: Statistics,
        rank: int,
        world_size: int,
        samples: int,
        probe_samples: int,
    ) -> None:
        if samples < 1:
            raise ValueError(f"samples to validate are {samples}; expected at least 1")
        if probe_samples < 0 or probe_samples == 1:
            raise ValueError(f"samples for the linear probe are {probe_samples}; expected 0 (no probe) or at least 2")
        self._targets, self._statistics = targets, statistics
        self._device = next(iter(statistics.values()))[0].device
        self._config, self._rank, self._world_size = stream_config, rank, world_size
        self._sources = [source for source in statistics if (source, "validation") in corpus.splits]
        self._means = {source: train_mean(corpus, source, targets) for source in self._sources}
        self._counts: dict[tuple[str, str], int] = {}
        self._streams: dict[tuple[str, str], Stream] = {}
        for source in self._sources:
            for split, most in (("validation", samples), ("train", probe_samples)):
                count = min(most, corpus.splits[source, split].samples)
                if split == "validation" or count >= 2:
                    config = replace(stream_config, mixture={source: 1.0}, augment=False, data_echoing=1, teacher_dates="same")
                    self._counts[source, split] = count
                    self._streams[source, split] = Stream(corpus, split, config, rank, world_size)

    @torch.no_grad()
    def __call__(self, teacher: Teacher) -> dict[str, dict[str, float]]:
        """Scores by source, the same on all ranks.

        `samples`: their number; `mae`, `mae_of_mean` (of always predicting the mean of the training split) and `r2` over all
        classes; `mae/CLASS`, `mae_of_mean/CLASS` and `r2/CLASS` of each class; `probe_mae` and `probe_r2` over all classes. R2 is
        nan where the fractions of the validation samples do not vary. If the targets have a map: `map_accuracy`, the share of
        pixels whose class is that of the land-cover map, and `map_f1`, the mean over classes.

        Raises on all ranks what any rank raises that cannot read its samples.
        """
        return {source: self._scores(teacher, source) for source in self._sources}

    @property
    def streams(self) -> list[Stream]:
        """Streams of this rank. Damaged samples, which they know, count in no score."""
        return list(self._streams.values())

    def _scores(self, teacher: Teacher, source: str) -> dict[str, float]:
        mean, has_probe = self._means[source], (source, "train") in self._streams
        target, predicted, confusions, features = self._compute(source, "validation", teacher, with_features=has_probe)
        scores = fraction_scores(predicted, target, mean) | {"samples": len(target)}
        if confusions.shape[1]:
            scores |= map_scores(confusions.sum(axis=0))
        if has_probe:
            known_target, _, _, known_features = self._compute(source, "train", teacher, with_features=True)
            probe = LinearProbe.fit(known_features, known_target)
            read = fraction_scores(probe(features), target, mean)
            scores |= {"probe_mae": read["mae"], "probe_r2": read["r2"]}
        for column, name in enumerate(self._targets.classes):
            one = slice(column, column + 1)
            of_class = fraction_scores(predicted[:, one], target[:, one], mean[one])
            scores |= {f"{score}/{name}": value for score, value in of_class.items()}
        return scores

    def _compute(self, source: str, split: str, teacher: Teacher, with_features: bool) -> list[np.ndarray]:
        """Of the samples of all ranks: true fractions, the teacher's, confusions of its map, and features, float32 (N, ...).

        Confusions are (classes, classes), or empty without a map; features are empty unless they are asked for. Rows are in the
        order of the stream, which does not depend on the number of ranks.
        """
        stream, count = self._streams[source, split], self._counts[source, split]
        sizes = self._config.global_batch_size
        size = sizes[source] if isinstance(sizes, dict) else sizes
        share = size // self._world_size
        computed = []
        batches = stream.batches(0, math.ceil(count / size), self._device)
        error: Exception | None = None
        try:
            with while_running(f"rank {self._rank} cannot read the {split} samples of {source} to validate"):
                for micro_step, batch in enumerate(batches):
                    # A rank holds a contiguous share of the global batch. The last batch may go beyond `count` and into the next
                    # epoch.
                    place = micro_step * size + self._rank * share + torch.arange(share, device=self._device)
                    counts = (place < count) & batch.usable
                    pixels, target = batch.normalized(*self._statistics[source]), self._targets(batch)
                    predicted, nothing = teacher(pixels, source), pixels.new_zeros(len(pixels), 0)
                    computed.append((
                        torch.where(counts, place, -1),
                        target[FRACTIONS],
                        predicted[FRACTIONS],
                        confusion(predicted[MAP], target[MAP]) if MAP in target else nothing,
                        # The encoder runs twice. That is cheap, as a validation has few samples, and it keeps `Teacher` simple.
                        teacher.features(pixels, source).float() if with_features else nothing,
                    ))  # fmt: skip
        except Exception as raised:
            error = raised
        stream.close()  # its open files count against the limit of the process
        raise_together(error)
        mine = [torch.cat(column).cpu().numpy() for column in zip(*computed, strict=True)]
        places, *columns = (np.concatenate(column) for column in zip(*gather(mine), strict=True))
        order = np.argsort(places)[(places < 0).sum() :]
        return [column[order] for column in columns]


def train_mean(corpus: Corpus, source: str, targets: LandCoverTargets) -> np.ndarray:
    """Mean fractions (classes,) of a source's training samples, the prediction of the simplest model."""
    ((legend, shares),) = corpus.splits[source, "train"].mean_shares.items()
    grouped = targets.legends[legend].grouping_matrix() @ shares
    return np.asarray(grouped / grouped.sum())
