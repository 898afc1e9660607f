"""Losses of a map, alone or as a weighted sum; all ignore pixels labelled `IGNORE`.

Shapes: `class_scores` float (B, K, H, W) before the softmax, `label` int64 (B, H, W), K classes. Each loss is one number. Without
a labelled pixel it is 0 with gradients of 0: a mean over no pixel would be NaN and end the training.

Each loss is computed from sums over pixels. When several ranks hold slices of a batch, `all_reduce` sums them over ranks, so that
the loss is that of the whole batch: a mean over ranks would give the pixels of a rank with few labels more weight than others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from finetune.data.window_dataset import LabelledWindows
from finetune.task import IGNORE, LOSSES

AllReduce = Callable[[torch.Tensor], torch.Tensor]  # sums over a slice of the batch -> sums over the whole batch
FOCUS = 2.0  # the exponent gamma that Lin et al. found best


def no_reduce(sums: torch.Tensor) -> torch.Tensor:
    """The `all_reduce` of a batch that one rank holds alone."""
    return sums


def cross_entropy(
    class_scores: torch.Tensor, label: torch.Tensor, weights: torch.Tensor | None = None, all_reduce: AllReduce = no_reduce
) -> torch.Tensor:
    """Mean cross-entropy over the labelled pixels, each with the weight of its class in `weights` float (K,)."""
    loss = F.cross_entropy(class_scores, label, weight=weights, ignore_index=IGNORE, reduction="sum")
    known = label[label != IGNORE]
    count = torch.tensor(float(known.numel()), device=label.device) if weights is None else weights[known].sum()
    loss, count = all_reduce(torch.stack([loss, count]))
    # Without a labelled pixel the sum is 0, and any divisor will do.
    return loss / torch.where(count > 0, count, 1)


def dice(class_scores: torch.Tensor, label: torch.Tensor, all_reduce: AllReduce = no_reduce) -> torch.Tensor:
    """1 - D, the mean over classes, D = 2 sum(p g) / (sum(p^2) + sum(g^2)) (Milletari et al. 2016, arXiv 1606.04797, section 3).

    Sums are over all labelled pixels of the batch, p the probability of the class and g 1 where the label is that class. Classes
    that are not labelled in the batch do not count: their D would be 0 whatever the model predicts.
    """
    known = label != IGNORE
    probability = class_scores.softmax(dim=1).movedim(1, -1)[known]  # (pixels, K)
    truth = F.one_hot(label[known], class_scores.shape[1]).to(probability.dtype)
    sums = [(probability * truth).sum(dim=0), (probability**2).sum(dim=0), truth.sum(dim=0)]
    both, squares, pixels = all_reduce(torch.stack(sums))
    present = pixels > 0
    overlap = 2 * both[present] / (squares + pixels)[present]
    return (1 - overlap).sum() / present.sum().clamp(min=1)


def focal(
    class_scores: torch.Tensor, label: torch.Tensor, gamma: float = FOCUS, all_reduce: AllReduce = no_reduce
) -> torch.Tensor:
    """Mean of -(1 - p)^gamma log p over the labelled pixels, p the probability of the label.

    Lin et al. 2017, arXiv 1708.02002, equation 4, without their class weight alpha: add `balanced_cross_entropy` or `dice` to it
    for that.
    """
    known = label != IGNORE
    log_probability = class_scores.log_softmax(dim=1).movedim(1, -1)[known].gather(1, label[known][:, None])[:, 0]
    loss = -((1 - log_probability.exp()) ** gamma * log_probability).sum()
    loss, count = all_reduce(torch.stack([loss, known.sum().to(loss.dtype)]))
    return loss / count.clamp(min=1)


class MapLoss(nn.Module):
    """The weighted sum of a task's losses.

    Args:
        terms: weight of each loss, names as in `finetune.task.LOSSES`.
        class_weights: weight of each class in `balanced_cross_entropy`, float32 (K,), from `balanced_weights`.
    """

    class_weights: torch.Tensor

    def __init__(self, terms: Mapping[str, float], class_weights: torch.Tensor) -> None:
        super().__init__()
        self.terms = dict(terms)
        self.register_buffer("class_weights", class_weights)

    def forward(self, class_scores: torch.Tensor, label: torch.Tensor, all_reduce: AllReduce = no_reduce) -> torch.Tensor:
        """One number, differentiable."""
        losses: dict[str, Callable[[], torch.Tensor]] = {
            "cross_entropy": lambda: cross_entropy(class_scores, label, all_reduce=all_reduce),
            "balanced_cross_entropy": lambda: cross_entropy(class_scores, label, self.class_weights, all_reduce),
            "dice": lambda: dice(class_scores, label, all_reduce),
            "focal": lambda: focal(class_scores, label, all_reduce=all_reduce),
        }
        assert tuple(losses) == LOSSES
        return torch.stack([weight * losses[name]() for name, weight in self.terms.items()]).sum()


def balanced_weights(training: LabelledWindows) -> torch.Tensor:
    """Weights of the classes by the inverse square root of their pixels, float32 (K,), mean 1 over the labelled pixels.

    A class without a pixel, which happens when a small fraction of the labels is used, has weight 1; this affects only the
    validation loss.
    """
    pixels = training.class_pixels().astype(np.float64)
    weights = 1 / np.sqrt(np.maximum(pixels, 1))
    return torch.tensor(np.where(pixels > 0, weights * pixels.sum() / (weights * pixels).sum(), 1), dtype=torch.float32)
