"""Baseline that needs no GPU: a random forest (Breiman, 2001) over the time series of each pixel alone.

With few labels it is the model to beat. scikit-learn grows the trees (`finetune/training/forest.py`); this module holds them as
tensors, so that they are stored and used like any other model, without a pickle.

Shapes: B batch, T images per source, C bands, H x W pixels of a source, K classes, N nodes of all trees together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from pretrain.model.resampling import on_map_grid

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

LEAF = -1
_PIXELS_AT_A_TIME = 16_384  # their series stay in the processor's cache
_FEW_MOVING = 0.6  # share of the pixels


class RandomForest(nn.Module):
    """A forest over all bands of all images of a pixel. It is empty until `plant` or `load_state_dict`.

    Args:
        bands: bands of each source.
        frames: images per source (T).
        num_classes: classes of the map.
        channels: not used; other baselines have a width.

    Attributes:
        roots: node at which each tree begins, int64 (trees,).
        feature: column that a node compares, or `LEAF`, int64 (N,).
        threshold: a pixel whose value is not above it goes to the left, float32 (N,).
        below: nodes to the left and to the right, int64 (N, 2); a leaf is its own child.
        shares: share of each class among the training pixels of a node, float32 (N, K).
    """

    roots: torch.Tensor
    feature: torch.Tensor
    threshold: torch.Tensor
    below: torch.Tensor
    shares: torch.Tensor

    def __init__(self, bands: Mapping[str, int], frames: int, num_classes: int, channels: int) -> None:  # noqa: ARG002
        super().__init__()
        self.sources = tuple(bands)
        self.num_features, self.num_classes = frames * sum(bands.values()), num_classes
        self.register_buffer("roots", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("feature", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(0))
        self.register_buffer("below", torch.zeros(0, 2, dtype=torch.int64))
        self.register_buffer("shares", torch.zeros(0, num_classes))

    def series(self, data: Mapping[str, torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """The columns that the trees compare, for each pixel: float32 (B, T * C, *size)."""
        return on_map_grid(data, self.sources, size).flatten(1, 2)

    def forward(self, data: Mapping[str, torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """Class scores (B, K, *size): logarithms of the mean over trees of the shares of the leaves that a pixel ends in."""
        columns = self.series(data, size)
        pixels = columns.flatten(2).transpose(1, 2).flatten(0, 1)  # (B * H * W, T * C)
        probabilities = torch.cat([self._probabilities(block) for block in pixels.split(_PIXELS_AT_A_TIME)])
        scores = probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()
        return scores.unflatten(0, (len(columns), -1)).transpose(1, 2).unflatten(2, size)

    def _probabilities(self, pixels: torch.Tensor) -> torch.Tensor:
        """Mean over trees of the shares of the leaves that pixels (P, T * C) end in: float32 (P, K)."""
        total = torch.zeros(len(pixels), self.num_classes, device=pixels.device)
        for root in self.roots:
            total += self.shares.index_select(0, self._leaves(pixels, root))
        return total / len(self.roots)

    def _leaves(self, pixels: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
        """The leaf of a tree that each pixel (P, T * C) ends in: int64 (P,).

        Flat tables and `index_select` take a CPU less than half the time of indexing by tensors. Leaves lie at all depths, so
        pixels that have reached theirs are left behind once they are many.
        """
        values, below = pixels.reshape(-1), self.below.view(-1)
        moving = torch.arange(len(pixels), device=pixels.device)
        firsts = moving * pixels.shape[1]  # of the pixel's series in `values`
        nodes = root.expand(len(pixels)).clone()
        leaves = nodes.clone()
        while len(moving):
            columns = self.feature.index_select(0, nodes)
            is_moving = columns != LEAF
            if int(is_moving.sum()) < _FEW_MOVING * len(moving):
                leaves.index_copy_(0, moving, nodes)
                kept = is_moving.nonzero()[:, 0]
                moving, firsts, nodes, columns = (each.index_select(0, kept) for each in (moving, firsts, nodes, columns))
            compared = values.index_select(0, columns.clamp_(min=0).add_(firsts))
            is_right = compared > self.threshold.index_select(0, nodes)
            nodes = below.index_select(0, is_right.long().add_(nodes, alpha=2))
        return leaves

    def plant(self, forest: RandomForestClassifier) -> None:
        """Take over the trees of a forest that scikit-learn has fitted, with classes 0 to K - 1."""
        first = 0
        parts: dict[str, list[np.ndarray]] = {"roots": [], "feature": [], "threshold": [], "below": [], "shares": []}
        for estimator in forest.estimators_:
            tree = estimator.tree_
            own = np.arange(tree.node_count)
            is_leaf = tree.children_left == -1
            children = np.stack([tree.children_left, tree.children_right], axis=1)
            shares = np.zeros((tree.node_count, self.num_classes), dtype=np.float32)
            counts = tree.value[:, 0]
            shares[:, forest.classes_] = counts / counts.sum(axis=1, keepdims=True)
            parts["roots"].append(np.array([first]))
            parts["feature"].append(np.where(is_leaf, LEAF, tree.feature))
            parts["threshold"].append(rounded_down(tree.threshold))
            parts["below"].append(first + np.where(is_leaf[:, None], own[:, None], children))
            parts["shares"].append(shares)
            first += tree.node_count
        for name, arrays in parts.items():
            setattr(self, name, torch.from_numpy(np.concatenate(arrays)).to(getattr(self, name).dtype))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Take the number of nodes from the weights; a mistake in them is then found as in any module."""
        for name, buffer in self.named_buffers():
            given = state_dict.get(prefix + name)
            if given is not None and given.shape[1:] == buffer.shape[1:]:
                setattr(self, name, torch.empty_like(given, device=buffer.device, dtype=buffer.dtype))
        super()._load_from_state_dict(state_dict, prefix, *args)


def rounded_down(thresholds: np.ndarray) -> np.ndarray:
    """float64 thresholds as float32, never above: a float32 pixel then is above one exactly when it is above the other."""
    single = thresholds.astype(np.float32)
    return np.where(single > thresholds, np.nextafter(single, np.float32(-np.inf)), single).astype(np.float32)
