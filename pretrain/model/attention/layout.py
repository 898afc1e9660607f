"""How the tokens of a feature map are divided into shifted windows: a pure function of sizes, computed once and kept.

The published model pads a map with zeros to whole windows, rolls it, cuts it, and lets every token of a window, padding
included, take part in the attention. Here a window holds its real tokens only, and the result is the same:

- Nothing is rolled or padded: `index` gives the positions of each window's tokens in the map.
- All padding tokens of a window have the same key and value (those of a zero token), so the softmax can treat them as one key
  whose weight is the sum of theirs: exp(s + b1) + exp(s + b2) + ... = exp(s + logsumexp(b1, b2, ...)).
- Windows that the ends of the map cut in the same way share one bias and one mask. An axis has at most three kinds of windows
  (inner, last, and one that the shift filled with padding), so no window needs a mask of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

Size = tuple[int, int, int]  # frames, rows, columns, in tokens


def as_size(sides: Sequence[int]) -> Size:
    """Three numbers as a Size."""
    frames, rows, columns = sides
    return frames, rows, columns


# Added to the scores between regions that only the cyclic shift made neighbours. The published code adds -100, but
# exp(-100) = 4e-44 is a denormal number, with which CPUs compute about ten times more slowly. In a softmax both vanish; ours is
# exactly 0.
MASKED = -10_000.0

# For the operators of `cpu.py` all windows of a small map are joined to one, with a mask between them, as long as this gives
# fewer than `_JOINED` times the pairs: starting an operator costs more than the additional pairs. The kernels take windows of
# all kinds at once.
_JOINED = 4


@dataclass(frozen=True)
class WindowGroup:
    """K windows with the same padding and mask, or one window that joins all of a small map: N real and P padding tokens each.

    Attributes:
        index: int64 (K, N), positions of each window's real tokens in the flattened map.
        num_padding: P.
    """

    index: torch.Tensor
    num_padding: int


@dataclass(frozen=True, kw_only=True)
class WindowLayout:
    """All windows of a map, every token of it in exactly one of them.

    Attributes:
        size, window, shifted: the arguments of `window_layout`.
        groups: one for each way in which the ends of the map cut windows.
        bias_rows: int64 (R,), rows of the bias table: for each group those of its N x N pairs of query and key, then those of
            its N x P pairs of query and padding.
        mask: float32 (R, 1), MASKED for pairs that must not attend to each other, else 0.
    """

    size: Size
    window: Size
    shifted: bool
    groups: tuple[WindowGroup, ...]
    bias_rows: torch.Tensor
    mask: torch.Tensor

    def to(self, device: torch.device) -> WindowLayout:
        """The layout with its tensors on `device`."""
        groups = tuple(replace(group, index=group.index.to(device)) for group in self.groups)
        return replace(self, groups=groups, bias_rows=self.bias_rows.to(device), mask=self.mask.to(device))


def fit_window(size: Size, window: Size, shifted: bool) -> tuple[Size, Size]:
    """Window and shift for a feature map of `size`. A side that is no longer than the window becomes the window, unshifted."""
    fitted_window = tuple(min(s, w) for s, w in zip(size, window, strict=True))
    shift = tuple(w // 2 if shifted and s > w else 0 for s, w in zip(size, window, strict=True))
    return fitted_window, shift  # type: ignore[return-value]


@lru_cache(maxsize=64)
def window_layout(size: Size, window: Size, shifted: bool, device: torch.device, may_join: bool) -> WindowLayout:
    """The windows of a feature map of `size`.

    `window`: sides that the bias table covers; `shifted`: move the windows by half of their sides; `may_join`: whether all
    windows of a small map may be joined to one. The 64 most recently used layouts are kept, so that series of another length or
    size cost one construction each.
    """
    return _layout_on_cpu(size, window, shifted, may_join).to(device)


@lru_cache(maxsize=64)
def _layout_on_cpu(size: Size, window: Size, shifted: bool, may_join: bool) -> WindowLayout:
    fitted, shift = fit_window(size, window, shifted)
    padded = tuple(-(-s // w) * w for s, w in zip(size, fitted, strict=True))
    inner = torch.cartesian_prod(*[torch.arange(w) for w in fitted])  # (N + P, 3): positions in a window
    corners = torch.cartesian_prod(*[torch.arange(0, p, w) for p, w in zip(padded, fitted, strict=True)])  # (windows, 3)
    rolled = corners[:, None] + inner  # (windows, N + P, 3): positions in the rolled map
    place = (rolled + torch.tensor(shift)) % torch.tensor(padded)  # ... in the map
    real = (place < torch.tensor(size)).all(-1)
    token = (place[..., 0] * size[1] + place[..., 1]) * size[2] + place[..., 2]
    # Tokens that wrapped around an axis must not attend to those that did not. Interior windows hold no wrapped tokens.
    wrapped = (rolled + torch.tensor(shift) >= torch.tensor(padded)).long()
    region = (wrapped * torch.tensor([4, 2, 1])).sum(-1)
    kinds, kind_of = torch.unique(torch.cat([real.long(), region], dim=1), dim=0, return_inverse=True)

    offset = inner[:, None] - inner[None] + torch.tensor(window) - 1  # (N + P, N + P, 3), from key to query, from 0 on
    bias_rows = (offset[..., 0] * (2 * window[1] - 1) + offset[..., 1]) * (2 * window[2] - 1) + offset[..., 2]
    if may_join and math.prod(size) ** 2 < _JOINED * int(real.sum(1).square().sum()):
        parts = [(token[real][None], real, region)]
    else:
        parts = []
        for number, kind in enumerate(kinds):
            is_real, regions = kind[: len(inner)].bool(), kind[len(inner) :]
            parts.append((token[kind_of == number][:, is_real], is_real[None], regions[None]))
    groups, rows, masks = [], [], []
    for index, is_real, regions in parts:
        groups.append(WindowGroup(index.contiguous(), int((~is_real).sum(1).max())))
        for pair_rows, strangers in _pairs(is_real, regions, bias_rows):
            rows.append(pair_rows.flatten())
            masks.append(strangers.flatten())
    assert sum(group.index.numel() for group in groups) == math.prod(size), "every token lies in exactly one window"
    return WindowLayout(
        size=size,
        window=window,
        shifted=shifted,
        groups=tuple(groups),
        bias_rows=torch.cat(rows),
        mask=torch.cat(masks)[:, None] * MASKED,
    )


def _pairs(
    real: torch.Tensor, region: torch.Tensor, bias_rows: torch.Tensor
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Rows of the bias table, and whether the pair is masked, for W windows joined to one.

    Args:
        real: bool (W, places), True for places of the window that hold a token.
        region: int64 (W, places), equal for places that were neighbours before the shift.
        bias_rows: int64 (places, places).

    Returns:
        Both for pairs (query, key), and both for pairs (query, padding); a query sees only the padding of its own window.
    """
    window, place = real.nonzero(as_tuple=True)  # of every query; the keys are the same tokens
    own = region[window, place]
    apart = (window[:, None] != window) | (own[:, None] != own)
    # Windows may differ in padding: places without a token come first, as many as the window with the most padding has.
    padding = torch.sort(real.long(), dim=1, stable=True).indices[:, : int((~real).sum(1).max())][window]  # (queries, P)
    no_padding = real[window[:, None], padding]
    padding_apart = no_padding | (region[window[:, None], padding] != own[:, None])
    return (bias_rows[place[:, None], place], apart), (bias_rows[place[:, None], padding], padding_apart)
