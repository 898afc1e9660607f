"""The encoder against the naive oracle, and loading of weights against what may lie at a path."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.model import EncoderConfig, build_encoder, load_encoder, save_encoder
from tests.naive_encoder import naive_encoder

SMALL = EncoderConfig(
    sources={"modis": 7, "landsat": 6, "sentinel2": 10},
    patch_size=(2, 2, 2),
    embed_dim=8,
    depths=(2, 2, 2, 2),
    num_heads=(1, 2, 2, 4),
    window_size=(4, 3, 3),
    drop_path_rate=0.0,
)


def random_encoder(config, seed=0):
    """All parameters random, so that no zero bias or table hides a wrong place."""
    torch.manual_seed(seed)
    encoder = build_encoder(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0, 0.3)
    return encoder


@settings(max_examples=25, deadline=None)
@given(
    frames=st.integers(1, 19),
    rows=st.integers(1, 23),
    cols=st.integers(1, 23),
    source=st.sampled_from(sorted(SMALL.sources)),
    seed=st.integers(0, 1000),
)
def test_equals_naive_encoder(frames, rows, cols, source, seed):
    encoder = random_encoder(SMALL, seed)
    pixels = torch.randn(2, frames, SMALL.sources[source], rows, cols)
    ours = encoder(pixels, source)
    weights = {k: v.detach().clone().requires_grad_() for k, v in encoder.state_dict().items()}
    theirs = naive_encoder(weights, SMALL, pixels, source)
    assert [m.shape[1] for m in ours] == encoder.output_channels(frames)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
    directions = [torch.randn_like(m) for m in ours]
    sum((m * d).sum() for m, d in zip(ours, directions, strict=True)).backward()
    sum((m * d).sum() for m, d in zip(theirs, directions, strict=True)).backward()
    for name, parameter in encoder.named_parameters():
        expected = weights[name].grad
        if parameter.grad is None:
            assert expected is None, name
            continue
        scale = expected.abs().max().clamp_min(1)
        torch.testing.assert_close(parameter.grad / scale, expected / scale, atol=1e-4, rtol=1e-4, msg=name)


def published_state(config=SMALL, prefix="", seed=1):
    """The tensors of an encoder under the published names."""
    names = {"sentinel2": "S2_patch_emd", "landsat": "HLSL30_patch_emd", "modis": "Modis_patch_emd"}
    state = {}
    for name, tensor in random_encoder(config, seed).state_dict().items():
        if name.startswith("patch_embeds."):
            _, source, kind = name.split(".")
            name = f"{names[source]}.{'weights' if kind == 'weight' else kind}"
        else:
            name = "backbone." + name.replace("stages.", "layers.").replace(".merging.", ".downsample.")
        state[f"{prefix}encoder.{name}"] = tensor
    return state


RELEASED_WINDOW = EncoderConfig(**{**SMALL.to_dict(), "window_size": (8, 7, 7)})


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_names_load_whatever_wraps_them(tmp_path, wrap, prefix, capsys):
    path = tmp_path / "AgriFM.pth"
    state = published_state(RELEASED_WINDOW, prefix)
    state[f"{prefix}encoder.backbone.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(392, 392, dtype=torch.int64)
    state[f"{prefix}neck.conv.weight"] = torch.zeros(3)  # a fine-tuned checkpoint has a decoder, too
    torch.save(wrap(state), path)
    encoder = load_encoder(path)
    assert encoder.config.depths == (2, 2, 2, 2)
    assert encoder.config.num_heads == (1, 2, 2, 4)
    assert encoder.config.sources == SMALL.sources
    for name, tensor in random_encoder(RELEASED_WINDOW, 1).state_dict().items():
        assert torch.equal(tensor, encoder.state_dict()[name]), name
    said = capsys.readouterr().out
    assert "mapped all" in said
    assert "1 tensors outside" in said


def test_missing_and_misshapen_tensors_are_listed(tmp_path):
    state = published_state(RELEASED_WINDOW)
    del state["encoder.backbone.norm.bias"]
    state["encoder.backbone.layers.1.blocks.0.mlp.fc1.bias"] = torch.zeros(5)
    state["encoder.backbone.extra"] = torch.zeros(5)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"1 missing: norm\.bias; 1 unexpected: extra; 1 misshapen: stages\.1"):
        load_encoder(tmp_path / "w.pth")


class _Bomb:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("kind", ["text", "pickle", "bomb", "truncated", "other model", "not there", "other safetensors"])
def test_what_is_no_checkpoint_is_one_clear_error(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ("w.safetensors" if kind == "other safetensors" else "w.pth")
    match kind:
        case "text" | "other safetensors":
            path.write_text("hello, this is no checkpoint")
        case "pickle":
            path.write_bytes(pickle.dumps({"a": 1}))
        case "bomb":
            path.write_bytes(pickle.dumps(_Bomb()))
        case "truncated":
            torch.save(published_state(), path)
            path.write_bytes(path.read_bytes()[:-3000])
        case "other model":
            torch.save({"conv.weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=str(path)):
        load_encoder(path)
    assert not Path("executed").exists()


def test_own_file_round_trips_with_configuration(tmp_path):
    encoder = random_encoder(SMALL)
    encoder.normalization = {"modis": {"mean": [1.0] * 7, "std": [2.0] * 7}}
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    again = load_encoder(tmp_path)
    assert again.config == SMALL
    assert json.dumps(again.normalization) == json.dumps(encoder.normalization)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_wrong_source_and_bands_say_what_was_expected():
    encoder = build_encoder(SMALL)
    with pytest.raises(ValueError, match="no patch embedding for 'sentinel1'"):
        encoder(torch.zeros(1, 2, 10, 8, 8), "sentinel1")
    with pytest.raises(ValueError, match=r"expected \(B, T, 10, H, W\)"):
        encoder(torch.zeros(1, 2, 6, 8, 8), "sentinel2")
