"""Which folders a run may use, also those of runs from before options were renamed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.run_lock import LOCK, RunLock
from pretrain.config import PretrainConfig
from pretrain.run_folder import CONFIG_FILE, claim_run_folder
from tests.support.pretraining_options import parsed


def claim(config: PretrainConfig, fingerprint: str = "abc") -> None:
    with RunLock(config.output / LOCK, config.output) as lock:
        claim_run_folder(config, fingerprint, lock)


def write_under_old_names(run: Path, config: PretrainConfig) -> None:
    """The `config.json` of a run that was started before options were renamed."""
    settings = {"fingerprint": "abc", **config.as_json()}
    settings["passes"] = settings.pop("gradient_accumulation_steps")
    settings["checkpoint_stages"] = settings.pop("activation_checkpointing")
    settings["stream"]["draws_per_read"] = settings["stream"].pop("data_echoing")
    run.mkdir()
    (run / CONFIG_FILE).write_text(json.dumps(settings))


def test_a_run_whose_configuration_has_old_names_is_resumed(tmp_path: Path) -> None:
    run = ("--output", str(tmp_path / "run"))
    write_under_old_names(tmp_path / "run", parsed(*run, "--gradient_accumulation_steps", "4", "--stream.data_echoing", "2"))
    with pytest.raises(ValueError, match="holds a run with other stream; give another --output"):
        claim(parsed(*run))  # without data echoing
    same = parsed(*run, "--gradient_accumulation_steps", "1", "--stream.data_echoing", "2")  # the first may change
    claim(same)
    assert json.loads((tmp_path / "run" / CONFIG_FILE).read_text()) == {"fingerprint": "abc", **same.as_json()}
    claim(same)


def test_another_run_is_not_overwritten(tmp_path: Path) -> None:
    run = ("--output", str(tmp_path / "run"))
    claim(parsed(*run))
    for other, fingerprint, match in (
        (parsed(*run, "--num_steps", "7", "--seed", "3"), "abc", "holds a run with other num_steps, seed;"),
        (parsed(*run), "xyz", "holds a run with other fingerprint;"),
        (parsed(*run, "--resume", "never"), "abc", "holds a run already"),
    ):
        with pytest.raises(ValueError, match=match):
            claim(other, fingerprint)
    claim(parsed(*run, "--log_every", "3", "--stream.num_workers", "0"))
