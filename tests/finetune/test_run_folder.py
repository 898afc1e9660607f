"""run.json: its content stays as it is, so that runs on disk are recognised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.run_folder import RUN_FILE, is_finished, recorded_settings
from finetune.task import load_task
from tests.support.finetune_runs import finetune_config

OPTIONS: dict[str, Any] = {
    "override.frames": 6, "override.window_px": 48, "override.missing_sources": "allow", "training.epochs": 2,
    "training.batch_size": 4, "training.min_steps": 9, "tuning.mode": "lora", "tuning.lora_rank": 2,
    "tuning.layer_decay": 0.8, "best": "loss", "decoder.channels": 8, "decoder.skip_channels": 4,
    "augmentation.rotations": False, "augmentation.shift_days": 5.0, "augmentation.crop_px": 32,
    "augmentation.drop_images": 0.1, "augmentation.drop_sources": 0.1, "label_fraction": 0.7, "seed": 3, "year": 2021,
    "statistics": "plain",
}  # fmt: skip
# Written by the version whose options had no groups, for the same run.
RECORDED = """
{"task.name": "paddy_rice", "task.title": "Paddy rice", "task.label": "crop_type",
 "task.classes": [{"name": "other", "color": "#e9e2cf", "labels": []},
                  {"name": "paddy_rice", "color": "#1f78b4", "labels": ["paddy_rice"]}],
 "task.sources": ["landsat", "modis"], "task.frames": 6, "task.season": ["04-01", "10-31"], "task.window_px": 48,
 "task.target": "paddy_rice", "task.loss": "cross_entropy", "task.cut_dates": [], "task.season_share": 0.95,
 "task.objects": null, "task.upsample": {}, "task.missing_sources": "allow", "data": "/scenes", "checkpoint": null,
 "encoder": {"sources": {}, "patch_size": [4, 4, 4], "embed_dim": 32, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8],
             "window_size": [4, 7, 7], "mlp_ratio": 4.0, "drop_path_rate": 0.0},
 "epochs": 2, "batch_size": 4, "min_steps": 9, "learning_rate": 0.001, "weight_decay": 0.0005, "warmup_share": 0.1,
 "final_share": 0.016666666666666666, "tuning.mode": "lora", "tuning.layer_decay": 0.8, "tuning.lora_rank": 2,
 "best": "loss", "year": 2021, "decoder_channels": 8, "detail_channels": 4, "rotations": false, "flips": true,
 "shift_days": 5.0, "crop_px": 32, "drop_images": 0.1, "drop_sources": 0.1, "overlap": 0.5, "label_fraction": 0.7,
 "maps": true, "seed": 3}
"""
# Settings that did not exist then, and what runs did.
SINCE_THEN = {
    "decoder": "auto", "normalization": "checkpoint", "task.compositing": "image", "tuning.encoder_rate": 1.0,
    "tuning.decoder_rate": 1.0, "steps": None, "statistics": "plain", "data_sha256": "0" * 64,
    "checkpoint_revision": None, "split_blocks": None, "precision": "fp32",
}  # fmt: skip


def test_a_run_of_an_earlier_version_is_recognised(tmp_path: Path) -> None:
    config = finetune_config(task="paddy_rice", data=Path("/scenes"), output=tmp_path, **OPTIONS)
    settings = recorded_settings(config, config.override.applied_to(load_task(config.task)), "0" * 64)
    assert json.loads(json.dumps(settings)) == json.loads(RECORDED) | SINCE_THEN
    (tmp_path / RUN_FILE).write_text(RECORDED)
    assert not is_finished(tmp_path, settings)
    (tmp_path / "metrics.json").write_text("{}")
    assert is_finished(tmp_path, settings)
    with pytest.raises(ValueError, match=r"holds a run with other settings \(seed\)"):
        is_finished(tmp_path, settings | {"seed": 4})


def test_a_run_from_before_settings_existed_did_what_runs_did_then(tmp_path: Path) -> None:
    config = finetune_config(task="paddy_rice", data=Path("/scenes"), output=tmp_path)
    settings = recorded_settings(config, load_task(config.task), "0" * 64)
    later = (
        *SINCE_THEN,
        "detail_channels",
        "task.upsample",
        "task.missing_sources",
        "drop_images",
        "flips",
        "best",
        "label_fraction",
        "min_steps",
    )
    (tmp_path / RUN_FILE).write_text(json.dumps({name: value for name, value in settings.items() if name not in later}))
    with pytest.raises(ValueError, match=r"other settings \(statistics, detail_channels\)"):
        is_finished(tmp_path, settings)  # its statistics were plain, and its decoder saw no pixels
    then = {"detail_channels": 0, "statistics": "plain"}
    assert not is_finished(tmp_path, settings | then)
    with pytest.raises(ValueError, match=r"other settings \(best\)"):
        is_finished(tmp_path, settings | then | {"best": "kappa"})


def test_a_setting_that_no_longer_exists_is_named_and_a_run_cannot_get_longer(tmp_path: Path) -> None:
    settings = {"seed": 3, "epochs": 5, "data_sha256": "0" * 64}
    (tmp_path / RUN_FILE).write_text(json.dumps(settings | {"flavour": "sweet"}))
    with pytest.raises(ValueError, match=r"run.json has flavour, which this version does not know; resume the run with"):
        is_finished(tmp_path, settings)
    (tmp_path / RUN_FILE).write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"other settings \(epochs\); .*; a run cannot get longer"):
        is_finished(tmp_path, settings | {"epochs": 6})
    with pytest.raises(ValueError, match=r"other settings \(data_sha256\); .* labels, scene.yaml, lists or sensors in --data"):
        is_finished(tmp_path, settings | {"data_sha256": "1" * 64})
