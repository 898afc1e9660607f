"""Window stores for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.stored_windows import StoredWindows
from finetune.data.window_dataset import LabelledWindows
from finetune.data.window_store_writing import stored


def stored_windows(windows: LabelledWindows, folder: Path, **about: Any) -> StoredWindows:
    """The windows from a store in `folder`, which is written if it is not there."""
    return stored({"train": windows}, folder, {"data": "test", **about})["train"]


def assert_same_windows(one: LabelledWindows, other: LabelledWindows) -> None:
    """All windows are the same, as stored and as items, with and without augmentation."""
    assert len(one) == len(other)
    for index in range(len(one)):
        ours, theirs = one.window(index), other.window(index)
        assert (ours.name, ours.year) == (theirs.name, theirs.year)
        np.testing.assert_array_equal(ours.label, theirs.label)
        assert ours.stacks.keys() == theirs.stacks.keys()
        for source, stack in ours.stacks.items():
            assert stack.pixels.dtype == theirs.stacks[source].pixels.dtype
            np.testing.assert_array_equal(stack.pixels, theirs.stacks[source].pixels)
            np.testing.assert_array_equal(stack.valid, theirs.stacks[source].valid)
            for name, value in vars(ours.seasons[source]).items():
                np.testing.assert_array_equal(value, vars(theirs.seasons[source])[name], err_msg=name)
        for seed in (None, index):
            (frames, label, name), (others, other_label, other_name) = (
                windows.read(index, None if seed is None else np.random.default_rng(seed)) for windows in (one, other)
            )
            assert name == other_name
            np.testing.assert_array_equal(label, other_label)
            for source, pixels in frames.items():
                np.testing.assert_array_equal(pixels, others[source])
