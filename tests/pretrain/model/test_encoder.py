"""The encoder against the naive oracle, and loading of weights against what may lie at a path."""

import copy
import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.compilation import compile_compared
from pretrain.model import BatchPart, EncoderConfig, build_encoder, load_encoder, save_encoder
from pretrain.model.attention.layout import window_layout
from pretrain.objective.model import LandCoverModel
from tests.support.naive_encoder import looped_attention, naive_encoder, relative_position_index
from tests.support.published_checkpoint import published_state, random_encoder

SMALL = EncoderConfig(
    sources={"modis": 7, "landsat": 6, "sentinel2": 10},
    patch_size=(2, 2, 2),
    embed_dim=8,
    depths=(2, 2, 2, 2),
    num_heads=(1, 2, 2, 4),
    window_size=(4, 3, 3),
    drop_path_rate=0.0,
)


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
        if expected is None:  # another source's embedding
            assert not parameter.grad.any(), name
            continue
        scale = expected.abs().max().clamp_min(1)
        torch.testing.assert_close(parameter.grad / scale, expected / scale, atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize("shape", [(8, 12, 12), (5, 9, 14), (1, 3, 3)])
def test_naive_encoder_equals_one_that_loops_over_windows_and_pairs(shape):
    """The oracle has an oracle, whose masks ask for each pair whether both were neighbours before the shift."""
    encoder = random_encoder(SMALL)
    pixels = torch.randn(1, shape[0], 7, *shape[1:])
    for one, other in zip(
        naive_encoder(encoder.state_dict(), SMALL, pixels, "modis"),
        naive_encoder(encoder.state_dict(), SMALL, pixels, "modis", attention=looped_attention),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


PUBLISHED = EncoderConfig(
    sources={"modis": 7, "landsat": 6, "sentinel2": 10}, drop_path_rate=0.0
)  # windows of (8, 7, 7), patches of 4
THIN = dataclasses.replace(PUBLISHED, embed_dim=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8))


@pytest.mark.parametrize(
    "frames", [pytest.param(t, marks=[] if t % 7 == 1 or t == 16 else pytest.mark.slow) for t in range(1, 65)]
)
def test_equals_the_published_way_on_any_number_of_frames(frames):
    """At 224 pixels the last map is 7 x 7, one window; at other sizes maps are padded. Frames and sources take turns."""
    source = sorted(THIN.sources)[frames % 3]
    side = (224, 236, 228, 256)[frames % 4] if frames < 24 else 224
    encoder = random_encoder(THIN, frames)
    pixels = torch.randn(1, frames, THIN.sources[source], 224, side)
    with torch.no_grad():
        ours, theirs = encoder(pixels, source), naive_encoder(encoder.state_dict(), THIN, pixels, source)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "source"), [(16, "sentinel2"), (32, "landsat"), (30, "modis"), (64, "sentinel2")])
def test_full_size_model_equals_the_published_way(frames, source):
    torch.manual_seed(frames)
    encoder = build_encoder(PUBLISHED)
    pixels = torch.randn(1, frames, PUBLISHED.sources[source], 224, 256)
    with torch.no_grad():
        ours, theirs = encoder(pixels, source), naive_encoder(encoder.state_dict(), PUBLISHED, pixels, source)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


def test_where_the_published_position_index_is_wrong():
    """It takes the first N x N entries of the full window's index. With fewer frames those are the right ones; with fewer
    rows or columns they are offsets of other pairs. Ours looks offsets up by their value, so both sizes are right."""
    window = (8, 7, 7)
    full = relative_position_index(window, window)
    for smaller, right in (((4, 7, 7), True), ((1, 7, 7), True), ((8, 4, 4), False), ((8, 7, 4), False)):
        count = smaller[0] * smaller[1] * smaller[2]
        assert torch.equal(full[:count, :count], relative_position_index(smaller, window)) is right
        layout = window_layout(smaller, window, False, torch.device("cpu"), may_join=True)
        assert torch.equal(layout.bias_rows.view(count, count), relative_position_index(smaller, window))


@settings(max_examples=100, deadline=None)
@given(
    size=st.tuples(st.integers(1, 11), st.integers(1, 17), st.integers(1, 17)),
    window=st.tuples(st.integers(1, 8), st.integers(1, 7), st.integers(1, 7)),
    shifted=st.booleans(),
)
def test_every_token_lies_in_one_window(size, window, shifted):
    layout = window_layout(size, window, shifted, torch.device("cpu"), may_join=True)
    found = torch.cat([group.index.flatten() for group in layout.groups])
    assert torch.equal(found.sort().values, torch.arange(size[0] * size[1] * size[2]))
    assert len(layout.groups) <= 27
    pairs = sum(g.index.shape[1] * (g.index.shape[1] + g.num_padding) for g in layout.groups)
    assert layout.bias_rows.shape == (pairs,)
    assert layout.mask.shape == (pairs, 1)


def test_layouts_are_kept_and_bounded():
    cpu = torch.device("cpu")
    first = window_layout((4, 32, 32), (8, 7, 7), True, cpu, may_join=True)
    assert window_layout((4, 32, 32), (8, 7, 7), True, cpu, may_join=True) is first
    for side in range(1, 120):
        window_layout((1, side, 5), (8, 7, 7), True, cpu, may_join=True)
    assert window_layout.cache_info().currsize <= 64


@pytest.mark.parametrize("stages", [(1,), (1, 2, 3, 4)])
def test_checkpointed_stages_give_the_same_gradients(stages):
    config = dataclasses.replace(SMALL, drop_path_rate=0.3)
    plain = random_encoder(config).train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.checkpoint_activations(stages)
    pixels = torch.randn(3, 8, 6, 16, 16)
    for encoder in (plain, checkpointed):
        torch.manual_seed(5)  # the same samples are dropped, also when blocks run a second time
        encoder.tokens(pixels, "landsat")[-1].square().sum().backward()
    for (name, one), other in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            assert torch.equal(one.grad, other.grad), name


def test_stages_of_activation_checkpointing_are_numbered_from_one():
    with pytest.raises(ValueError, match=r"activation_checkpointing has \[0, 5\]"):
        build_encoder(SMALL).checkpoint_activations((0, 5))


def test_bfloat16_is_as_near_to_float32_as_the_naive_way():
    encoder = random_encoder(THIN)
    pixels = torch.randn(2, 16, 10, 64, 64)
    exact = encoder(pixels, "sentinel2")
    half = copy.deepcopy(encoder).bfloat16()
    ours = half(pixels.bfloat16(), "sentinel2")
    naive = naive_encoder(half.state_dict(), THIN, pixels.bfloat16(), "sentinel2")
    for right, mine, other in zip(exact, ours, naive, strict=True):
        assert (mine.float() - right).abs().mean() <= 1.2 * (other.float() - right).abs().mean()


def test_autocast_gives_gradients_near_those_of_float32():
    encoder = random_encoder(THIN)
    pixels = torch.randn(2, 8, 10, 32, 32)
    gradients = []
    for on in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            encoder.tokens(pixels, "sentinel2")[-1].float().square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None]))
        encoder.zero_grad()
    assert torch.cosine_similarity(*gradients, dim=0) > 0.98


def test_stochastic_depth_drops_by_its_rate_and_scales_what_it_keeps():
    encoder = random_encoder(dataclasses.replace(SMALL, drop_path_rate=0.25)).train()
    torch.manual_seed(0)
    scales = torch.cat(encoder._branch_scales(torch.ones(4000, 1)))  # (blocks, 2, B)
    for rate, of_block in zip(np.linspace(0, 0.25, len(scales)).tolist(), scales, strict=True):
        assert sorted(set(of_block.flatten().tolist())) == pytest.approx([0.0, 1 / (1 - rate)] if rate else [1.0])
        assert abs((of_block > 0).float().mean() - (1 - rate)) < 0.02
    assert not torch.equal(scales[-1, 0] > 0, scales[-1, 1] > 0)  # each branch for itself
    # a block returns a dropped sample unchanged
    block, tokens = encoder.stages[0].blocks[0], torch.randn(2, 2 * 3 * 3, SMALL.embed_dim)
    layout = window_layout((2, 3, 3), SMALL.window_size, False, torch.device("cpu"), may_join=True)
    out = block(tokens, layout, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    assert torch.equal(out[0], tokens[0])
    assert torch.equal(out[1], block(tokens, layout)[1])


def test_stochastic_depth_does_not_depend_on_how_a_batch_is_shared():
    encoder = random_encoder(dataclasses.replace(SMALL, drop_path_rate=0.5)).train()
    pixels = torch.randn(6, 8, 6, 16, 16)

    def last(first: int, count: int) -> torch.Tensor:
        torch.manual_seed(3)
        return encoder.tokens(pixels[first : first + count], "landsat", BatchPart(first, 6))[-1]

    whole = last(0, 6)
    for parts in ((3, 3), (2, 2, 2), (4, 1, 1)):
        shared = torch.cat([last(sum(parts[:number]), count) for number, count in enumerate(parts)])
        torch.testing.assert_close(shared, whole, rtol=1e-4, atol=1e-5)
    torch.manual_seed(3)
    torch.testing.assert_close(encoder.tokens(pixels, "landsat")[-1], whole)


@pytest.mark.slow
def test_compiled_encoder_equals_eager_and_a_wrong_one_is_refused(monkeypatch):
    model = LandCoverModel(random_encoder(dataclasses.replace(THIN, depths=(1, 1, 1, 1), drop_path_rate=0.5)), 8)
    for parameter in model.parameters():  # the seed's own scale, as at the start of a training
        parameter.data.mul_(0.1)
    target = {"fractions": torch.softmax(torch.randn(2, 8), -1)}
    pixels = {"sentinel2": torch.randn(2, 16, 10, 64, 64), "modis": torch.randn(2, 16, 7, 32, 32)}
    examples = [(source, (seen, seen), target) for source, seen in pixels.items()]
    lines = compile_compared(model, torch.float32, 0, examples)
    assert [line.split(":")[0] for line in lines] == ["sentinel2", "modis"]
    monkeypatch.setattr(type(model.encoder), "compile_blocks", lambda encoder: encoder.norm.weight.data.mul_(1.01))
    with pytest.raises(ValueError, match="train without --compile"):
        compile_compared(model, torch.float32, 0, examples)


def test_released_checkpoint_has_the_names_and_numbers_that_its_users_report():
    """329 tensors, of which three embeddings with (4, 4, 4) kernels, and 87.6 M parameters in the backbone."""
    with torch.device("meta"):
        state = published_state(random_encoder(PUBLISHED, 1))
    assert len(state) == 329
    assert tuple(state["encoder.S2_patch_emd.weights"].shape) == (128, 10, 4, 4, 4)
    assert tuple(state["encoder.backbone.layers.2.blocks.17.attn.relative_position_bias_table"].shape) == (2535, 16)
    assert tuple(state["encoder.backbone.layers.2.downsample.reduction.weight"].shape) == (1024, 2048)
    backbone = sum(t.numel() for name, t in state.items() if ".backbone." in name)
    assert round(backbone / 1e6, 1) == 87.6


RELEASED_WINDOW = EncoderConfig(**{**SMALL.to_dict(), "window_size": (8, 7, 7)})


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_names_load_whatever_wraps_them(tmp_path, wrap, prefix, capsys):
    path = tmp_path / "AgriFM.pth"
    state = published_state(random_encoder(RELEASED_WINDOW, 1), prefix)
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
    state = published_state(random_encoder(RELEASED_WINDOW, 1))
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
            torch.save(published_state(random_encoder(SMALL, 1)), path)
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
