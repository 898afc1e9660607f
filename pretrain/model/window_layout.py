"""How the tokens of a feature map fall into shifted windows: a pure function of sizes, computed once and kept.

The published model pads a map with zeros to whole windows, rolls it, cuts it and lets every token of a window, padding
included, take part. Here windows hold their real tokens alone, and the same function comes out:

- No roll, no padded copy: `index` says where in the map each window's tokens lie.
- All padding tokens of a window have one key and one value (those of a zero token), so in the softmax they are one key whose
  weight is the sum of theirs: exp(s + b1) + exp(s + b2) + ... = exp(s + logsumexp(b1, b2, ...)).
- Windows that are cut alike (in the interior, at the last rows, ...) share one bias and one mask. At most eight kinds
  exist, so there is no mask a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch

Size = tuple[int, int, int]  # frames, rows, columns, in tokens


@dataclass(frozen=True)
class WindowGroup:
    """The windows of a map that are padded and masked alike: K windows of N real and P padding tokens.

    Attributes:
        index: int64 (K, N), where each window's real tokens lie in the flattened map.
        bias_rows: int64 (N, N), row of the bias table for each pair of query and key.
        masked: bool (N, N), pairs that only the cyclic shift made neighbours; None when there are none.
        padding_bias_rows, padding_masked: the same for the padding keys, (N, P); None when there are none.
    """

    index: torch.Tensor
    bias_rows: torch.Tensor
    masked: torch.Tensor | None
    padding_bias_rows: torch.Tensor | None
    padding_masked: torch.Tensor | None


def fit_window(size: Size, window: Size, shifted: bool) -> tuple[Size, Size]:
    """Window and shift for a feature map of `size`: a side that is no longer than the window becomes the window, unshifted."""
    fitted_window = tuple(min(s, w) for s, w in zip(size, window, strict=True))
    shift = tuple(w // 2 if shifted and s > w else 0 for s, w in zip(size, window, strict=True))
    return fitted_window, shift  # type: ignore[return-value]


@lru_cache(maxsize=64)
def window_groups(size: Size, window: Size, shifted: bool, device: torch.device) -> tuple[WindowGroup, ...]:
    """The windows of a feature map of `size`, every token of it in exactly one of them.

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
    groups = []
    for number, kind in enumerate(kinds):
        is_real, regions = kind[: len(inner)].bool(), kind[len(inner) :]
        strangers = regions[:, None] != regions[None]

        def part(pairs: torch.Tensor, keys: torch.Tensor, queries: torch.Tensor = is_real) -> torch.Tensor:
            return pairs[queries][:, keys].contiguous().to(device)

        is_masked, is_padded = bool(strangers[is_real].any()), not bool(is_real.all())
        groups.append(
            WindowGroup(
                index=token[kind_of == number][:, is_real].contiguous().to(device),
                bias_rows=part(bias_rows, is_real),
                masked=part(strangers, is_real) if is_masked else None,
                padding_bias_rows=part(bias_rows, ~is_real) if is_padded else None,
                padding_masked=part(strangers, ~is_real) if is_padded else None,
            )
        )
    assert sum(group.index.numel() for group in groups) == math.prod(size), "every token lies in one window"
    return tuple(groups)
