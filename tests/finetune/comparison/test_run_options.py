"""Options that a comparison passes to its runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.comparison.config import CompareConfig
from finetune.comparison.run_options import RunOptions, dotted_options
from finetune.comparison.runs import planned_runs
from pretrain.model import EncoderConfig, build_encoder, save_encoder


def test_options_of_each_encoder(tmp_path: Path) -> None:
    small = EncoderConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), sources={"landsat": 6})
    save_encoder(build_encoder(small), tmp_path / "encoder.safetensors")
    encoders = ["pretrained", "frozen", "linear_probe", "lora", "scratch", "unet"]
    config = CompareConfig(
        tasks=["cropland"],
        data=tmp_path,
        output=tmp_path,
        checkpoint=tmp_path / "encoder.safetensors",
        encoders=encoders,
        run={"training.epochs": 5},
        only={"pretrained": {"learning_rate": 3e-4}, "cropland": {"training": {"epochs": 7, "learning_rate": 1e-4}}},
    )
    options = RunOptions(config, ["cropland"])
    told = {encoder: options.of("cropland", encoder) for encoder in encoders}
    assert [told[encoder].get("tuning.mode") for encoder in encoders] == ["full", "frozen", "frozen", "lora", None, None]
    assert [told[encoder].get("decoder.kind") for encoder in encoders] == [None, None, "linear", None, None, None]
    assert ["checkpoint" in told[encoder] for encoder in encoders] == [True, True, True, True, False, False]
    assert told["scratch"]["encoder"] == small.to_dict()
    rates = [told[encoder]["training.learning_rate"] for encoder in ("pretrained", "unet")]
    assert rates == [3e-4, 1e-4]
    assert {told[encoder]["training.epochs"] for encoder in encoders} == {7}
    assert options.of("lulc", "unet")["training.epochs"] == 5


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
