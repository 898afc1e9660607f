"""Batch normalisation of a single value per channel."""

from __future__ import annotations

import pytest
import torch

from finetune.model import batch_norm
from finetune.model.batch_norm import BatchNorm2d


def test_bf16_on_several_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under autocast: the statistics are those of the numbers in float32, and of all pixels."""
    monkeypatch.setattr(batch_norm, "rank_and_world_size", lambda: (0, 2))
    monkeypatch.setattr(batch_norm, "sum_over_ranks", lambda values: values)
    torch.manual_seed(0)
    norm, theirs = BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    maps = torch.randn(2, 3, 33, 33).bfloat16()
    found = norm(maps)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), theirs(maps.float()), atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(norm.running_mean, theirs.running_mean)
    torch.testing.assert_close(norm.running_var, theirs.running_var)


def test_a_single_value_is_normalised_as_it_will_be_in_use() -> None:
    torch.manual_seed(0)
    norm, theirs = BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    for values in torch.randn(5, 4, 3, 2, 2):
        torch.testing.assert_close(norm(values), theirs(values))
    before = {name: values.clone() for name, values in norm.state_dict().items()}
    single = torch.randn(1, 3, 1, 1, requires_grad=True)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):  # when PyTorch allows it, this can go
        theirs(single)
    found = norm(single)
    torch.testing.assert_close(found, theirs.eval()(single))
    found.sum().backward()
    assert (single.grad != 0).all()
    assert all(torch.equal(values, before[name]) for name, values in norm.state_dict().items())
