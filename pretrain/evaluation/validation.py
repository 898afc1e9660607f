"""How good the teacher is on the validation split: its fractions, and what a linear probe reads from its features."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from common.ranks import gather
from data_prep.corpus.dataset import Corpus
from pretrain.data.stream import Skipped, Stream, StreamConfig
from pretrain.objective import FractionTargets, fraction_scores, normalize


class Teacher(Protocol):
    """What is validated: `pretrain.objective.MeanTeacher`, or a `FractionsModel`. Pixels are normalised, (B, T, C, H, W)."""

    def __call__(self, pixels: torch.Tensor, source: str) -> torch.Tensor:
        """Fractions (B, classes)."""

    def features(self, pixels: torch.Tensor, source: str) -> torch.Tensor:
        """What the head sees, (B, F)."""


class Validation:
    """Scores of a teacher by source: built once, called whenever scores are due, on all ranks together.

    The samples are the first ones of the validation split in the order of the stream, as they lie. The linear probe (Alain &
    Bengio, 2016, arXiv 1610.01644) is fitted to the first ones of the training split. Each sample counts once on any number of
    ranks. Sources without validation samples are left out.

    Args:
        corpus: what is trained on.
        stream_config: frames and batch sizes of training.
        targets: land-cover counts -> fractions.
        statistics: mean and standard deviation (C,) of each source to validate, on `device`.
        rank, world_size: of this process.
        device: where the teacher computes.
        samples: at most so many validation samples of a source.
        probe_samples: at most so many training samples of a source for the probe; 0 for no probe.

    Raises ValueError for numbers of samples that cannot be, and what `Stream` raises.
    """

    def __init__(
        self,
        corpus: Corpus,
        stream_config: StreamConfig,
        targets: FractionTargets,
        statistics: dict[str, tuple[torch.Tensor, torch.Tensor]],
        rank: int,
        world_size: int,
        device: torch.device,
        samples: int,
        probe_samples: int,
    ) -> None:
        if samples < 1:
            raise ValueError(f"samples to validate are {samples}; expected at least 1")
        if probe_samples < 0 or probe_samples == 1:
            raise ValueError(f"samples for the linear probe are {probe_samples}; expected 0 (no probe) or at least 2")
        self._targets, self._statistics, self._device = targets, statistics, device
        self._config, self._rank, self._world_size = stream_config, rank, world_size
        self._sources = [source for source in statistics if (source, "validation") in corpus.splits]
        self._means = {source: train_mean(corpus, source, targets) for source in self._sources}
        self._counts: dict[tuple[str, str], int] = {}
        self._streams: dict[tuple[str, str], Stream] = {}
        for source in self._sources:
            for split, most in (("validation", samples), ("train", probe_samples)):
                count = min(most, corpus.splits[source, split].samples)
                if split == "validation" or count >= 2:
                    config = replace(stream_config, mixture={source: 1.0}, augment=False, draws_per_read=1)
                    self._counts[source, split] = count
                    self._streams[source, split] = Stream(corpus, split, config, rank, world_size)

    @torch.no_grad()
    def __call__(self, teacher: Teacher) -> dict[str, dict[str, float]]:
        """By source: `samples`, scores of the fractions, and of the probe, the same on all ranks.

        `mae`, `mae_of_mean` (of always predicting the training split's mean) and `r2` over all classes, `mae/CLASS`,
        `mae_of_mean/CLASS` and `r2/CLASS` of each; `probe_mae` and `probe_r2` over all classes. R2 is nan where the fractions of
        the validation samples do not vary.
        """
        return {source: self._scores(teacher, source) for source in self._sources}

    def take_skipped(self) -> list[Skipped]:
        """Damaged samples met on this rank since the last call; they count in no score."""
        return [skipped for stream in self._streams.values() for skipped in stream.take_skipped()]

    def _scores(self, teacher: Teacher, source: str) -> dict[str, float]:
        mean, has_probe = self._means[source], (source, "train") in self._streams
        # With a probe the encoder runs twice: a validation takes few samples, and a teacher stays free to shard its weights.
        functions = (teacher, teacher.features) if has_probe else (teacher,)
        target, predicted, *features = self._compute(source, "validation", *functions)
        scores = fraction_scores(predicted, target, mean) | {"samples": len(target)}
        if has_probe:
            known_target, known_features = self._compute(source, "train", teacher.features)
            probe = LinearProbe.fit(known_features, known_target)
            read = fraction_scores(probe(features[0]), target, mean)
            scores |= {"probe_mae": read["mae"], "probe_r2": read["r2"]}
        for column, name in enumerate(self._targets.classes):
            one = slice(column, column + 1)
            of_class = fraction_scores(predicted[:, one], target[:, one], mean[one])
            scores |= {f"{score}/{name}": value for score, value in of_class.items()}
        return scores

    def _compute(self, source: str, split: str, *functions: Callable[[torch.Tensor, str], torch.Tensor]) -> list[np.ndarray]:
        """Fractions of the map float32 (N, classes), and what each function makes of pixels and source, on all ranks.

        Rows are in the order of the stream, which does not depend on the number of ranks.
        """
        stream, count = self._streams[source, split], self._counts[source, split]
        sizes = self._config.global_batch_size
        size = sizes[source] if isinstance(sizes, dict) else sizes
        share = size // self._world_size
        batches = []
        for micro_step, batch in enumerate(stream.batches(0, math.ceil(count / size), self._device)):
            # A rank holds a contiguous share of the global batch. The last one runs on beyond `count`, maybe into the next epoch.
            place = micro_step * size + self._rank * share + torch.arange(share, device=self._device)
            counts = (place < count) & batch.usable
            pixels = normalize(batch, *self._statistics[source])
            computed = (self._targets(batch), *(function(pixels, source).float() for function in functions))
            batches.append((torch.where(counts, place, -1), *computed))
        stream.close()  # its open files count against the limit of the process
        mine = [torch.cat(column).cpu().numpy() for column in zip(*batches, strict=True)]
        places, *columns = (np.concatenate(column) for column in zip(*gather(mine), strict=True))
        order = np.argsort(places)[(places < 0).sum() :]
        return [column[order] for column in columns]


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """Ridge regression on standardised features, in float64.

    Attributes:
        mean, scale: (F,) of the features that it was fitted to; the scale of a feature that does not vary is 1.
        weights: (F, classes); intercept: (classes,).
        penalty: weight of the squared weights.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    penalty: float

    @classmethod
    def fit(cls, features: np.ndarray, target: np.ndarray) -> LinearProbe:
        """The probe of features (N, F) -> target (N, classes), N at least 2.

        Of `penalties(N)` it takes the one with the least squared error of leaving out one sample, which follows from one fit:
        residual / (1 - leverage) (PRESS: Allen, Technometrics 16, 1974; Golub, Heath & Wahba, Technometrics 21, 1979). So no
        sample is set apart and no split drawn. One eigendecomposition serves all penalties; the least of them is far above its
        rounding.
        """
        features, target = features.astype(np.float64), target.astype(np.float64)
        mean, std = features.mean(axis=0), features.std(axis=0)
        constant = np.ptp(features, axis=0) == 0
        scale = np.where(constant, 1.0, std)
        standard, intercept = (features - mean) / scale, target.mean(axis=0)
        squares, axes = np.linalg.eigh(standard.T @ standard)  # (F,), (F, F)
        turned = standard @ axes  # (N, F), columns orthogonal, of these squared lengths
        products = turned.T @ (target - intercept)  # (F, classes)

        def error(penalty: float) -> float:
            fitted = intercept + turned @ (products / (squares + penalty)[:, None])
            leverage = 1 / len(target) + turned**2 @ (1 / (squares + penalty))  # 1/N: the intercept
            return float((((target - fitted) / (1 - leverage)[:, None]) ** 2).mean())

        penalty = min(penalties(len(target)).tolist(), key=error)
        weights = axes @ (products / (squares + penalty)[:, None])
        return cls(mean=mean, scale=scale, weights=weights, intercept=intercept, penalty=penalty)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Features (N, F) -> fractions float64 (N, classes). They sum to 1 as those fitted to do, but may lie outside 0 to 1."""
        return (features - self.mean) / self.scale @ self.weights + self.intercept


def penalties(samples: int) -> np.ndarray:
    """Penalties to choose from, (19,), in half decades: from nearly none to nearly the mean, in proportion to the samples."""
    return samples * np.logspace(-6, 3, 19)


def train_mean(corpus: Corpus, source: str, targets: FractionTargets) -> np.ndarray:
    """Mean fractions (classes,) of a source's training samples: what the simplest predictor would say."""
    ((legend, shares),) = corpus.splits[source, "train"].mean_shares.items()
    grouped = targets.legends[legend].grouping_matrix() @ shares
    return np.asarray(grouped / grouped.sum())
