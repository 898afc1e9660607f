"""What learns in fine-tuning, how fast, and that LoRA has an effect although the encoder fuses its linear layers."""

from __future__ import annotations

import builtins
import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

import finetune.model.tuning as tuning_module
import finetune.training.loop as loop_module
from finetune.model.baselines import TemporalCNN, UNet
from finetune.model.crop_mapper import CropMapper
from finetune.model.model_file import load_model
from finetune.model.tuning import LORA_LAYERS, Rates, Tuning, apply_tuning, merged_weights, parameter_groups
from finetune.predict import predict
from finetune.training.checkpoint import Progress, load_newest_checkpoint, save_checkpoint
from pretrain.model import EncoderConfig, build_encoder, load_encoder, save_encoder
from tests.support.finetune_runs import finetune_config, run, run_arguments
from tests.support.rice_scenes import write_rice_scene

SMALL = EncoderConfig(
    sources={"landsat": 6, "modis": 7},
    embed_dim=8,
    depths=(1, 2, 1, 1),
    num_heads=(1, 1, 2, 2),
    window_size=(2, 3, 3),
    drop_path_rate=0.3,
)
SOURCES = ("landsat", "modis")


pytestmark = pytest.mark.usefixtures("one_thread")


def make_model(seed: int = 0, **changes: Any) -> CropMapper:
    torch.manual_seed(seed)
    return CropMapper(build_encoder(replace(SMALL, **changes)), SOURCES, 8, 2, 8)


def make_data() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {source: torch.randn(2, 8, SMALL.sources[source], 16, 16, generator=generator) for source in SOURCES}


def lora_layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def learn(model: nn.Module, steps: int = 3) -> None:
    """A few steps of AdamW on random labels."""
    optimizer = torch.optim.AdamW(parameter_groups(model, Rates(), 0.01), lr=1e-2)
    model.train()
    generator = torch.Generator().manual_seed(2)
    label = torch.randint(0, 2, (2, 16, 16), generator=generator)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(make_data(), (16, 16)), label).backward()
        optimizer.step()


def test_lora_wraps_every_linear_layer_of_every_block_and_starts_without_effect() -> None:
    model = make_model().eval()
    before = model(make_data(), (16, 16))
    apply_tuning(model, Tuning(mode="lora", lora_rank=3))
    assert len(lora_layers(model)) == 4 * sum(SMALL.depths)
    torch.testing.assert_close(model(make_data(), (16, 16)), before)


@pytest.mark.parametrize("layer", LORA_LAYERS)
@pytest.mark.parametrize("autocast", [False, True])
def test_each_lora_layer_changes_the_features_and_gets_gradients(layer: str, autocast: bool) -> None:
    """The encoder takes the weights of plain linear layers past their own `forward`; those with LoRA it must call."""
    model = make_model(drop_path_rate=0.0).eval()
    for weight in model.encoder.parameters():
        if weight.ndim > 1:  # with the small ones of a fresh encoder a branch is lost in the rounding of bfloat16
            nn.init.normal_(weight, std=0.3)
    apply_tuning(model, Tuning(mode="lora"))

    def features() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):  # one for each pass: it remembers the weights it has cast
            return model.encoder(make_data()["landsat"], "landsat")[-1].float()

    for name, module in lora_layers(model).items():
        if name.endswith(layer):
            before = features().detach()
            nn.init.normal_(module.lora_B["default"].weight, std=2.0)
            after = features()
            assert (after - before).abs().max() > 0.03, name
            after.square().sum().backward()
            for thin in (module.lora_A, module.lora_B):
                assert thin["default"].weight.grad.abs().max() > 0, name


def test_lora_is_a_low_rank_sum_and_its_gradients_are_those_of_the_sum() -> None:
    """Against the same encoder whose weights are W + 2 B A, made by hand and differentiated by torch."""
    model = make_model(drop_path_rate=0.0).eval()
    plain = make_model(drop_path_rate=0.0).eval()
    apply_tuning(model, Tuning(mode="lora", lora_rank=2))
    summed = dict(plain.named_parameters())
    thin = {}
    for name, module in lora_layers(model).items():
        nn.init.normal_(module.lora_B["default"].weight, std=0.3)
        thin[name] = [module.lora_A["default"].weight, module.lora_B["default"].weight]
        a, b = (w.detach().clone().requires_grad_() for w in thin[name])
        summed[f"{name}.weight"] = summed[f"{name}.weight"].detach() + 2 * b @ a
        thin[name] += [a, b]
    expected = torch.func.functional_call(plain, summed, (make_data(), (16, 16)))
    found = model(make_data(), (16, 16))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for result in (found, expected):
        result.square().mean().backward()
    for name, (a, b, plain_a, plain_b) in thin.items():
        torch.testing.assert_close(a.grad, plain_a.grad, rtol=1e-3, atol=1e-6, msg=name)
        torch.testing.assert_close(b.grad, plain_b.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_merged_weights_are_a_plain_model_and_leave_the_other_as_it_is() -> None:
    model = make_model()
    original = {name: weight.clone() for name, weight in model.state_dict().items()}
    apply_tuning(model, Tuning(mode="lora"))
    learn(model)
    model.eval()
    expected = model(make_data(), (16, 16))
    merged = merged_weights(model)
    plain = make_model(seed=1).eval()
    plain.load_state_dict(merged)
    torch.testing.assert_close(plain(make_data(), (16, 16)), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(make_data(), (16, 16)), expected, rtol=0, atol=0)
    # What peft itself makes of it.
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.merge()
    for name, module in lora_layers(model).items():
        torch.testing.assert_close(merged[f"{name}.weight"], module.base_layer.weight)
        assert not torch.equal(merged[f"{name}.weight"], original[f"{name}.weight"]), f"{name} has not learned"
    for name, weight in merged.items():  # all else of the encoder is untouched
        if name.startswith("encoder.") and name.removesuffix(".weight") not in lora_layers(model):
            assert torch.equal(weight, original[name]), name


def test_without_lora_the_weights_are_those_of_the_model() -> None:
    model = make_model()
    state = model.state_dict()
    merged = merged_weights(model)
    assert list(merged) == list(state)
    assert all(torch.equal(merged[name], state[name]) for name in state)


def test_a_frozen_encoder_stays_as_it_is_and_drops_nothing() -> None:
    model = make_model(drop_path_rate=0.9)
    apply_tuning(model, Tuning(mode="frozen"))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    features = model.eval().encoder(make_data()["landsat"], "landsat")
    learn(model)
    assert model.decoder.training
    again = model.encoder(make_data()["landsat"], "landsat")
    assert all(torch.equal(one, other) for one, other in zip(again, features, strict=True))
    assert not any(m.requires_grad for m in again), "features without a graph take no memory"
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]) == name.startswith("encoder."), name


def test_all_learns_when_nothing_is_asked_for() -> None:
    for model in (make_model(), UNet({"landsat": 6}, 8, 2, 4)):
        apply_tuning(model, Tuning())
        groups = parameter_groups(model, Rates(), 0.01)
        learning = [id(weight) for group in groups for weight in group["params"]]
        assert sorted(learning) == sorted(id(weight) for weight in model.parameters())
        assert {group["scale"] for group in groups} == {1}


BLOCKS = [f"encoder.stages.{stage}.blocks.{block}" for stage, block in ((0, 0), (1, 0), (1, 1), (2, 0), (3, 0))]
LAYERS_OF_DECODER = ["start", "climb.0", "climb.1", "climb.2", "neck"]
DECAYED = {
    *("encoder.patch_embeds.landsat.weight", "encoder.patch_embeds.modis.weight"),
    *(f"{block}.{layer}.weight" for block in BLOCKS for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
    *(f"encoder.stages.{stage}.merging.reduction.weight" for stage in range(3)),
    *(f"decoder.{layer}.{part}.weight" for layer in LAYERS_OF_DECODER for part in (0, 3)),
    *("decoder.head.0.weight", "decoder.head.2.weight"),
}
DECAYED_OF_UNET = {
    *(f"down.{level}.{part}.weight" for level in range(5) for part in (0, 3)),
    *(f"merge.{level}.{part}.weight" for level in range(4) for part in (0, 3)),
    *("up.0.weight", "up.1.weight", "up.2.weight", "up.3.weight", "head.weight"),
}
DECAYED_OF_TEMPORAL_CNN = {"time.0.0.weight", "time.1.0.weight", "time.2.0.weight", "dense.0.weight", "head.weight"}


@pytest.mark.parametrize(
    ("model", "decayed"),
    [
        (make_model, DECAYED),
        (lambda: UNet({"landsat": 6}, 8, 2, 4), DECAYED_OF_UNET),
        (lambda: TemporalCNN({"landsat": 6}, 8, 2, 4), DECAYED_OF_TEMPORAL_CNN),
    ],
)
def test_norms_biases_and_position_tables_do_not_decay(model: Callable[[], nn.Module], decayed: set[str]) -> None:
    """Where no gradient is, decay is all that moves a weight."""
    weights = dict((built := model()).named_parameters())
    assert decayed < weights.keys()
    for weight in weights.values():
        nn.init.ones_(weight)
        weight.grad = torch.zeros_like(weight)
    torch.optim.AdamW(parameter_groups(built, Rates(), 0.5), lr=0.1).step()
    assert {name for name, weight in weights.items() if not torch.equal(weight, torch.ones_like(weight))} == decayed
    torch.testing.assert_close(weights[min(decayed)][0], torch.full_like(weights[min(decayed)][0], 1 - 0.1 * 0.5))


def test_encoder_and_decoder_have_rates_of_their_own() -> None:
    model = make_model()
    groups = parameter_groups(model, Rates(encoder=0.1, decoder=0.3, layer_decay=0.5), 0.01)
    scale = {id(weight): group["scale"] for group in groups for weight in group["params"]}
    found = {name: scale[id(weight)] for name, weight in model.named_parameters()}
    expected = {
        "encoder.norm.bias": 0.1, "encoder.stages.3.blocks.0.mlp.fc2.weight": 0.05,
        "encoder.patch_embeds.modis.weight": 0.1 / 64, "decoder.start.0.weight": 0.3, "decoder.neck.1.bias": 0.3,
        "decoder.head.0.weight": 1.0, "decoder.head.2.bias": 1.0,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    linear = CropMapper(build_encoder(SMALL), SOURCES, 8, 2, 8, kind="linear")
    groups = parameter_groups(linear, Rates(encoder=0.1, decoder=0.3), 0.01)
    scale = {id(weight): group["scale"] for group in groups for weight in group["params"]}
    assert {scale[id(weight)] for weight in linear.decoder.parameters()} == {1.0}, "its norm belongs to the head"


def test_rates_that_the_user_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning_module, "RATES_WITH_CHECKPOINT", Rates(encoder=0.1, decoder=0.5))
    assert Tuning().rates(has_checkpoint=True) == Rates(encoder=0.1, decoder=0.5)
    assert Tuning(layer_decay=0.5).rates(has_checkpoint=False) == Rates(layer_decay=0.5)
    given = Tuning(encoder_rate=0.2, decoder_rate=2.0)
    for has_checkpoint in (False, True):
        assert given.rates(has_checkpoint=has_checkpoint) == Rates(encoder=0.2, decoder=2.0)


def test_lower_layers_learn_more_slowly() -> None:
    """Layers by hand for depths 1, 2, 1, 1: the patch embedding, five blocks, and what lies above."""
    model = make_model()
    layers = {"encoder.patch_embeds.": 6, "encoder.norm.": 0, "decoder.": 0}
    for above, (stage, block) in zip((5, 4, 3, 2, 1), ((0, 0), (1, 0), (1, 1), (2, 0), (3, 0)), strict=True):
        layers[f"encoder.stages.{stage}.blocks.{block}."] = above
    layers |= {"encoder.stages.0.merging.": 5, "encoder.stages.1.merging.": 3, "encoder.stages.2.merging.": 2}
    groups = parameter_groups(model, Rates(layer_decay=0.5), 0.0)
    scale = {id(weight): group["scale"] for group in groups for weight in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(scale) == len(list(model.parameters()))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2 * group["scale"]
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    for name, weight in model.named_parameters():
        (above,) = (above for start, above in layers.items() if name.startswith(start))
        # The first step of Adam is the learning rate itself.
        torch.testing.assert_close(before[name] - weight, torch.full_like(weight, 1e-2 * 0.5**above), rtol=1e-3, atol=1e-6)


def test_lora_layers_have_the_rate_of_their_block() -> None:
    model = make_model()
    apply_tuning(model, Tuning(mode="lora", layer_decay=0.5))
    groups = parameter_groups(model, Rates(layer_decay=0.5), 0.01)
    scale = {id(weight): group["scale"] for group in groups for weight in group["params"]}
    learning = {name: scale[id(weight)] for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(learning) == len(scale)
    assert all("lora_" in name or name.startswith("decoder.") for name in learning)
    assert learning["encoder.stages.1.blocks.0.attn.qkv.lora_A.default.weight"] == 0.5**4
    assert learning["decoder.head.0.weight"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "half"}, "--tuning.mode is 'half'; expected one of full, frozen, lora"),
        ({"layer_decay": 0.0}, "--tuning.layer_decay is 0.0; expected a factor above 0 and at most 1"),
        ({"layer_decay": 1.5}, "expected a factor above 0"),
        ({"encoder_rate": 0.0}, "--tuning.encoder_rate is 0.0; expected a factor of --training.learning_rate above 0; .* frozen"),
        ({"decoder_rate": float("nan")}, "--tuning.decoder_rate is nan; expected a factor"),
        ({"mode": "frozen", "encoder_rate": 0.1}, "encoder_rate 0.1 has no effect with --tuning.mode frozen"),
        ({"lora_rank": 0}, "--tuning.lora_rank is 0; expected at least 1"),
        ({"mode": "frozen", "layer_decay": 0.75}, "has no effect with --tuning.mode frozen"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tuning(**changes)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for seed, (name, split) in enumerate([("a", "train"), ("b", "train"), ("c", "validation"), ("d", "test")]):
        write_rice_scene(folder / name, split, side=128, seed=seed, field=16)
    encoder = build_encoder(replace(SMALL, drop_path_rate=0.1))
    save_encoder(encoder, folder / "encoder.safetensors")
    return folder


SETTINGS: dict[str, Any] = {
    "task": "paddy_rice",
    "override.frames": 8,
    "training.epochs": 3,
    "training.batch_size": 4,
    "decoder.channels": 8,
}


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_training_heeds_the_rates_of_the_layers(scenes: Path, tmp_path: Path, tune: Any) -> None:
    """With a hundredth of the rate a layer down, the last block learns and what lies below it hardly moves."""
    start = load_encoder(scenes / "encoder.safetensors").state_dict()
    changes = SETTINGS | {
        "training.epochs": 1,
        "training.weight_decay": 0.0,
        "tuning.mode": tune,
        "tuning.layer_decay": 1e-2,
        "training.learning_rate": 1e-2,
    }
    run(data=scenes, output=tmp_path / "run", checkpoint=scenes / "encoder.safetensors", **changes)
    for name, weight in load_model(tmp_path / "run")[0].encoder.state_dict().items():
        moved = float((weight - start[name]).abs().max())
        if name == "stages.3.blocks.0.mlp.fc2.weight":
            assert moved > 3e-5
        elif not name.startswith(("stages.3", "norm")):
            assert moved < 1e-5, name


def test_a_checkpoint_with_other_groups_of_weights_is_refused(tmp_path: Path) -> None:
    """Versions without groups let every weight decay, and torch takes what a checkpoint says over the settings of the run."""
    model = make_model()
    former = torch.optim.AdamW([{"params": list(model.parameters()), "scale": 1.0}], weight_decay=5e-4)
    now = torch.optim.AdamW(parameter_groups(model, Rates(), 5e-4))
    slower = torch.optim.AdamW(parameter_groups(model, Rates(encoder=0.1), 5e-4))
    for optimizer in (former, slower):
        save_checkpoint(tmp_path, Progress(epoch=1), model, optimizer)
        with pytest.raises(ValueError, match=r"last_epoch.pt does not continue this run \(its optimizer has other groups"):
            load_newest_checkpoint(tmp_path, model, now, torch.device("cpu"))
    save_checkpoint(tmp_path, Progress(epoch=1), model, now)
    assert load_newest_checkpoint(tmp_path, model, now, torch.device("cpu")).epoch == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "unet", "tuning.decoder_rate": 0.5}, "is a baseline without pretrained layers; leave .* all of --tuning"),
        ({"decoder.kind": "linear", "tuning.decoder_rate": 0.5}, "has no effect with --decoder.kind linear"),
    ],
)
def test_rates_without_effect_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        finetune_config(task="paddy_rice", data=tmp_path, output=tmp_path / "run", **changes)


def without_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that lacks the extra."""
    find_spec, imported = importlib.util.find_spec, builtins.__import__

    def no_spec(name: str, *rest: Any) -> Any:
        return None if name == "peft" else find_spec(name, *rest)

    def no_import(name: str, *rest: Any, **named: Any) -> Any:
        if name.split(".")[0] == "peft":
            raise ImportError(name)
        return imported(name, *rest, **named)

    monkeypatch.setattr(importlib.util, "find_spec", no_spec)
    monkeypatch.setattr(builtins, "__import__", no_import)


@pytest.mark.slow
def test_a_model_tuned_by_lora_needs_no_peft_to_map(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = scenes / "encoder.safetensors"
    run(
        data=scenes, output=tmp_path / "run", checkpoint=checkpoint, **(SETTINGS | {"tuning.mode": "lora", "tuning.lora_rank": 2})
    )
    without_peft(monkeypatch)
    model, _ = load_model(tmp_path / "run")
    start = build_encoder(SMALL)
    assert set(model.encoder.state_dict()) == set(start.state_dict())
    predict(model=tmp_path / "run", input=[scenes / "d"], output=tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as again, rasterio.open(tmp_path / "run" / "maps" / "d.tif") as first:
        np.testing.assert_array_equal(again.read(1), first.read(1))


def test_lora_without_peft_is_one_line_that_names_the_extra(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_peft(monkeypatch)
    with pytest.raises(SystemExit) as stopped:
        run_arguments(["--task", "paddy_rice", "--data", str(scenes), "--output", str(tmp_path / "run"), "--tuning.mode", "lora"])
    assert stopped.value.code == 2
    assert "--tuning.mode lora needs the package peft: pip install '.[lora]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["lora", "frozen"])
def test_an_interrupted_run_continues_to_the_same_weights(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tune: Any
) -> None:
    settings = SETTINGS | {"data": scenes, "checkpoint": scenes / "encoder.safetensors", "tuning.mode": tune}
    settings |= {"tuning.layer_decay": 0.75, "tuning.encoder_rate": 0.1} if tune == "lora" else {}
    settings |= {"tuning.decoder_rate": 0.5}
    run(output=tmp_path / "straight", **settings)
    encoder = "0.0001, 0.75 times as much in each layer below its last" if tune == "lora" else "none"
    assert f"peak learning rates: encoder {encoder}; decoder 0.0005, head 0.001\n" in capsys.readouterr().out
    recorded = json.loads((tmp_path / "straight" / "run.json").read_text())
    assert [recorded[f"tuning.{name}_rate"] for name in ("encoder", "decoder")] == [0.1 if tune == "lora" else 1.0, 0.5]
    score_windows, calls = loop_module.score_windows, []

    def killed(*arguments: Any) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score_windows(*arguments)

    monkeypatch.setattr(loop_module, "score_windows", killed)
    with pytest.raises(KeyboardInterrupt):
        run(output=tmp_path / "broken", **settings)
    monkeypatch.setattr(loop_module, "score_windows", score_windows)
    run(output=tmp_path / "broken", **settings)
    one, other = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("straight", "broken"))
    assert one == other
    weights = [load_model(tmp_path / name)[0].state_dict() for name in ("straight", "broken")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    with pytest.raises(ValueError, match=r"other settings \(tuning.mode"):
        run(output=tmp_path / "broken", **(settings | {"tuning.mode": "full"}))
