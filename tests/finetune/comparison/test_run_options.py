"""Options that a comparison passes to its runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from finetune.comparison.config import CompareConfig
from finetune.comparison.encoders import compared_encoders
from finetune.comparison.run_options import RunOptions, dotted_options
from finetune.comparison.runs import planned_runs
from pretrain.model import EncoderConfig, build_encoder, save_encoder

SMALL = EncoderConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), sources={"landsat": 6})


def test_options_of_each_encoder(tmp_path: Path) -> None:
    save_encoder(build_encoder(SMALL), tmp_path / "encoder.safetensors")
    encoders = ["pretrained", "frozen", "linear_probe", "lora", "scratch", "unet"]
    config = CompareConfig(
        tasks=["cropland"],
        data=tmp_path,
        output=tmp_path,
        checkpoint=tmp_path / "encoder.safetensors",
        encoders=encoders,
        run={"training.epochs": 5},
        only={
            "pretrained": {"learning_rate": 3e-4},
            "scratch": {"decoder.kind": "map"},
            "linear_probe": {"decoder.kind": "fusion"},  # it would not be one
            "cropland": {"training": {"epochs": 7, "learning_rate": 1e-4}},
        },
    )
    options = RunOptions(config, ["cropland"])
    told = {encoder: options.of("cropland", encoder, 1.0) for encoder in encoders}
    assert [told[encoder].get("tuning.mode") for encoder in encoders] == ["full", "frozen", "frozen", "lora", None, None]
    assert [told[encoder].get("decoder.kind") for encoder in encoders] == [None, None, "linear", None, "map", None]
    assert ["checkpoint" in told[encoder] for encoder in encoders] == [True, True, True, True, False, False]
    assert told["scratch"]["encoder"] == SMALL.to_dict()
    rates = [told[encoder]["training.learning_rate"] for encoder in ("pretrained", "unet")]
    assert rates == [3e-4, 1e-4]
    assert {told[encoder]["training.epochs"] for encoder in encoders} == {7}
    assert options.of("lulc", "unet", 1.0)["training.epochs"] == 5


def test_options_of_a_share_of_the_labels(tmp_path: Path) -> None:
    steps = {"5%": {"training.steps": 100}, "unet": {"training.steps": 7}, "100%": {"training": {"steps": 400, "epochs": 8}}}
    shares = [0.05, 0.1, 1.0]
    config = CompareConfig(
        tasks=["cropland"], data=tmp_path, output=tmp_path, encoders=["unet", "scratch"], label_fraction=shares, only=steps
    )
    options = RunOptions(config, ["cropland"])
    told = [options.of("cropland", "scratch", share) for share in shares]
    assert [each.get("training.steps") for each in told] == [100, None, 400]
    assert [options.of("cropland", "unet", share)["training.steps"] for share in shares] == [7, 7, 7]
    with pytest.raises(ValueError, match=r"--only names 5%, 50%; expected one of .*cropland, 100%"):
        RunOptions(replace(config, label_fraction=[1.0], only=steps | {"50%": {}}), ["cropland"])


def test_options_of_several_checkpoints(tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("map", "fractions", "larger")}
    for name, path in paths.items():
        save_encoder(build_encoder(replace(SMALL, embed_dim=16 if name == "larger" else 8)), path)
    same = {name: paths[name] for name in ("map", "fractions")}
    known = {"tasks": ["cropland"], "data": tmp_path, "output": tmp_path, "encoders": ["scratch", "pretrained", "lora.map"]}
    rates = {"pretrained": {"learning_rate": 3e-4}, "pretrained.map": {"learning_rate": 2e-4}}
    config = CompareConfig(**known, checkpoints=same, only=rates)
    assert config.compared_encoders == ["scratch", "pretrained.map", "pretrained.fractions", "lora.map"]
    assert config.reference_encoder == config.settings()["reference"] == "pretrained.map"
    options = RunOptions(config, ["cropland"])
    told = {encoder: options.of("cropland", encoder, 1.0) for encoder in config.compared_encoders}
    assert [told[encoder].get("checkpoint") for encoder in told] == [None, *(str(paths[n]) for n in ("map", "fractions", "map"))]
    assert [told[encoder].get("training.learning_rate") for encoder in told] == [None, 2e-4, 3e-4, None]
    assert told["scratch"]["encoder"] == SMALL.to_dict()
    assert options.weights("scratch") is None
    assert options.weights("pretrained.map") == options.weights("lora.map") != options.weights("pretrained.fractions")
    with pytest.raises(ValueError, match=r"different shapes; say which one: scratch.map or scratch.fractions or scratch.larger"):
        RunOptions(CompareConfig(**known, checkpoints=paths), ["cropland"])
    named = CompareConfig(**(known | {"encoders": ["scratch.larger", "scratch.map"]}), checkpoints=paths)
    widths = [RunOptions(named, ["cropland"]).of("cropland", each, 1.0)["encoder"]["embed_dim"] for each in named.encoders]
    assert widths == [16, 8]


def test_names_of_encoders_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"names pretraned.map, which is unknown; did you mean pretrained\?"):
        compared_encoders(["pretraned.map"], {"map": "x"})
    with pytest.raises(ValueError, match=r"names lora.mop; only pretrained, .* scratch have a checkpoint, and there are: map"):
        compared_encoders(["lora.mop"], {"map": "x"})
    with pytest.raises(ValueError, match=r"unet.map; only"):
        compared_encoders(["unet.map"], {"map": "x"})
    with pytest.raises(ValueError, match=r"--encoders is \['lora.map', 'lora.map'\]; expected at least one, each once"):
        compared_encoders(["lora", "lora.map"], {"map": "x"})
    with pytest.raises(ValueError, match=r"--checkpoints names 'a/b'; expected letters"):
        compared_encoders(["unet"], {"a/b": "x"})


def test_old_and_nested_names_become_dotted_ones(capsys: pytest.CaptureFixture[str]) -> None:
    options = {"epochs": 5, "decoder": {"channels": 8}, "training.batch-size": 2, "encoder": {"embed_dim": 8}, "tune": "lora"}
    expected = {"training.epochs": 5, "decoder.channels": 8, "training.batch_size": 2, "encoder": {"embed_dim": 8}}
    assert dotted_options(options) == expected | {"tuning.mode": "lora"}
    assert capsys.readouterr().err == ""
    dotted_options(options, warn=True)
    assert "tune was renamed to tuning.mode; the old name still works" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"epochs was renamed to training.epochs, and both are given"):
        dotted_options({"epochs": 5, "training": {"epochs": 6}})


def test_an_exact_number_of_steps_takes_the_place_of_the_least(tmp_path: Path) -> None:
    config = CompareConfig(
        tasks=["lulc"], data=tmp_path, output=tmp_path, encoders=["unet", "temporal_cnn"], only={"unet": {"training.steps": 30}}
    )
    runs = {run.encoder: run.options for run in planned_runs(config)}
    assert runs["unet"]["training.steps"] == 30
    assert "training.min_steps" not in runs["unet"]
    assert runs["temporal_cnn"]["training.min_steps"] == 200
