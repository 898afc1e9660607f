"""Which attention suits a device: ours, scaled_dot_product_attention, FlexAttention (on a GPU), and the published steps.

    python tests/bench/bench_attention.py --output tests/bench/results/attention.json

Each takes queries, keys and values of a map, those of a padding token, and the table of relative position biases, and gives all
of them their gradients. Ours finds its windows by index; the others pad, roll and cut the map as the published code does. Maps
are those of the four stages at 224 px, which whole windows fill, and at 128 px, where windows are padded, shifted and not. Each
states its error: the largest difference of result and gradients from the published steps in float32, as a share of the largest
number. Variants take turns in one process; a ratio is of times in the same round.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tabulate import tabulate
from tqdm import tqdm

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from bench_encoder import device_and_threads, peak_bytes, timed  # noqa: E402
from report import write_report  # noqa: E402

from common.command_line import run_command  # noqa: E402
from pretrain.model.attention.home import layout_of_map, window_attention  # noqa: E402
from pretrain.model.attention.layout import Size  # noqa: E402
from tests.support.naive_encoder import (  # noqa: E402
    cut_windows,
    fitted,
    join_windows,
    region_mask,
    relative_position_index,
)

WINDOW = (8, 7, 7)
# Maps of the four stages at 16 frames of 224 and 128 pixels, with their channels; heads have 32 channels.
MAPS: dict[str, list[tuple[Size, int]]] = {
    "whole": [((4, 56, 56), 128), ((2, 28, 28), 256), ((1, 14, 14), 512), ((1, 7, 7), 1024)],
    "padded": [((4, 32, 32), 128), ((2, 16, 16), 256), ((1, 8, 8), 512)],
}
Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # of qkv, padding and table


@dataclass(frozen=True)
class Case:
    """A map of a size, with C channels, and whether its windows are shifted."""

    size: Size
    channels: int
    shifted: bool

    @property
    def heads(self) -> int:
        return self.channels // 32

    def cut(self, qkv: torch.Tensor, padding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, L, 3C), (3C,) -> three of (B*K, A, N, H)."""
        window, shift = fitted(self.size, WINDOW, self.shifted)
        missing = [-side % width for side, width in zip(self.size, window, strict=True)]
        sides = (0, 0, 0, missing[2], 0, missing[1], 0, missing[0])
        image = qkv.view(len(qkv), *self.size, -1)
        is_real = F.pad(torch.ones(1, *self.size, 1, dtype=torch.bool, device=qkv.device), sides)
        image = torch.where(is_real, F.pad(image, sides), padding)
        windows = cut_windows(torch.roll(image, [-by for by in shift], (1, 2, 3)), window)
        query, key, value = windows.view(*windows.shape[:2], 3, self.heads, 32).permute(2, 0, 3, 1, 4)
        return query.contiguous(), key.contiguous(), value.contiguous()

    def join(self, attended: torch.Tensor) -> torch.Tensor:
        """(B*K, A, N, H) -> (B, L, C)."""
        window, shift = fitted(self.size, WINDOW, self.shifted)
        padded = [-(-side // width) * width for side, width in zip(self.size, window, strict=True)]
        image = join_windows(attended.transpose(1, 2).flatten(2), window, padded)
        image = torch.roll(image, shift, (1, 2, 3))[:, : self.size[0], : self.size[1], : self.size[2]]
        return image.flatten(1, 3)

    def bias(self, table: torch.Tensor) -> torch.Tensor:
        """(A, N, N)."""
        index = relative_position_index(tuple(fitted(self.size, WINDOW, self.shifted)[0]), WINDOW, table.device)
        return table[index.flatten()].view(*index.shape, -1).permute(2, 0, 1).contiguous()

    def mask(self, like: torch.Tensor) -> torch.Tensor | None:
        """(K, N, N), None without a shift."""
        window, shift = fitted(self.size, WINDOW, self.shifted)
        if not any(shift):
            return None
        padded = tuple(-(-side // width) * width for side, width in zip(self.size, window, strict=True))
        return region_mask(padded, tuple(window), tuple(shift), like.device).to(like)


def ours(case: Case, qkv: torch.Tensor, padding: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    return window_attention(qkv, padding, table, layout_of_map(case.size, WINDOW, case.shifted, qkv.device, 32))


def published(case: Case, qkv: torch.Tensor, padding: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    query, key, value = case.cut(qkv, padding)
    scores, mask = query * 32**-0.5 @ key.mT + case.bias(table), case.mask(qkv)
    if mask is not None:
        scores = (scores.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
    return case.join(scores.softmax(-1) @ value)


def fused(case: Case, qkv: torch.Tensor, padding: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    query, key, value = case.cut(qkv, padding)
    added, mask = case.bias(table)[None], case.mask(qkv)
    if mask is not None:
        added = (added + mask[:, None]).repeat(len(query) // len(mask), 1, 1, 1)
    return case.join(F.scaled_dot_product_attention(query, key, value, attn_mask=added))


def flex(attend: Callable[..., torch.Tensor], case: Case, qkv: torch.Tensor, padding: torch.Tensor, table: torch.Tensor) -> Any:
    query, key, value = case.cut(qkv, padding)
    bias, mask = case.bias(table), case.mask(qkv)
    mask = qkv.new_zeros(1, *bias.shape[1:]) if mask is None else mask

    def add(score: torch.Tensor, window: torch.Tensor, head: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return score + bias[head, q, k] + mask[window % len(mask), q, k]

    return case.join(attend(query, key, value, score_mod=add))


def candidates(case: Case, device: torch.device) -> dict[str, Attention]:
    found: dict[str, Attention] = {name: partial(way, case) for name, way in (("ours", ours), ("sdpa", fused))}
    found["published"] = partial(published, case)
    if device.type == "cuda":
        from torch.nn.attention.flex_attention import flex_attention

        torch._dynamo.reset()  # compiled anew for each shape; after eight it would run unfused, with no more than a warning
        found["flex"] = partial(flex, torch.compile(flex_attention, dynamic=False), case)
    return found


def measure(device: torch.device, dtype: torch.dtype, case: Case, batch: int, rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    length, rows = case.size[0] * case.size[1] * case.size[2], (2 * WINDOW[0] - 1) * (2 * WINDOW[1] - 1) * (2 * WINDOW[2] - 1)
    shapes = (batch, length, 3 * case.channels), (3 * case.channels,), (rows, case.heads)
    tensors = tuple(torch.randn(shape, device=device).to(dtype).requires_grad_() for shape in shapes)
    upstream = torch.randn(batch, length, case.channels, device=device).to(dtype)

    def gradients(attention: Attention, among: tuple[torch.Tensor, ...] = tensors) -> tuple[torch.Tensor, ...]:
        result = attention(*among)
        return result.detach(), *torch.autograd.grad(result, among, upstream.to(result.dtype))

    result: dict[str, Any] = {"dtype": str(dtype).removeprefix("torch."), "map": list(case.size), "channels": case.channels}
    result |= {"shifted": case.shifted, "batch": batch}
    variants, right = {}, gradients(partial(published, case), tuple(each.detach().float().requires_grad_() for each in tensors))
    for name, attention in candidates(case, device).items():
        try:
            found = gradients(attention)
        except Exception as error:  # some variants refuse some shapes, or run out of memory
            result[f"{name}_failed"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            continue
        errors = [float((one - other).abs().max() / other.abs().max()) for one, other in zip(found, right, strict=True)]
        result[f"{name}_error"] = round(max(errors), 6)
        variants[name] = attention
    assert result["ours_error"] < (1e-4 if dtype == torch.float32 else 6e-2), result
    times = [{name: timed(partial(gradients, attention), device) for name, attention in variants.items()} for _ in range(rounds)]
    for name, attention in variants.items():
        result[f"{name}_ms"] = round(1e3 * statistics.median(row[name] for row in times), 3)
        result[f"{name}_peak_mb"] = round(peak_bytes(partial(gradients, attention), device) / 1e6, 1)
        if name != "ours":
            result[f"{name}_over_ours"] = round(statistics.median(row[name] / row["ours"] for row in times), 2)
    return result


def bench_attention(
    output: Path | None = None, rounds: int = 7, batch: int | None = None, kinds: list[str] | None = None
) -> None:
    """Measure ways to attend within windows.

    Args:
        output: JSON file to write; default: print only.
        rounds: rounds in which variants take turns.
        batch: samples; default: 2 on a CPU, 32 on a GPU.
        kinds: of maps, whole and padded; default: both.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = batch or (32 if device.type == "cuda" else 2)
    cases = [
        Case(size, channels, shifted)
        for kind in kinds or MAPS
        for size, channels in MAPS[kind]
        for shifted in (False, True)
        if not shifted or any(fitted(size, WINDOW, shifted)[1])
    ]
    dtypes = torch.float32, torch.bfloat16
    results = []
    for dtype, case in tqdm(list(itertools.product(dtypes, cases)), desc="attention", unit="case"):
        results.append(measure(device, dtype, case, batch, rounds))
        # What is there stays when the time is up.
        write_report(output, ["torch"], {"rounds": rounds, "results": results}, device_and_threads(device))
    columns = [
        "dtype",
        "map",
        "channels",
        "shifted",
        "ours_ms",
        "ours_error",
        "sdpa_over_ours",
        "flex_over_ours",
        "published_over_ours",
    ]
    print(tabulate([[result.get(column) for column in columns] for result in results], columns))


if __name__ == "__main__":
    run_command(bench_attention)
