"""The shuffled order of samples against counting."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.shuffling import shuffled


@given(size=st.integers(1, 300), epoch=st.integers(0, 2**40), key=st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_an_epoch_is_a_permutation(size: int, epoch: int, key: int) -> None:
    items = shuffled(np.arange(epoch * size, (epoch + 1) * size), size, key)
    assert sorted(items.tolist()) == list(range(size))


def test_all_orders_of_four_items_are_equally_likely() -> None:
    rounds = 24 * 200
    orders = Counter(map(tuple, shuffled(np.arange(4 * rounds), 4, key=9).reshape(rounds, 4).tolist()))
    # Chi-squared with 23 degrees of freedom: 49.7 is passed once in a thousand keys; this key is fixed.
    assert len(orders) == 24
    assert sum((count - 200) ** 2 / 200 for count in orders.values()) < 49.7
