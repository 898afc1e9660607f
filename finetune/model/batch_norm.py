"""Batch normalisation over all of a batch, however many ranks share it, and of a single value."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from common.ranks import rank_and_world_size, sum_over_ranks


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation (Ioffe and Szegedy 2015, arXiv 1502.03167): PyTorch's, but for two cases of training.

    Where several ranks share a batch, means and variances are those of the whole batch, as PyTorch's SyncBatchNorm has them,
    which knows GPUs alone; on GPUs `synchronised` puts that one in the place of this.

    A single value a channel has no variance: PyTorch refuses it, and minus its own mean it would be 0 whatever the image shows.
    It comes from one window so small that the lowest level of a network is one pixel. It is normalised as it will be in use, by
    the running mean and variance, which stay as they are.
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> the same shape."""
        if self.training and rank_and_world_size()[1] > 1:
            return self._over_ranks(maps)
        if self.training and maps.numel() == maps.shape[1]:
            return F.batch_norm(maps, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(maps)

    def _over_ranks(self, maps: torch.Tensor) -> torch.Tensor:
        """In training on several ranks. First the mean: a variance from a sum of squares would lose digits."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        mine = maps.new_tensor([maps.numel() // maps.shape[1]])
        sums = sum_over_ranks(torch.cat([maps.sum(dim=(0, 2, 3)), mine]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = maps - mean.view(-1, 1, 1)
        variance = sum_over_ranks((centred**2).sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        normalised = centred * torch.rsqrt(variance + self.eps).view(-1, 1, 1)
        return normalised * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


def synchronised(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with PyTorch's SyncBatchNorm where several ranks train on GPUs; weights and their names stay."""
    if device.type == "cuda" and rank_and_world_size()[1] > 1:
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    return model
