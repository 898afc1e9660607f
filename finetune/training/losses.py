"""Losses of a map, alone or as a weighted sum; pixels labelled `IGNORE` take no part in any of them.

Shapes: `class_scores` float (B, K, H, W) before the softmax, `label` int64 (B, H, W), K classes. Each loss is one number, and 0
with gradients of 0 where no pixel is labelled: a mean over nothing would be NaN and end the training.

Each is made of sums over pixels. Where several ranks hold parts of a batch, `total` adds up their sums, so that the loss is that
of the whole batch: a mean over ranks would count the pixels of a rank with few labels more than others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from finetune.data.windows import LabelledWindows
from finetune.task import IGNORE, LOSSES

Total = Callable[[torch.Tensor], torch.Tensor]  # a tensor of sums -> those of all parts of the batch
FOCUS = 2.0  # the exponent gamma that Lin et al. found best


def of_this_part(sums: torch.Tensor) -> torch.Tensor:
    """The `total` of a batch that is in one piece."""
    return sums


def cross_entropy(
    class_scores: torch.Tensor, label: torch.Tensor, weights: torch.Tensor | None = None, total: Total = of_this_part
) -> torch.Tensor:
    """Mean cross-entropy over the labelled pixels, each with the weight of its class in `weights` float (K,)."""
    loss = F.cross_entropy(class_scores, label, weight=weights, ignore_index=IGNORE, reduction="sum")
    known = label[label != IGNORE]
    count = torch.tensor(float(known.numel()), device=label.device) if weights is None else weights[known].sum()
    loss, count = total(torch.stack([loss, count]))
    # Where nothing is labelled the sum is 0 already; 1 is any number to divide it by.
    return loss / torch.where(count > 0, count, 1)


def dice(class_scores: torch.Tensor, label: torch.Tensor, total: Total = of_this_part) -> torch.Tensor:
    """1 - D, the mean over classes, D = 2 sum(p g) / (sum(p^2) + sum(g^2)) (Milletari et al. 2016, arXiv 1606.04797, section 3).

    Sums are over all labelled pixels of the batch, p the probability of the class and g 1 where the label is that class. Classes
    that are not labelled in the batch do not count: their D is 0 whatever the model says.
    """
    known = label != IGNORE
    probability = class_scores.softmax(dim=1).movedim(1, -1)[known]  # (pixels, K)
    truth = F.one_hot(label[known], class_scores.shape[1]).to(probability.dtype)
    both, squares, pixels = total(torch.stack([(probability * truth).sum(dim=0), (probability**2).sum(dim=0), truth.sum(dim=0)]))
    present = pixels > 0
    overlap = 2 * both[present] / (squares + pixels)[present]
    return (1 - overlap).sum() / present.sum().clamp(min=1)


def focal(class_scores: torch.Tensor, label: torch.Tensor, gamma: float = FOCUS, total: Total = of_this_part) -> torch.Tensor:
    """Mean of -(1 - p)^gamma log p over the labelled pixels, p the probability of the label.

    Lin et al. 2017, arXiv 1708.02002, equation 4. Their alpha, a weight of the class, is left out: `balanced_cross_entropy` and
    `dice` are there to be added.
    """
    known = label != IGNORE
    log_probability = class_scores.log_softmax(dim=1).movedim(1, -1)[known].gather(1, label[known][:, None])[:, 0]
    loss = -((1 - log_probability.exp()) ** gamma * log_probability).sum()
    loss, count = total(torch.stack([loss, known.sum().to(loss.dtype)]))
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

    def forward(self, class_scores: torch.Tensor, label: torch.Tensor, total: Total = of_this_part) -> torch.Tensor:
        """One number, differentiable."""
        losses: dict[str, Callable[[], torch.Tensor]] = {
            "cross_entropy": lambda: cross_entropy(class_scores, label, total=total),
            "balanced_cross_entropy": lambda: cross_entropy(class_scores, label, self.class_weights, total),
            "dice": lambda: dice(class_scores, label, total),
            "focal": lambda: focal(class_scores, label, total=total),
        }
        assert tuple(losses) == LOSSES
        return torch.stack([weight * losses[name]() for name, weight in self.terms.items()]).sum()


def check_classes(training: LabelledWindows) -> None:
    """Raises ValueError when the training labels lack a class: no loss can teach it."""
    pixels = training.class_pixels()
    absent = [c for c, n in zip(training.task.classes, pixels, strict=True) if n == 0]
    if absent:
        raise ValueError(
            f"the training labels {training.task.label!r} hold no pixel of class {', '.join(c.name for c in absent)}; its names "
            f"there are {[list(c.labels) or 'everything else' for c in absent]}"
        )


def balanced_weights(training: LabelledWindows) -> torch.Tensor:
    """Weights of the classes by the inverse square root of their pixels, float32 (K,), mean 1 over the labelled pixels.

    A class that a small share of the labels leaves without a pixel has weight 1, which tells in the validation loss alone.
    """
    pixels = training.class_pixels().astype(np.float64)
    weights = 1 / np.sqrt(np.maximum(pixels, 1))
    return torch.tensor(np.where(pixels > 0, weights * pixels.sum() / (weights * pixels).sum(), 1), dtype=torch.float32)
