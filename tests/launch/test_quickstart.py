"""The quickstart's table, and that its commands are ones that the commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.command_line import parse
from data_prep.simulate import simulate
from finetune.comparison.config import CompareConfig
from finetune.comparison.run_options import RunOptions
from launch.quickstart import ENCODERS, FEW, FINE_CLASSES, SCENES, STEPS, TASK, comparing, table
from pretrain.config import CONFIGS, PretrainConfig
from pretrain.model import EncoderConfig, build_encoder, save_encoder

SMALL = EncoderConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), sources={"sentinel2": 10})


def test_the_table_has_a_row_for_each_encoder() -> None:
    def run(encoder: str, fraction: float, score: float) -> dict[str, Any]:
        metrics = {"score": {"value": score}, "training": {"windows": round(300 * fraction)}}
        return {"encoder": encoder, "label_fraction": fraction, "metrics": metrics}

    runs = [run(encoder, fraction, 0.1 * i + fraction / 2) for i, encoder in enumerate(ENCODERS) for fraction in (1.0, FEW)]
    rows = table(runs)
    assert [list(row)[1:] for row in rows] == [["9 labelled windows", "300 labelled windows"]] * len(ENCODERS)
    assert [round(row["300 labelled windows"], 6) for row in rows] == [50.0, 60.0, 70.0, 80.0]
    assert round(rows[1]["9 labelled windows"], 6) == 11.5


def test_its_options_are_known(tmp_path: Path) -> None:
    save_encoder(build_encoder(SMALL), tmp_path / "encoder.safetensors")
    parsed = parse(CompareConfig, comparing(tmp_path, tmp_path, tmp_path / "out")[2:], config_class=CompareConfig)
    options = RunOptions(CompareConfig(**vars(parsed)), [TASK])
    told = {encoder: options.of(TASK, encoder, FEW) for encoder in ENCODERS}
    assert [told[encoder].get("maps") for encoder in ENCODERS] == [True, False, False, False]
    assert {told[encoder]["training.steps"] for encoder in ENCODERS} == {90}
    assert told["scratch"]["decoder.kind"] == "map"
    parse(simulate, ["--output", str(tmp_path / "scenes"), *SCENES])
    words = ["--config", "tiny", "--data", "corpus", "--output", "run", "--objective.predict", "map", *FINE_CLASSES, *STEPS]
    assert parse(PretrainConfig, words, config_class=PretrainConfig, built_in=CONFIGS).num_steps == int(STEPS[1])
