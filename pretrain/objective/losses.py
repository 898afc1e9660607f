"""The loss: the error of the predicted land cover, and the distance from the mean teacher.

Sources: AgriFM (arXiv 2505.21357): L1 on fractions, EMA teacher. GeoKR, by the same first author: soft-label cross-entropy. Mean
teacher: Tarvainen & Valpola, NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pretrain.objective.model import FRACTIONS, MAP, Prediction


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


def map_divergence(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of predicted from true shares, averaged over the mapped pixels of each sample -> (B,), in nats.

    `scores`: class scores before the softmax, float32 (B, classes, H, W); `target`: shares of the same shape, which sum to 1, or
    to 0 where nothing is mapped. A pixel with one class gives the cross-entropy. A sample without mapped pixels gives 0.
    """
    divergence = F.kl_div(scores.log_softmax(dim=1), target, reduction="none").sum(dim=(1, 2, 3))
    return divergence / target.sum(dim=(1, 2, 3)).clamp_min(1)


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """What the parts of the loss are.

    Attributes:
        loss: of the fractions, one of `LOSSES`.
        fractions_weight: of that loss beside the loss of the map; without a map the fractions are all there is.
        consistency_weight: of the distance from the teacher.
    """

    loss: str = "kl_divergence"
    fractions_weight: float = 1.0
    consistency_weight: float = 0.0


def land_cover_loss(
    predicted: Prediction,
    target: Prediction,
    taught: Prediction | None,
    weights: LossWeights,
    usable: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Total, supervised and consistency loss, scalars.

    The supervised loss compares the prediction with the land cover. The consistency loss is the squared distance between the
    shares of student and teacher, of the chip and, with a map, of each pixel, as in the mean-teacher paper. L1 would not do for
    the latter: student and teacher start equal, so the signs of rounding errors would steer the first steps. Samples that are not
    `usable` (B,) count as 0.
    """
    fractions = predicted[FRACTIONS]
    supervised = LOSSES[weights.loss](fractions, target[FRACTIONS])
    if MAP in predicted:
        supervised = weights.fractions_weight * supervised + map_divergence(predicted[MAP], target[MAP])
    counted = torch.ones_like(supervised) if usable is None else usable.to(supervised.dtype)
    supervised = (supervised * counted).mean()
    consistency = supervised.new_zeros(())
    if taught is not None:
        distance = ((fractions - taught[FRACTIONS]) ** 2).sum(dim=-1)
        if MAP in predicted:
            shares, of_teacher = (scores.softmax(dim=1) for scores in (predicted[MAP], taught[MAP]))
            distance = distance + ((shares - of_teacher) ** 2).sum(dim=1).mean(dim=(1, 2))
        consistency = (distance * counted).mean()
    return supervised + weights.consistency_weight * consistency, supervised, consistency
