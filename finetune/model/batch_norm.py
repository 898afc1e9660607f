"""Batch normalisation over the whole batch, also when several ranks share it, and for a single value per channel."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from common.ranks import rank_and_world_size, sum_over_ranks


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation (Ioffe and Szegedy 2015, arXiv 1502.03167) as in PyTorch, except in two cases during training.

    When several ranks share a batch, mean and variance are those of the whole batch. PyTorch's SyncBatchNorm does the same, but
    on GPUs only; there `with_synchronized_batch_norm` uses it instead.

    A single value per channel has no variance. It occurs when a batch is one window so small that the lowest level of a network
    is one pixel. PyTorch raises an error, and the value minus its own mean would be 0 whatever the image shows. So it is
    normalised as in evaluation, by the running mean and variance, which it does not change.
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> the same shape."""
        if self.training and rank_and_world_size()[1] > 1:
            return self._over_ranks(maps)
        if self.training and maps.numel() == maps.shape[1]:
            return F.batch_norm(maps, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(maps)

    def _over_ranks(self, maps: torch.Tensor) -> torch.Tensor:
        """Training on several ranks. The mean is computed first: a variance from a sum of squares would lose digits."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        dtype = maps.dtype
        maps = maps.to(torch.promote_types(dtype, torch.float32))  # in bf16 numbers of pixels above 256 are rounded
        count_here = maps.new_tensor([maps.numel() // maps.shape[1]])
        sums = sum_over_ranks(torch.cat([maps.sum(dim=(0, 2, 3)), count_here]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = maps - mean.view(-1, 1, 1)
        variance = sum_over_ranks((centred**2).sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        normalised = centred * torch.rsqrt(variance + self.eps).view(-1, 1, 1)
        return (normalised * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)).to(dtype)


def with_synchronized_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with PyTorch's SyncBatchNorm if several ranks train on GPUs; weights and their names stay the same."""
    if device.type == "cuda" and rank_and_world_size()[1] > 1:
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    return model
