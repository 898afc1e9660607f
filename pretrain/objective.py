"""The objective: predict the land-cover fractions of a sample, with a mean teacher against the noise of land-cover maps.

Sources: AgriFM (arXiv 2505.21357): L1 on fractions, EMA teacher. GeoKR, by the same first author: soft-label cross-entropy. Mean
teacher: Tarvainen & Valpola, NeurIPS 2017.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from data_prep.corpus.dataset import Corpus
from data_prep.landcover.legend import Legend, load_legend
from pretrain.data.batch import Batch, orient
from pretrain.model import BatchPart, VideoSwin


class FractionsModel(nn.Module):
    """Encoder, mean over all tokens of the last stage, linear layer, softmax: pixels -> fractions (B, classes)."""

    def __init__(self, encoder: VideoSwin, num_classes: int):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.norm.normalized_shape[0], num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def features(self, pixels: torch.Tensor, source: str, part: BatchPart | None = None) -> torch.Tensor:
        """Normalised pixels (B, T, C, H, W) -> mean over all tokens of the last stage, (B, 8 * embed_dim).

        `part`: which samples of a global batch they are, for stochastic depth; default: all.
        """
        last = self.encoder.tokens(pixels, source, part)[-1]  # (B, D, H, W, C)
        return last.mean(dim=(1, 2, 3))

    def forward(self, pixels: torch.Tensor, source: str, part: BatchPart | None = None) -> torch.Tensor:
        """Normalised pixels (B, T, C, H, W) -> fractions float32 (B, classes). `part`: see `features`."""
        return self.head(self.features(pixels, source, part)).float().softmax(dim=-1)


class FractionTargets:
    """Fine land-cover counts -> fractions of the classes to predict, the same classes for every legend of the corpus.

    Args:
        corpus: its legends.
        groupings: for a legend of the corpus, the name or path of another legend that groups the same codes differently.

    Raises ValueError when a grouping does not fit the corpus, or when the legends have different classes.
    """

    def __init__(self, corpus: Corpus, groupings: dict[str, str]):
        legends = {name: load_legend(groupings[name]) if name in groupings else legend for name, legend in corpus.legends.items()}
        unknown = sorted(set(groupings) - set(corpus.legends))
        if unknown:
            raise ValueError(f"groupings name legends {unknown}, but the corpus has {sorted(corpus.legends)}")
        for name, legend in legends.items():
            if legend.codes != corpus.legends[name].codes:
                raise ValueError(f"the grouping {groupings[name]} lists other codes than legend {name} of the corpus")
        self.legend: Legend = next(iter(legends.values()))
        for name, legend in legends.items():
            if legend.classes != self.legend.classes:
                raise ValueError(
                    f"legend {name} groups into {list(legend.classes)}, {self.legend.name} into {list(self.legend.classes)}; "
                    "give groupings with equal classes (--objective.groupings)"
                )
        self.legends = legends
        self._matrices = {n: torch.from_numpy(g.grouping_matrix()).float() for n, g in legends.items()}

    @property
    def classes(self) -> tuple[str, ...]:
        return self.legend.classes

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Fractions float32 (B, classes) that sum to 1."""
        grouped = batch.land_cover.float() @ self._matrices[batch.legend].T.to(batch.land_cover.device)
        return grouped / grouped.sum(dim=-1, keepdim=True).clamp_min(1)


class MeanTeacher:
    """Exponential moving average of the student's weights. It sees samples without flips, rotations and stochastic depth.

    Attributes:
        average: the model with the averaged weights, fp32, as bf16 would lose small steps to rounding.
        model: the model that computes: `average`, or a copy of it in the precision of training.
    """

    def __init__(self, student: FractionsModel, decay: float, dtype: torch.dtype = torch.float32):
        self.average = copy.deepcopy(student).float().eval().requires_grad_(False)
        self.model = self.average if dtype == torch.float32 else copy.deepcopy(self.average).to(dtype)
        self.decay = decay

    @torch.no_grad()
    def update(self, student: nn.Module, step: int) -> None:
        """Set weights = decay * weights + (1 - decay) * student's weights, after optimizer step `step` (from 0).

        Also after a step that was skipped: the student is then the one of the step before, and the decay depends on the step
        alone, so a run that resumes has the same teacher.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        for mine, theirs in zip(self.average.parameters(), student.parameters(), strict=True):
            mine.lerp_(theirs.to(mine.dtype), 1 - decay)
        self._refresh()

    def load_state_dict(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Load averaged weights, by the names of `FractionsModel`."""
        self.average.load_state_dict(dict(weights))
        self._refresh()

    @torch.no_grad()
    def __call__(self, pixels: torch.Tensor, source: str) -> torch.Tensor:
        """Fractions float32 (B, classes) of normalised pixels (B, T, C, H, W)."""
        return self.model(pixels.to(self.model.head.weight.dtype), source)

    @torch.no_grad()
    def features(self, pixels: torch.Tensor, source: str) -> torch.Tensor:
        """Features float32 (B, C) of normalised pixels (B, T, C, H, W)."""
        return self.model.features(pixels.to(self.model.head.weight.dtype), source).float()

    @torch.no_grad()
    def distance(self, student: nn.Module) -> float:
        """Distance of the averaged weights from the student's: ||average - student|| / ||student||, L2 over all parameters."""
        pairs = zip(student.parameters(), self.average.parameters(), strict=True)
        norms = [torch.stack(((t.float() - s.float()).norm(), s.float().norm())) for s, t in pairs]
        distance, size = torch.stack(norms).double().norm(dim=0).tolist()
        return float(distance / size)

    @torch.no_grad()
    def _refresh(self) -> None:
        if self.model is not self.average:
            for run, averaged in zip(self.model.parameters(), self.average.parameters(), strict=True):
                run.copy_(averaged)


def kl_divergence(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of predicted from true fractions (B, classes) -> (B,), in nats.

    It is the soft-label cross-entropy less its smallest possible value, so it has the same gradient, and 0 is perfect. The
    gradient with respect to the logits is predicted - target, however wrong the prediction is.
    """
    smallest = torch.finfo(predicted.dtype).tiny  # a fraction that is rounded to 0 has no logarithm
    return F.kl_div(predicted.clamp_min(smallest).log(), target, reduction="none").sum(dim=-1)


def l1(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of fractions (B, classes) -> (B,): the loss of the paper.

    Its best prediction is the median: what a noisy map shows most often. From random weights it first falls to the median of
    all samples, where its gradient through a softmax is weak, and stays there long (tests/bench/bench_loss.py).
    """
    return (predicted - target).abs().mean(dim=-1)


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"kl_divergence": kl_divergence, "l1": l1}


def fractions_loss(
    predicted: torch.Tensor,
    target: torch.Tensor,
    taught: torch.Tensor | None,
    consistency_weight: float,
    usable: torch.Tensor | None = None,
    loss: str = "kl_divergence",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Total, supervised and consistency loss, scalars.

    The supervised loss is one of `LOSSES` between prediction and map, the consistency loss the squared distance to the teacher's
    fractions `taught`, as in the mean-teacher paper. L1 would not do for the latter: student and teacher start equal, so the
    signs of rounding errors would steer the first steps. Samples that are not `usable` (B,) count as 0.
    """
    weights = torch.ones_like(predicted[:, 0]) if usable is None else usable.to(predicted.dtype)
    supervised = (LOSSES[loss](predicted, target) * weights).mean()
    consistency = supervised.new_zeros(())
    if taught is not None:
        consistency = (((predicted - taught) ** 2).sum(dim=-1) * weights).mean()
    return supervised + consistency_weight * consistency, supervised, consistency


def views(
    batch: Batch, mean: torch.Tensor, std: torch.Tensor, limits: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two views of a batch: normalised pixels for the student, flipped and rotated, and for the teacher, unchanged."""
    pixels = batch.normalized(mean, std, limits)
    return orient(pixels, batch.orientation), pixels
