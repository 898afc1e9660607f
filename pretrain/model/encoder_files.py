"""Files of encoder weights: our own safetensors, those of a pretraining run, or the published `AgriFM.pth`. Loading is strict.

They may lie at Hugging Face's hub (`hf://OWNER/NAME`, see `common/hub.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from common.atomic_files import whole_file
from common.hub import HubPath, ModelPath, fetch, model_path, pinned
from pretrain.model.map_decoder import MapDecoder, MapDecoderConfig
from pretrain.model.video_swin import EncoderConfig, VideoSwin

FORMAT = "agrifm-encoder-1"
# In the folder of a pretraining run: the encoder that the finished run leaves, and the folder of its checkpoints.
ENCODER_FILE = "encoder.safetensors"
CHECKPOINTS = "checkpoints"
PUBLISHED_FILE = "AgriFM.pth"  # the one pickle that is fetched from the hub; it is read as a file of tensors alone
PUBLISHED_SOURCES = {"S2_patch_emd": "sentinel2", "HLSL30_patch_emd": "landsat", "Modis_patch_emd": "modis"}
PUBLISHED_WINDOW = (8, 7, 7)
DECODER = "decoder."  # begins the names of a decoder's tensors, beside those of the encoder
_SHOWN = 6  # names listed in an error before "and n more"


def encoder_metadata(encoder: VideoSwin, decoder: MapDecoder | None = None) -> dict[str, str]:
    """Metadata of a safetensors file with weights of this encoder: format, shape and normalisation; shape of a decoder."""
    metadata = {
        "format": FORMAT,
        "config": json.dumps(encoder.config.to_dict()),
        "normalization": json.dumps(encoder.normalization),
    }
    if decoder is not None:
        metadata["decoder"] = json.dumps({"sources": list(decoder.sources), **decoder.config.to_dict()})
    return metadata


def save_encoder(encoder: VideoSwin, path: Path, decoder: MapDecoder | None = None) -> None:
    """Write weights as safetensors, with configuration and normalisation as metadata. The file appears whole or not at all.

    A `decoder` that was pretrained with the encoder goes into the same file, its names under `decoder.`.
    """
    of_decoder = {} if decoder is None else {f"{DECODER}{name}": tensor for name, tensor in decoder.state_dict().items()}
    weights = {n: t.detach().float().cpu().contiguous() for n, t in (encoder.state_dict() | of_decoder).items()}
    with whole_file(path) as temporary:
        # Not save_file(), which makes a file that only its owner may read.
        temporary.write_bytes(save(weights, encoder_metadata(encoder, decoder)))


def load_encoder(path: ModelPath | str) -> VideoSwin:
    """Load an encoder from a file or a pretraining run, and print in one line what was mapped.

    Args:
        path: the folder of a finished pretraining run, an exported `.safetensors`, or a published checkpoint: `AgriFM.pth`, or
            a fine-tuned checkpoint of the published code, of which only the encoder is used. `hf://OWNER/NAME` is the
            `encoder.safetensors` of a repository at Hugging Face's hub.

    Raises:
        ValueError: the file is missing, damaged or of another kind, or a tensor is missing, unexpected or misshapen.
        OSError: the hub refuses access or cannot be reached.
    """
    given = model_path(path)
    file = weights_file(given)
    normalization, left = None, ""
    if file.suffix == ".safetensors":
        metadata, tensors = _read_own(file)
        config, normalization = EncoderConfig.from_dict(metadata["config"]), metadata["normalization"]
        state = {name: tensor for name, tensor in tensors.items() if not name.startswith(DECODER)}
        if len(state) < len(tensors):
            left = f", beside a decoder of {len(tensors) - len(state)} tensors"
    else:
        config, state, ignored = _read_published(file)
        left = f", {ignored} tensors outside the encoder ignored" if ignored else ""
    encoder = VideoSwin(config, normalization)
    _load_strictly(encoder, state, file)
    total = sum(p.numel() for p in encoder.parameters())
    shown = given if isinstance(given, HubPath) else file
    print(f"{shown}: mapped all {len(state)} tensors, {total / 1e6:.1f} M parameters, sources {sorted(config.sources)}{left}")
    return encoder


def load_decoder(path: ModelPath | str, encoder: VideoSwin) -> MapDecoder | None:
    """Load the decoder that was pretrained with `encoder`; None where there is none, as in a published checkpoint.

    `path`: as for `load_encoder`. Raises ValueError when the file is damaged, or a tensor is missing, unexpected or misshapen.
    """
    file = weights_file(path)
    if file.suffix != ".safetensors":
        return None
    metadata, tensors = _read_own(file)
    if "decoder" not in metadata:
        return None
    decoder = build_decoder(encoder, metadata["decoder"])
    _load_strictly(decoder, {n.removeprefix(DECODER): t for n, t in tensors.items() if n.startswith(DECODER)}, file)
    return decoder


def build_decoder(encoder: VideoSwin, values: Mapping[str, Any]) -> MapDecoder:
    """A freshly initialised decoder of `encoder`. `values`: its shape and sources, from `encoder_metadata`."""
    shape = dict(values)
    return MapDecoder(encoder, shape.pop("sources"), MapDecoderConfig.from_dict(shape))


def weights_file(path: ModelPath | str) -> Path:
    """The file of the weights, given the file itself, a pretraining run, or a repository at the hub, which is fetched.

    Raises ValueError when there is none, and what `common.hub.fetch` raises.
    """
    path = model_path(path)
    if isinstance(path, HubPath):
        return fetch(path, ENCODER_FILE, (PUBLISHED_FILE,))
    if path.is_dir():
        if (path / CHECKPOINTS).is_dir() and not (path / ENCODER_FILE).is_file():
            raise ValueError(
                f"{path} is an unfinished pretraining run without {ENCODER_FILE}; write one from its newest checkpoint: "
                f"python -m pretrain.export {path} encoder.safetensors"
            )
        path = path / ENCODER_FILE
    if not path.is_file():
        raise ValueError(f"no encoder at {path}; expected a finished pretraining run, an encoder.safetensors or a published .pth")
    return path


def pinned_encoder(path: ModelPath) -> ModelPath:
    """A path as it is; a place at the hub with the commit that its revision means now, whose file is then in the cache.

    Raises what `common.hub.fetch` raises.
    """
    return pinned(path, ENCODER_FILE, (PUBLISHED_FILE,)) if isinstance(path, HubPath) else path


def _load_strictly(model: nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    problems = {
        "missing": sorted(set(expected) - set(found)),
        "unexpected": sorted(set(found) - set(expected)),
        "misshapen": [f"{k} {found[k]} for {expected[k]}" for k in sorted(expected) if k in found and found[k] != expected[k]],
    }
    if any(problems.values()):
        listed = "; ".join(
            f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''}"
            for kind, names in problems.items()
            if names
        )
        matched = sum(found.get(k) == shape for k, shape in expected.items())
        what = "encoder" if isinstance(model, VideoSwin) else "decoder"
        raise ValueError(f"{path} does not fit the {what}: {matched} of {len(expected)} tensors match; {listed}")
    model.load_state_dict(dict(state), strict=True)


def _read_own(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Metadata and tensors of a file that `save_encoder` wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            found = metadata.pop("format", None)
            if found != FORMAT:
                raise ValueError(f"{path} is a safetensors file of format {found!r}; expected {FORMAT!r}")
            known = {name: json.loads(metadata[name]) for name in ("config", "normalization", "decoder") if name in metadata}
            EncoderConfig.from_dict(known["config"])
            return known, {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a whole encoder file: {error}") from error


def _read_published(path: Path) -> tuple[EncoderConfig, dict[str, torch.Tensor], int]:
    """Of a published checkpoint: the configuration that the shapes imply, the tensors by our names, how many were ignored."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of arbitrary bytes the unpickler raises KeyError, IndexError, struct.error, ...
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path} is not a PyTorch checkpoint of plain tensors (nothing was executed): {reason}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise ValueError(f"{path} holds no dictionary of tensors, bare or under 'state_dict' or 'model'")
    published = {name.removeprefix("module."): tensor for name, tensor in content.items()}
    state = {}
    ignored = 0
    for name, tensor in published.items():
        if not name.startswith("encoder."):
            ignored += 1
            continue
        ours = _our_name(name.removeprefix("encoder."))
        if ours is not None:
            state[ours] = tensor
    if not any(name.startswith("patch_embeds.") for name in state):
        raise ValueError(
            f"{path} has no AgriFM encoder: none of its {len(published)} tensors is called encoder.<source>_patch_emd.weights; "
            f"the first are {list(published)[:3]}"
        )
    return _config_of(state, path), state, ignored


def _our_name(name: str) -> str | None:
    """Our name of a published encoder tensor; None for `relative_position_index`, which the window determines."""
    if name.endswith("relative_position_index"):
        return None
    module, _, rest = name.partition(".")
    if module in PUBLISHED_SOURCES:
        return f"patch_embeds.{PUBLISHED_SOURCES[module]}.{'weight' if rest == 'weights' else rest}"
    name = name.removeprefix("backbone.")
    return re.sub(
        r"^layers\.(\d+)\.downsample\.", r"stages.\1.merging.", re.sub(r"^layers\.(\d+)\.blocks", r"stages.\1.blocks", name)
    )


def _config_of(state: Mapping[str, torch.Tensor], path: Path) -> EncoderConfig:
    """Patch size, width, depths, heads and bands from the shapes. The window is the published one, checked by the bias tables."""
    embeds = {name.split(".")[1]: tuple(t.shape) for name, t in state.items() if re.fullmatch(r"patch_embeds\.\w+\.weight", name)}
    kernels = {shape[2:] for shape in embeds.values()}
    if len(kernels) != 1 or any(len(shape) != 5 for shape in embeds.values()):
        raise ValueError(f"{path}: patch embeddings of shapes {embeds}; expected (channels, bands, t, h, w) with one patch size")
    depths, heads = [0, 0, 0, 0], [0, 0, 0, 0]
    for name, tensor in state.items():
        if match := re.fullmatch(r"stages\.([0-3])\.blocks\.(\d+)\.attn\.relative_position_bias_table", name):
            stage, block = int(match[1]), int(match[2])
            depths[stage] = max(depths[stage], block + 1)
            heads[stage] = tensor.shape[-1]
    if not all(depths):
        raise ValueError(f"{path}: blocks found per stage {depths}; expected four stages")
    return EncoderConfig(
        sources={name: shape[1] for name, shape in sorted(embeds.items())},
        patch_size=tuple(kernels.pop()),  # type: ignore[arg-type]
        embed_dim=next(iter(embeds.values()))[0],
        depths=tuple(depths),  # type: ignore[arg-type]
        num_heads=tuple(heads),  # type: ignore[arg-type]
        window_size=PUBLISHED_WINDOW,
    )
