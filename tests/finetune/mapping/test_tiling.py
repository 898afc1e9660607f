"""Windows, blocks and weights of a map against a computation pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.mapping.tiling import LEAST_WEIGHT, TILE_PX, Tiling, blend_ramp, default_block


@st.composite
def tilings(draw: st.DrawFn) -> Tiling:
    step = draw(st.sampled_from([1, 2, 4]))
    window = step * draw(st.integers(1, 8))
    stride = step * draw(st.integers(1, window // step))
    height, width, block = (draw(st.integers(1, 50)) for _ in range(3))
    return Tiling(height=height, width=width, window=window, stride=stride, step=step, block=block)


@settings(deadline=None, max_examples=150)
@given(tilings())
def test_blocks_and_windows_cover_the_map_and_weights_make_one(tiling: Tiling) -> None:
    count = np.zeros((tiling.height, tiling.width), int)
    weight = np.zeros((tiling.height, tiling.width))
    for block in tiling.blocks:
        inside_block = np.s_[block.row : block.row + block.height, block.col : block.col + block.width]
        count[inside_block] += 1
        touching = {
            (row, col)
            for row in tiling.rows
            for col in tiling.cols
            if set(range(row, row + tiling.window)) & set(range(block.row, block.row + block.height))
            and set(range(col, col + tiling.window)) & set(range(block.col, block.col + block.width))
        }
        rows, cols = tiling.windows_on(block)
        assert {(row, col) for row in rows for col in cols} == touching
        assert tiling.num_windows(block) == len(rows) * len(cols) == len(touching)
        for row, col in touching:
            inside, outside, part = tiling.overlap_with(row, col, block)
            # The same pixels of the map, from the window and from the block.
            for start, other, within, without in zip((row, col), (block.row, block.col), inside, outside, strict=True):
                assert start + within.start == other + without.start
                assert start + within.stop == other + without.stop
            weight[inside_block][outside] += part
    assert (count == 1).all()
    np.testing.assert_allclose(weight, 1, rtol=1e-5)


def test_neighbouring_ramps_make_one_and_leave_the_margin_out() -> None:
    ramp = blend_ramp(64, 32)
    np.testing.assert_allclose(ramp[32:] + ramp[:32], 1, atol=2 * LEAST_WEIGHT)
    assert (ramp[:8] == LEAST_WEIGHT).all()
    assert (np.diff(ramp[8:24]) > 0).all()
    assert np.abs(np.diff(ramp)).max() < 0.11  # no jump: sin^2 over 16 pixels
    np.testing.assert_array_equal(ramp, ramp[::-1])
    np.testing.assert_array_equal(blend_ramp(64, 0), 1)


def test_weights_at_the_edge_of_the_scene_are_those_of_the_only_window_there() -> None:
    tiling = Tiling(height=64, width=160, window=64, stride=32, step=16, block=512)
    _, _, weight = tiling.overlap_with(0, 0, tiling.blocks[0])
    np.testing.assert_allclose(weight[:, :32], 1, rtol=1e-5)
    assert weight[0, 63] < 1e-5


@pytest.mark.parametrize(
    ("window", "block", "overhead"), [(64, 512, 1.13), (128, 1024, 1.13), (256, 2048, 1.13), (500, 2048, 1.54)]
)
def test_what_blocks_cost(window: int, block: int, overhead: float) -> None:
    assert default_block(window) == block
    assert block % TILE_PX == 0
    tiling = Tiling(height=50_000, width=50_000, window=window, stride=window // 2, step=1, block=block)
    assert tiling.overhead == pytest.approx(overhead, abs=0.03)


def test_a_block_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="--block_px is 0"):
        Tiling(height=10, width=10, window=4, stride=2, step=1, block=0)
