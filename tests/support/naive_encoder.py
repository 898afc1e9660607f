"""An oracle of the encoder, written from its description: slow and explicit, without code of `pretrain.model`.

It takes the weights of a `VideoSwin` by name. There are two kinds of attention:

- `windowed_attention` follows the steps of the published model: pad, roll, cut into windows, project every token, compute
  scores with bias and mask, softmax, weighted sum, project, and undo the cut. Benchmarks and the count of FLOPs use it.
- `looped_attention` is an oracle of the former: it loops over windows and pairs of tokens instead of reshaping, and masks each
  pair of tokens that were no neighbours before the shift. It is too slow for real sizes.
"""

import itertools
import math
from functools import lru_cache

import torch
import torch.nn.functional as F


def pad_end(x, dims, multiples):
    for dim, multiple in zip(dims, multiples, strict=True):
        missing = math.ceil(x.shape[dim] / multiple) * multiple - x.shape[dim]
        if missing:
            shape = list(x.shape)
            shape[dim] = missing
            x = torch.cat([x, x.new_zeros(shape)], dim)
    return x


def fitted(size, table_window, shifted):
    """A window no larger than the map; a side that the window covers is not shifted."""
    window = [min(s, t) for s, t in zip(size, table_window, strict=True)]
    shift = [t // 2 if shifted and s > t else 0 for s, t in zip(size, table_window, strict=True)]
    return window, shift


@lru_cache
def relative_position_index(window, table_window, device=None):
    places = torch.tensor(list(itertools.product(*[range(s) for s in window])), device=device)  # (N, 3)
    d, h, w = (places[:, None] - places[None] + torch.tensor(table_window, device=device) - 1).unbind(-1)  # (N, N) each
    return (d * (2 * table_window[1] - 1) + h) * (2 * table_window[2] - 1) + w


def cut_windows(x, window):
    batch, depth, height, width, channels = x.shape
    d, h, w = window
    x = x.view(batch, depth // d, d, height // h, h, width // w, w, channels)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).contiguous().view(-1, d * h * w, channels)


def join_windows(windows, window, padded):
    depth, height, width = padded
    d, h, w = window
    x = windows.view(-1, depth // d, height // h, width // w, d, h, w, windows.shape[-1])
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).contiguous().view(-1, depth, height, width, windows.shape[-1])


@lru_cache
def region_mask(padded, window, shift, device=None):
    """(windows, N, N): 0 between tokens of one region, -100 between tokens that only the roll brought together."""
    region = torch.zeros(1, *padded, 1, device=device)
    bands = [[slice(0, -w), slice(-w, -s), slice(-s, None)] if s else [slice(None)] for w, s in zip(window, shift, strict=True)]
    for number, (d, h, w) in enumerate(itertools.product(*bands)):
        region[:, d, h, w] = number
    region = cut_windows(region, window).squeeze(-1)
    return (region[:, None, :] != region[:, :, None]).float() * -100.0


def windowed_attention(x, w, prefix, heads, table_window, shifted):
    batch, *size, channels = x.shape
    window, shift = fitted(size, table_window, shifted)
    x = pad_end(x, (1, 2, 3), window)
    padded = tuple(x.shape[1:4])
    if any(shift):
        x = torch.roll(x, [-s for s in shift], (1, 2, 3))
    x = cut_windows(x, window)
    count, tokens, _ = x.shape
    qkv = F.linear(x, w[prefix + "qkv.weight"], w[prefix + "qkv.bias"])
    q, k, v = qkv.view(count, tokens, 3, heads, channels // heads).permute(2, 0, 3, 1, 4)
    scores = (q * (channels // heads) ** -0.5) @ k.transpose(-2, -1)
    table = w[prefix + "relative_position_bias_table"]
    index = relative_position_index(tuple(window), tuple(table_window), table.device)
    scores = scores + table[index.view(-1)].view(tokens, tokens, heads).permute(2, 0, 1).contiguous()
    if any(shift):
        mask = region_mask(padded, tuple(window), tuple(shift), scores.device).to(scores)
        scores = scores.view(batch, -1, heads, tokens, tokens) + mask[None, :, None]
        scores = scores.view(-1, heads, tokens, tokens)
    attended = (scores.softmax(-1) @ v).transpose(1, 2).reshape(count, tokens, channels)
    x = F.linear(attended, w[prefix + "proj.weight"], w[prefix + "proj.bias"])
    x = join_windows(x, window, padded)
    if any(shift):
        x = torch.roll(x, shift, (1, 2, 3))
    return x[:, : size[0], : size[1], : size[2]]


def looped_attention(x, w, prefix, heads, table_window, shifted):
    batch, *size, channels = x.shape
    window, shift = fitted(size, table_window, shifted)
    x = pad_end(x, (1, 2, 3), window)
    padded = x.shape[1:4]
    for axis in range(3):
        x = torch.roll(x, -shift[axis], axis + 1)
    table = w[prefix + "relative_position_bias_table"].view(*[2 * t - 1 for t in table_window], heads)
    places = list(itertools.product(*[range(s) for s in window]))
    pairs = [(p, q) for p in places for q in places]
    offset = [torch.tensor([p[a] - q[a] + table_window[a] - 1 for p, q in pairs]) for a in range(3)]
    bias = table[offset[0], offset[1], offset[2]].view(len(places), len(places), heads).permute(2, 0, 1)
    out = torch.zeros_like(x)
    for corner in itertools.product(*[range(0, padded[a], window[a]) for a in range(3)]):
        part = tuple(slice(c, c + s) for c, s in zip(corner, window, strict=True))
        tokens = x[(slice(None), *part)].reshape(batch, len(places), channels)
        q, k, v = (tokens @ w[prefix + "qkv.weight"].T + w[prefix + "qkv.bias"]).chunk(3, -1)

        def split(t):
            return t.view(batch, len(places), heads, channels // heads).transpose(1, 2)

        scores = split(q) @ split(k).transpose(-1, -2) / math.sqrt(channels // heads) + bias
        # where each token lay before the shift; neighbours that the roll made are told by a jump along an axis
        origin = [[(corner[a] + p[a] + shift[a]) for a in range(3)] for p in places]
        wrapped = [[origin[i][a] >= padded[a] for a in range(3)] for i in range(len(places))]
        mask = torch.tensor(
            [[0.0 if wrapped[i] == wrapped[j] else -100.0 for j in range(len(places))] for i in range(len(places))]
        )
        attended = ((scores + mask).softmax(-1) @ split(v)).transpose(1, 2).reshape(batch, len(places), channels)
        out[(slice(None), *part)] = attended.view(batch, *window, channels)
    for axis in range(3):
        out = torch.roll(out, shift[axis], axis + 1)
    out = out[:, : size[0], : size[1], : size[2]]
    return out @ w[prefix + "proj.weight"].T + w[prefix + "proj.bias"]


def naive_encoder(weights, config, pixels, source, attention=windowed_attention):
    """The five maps of an encoder without stochastic depth. `weights` is its state dict."""
    w = weights

    def layer_norm(x, name):
        return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"])

    pt, ph, pw = config.patch_size
    x = pad_end(pixels.transpose(1, 2), (2, 3, 4), (pt, ph, pw))  # (B, C, T, H, W)
    x = F.conv3d(x, w[f"patch_embeds.{source}.weight"], w[f"patch_embeds.{source}.bias"], stride=(pt, ph, pw))
    maps = [x.flatten(1, 2)]
    x = x.permute(0, 2, 3, 4, 1)
    for stage, (depth, heads) in enumerate(zip(config.depths, config.num_heads, strict=True)):
        for block in range(depth):
            p = f"stages.{stage}.blocks.{block}."
            x = x + attention(layer_norm(x, p + "norm1"), w, p + "attn.", heads, config.window_size, shifted=block % 2 == 1)
            hidden = F.gelu(F.linear(layer_norm(x, p + "norm2"), w[p + "mlp.fc1.weight"], w[p + "mlp.fc1.bias"]))
            x = x + F.linear(hidden, w[p + "mlp.fc2.weight"], w[p + "mlp.fc2.bias"])
        if stage < 3:
            x = pad_end(x, (1, 2, 3), (2, 2, 2))
            x = torch.stack([x[:, t : t + 2].mean(1) for t in range(0, x.shape[1], 2)], 1)
            x = torch.cat([x[:, :, r::2, c::2] for r, c in ((0, 0), (1, 0), (0, 1), (1, 1))], -1)
            p = f"stages.{stage}.merging."
            x = F.linear(layer_norm(x, p + "norm"), w[p + "reduction.weight"])
        else:
            x = layer_norm(x, "norm")
        maps.append(x.permute(0, 4, 1, 2, 3).flatten(1, 2))
    return maps
