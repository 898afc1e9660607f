"""What the attention kernels for GPUs know of a layout of windows: tables of indices, computed once and kept.

Shape suffixes: L tokens of a map, G groups, W windows of the map, N real tokens of a window, P its padding tokens, M its keys (N,
and one more that stands for the padding if it has any), R numbers of the biases of all groups for a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from pretrain.model.attention.layout import Size, WindowLayout, window_layout

SLICES = 16  # programs that share the windows of a group for the gradient of a tile of its bias
_ALIGNMENT = 16
OF_PADDING = -2  # in place of a row of the table, for a number of the bias that stands for padding


def aligned(keys: int) -> int:
    """Numbers from one row of a bias to the next: rows begin where kernels can load many numbers at once."""
    return -(-keys // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True)
class Tables:
    """Tables of a layout. All are int32: offsets in a bias fit.

    Attributes:
        tokens: (L,), positions of the tokens in the map, window by window.
        windows: (W, 4), for each window: its first entry in `tokens`, N, M, and the offset of its bias.
        groups: (G, 5), for each group: its first window, number of windows, N, M, and the offset of its bias, whose rows are
            `aligned(M)` apart.
        pairs: (R,), the row of the table of position biases for each number of the bias; -1 where a pair is masked, or
            none is, and OF_PADDING for the key that stands for the padding.
        padding: (queries with padding, 3), for each: where in the bias that of its padding is, its first entry in
            `padding_pairs`, and P.
        padding_pairs: the rows of the table for its pairs with padding tokens, -1 where masked.
        uses: numbers of the bias by the row of the table that they use; -1 - number where it stands for padding tokens.
        first_use: (rows of the table + 1,), for each row its first entry in `uses`.
        most_tokens, most_padding: N and P of the largest window.
        most_windows: number of windows of the largest group.
    """

    tokens: torch.Tensor
    windows: torch.Tensor
    groups: torch.Tensor
    pairs: torch.Tensor
    padding: torch.Tensor
    padding_pairs: torch.Tensor
    uses: torch.Tensor
    first_use: torch.Tensor
    most_tokens: int
    most_padding: int
    most_windows: int

    @property
    def bias_size(self) -> int:
        """R."""
        return len(self.pairs)


@lru_cache(maxsize=64)
def tables(size: Size, window: Size, shifted: bool, device: torch.device) -> Tables:
    """The tables of the windows of a map of `size`."""
    layout = window_layout(size, window, shifted, torch.device("cpu"), may_join=False)
    windows: list[tuple[int, ...]] = []
    groups: list[tuple[int, ...]] = []
    pairs, padding = [], []
    padding_pairs: list[torch.Tensor] = []
    place = offset = 0
    for group, of_pairs, of_padding in zip(layout.groups, *_rows_by_group(layout), strict=True):
        count, tokens = group.index.shape
        keys, num_padding = tokens + bool(group.num_padding), group.num_padding
        stride = aligned(keys)
        groups.append((len(windows), count, tokens, keys, offset))
        windows += [(place + number * tokens, tokens, keys, offset) for number in range(count)]
        in_rows = torch.nn.functional.pad(of_pairs, (0, stride - tokens), value=-1)
        if num_padding:
            in_rows[:, tokens] = OF_PADDING
            first = sum(len(each) for each in padding_pairs)
            padding += [(offset + query * stride + tokens, first + query * num_padding, num_padding) for query in range(tokens)]
            padding_pairs.append(of_padding.flatten())
        pairs.append(in_rows.flatten())
        place += count * tokens
        offset += tokens * stride
    all_pairs, all_padding_pairs = torch.cat(pairs), torch.cat([*padding_pairs, torch.empty(0, dtype=torch.long)])
    numbers = torch.tensor([(position, count) for position, _, count in padding], dtype=torch.long).view(-1, 2)
    uses, first_use = _uses(window, all_pairs, all_padding_pairs, torch.repeat_interleave(*numbers.unbind(1)))

    def table(values: torch.Tensor | Sequence[tuple[int, ...]]) -> torch.Tensor:
        return torch.as_tensor(values).to(device, torch.int32)

    return Tables(
        tokens=table(torch.cat([group.index.flatten() for group in layout.groups])),
        windows=table(windows),
        groups=table(groups),
        pairs=table(all_pairs),
        padding=table(padding),
        padding_pairs=table(all_padding_pairs),
        uses=table(uses),
        first_use=table(first_use),
        most_tokens=max(group[2] for group in groups),
        most_padding=max(group.num_padding for group in layout.groups),
        most_windows=max(group[1] for group in groups),
    )


def _rows_by_group(layout: WindowLayout) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Rows of the table for the pairs of tokens (N, N), and of tokens and padding (N, P), of each group; -1 where masked."""
    rows = torch.where(layout.mask.flatten() == 0, layout.bias_rows, -1)
    of_pairs, of_padding = [], []
    for group in layout.groups:
        tokens, padding = group.index.shape[1], group.num_padding
        pairs, padded, rows = rows.split([tokens**2, tokens * padding, len(rows) - tokens * (tokens + padding)])
        of_pairs.append(pairs.view(tokens, tokens))
        of_padding.append(padded.view(tokens, padding))
    return of_pairs, of_padding


def _uses(
    window: Size, pairs: torch.Tensor, padding_pairs: torch.Tensor, padding_at: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`uses` and `first_use`; `padding_at` is where in the bias each of `padding_pairs` counts."""
    rows, numbers = torch.cat([pairs, padding_pairs]), torch.cat([torch.arange(len(pairs)), -1 - padding_at])
    rows, order = torch.sort(rows, stable=True)
    num_rows = math.prod(2 * side - 1 for side in window)
    masked = int((rows < 0).sum())
    return numbers[order][masked:], torch.searchsorted(rows[masked:].contiguous(), torch.arange(num_rows + 1))
