"""How the tokens of a feature map fall into shifted windows: a pure function of sizes, computed once and kept.

The published model pads a map with zeros to whole windows, rolls it, cuts it and lets every token of a window, padding
included, take part. Here windows hold their real tokens alone, and the same function comes out:

- No roll, no padded copy: `index` says where in the map each window's tokens lie.
- All padding tokens of a window have one key and one value (those of a zero token), so in the softmax they are one key whose
  weight is the sum of theirs: exp(s + b1) + exp(s + b2) + ... = exp(s + logsumexp(b1, b2, ...)).
- Windows that are cut alike (in the interior, at the last rows, ...) share one bias and one mask. At most three kinds an axis
  exist, inner, last, and one that the shift filled with padding, so there is no mask a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch

Size = tuple[int, int, int]  # frames, rows, columns, in tokens


# Added to scores between regions that only the cyclic shift made neighbours. The published code adds -100, and exp(-100) = 4e-44
# is a denormal number, over which CPUs take some ten times as long. Both vanish in a softmax; ours is exactly 0.
MASKED = -10_000.0

# Windows of a small map are joined to one, masked between them, where that makes less than so many times the pairs: an operator
# costs more than the pairs do.
_JOINED = 4


@dataclass(frozen=True)
class WindowGroup:
    """K windows that are padded and masked alike, or one that joins all of a small map: N real tokens and P padding each.

    Attributes:
        index: int64 (K, N), where each window's real tokens lie in the flattened map.
        num_padding: P.
    """

    index: torch.Tensor
    num_padding: int


@dataclass(frozen=True, kw_only=True)
class WindowLayout:
    """All windows of a map, every token of it in exactly one of them.

    Attributes:
        size, window, shifted: what it is the layout of, as `window_layout` takes them.
        groups: one for each way to be cut by the ends of the map, at most three an axis.
        bias_rows: int64 (R,), for each group the row of the bias table for its N x N pairs of query and key, then for its
            N x P pairs of query and padding.
        mask: float32 (R, 1), MASKED where a pair must not see each other, else 0.
    """

    size: Size
    window: Size
    shifted: bool
    groups: tuple[WindowGroup, ...]
    bias_rows: torch.Tensor
    mask: torch.Tensor


def fit_window(size: Size, window: Size, shifted: bool) -> tuple[Size, Size]:
    """Window and shift for a feature map of `size`: a side that is no longer than the window becomes the window, unshifted."""
    fitted_window = tuple(min(s, w) for s, w in zip(size, window, strict=True))
    shift = tuple(w // 2 if shifted and s > w else 0 for s, w in zip(size, window, strict=True))
    return fitted_window, shift  # type: ignore[return-value]


@lru_cache(maxsize=64)
def window_layout(size: Size, window: Size, shifted: bool, device: torch.device) -> WindowLayout:
    """The windows of a feature map of `size`.

    `window` is the side lengths that the bias table is laid out for; `shifted` moves the windows by half of them. The 64 most
    recently used layouts are kept: series of varying length and size cost one construction each.
    """
    fitted, shift = fit_window(size, window, shifted)
    padded = tuple(-(-s // w) * w for s, w in zip(size, fitted, strict=True))
    inner = torch.cartesian_prod(*[torch.arange(w) for w in fitted])  # (N + P, 3): places in a window
    corners = torch.cartesian_prod(*[torch.arange(0, p, w) for p, w in zip(padded, fitted, strict=True)])  # (windows, 3)
    rolled = corners[:, None] + inner  # (windows, N + P, 3): places in the rolled map
    place = (rolled + torch.tensor(shift)) % torch.tensor(padded)  # ... in the map
    real = (place < torch.tensor(size)).all(-1)
    token = (place[..., 0] * size[1] + place[..., 1]) * size[2] + place[..., 2]
    # Tokens that wrapped around an axis are strangers to those that did not. Interior windows hold no wrapped ones.
    wrapped = (rolled + torch.tensor(shift) >= torch.tensor(padded)).long()
    region = (wrapped * torch.tensor([4, 2, 1])).sum(-1)
    kinds, kind_of = torch.unique(torch.cat([real.long(), region], dim=1), dim=0, return_inverse=True)

    offset = inner[:, None] - inner[None] + torch.tensor(window) - 1  # (N + P, N + P, 3), from key to query, from 0 on
    bias_rows = (offset[..., 0] * (2 * window[1] - 1) + offset[..., 1]) * (2 * window[2] - 1) + offset[..., 2]
    if math.prod(size) ** 2 < _JOINED * int(real.sum(1).square().sum()):
        parts = [(token[real][None], real, region)]
    else:
        parts = []
        for number, kind in enumerate(kinds):
            is_real, regions = kind[: len(inner)].bool(), kind[len(inner) :]
            parts.append((token[kind_of == number][:, is_real], is_real[None], regions[None]))
    groups, rows, masks = [], [], []
    for index, is_real, regions in parts:
        groups.append(WindowGroup(index.contiguous().to(device), int((~is_real).sum(1).max())))
        for pair_rows, strangers in _pairs(is_real, regions, bias_rows):
            rows.append(pair_rows.flatten())
            masks.append(strangers.flatten())
    assert sum(group.index.numel() for group in groups) == math.prod(size), "every token lies in one window"
    return WindowLayout(
        size=size,
        window=window,
        shifted=shifted,
        groups=tuple(groups),
        bias_rows=torch.cat(rows).to(device),
        mask=(torch.cat(masks)[:, None] * MASKED).to(device),
    )


def _pairs(
    real: torch.Tensor, region: torch.Tensor, bias_rows: torch.Tensor
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Rows of the bias table, and whether the pair is masked, for W windows joined to one.

    Args:
        real: bool (W, places), which places hold a token.
        region: int64 (W, places), equal for places that were neighbours before the shift.
        bias_rows: int64 (places, places).

    Returns both for (query, key) and for (query, padding), a query's padding being that of its own window.
    """
    window, place = real.nonzero(as_tuple=True)  # of every query, which are the keys, too
    own = region[window, place]
    apart = (window[:, None] != window) | (own[:, None] != own)
    # Windows may differ in padding: the places without a token come first, as many as the window with most of it has.
    padding = torch.sort(real.long(), dim=1, stable=True).indices[:, : int((~real).sum(1).max())][window]  # (queries, P)
    no_padding = real[window[:, None], padding]
    padding_apart = no_padding | (region[window[:, None], padding] != own[:, None])
    return (bias_rows[place[:, None], place], apart), (bias_rows[place[:, None], padding], padding_apart)
