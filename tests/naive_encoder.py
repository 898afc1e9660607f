"""An oracle of the encoder, straight from its description: slow, explicit, and shares no code with `pretrain.model`.

Takes the weights of a `VideoSwin` by name. Loops over windows and pairs of tokens instead of reshaping; masks by asking for
each pair whether both tokens were neighbours before the shift.
"""

import itertools
import math

import torch
import torch.nn.functional as F


def layer_norm(x, weight, bias):
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(((x - mean) ** 2).mean(-1, keepdim=True) + 1e-5) * weight + bias


def pad_end(x, dims, multiples):
    for dim, multiple in zip(dims, multiples, strict=True):
        missing = math.ceil(x.shape[dim] / multiple) * multiple - x.shape[dim]
        if missing:
            shape = list(x.shape)
            shape[dim] = missing
            x = torch.cat([x, x.new_zeros(shape)], dim)
    return x


def attention(x, w, prefix, heads, table_window, shifted):
    batch, *size, channels = x.shape
    window = [min(s, t) for s, t in zip(size, table_window, strict=True)]
    shift = [t // 2 if shifted and s > t else 0 for s, t in zip(size, table_window, strict=True)]
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


def naive_encoder(weights, config, pixels, source):
    """The five maps of an encoder without stochastic depth. `weights` is its state dict."""
    w = weights
    pt, ph, pw = config.patch_size
    x = pad_end(pixels.transpose(1, 2), (2, 3, 4), (pt, ph, pw))  # (B, C, T, H, W)
    x = F.conv3d(x, w[f"patch_embeds.{source}.weight"], w[f"patch_embeds.{source}.bias"], stride=(pt, ph, pw))
    maps = [x.flatten(1, 2)]
    x = x.permute(0, 2, 3, 4, 1)
    for stage, (depth, heads) in enumerate(zip(config.depths, config.num_heads, strict=True)):
        for block in range(depth):
            p = f"stages.{stage}.blocks.{block}."
            normed = layer_norm(x, w[p + "norm1.weight"], w[p + "norm1.bias"])
            x = x + attention(normed, w, p + "attn.", heads, config.window_size, shifted=block % 2 == 1)
            normed = layer_norm(x, w[p + "norm2.weight"], w[p + "norm2.bias"])
            hidden = normed @ w[p + "mlp.fc1.weight"].T + w[p + "mlp.fc1.bias"]
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
            x = x + hidden @ w[p + "mlp.fc2.weight"].T + w[p + "mlp.fc2.bias"]
        if stage < 3:
            x = pad_end(x, (1, 2, 3), (2, 2, 2))
            x = torch.stack([(x[:, t] + x[:, t + 1]) / 2 for t in range(0, x.shape[1], 2)], 1)
            x = torch.cat([x[:, :, r::2, c::2] for r, c in ((0, 0), (1, 0), (0, 1), (1, 1))], -1)
            p = f"stages.{stage}.merging."
            x = layer_norm(x, w[p + "norm.weight"], w[p + "norm.bias"]) @ w[p + "reduction.weight"].T
        else:
            x = layer_norm(x, w["norm.weight"], w["norm.bias"])
        maps.append(x.permute(0, 4, 1, 2, 3).flatten(1, 2))
    return maps
