"""What a dry run trains on."""

from __future__ import annotations

from collections import Counter

import pytest

from pretrain.dry_run import micro_batches


@pytest.mark.parametrize("micro_steps", [1, 2, 3, 7, 8, 64])
@pytest.mark.parametrize("sources", [["modis"], ["landsat", "modis"], ["landsat", "modis", "sentinel2"]])
def test_whole_optimizer_steps_over_all_sources(sources: list[str], micro_steps: int) -> None:
    order = micro_batches(sources, micro_steps)
    assert len(order) % micro_steps == 0
    assert len(order) > 0
    counts = Counter(order)
    assert set(counts) == set(sources)
    assert min(counts.values()) >= 3
    assert max(counts.values()) - min(counts.values()) <= 1
